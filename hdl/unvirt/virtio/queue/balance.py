# SPDX-License-Identifier: BSD-2-Clause
"""What is sent may not crowd out what is received."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["DirectionBalance"]

_MEMORY = 32
"""Cycles for which it is remembered that a write of the sink had to wait."""

_LEAD_WIDTH = 15
"""Bits of the lead of one direction over the other, with its sign: as far as it is remembered, in bytes, it is more than the longest packets have."""


class DirectionBalance(wiring.Component):
    """Lets the source begin no packet while it has moved more bytes than the sink, if the sink is behind for want of the link.

    Packets to send can be read as fast as the link allows, those received come when they come and are lost if they find no room: whatever divides a
    full link between reads and writes may give either too much. The sink is behind for want of the link while packets wait in its memory (``behind``)
    and one of its writes had to wait in the last 32 cycles: not if it has no buffers, or nothing to do. Bytes are counted from when that begins, and
    not beyond 16 KB in favour of either.

    **Latency**: ``open`` follows in the second cycle. Reset: open.

    Members
    -------
    begins, begun : ``In(1)``, ``In(14)``
        The source begins to read a packet of so many bytes.
    moves, moved : ``In(1)``, ``In(16)``
        A write of the sink with so many bytes was accepted.
    waits : ``In(1)``
        One was on show and was not.
    behind : ``In(1)``
    open : ``Out(1)``
        The source may begin another packet.
    """

    def __init__(self):
        super().__init__({
            "begins": In(1),
            "begun": In(14),
            "moves": In(1),
            "moved": In(16),
            "waits": In(1),
            "behind": In(1),
            "open": Out(1, init=1),
        })

    def elaborate(self, platform):
        m = Module()
        lead = Signal(signed(_LEAD_WIDTH))         # of the source
        following = Signal(signed(_LEAD_WIDTH + 2))
        age = Signal(range(_MEMORY), init=_MEMORY - 1)
        suffers = Signal()
        most = (1 << (_LEAD_WIDTH - 1)) - 1
        # All of these come from far.
        begun, moved = Signal(self.begun.shape()), Signal(self.moved.shape())
        m.d.sync += [
            begun.eq(Mux(self.begins, self.begun, 0)),
            moved.eq(Mux(self.moves, self.moved, 0)),
            age.eq(Mux(self.waits, 0, age + (age != _MEMORY - 1))),
            suffers.eq(self.behind & (age != _MEMORY - 1)),
        ]
        m.d.comb += following.eq(lead + begun - moved)
        with m.If(~suffers):
            m.d.sync += lead.eq(0)
        with m.Elif(following > most):
            m.d.sync += lead.eq(most)
        with m.Elif(following < -most):
            m.d.sync += lead.eq(-most)
        with m.Else():
            m.d.sync += lead.eq(following)
        m.d.comb += self.open.eq(lead <= 0)
        return m
