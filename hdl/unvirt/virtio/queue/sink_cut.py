# SPDX-License-Identifier: BSD-2-Clause
"""Long runs of bytes in pieces, so that others get between them."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .sink_read import ReadCommand

__all__ = ["PIECE", "CommandCut"]

PIECE = 1024
"""Bytes that go to the write engine in one: a whole number of the largest payloads in use. Less than two of these are not cut."""

_PIECE_BITS = (PIECE - 1).bit_length()
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
    lanes : int
        Bytes of its words.

    Members
    -------
    i : ``In(stream.Signature(ReadCommand(size)))``
    o : ``Out(stream.Signature(ReadCommand(size)))``
        Of a piece that is not the last ``direct`` only tells whether it begins with a word.
    """

    def __init__(self, *, size, lanes):
        self._lane_bits = (lanes - 1).bit_length()
        super().__init__({
            "i": In(stream.Signature(ReadCommand(size))),
            "o": Out(stream.Signature(ReadCommand(size))),
        })

    def elaborate(self, platform):
        m = Module()
        lane_bits = self._lane_bits
        whole, piece = self.i.payload, self.o.payload
        within = Signal()                      # some pieces are gone
        source, address, length = Signal.like(whole.source), Signal.like(whole.address), Signal.like(whole.length)    # what is left then
        left, last = Signal.like(length), Signal()
        # The piece ends with the page if that has no more than `PIECE` bytes, else with the DW in which `PIECE` bytes end.
        place, page_ends, beyond = Signal(_PAGE_BITS), Signal(), Signal(_PIECE_BITS)
        room = Signal(_PIECE_BITS + 1)
        m.d.comb += [
            piece.eq(whole),
            left.eq(Mux(within, length, whole.length)),
            piece.source.eq(Mux(within, source, whole.source)),
            piece.address.eq(Mux(within, address, whole.address)),
            place.eq(piece.address[:_PAGE_BITS]),
            page_ends.eq(place[_PIECE_BITS:].all()),
            beyond.eq(Cat(place[:2], place[2:_PIECE_BITS] & page_ends.replicate(_PIECE_BITS - 2))),
            room.eq(PIECE - beyond),
            # Not by comparing with `room`: the end of a packet hangs on it.
            last.eq(Mux(within, length < 2 * PIECE, whole.length < 2 * PIECE)),
            piece.length.eq(Mux(last, left, room)),
            # What is left behind a piece is more than a word.
            piece.short.eq(Mux(last, ~within & whole.short, page_ends & place[lane_bits:_PIECE_BITS].all())),
            piece.direct.eq(Mux(within, source[:lane_bits] == 0, whole.direct)),
            piece.ends_chain.eq(whole.ends_chain & last),
            piece.ends_packet.eq(whole.ends_packet & last),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & last),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                within.eq(~last),
                source.eq(piece.source + room),
                # Pieces end in another quarter of a page than they begin.
                address.eq(Cat(C(0, 2), place[2:_PIECE_BITS] & ~page_ends.replicate(_PIECE_BITS - 2), piece.address[_PIECE_BITS:] + 1)),
                length.eq(left - room),
            ]
        return m
