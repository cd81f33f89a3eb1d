# SPDX-License-Identifier: BSD-2-Clause
"""Packets cut into reads, each with its place in the transmit buffer.

    chain record --> segments --> pieces --> read engine
                                    |
              granule pool --> places of a packet
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import ReadPiece
from .contract import LENGTH_WIDTH, ChainRecord, Segment

__all__ = ["PacketCut"]


class PacketCut(wiring.Component):
    """Cuts one packet after the other into the pieces that are read, and gives each its bytes of the granules that the packet takes.

    A segment that may be read at once is one piece. Of others a piece ends at a block of the largest read that was allowed when the packet was
    loaded, at most 512 bytes, or with its segment. The packet's granules lie in the order of the free list, whose links are the packet's links.

    Latency: the first piece of a chain of one segment is on show in the cycle after ``start``, if the packet was loaded a cycle before that at
    least, of others two cycles later; a piece per cycle, one cycle more for each granule and two for each further segment.

    Parameters
    ----------
    groups, slots, granules, handle_width, buffer_width : int
    start_offset : int
        Place of the first byte in the first granule.

    Members
    -------
    max_read_request_size : ``In(3)``
        As in the Device Control register.
    load, chain, slot : ``In``
        The next packet: its record, and in the cycles after that its slot.
    start : ``In(1)``
        It begins: ``pool_head`` is taken for it.
    pool_head, pool_take : ``In``/``Out``
        The granule pool; all that the packet needs are there.
    segment_group, segment_index, segment, next_group_of, next_group :
        See :func:`~unvirt.virtio.queue.contract.ChainPortSignature`.
    pieces : ``Out(stream.Signature(ReadPiece))``
    number, first, tail : ``Out``
        Of the piece on show, counted from 1; first and last granule of the packet up to it.
    ends : ``Out(1)``
        It is the last one.
    """

    def __init__(self, *, groups, slots, granules, handle_width, buffer_width, start_offset):
        self._start = start_offset
        super().__init__({
            "max_read_request_size": In(3),
            "load": In(1),
            "chain": In(ChainRecord(groups)),
            "slot": In(range(slots)),
            "start": In(1),
            "pool_head": In(range(granules)),
            "pool_take": Out(1),
            "segment_group": Out(range(groups)),
            "segment_index": Out(3),
            "segment": In(Segment),
            "next_group_of": Out(range(groups)),
            "next_group": In(range(groups)),
            "pieces": Out(stream.Signature(ReadPiece(handle_width, buffer_width))),
            "number": Out(12),
            "first": Out(range(granules)),
            "tail": Out(range(granules)),
            "ends": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        group = Signal.like(self.segment_group)
        single = Signal()
        segments_left = Signal(len(self.chain.segments))
        last_segment = Signal()     # none left

        # The piece at hand. `offset` is that of its first byte in `granule`, which is still to be taken if `fresh`, `last_byte` that of its last one
        # in the last of `ahead` granules still to be taken, if any (`short`). `left` is the rest of the segment behind it.
        address = Signal(64)
        length = Signal(10)
        left = Signal(LENGTH_WIDTH)
        granule = Signal.like(self.pool_head)
        offset = Signal(7)
        fresh = Signal()
        last_byte = Signal(signed(8))
        ahead = Signal(3)
        short = Signal()
        final = Signal()            # the last one of its segment
        unsized = Signal()          # a segment is: `left` is all of it, `last_byte` is the one before it

        wide = Signal(2)            # a block has 256 bytes at least, 512
        allowed = Cat(self.max_read_request_size != 0, self.max_read_request_size[1:].any())
        m.d.sync += wide.eq(wide & allowed)
        block = Cat(~wide[0], wide[0] & ~wide[1], wide[1])         # in units of 128 bytes
        to_end = Signal(9)
        block_left = Signal(10)
        at_once = Signal()          # as many bytes as a block has, to the end of the page at most
        m.d.comb += [
            to_end.eq(~address[:9] & Cat(C(0x7F, 7), wide)),
            block_left.eq(to_end + 1),
            at_once.eq((left <= Cat(C(0, 7), block) - address[:2]) & (~address[9:12].all() | (left <= ~address[:9]))),
            self.ends.eq(final & last_segment),
            self.segment_group.eq(group),
            self.next_group_of.eq(group),
            self.pieces.payload.address.eq(address),
            self.pieces.payload.length.eq(length),
            self.pieces.payload.handle.eq(self.slot),
            self.pieces.payload.buffer.eq(Cat(offset, granule)),
        ]

        def piece_ends(end):
            """Its last byte lies so far behind the beginning of the granule that `offset` counts from, or if `fresh` the one before."""
            return [last_byte.eq(end[:7]), ahead.eq(end[7:10]), short.eq(end[7:10].any())]

        # The first piece of a segment, worked out in the cycle after its address and length came.
        with m.If(unsized):
            m.d.sync += [unsized.eq(0), final.eq((left <= block_left) | at_once), left.eq(left - block_left)]
            with m.If((left <= to_end) | at_once):
                m.d.sync += [length.eq(left), *piece_ends((last_byte + left[:10])[:10])]
            with m.Else():
                m.d.sync += [length.eq(block_left), *piece_ends((Cat(offset, fresh) + to_end)[:10])]

        def next_piece():
            """Go on behind the piece at hand; all but the first piece of a segment begin at a block."""
            full = left[9:].any() | (left[8] & ~wide[1]) | (left[7] & ~wide[0])
            m.d.sync += [
                address.eq(address + length), granule.eq(self.tail), self.number.eq(self.number + 1),
                offset.eq(last_byte + 1), fresh.eq(last_byte[:7].all()),
                length.eq(Mux(full, Cat(C(0, 7), block), left)), left.eq(left - Cat(C(0, 7), block)),
            ]
            with m.If(~final):
                m.d.sync += [final.eq(~full | (left == Cat(C(0, 7), block))), *piece_ends((last_byte[:7] + left[:9])[:10])]
                with m.If(full):
                    m.d.sync += piece_ends(Cat(last_byte[:7], block))

        with m.FSM(name="source_cut"):
            with m.State("REST"):
                with m.If(self.start):
                    m.d.sync += [granule.eq(self.pool_head), self.tail.eq(self.pool_head), self.first.eq(self.pool_head)]
                    m.next = "PIECE"
                    with m.If(~single):
                        m.next = "SEGMENT"
            with m.State("SEGMENT"):
                # It was looked up while the one before was read.
                m.d.sync += [
                    address.eq(self.segment.address), left.eq(self.segment.length), unsized.eq(1),
                    segments_left.eq(segments_left - 1), last_segment.eq(segments_left == 1), self.segment_index.eq(self.segment_index + 1),
                ]
                with m.If(self.segment_index == 7):
                    m.d.sync += group.eq(self.next_group)
                m.next = "SIZE"
            with m.State("SIZE"):
                m.next = "PIECE"
            with m.State("PIECE"):
                # Take the granules up to the last byte of the piece first. So all is known when the piece goes: its answer may come at once.
                with m.If(short):
                    m.d.comb += self.pool_take.eq(1)
                    m.d.sync += [self.tail.eq(self.pool_head), ahead.eq(ahead - 1), short.eq(ahead != 1), fresh.eq(0)]
                    with m.If(fresh):
                        m.d.sync += granule.eq(self.pool_head)
                with m.Else():
                    m.d.comb += self.pieces.valid.eq(1)
                    with m.If(self.pieces.ready):
                        next_piece()
                        with m.If(self.ends):
                            m.next = "REST"
                        with m.Elif(final):
                            m.next = "SEGMENT"

        with m.If(self.load):
            m.d.sync += [
                address.eq(self.chain.address), left.eq(self.chain.readable), unsized.eq(self.chain.single), single.eq(self.chain.single),
                segments_left.eq(self.chain.readable_segments), last_segment.eq(self.chain.single),
                group.eq(self.chain.group), self.segment_index.eq(0),
                offset.eq(self._start), fresh.eq(0), last_byte.eq(self._start - 1), self.number.eq(1),
                wide.eq(allowed),
            ]
        return m
