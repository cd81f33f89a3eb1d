# SPDX-License-Identifier: BSD-2-Clause
"""Shows the header of the next TLP while the data of the one before it is still being sent."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.buffer import SkidBuffer
from ..tlp import TlpBeat

__all__ = ["HeaderAhead"]


class HeaderAhead(wiring.Component):
    """Splits a stream of TLPs that all have data into headers and data, the next header ahead of its data.

    A header is shown as soon as it is presented, and kept if its beat finds room among the data before it is taken. Latency of the data one cycle, of
    headers none; one beat per cycle. ``i.ready`` depends on registers only: what decides about headers does not reach back to where they come from.
    Reset empties it.

    Members
    -------
    i : ``In(stream.Signature(TlpBeat(header, data_width)))``
    headers : ``Out(stream.Signature(header))``
    data : ``Out(stream.Signature(data_width))``
        Data of the headers, in their order.
    behind : ``Out(1)``
        A header is presented and not shown yet, for the one before it is.
    """

    def __init__(self, header, data_width):
        self._data_width = data_width
        super().__init__({
            "i": In(stream.Signature(TlpBeat(header, data_width))),
            "headers": Out(stream.Signature(header)),
            "data": Out(stream.Signature(data_width)),
            "behind": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.slice = data = SkidBuffer(self._data_width)
        wiring.connect(m, data.o, wiring.flipped(self.data))
        beat = self.i.payload
        kept, keeps = Signal(self.headers.payload.shape(), reset_less=True), Signal()   # the header of a beat that has moved
        gone = Signal()                # the header of the beat on show was taken
        fresh, moved = Signal(), Signal()
        m.d.comb += [
            fresh.eq(self.i.valid & beat.first & ~gone & ~keeps),
            self.headers.payload.eq(Mux(keeps, kept, beat.header)),
            self.headers.valid.eq(keeps | fresh),
            self.i.ready.eq(data.i.ready & ~(keeps & beat.first)),
            moved.eq(self.i.valid & self.i.ready),
            data.i.payload.eq(beat.data),
            data.i.valid.eq(self.i.valid & ~(keeps & beat.first)),
            self.behind.eq(self.i.valid & keeps & beat.first),
        ]
        taken = self.headers.valid & self.headers.ready
        m.d.sync += [keeps.eq((keeps | fresh & moved) & ~taken), gone.eq((gone | fresh & taken) & ~moved)]
        with m.If(fresh):
            m.d.sync += kept.eq(beat.header)
        return m
