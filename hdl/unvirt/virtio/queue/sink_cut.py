# SPDX-License-Identifier: BSD-2-Clause
"""Long runs of bytes in pieces, so that others get between them."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .sink_read import ReadCommand

__all__ = ["PIECE", "CommandCut"]

PIECE = 1024
"""Bytes that go to the write engine in one: a whole number of the largest payloads in use. Less than two of these are not cut."""

_PAGE_BITS = 12


class CommandCut(wiring.Component):
    """Cuts long read commands: at pages, and ``PIECE`` bytes behind the DW in which the command or the page begins.

    The write engine is kept until the end of a write: used elements would otherwise wait for the whole of the next packet. Its TLPs are the same as
    without, for payloads of up to ``PIECE`` bytes. No latency; a piece per cycle. The command is taken with its last piece, which alone has
    ``ends_chain`` and ``ends_packet``; it may be withdrawn for some cycles between two pieces.

    Parameters
    ----------
    size : int
        Bytes of the memory.

    Members
    -------
    i : ``In(stream.Signature(ReadCommand(size)))``
    o : ``Out(stream.Signature(ReadCommand(size)))``
    """

    def __init__(self, *, size):
        super().__init__({
            "i": In(stream.Signature(ReadCommand(size))),
            "o": Out(stream.Signature(ReadCommand(size))),
        })

    def elaborate(self, platform):
        m = Module()
        whole, piece = self.i.payload, self.o.payload
        within = Signal()                      # some pieces are gone
        source, address, length = Signal.like(whole.source), Signal.like(whole.address), Signal.like(whole.length)    # what is left then
        left, room, last = Signal.like(length), Signal(_PAGE_BITS + 1), Signal()
        page_room = Signal.like(room)
        m.d.comb += [
            piece.eq(whole),
            left.eq(Mux(within, length, whole.length)),
            piece.source.eq(Mux(within, source, whole.source)),
            piece.address.eq(Mux(within, address, whole.address)),
            page_room.eq((1 << _PAGE_BITS) - piece.address[:_PAGE_BITS]),
            room.eq(Mux(page_room < PIECE, page_room, PIECE - piece.address[:2])),
            # Not by comparing with `room`: the end of a packet hangs on it.
            last.eq(left < 2 * PIECE),
            piece.length.eq(Mux(last, left, room)),
            piece.ends_chain.eq(whole.ends_chain & last),
            piece.ends_packet.eq(whole.ends_packet & last),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & last),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                within.eq(~last),
                source.eq(piece.source + room),
                address.eq(piece.address + room),
                length.eq(left - room),
            ]
        return m
