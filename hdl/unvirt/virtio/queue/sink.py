# SPDX-License-Identifier: BSD-2-Clause
"""The sink service: packets of the personality go into the buffers that drivers made available.

    packet -> scan: which chains hold it? -> none or too few: drop
                                          -> write: segment by segment -> used elements, slots back
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ...stream.rotate import rotate_right
from ..contract import row_width
from .contract import LENGTH_WIDTH, ChainPortSignature, UsedElement
from .rows import RowMemory, Sweep

__all__ = ["SinkPacket", "SegmentWriter", "Sink"]


class SinkPacket(data.StructLayout):
    """A packet that waits in the personality's memory."""

    def __init__(self, rows, size):
        super().__init__({
            "row": row_width(rows), "address": range(size), "length": 14,
        })


class SegmentWriter(wiring.Component):
    """Reads bytes of any alignment from a synchronous memory and makes a write command of them.

    Two cycles to the first beat, then one beat per cycle while the write engine takes them. ``done`` is high in the cycle in which the last
    beat is taken. The memory must show ``read_data`` for the ``read_word`` of the cycle before.

    Members
    -------
    start : ``In(1)``, ready : ``Out(1)``
        Begin, if ready.
    source, address, length : ``In``
        First byte in the memory; where it goes; how many, at least 1.
    """

    def __init__(self, *, data_width, size):
        self._data_width = data_width
        self._size = size
        lanes = data_width // 8
        super().__init__({
            "start": In(1),
            "ready": Out(1),
            "done": Out(1),
            "source": In(range(size)),
            "address": In(64),
            "length": In(14),
            "read_word": Out(range(size // lanes)),
            "read_data": In(data_width),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        lane_bits = (lanes - 1).bit_length()
        word = Signal.like(self.read_word)
        held = Signal(self._data_width)
        offset = Signal(lane_bits)
        left = Signal(14)
        first = Signal()
        out = self.writes.payload
        header = Signal(out.header.shape())

        # Rotate both words by the same amount: low lanes come from the older one.
        rotated_held, rotated_new = Signal(self._data_width), Signal(self._data_width)
        m.d.comb += [
            rotated_held.eq(rotate_right(m, held, offset)),
            rotated_new.eq(rotate_right(m, self.read_data, offset)),
            self.read_word.eq(word),
            out.header.eq(header),
            out.first.eq(first),
            out.last.eq(left <= lanes),
            out.empty.eq(Mux(left < lanes, (lanes - left)[:len(out.empty)], 0)),
        ]
        for lane in range(lanes):
            m.d.comb += out.data.word_select(lane, 8).eq(
                Mux(lane + offset < lanes, rotated_held.word_select(lane, 8),
                    rotated_new.word_select(lane, 8)))

        with m.FSM(name="segment_writer"):
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                with m.If(self.start):
                    m.d.comb += self.read_word.eq(self.source >> lane_bits)
                    m.d.sync += [
                        word.eq((self.source >> lane_bits) + 1),
                        offset.eq(self.source[:lane_bits]),
                        left.eq(self.length), first.eq(1),
                        header.address.eq(self.address), header.length.eq(self.length),
                    ]
                    m.next = "FILL"
            with m.State("FILL"):
                m.d.sync += held.eq(self.read_data)
                m.next = "SEND"
            with m.State("SEND"):
                # `read_data` is word `word` here; the next one is asked for as this beat goes.
                m.d.comb += self.writes.valid.eq(1)
                with m.If(self.writes.ready):
                    m.d.comb += self.read_word.eq(word + 1)
                    m.d.sync += [held.eq(self.read_data), word.eq(word + 1),
                                 left.eq(left - lanes), first.eq(0)]
                    with m.If(out.last):
                        m.d.comb += self.done.eq(1)
                        m.next = "IDLE"
        return m


class Sink(wiring.Component):
    """Puts packets into buffers.

    The chains that hold a packet are all found before the first is used; if the store has too few of them right now, or without ``mergeable`` the first
    is too small, the packet is dropped and none is used: an empty queue never holds another up. A packet of one chain of one segment takes eight cycles and its beats,
    each further chain six and its beats. Every chain but the last is filled; used elements and slots go as the data of their chain was taken by the
    write engine.

    While ``drain`` the segment being written is completed, packets are dropped, and every chain of every sink row is given back.

    Members
    -------
    packets : ``In(stream.Signature(SinkPacket))``
        Taken (memory given back) when written or dropped.
    buffers : ``Out(16)``
        Chains given to the packet at hand.
    read_word, read_data : ``Out``/``In``
    chains : ``Out(ChainPortSignature)``
    writes : ``Out(stream.Signature(WriteBeat))``
    used : ``Out(stream.Signature(UsedElement))``
    retired_row, retired : ``In``/``Out`` arrays
        Position after the last chain given back (synchronous).
    mergeable, drain : ``In(1)``
    stat_dropped, idle : ``Out(1)``
    """

    def __init__(self, config, *, is_sink, size):
        self._config = config
        self._is_sink = is_sink
        self._size = size
        rows = config.rows
        lanes = config.data_width // 8
        super().__init__({
            "drain": In(1),
            "mergeable": In(1),
            "packets": In(stream.Signature(SinkPacket(rows, size))),
            "buffers": Out(16),
            "read_word": Out(range(size // lanes)),
            "read_data": In(config.data_width),
            "chains": Out(ChainPortSignature(rows, config.chain_slots, config.segment_groups)),
            "writes": Out(stream.Signature(WriteBeat(config.data_width))),
            "used": Out(stream.Signature(UsedElement(rows))),
            "retired_row": In(row_width(rows)).array(2),
            "retired": Out(16).array(2),
            "stat_dropped": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.state = state = RowMemory(16, rows=config.rows, readers=3)
        m.submodules.writer = writer = SegmentWriter(data_width=config.data_width, size=self._size)
        connect(m, flipped(self.sweep), state.sweep)
        connect(m, writer.writes, flipped(self.writes))
        for index in range(2):
            m.d.comb += [state.read_row[index + 1].eq(self.retired_row[index]),
                         self.retired[index].eq(state.read_value[index + 1])]

        chains, packet = self.chains, self.packets.payload
        row = Signal(row_width(config.rows))
        parsed = Signal(16)
        position = Signal(16)                  # of the chain looked at
        begin = Signal(16)                     # of the packet's first chain
        held = Signal(LENGTH_WIDTH + 1)        # bytes of the chains found so far
        slot = Signal(range(config.chain_slots))
        chain = Signal(chains.chain.shape())
        head = Signal(16)
        source = Signal.like(packet.address)
        left = Signal(14)                      # bytes of the packet not yet written
        written = Signal(14)                   # into the chain at hand
        chain_left = Signal(14)
        segments_left = Signal(len(chain.segments))
        segment_index = Signal(3)
        group = Signal.like(chain.group)
        address, segment_length = Signal(64), Signal(LENGTH_WIDTH)
        piece = Signal(14)
        found = Signal(16)
        swept_clean = Signal(range(config.rows + 1))
        walked = Signal()
        used_given, released = Signal(), Signal()

        m.d.comb += [
            self.read_word.eq(writer.read_word),
            writer.read_data.eq(self.read_data),
            chains.parsed_row.eq(row),
            chains.order_row.eq(row),
            chains.order_position.eq(position),
            chains.chain_slot.eq(chains.slot),
            chains.walked_slot.eq(chains.slot),
            chains.segment_group.eq(group),
            chains.segment_index.eq(segment_index),
            chains.next_group_of.eq(group),
            state.read_row[0].eq(row),
            state.write_row.eq(row),
            state.write_value.eq(position),
            self.buffers.eq(found),
            # Every row was seen to be empty since the last chain came home.
            self.idle.eq(self.drain & (swept_clean == config.rows)),
            piece.eq(Mux(segment_length < left, segment_length, left)),
            writer.source.eq(source),
            writer.address.eq(address),
            writer.length.eq(piece),
            self.used.payload.row.eq(row),
            self.used.payload.head.eq(head),
            self.used.payload.written.eq(written),
            self.used.payload.more.eq(left != 0),
            chains.release.payload.slot.eq(slot),
            chains.release.payload.group.eq(chain.group),
            chains.release.payload.groups.eq(Mux(chain.single | ~walked, 0, chain.groups)),
        ]

        with m.FSM(name="sink"):
            with m.State("IDLE"):
                m.d.sync += [row.eq(packet.row), left.eq(packet.length), source.eq(packet.address),
                             held.eq(0), found.eq(0), swept_clean.eq(0)]
                with m.If(self.drain):
                    m.d.comb += self.packets.ready.eq(1)
                    m.d.sync += row.eq(0)
                    m.next = "DRAIN_LOAD"
                with m.Elif(self.packets.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                # Position and end of the row are looked up in this cycle.
                m.next = "SCAN"
            with m.State("SCAN"):
                m.d.sync += [parsed.eq(chains.parsed), begin.eq(state.read_value[0]),
                             position.eq(state.read_value[0])]
                m.d.comb += chains.order_position.eq(state.read_value[0])
                m.next = "TEST"
                with m.If(chains.parsed == state.read_value[0]):
                    m.next = "DROP"
            with m.State("TEST"):
                # The chain record of this slot is looked up in this cycle.
                m.d.sync += [slot.eq(chains.slot), found.eq(found + 1), walked.eq(1)]
                m.next = "SUM"
                with m.If(~chains.walked):
                    m.next = "DROP"
            with m.State("SUM"):
                sum_now = Signal(LENGTH_WIDTH + 1)
                m.d.comb += [sum_now.eq(held + chains.chain.writable),
                             chains.order_position.eq(position + 1)]
                m.d.sync += [held.eq(sum_now), chain.eq(chains.chain), head.eq(chains.head),
                             position.eq(position + 1)]
                with m.If(sum_now >= left):
                    m.d.sync += position.eq(begin)
                    m.next = "CHAIN"
                    with m.If(found != 1):
                        m.next = "AGAIN"
                with m.Elif(~self.mergeable | ((position + 1)[:16] == parsed) | held[LENGTH_WIDTH]):
                    m.next = "DROP"
                with m.Else():
                    m.next = "TEST"
            with m.State("DROP"):
                m.d.comb += [self.packets.ready.eq(1), self.stat_dropped.eq(1)]
                m.next = "IDLE"

            with m.State("AGAIN"):
                # Back at a chain found before: its slot is looked up in this cycle,
                m.next = "AGAIN_SLOT"
            with m.State("AGAIN_SLOT"):
                # its record in this one.
                m.d.sync += slot.eq(chains.slot)
                m.next = "AGAIN_CHAIN"
            with m.State("AGAIN_CHAIN"):
                m.d.sync += [chain.eq(chains.chain), head.eq(chains.head)]
                m.next = "CHAIN"
            with m.State("CHAIN"):
                m.d.sync += [
                    address.eq(chain.address), segment_length.eq(chain.writable),
                    segments_left.eq(chain.segments), segment_index.eq(0), group.eq(chain.group),
                    written.eq(0), used_given.eq(0), released.eq(0),
                ]
                m.next = "WRITE"
                with m.If(~chain.single):
                    m.next = "SEGMENT"
                with m.Elif(chain.writable == 0):
                    m.next = "USE"
            with m.State("SEGMENT"):
                m.next = "TAKE_SEGMENT"
            with m.State("TAKE_SEGMENT"):
                m.d.sync += [
                    address.eq(chains.segment.address), segment_length.eq(chains.segment.length),
                    segments_left.eq(segments_left - 1), segment_index.eq(segment_index + 1),
                ]
                with m.If(segment_index == 7):
                    m.d.sync += group.eq(chains.next_group)
                m.next = "WRITE"
                with m.If(segments_left == 0):
                    m.next = "USE"
            with m.State("WRITE"):
                m.d.comb += writer.start.eq(1)
                m.d.sync += [source.eq(source + piece), left.eq(left - piece),
                             written.eq(written + piece)]
                m.next = "WRITING"
            with m.State("WRITING"):
                with m.If(writer.done):
                    m.next = "USE"
                    with m.If((left != 0) & ~chain.single & (segments_left != 0)):
                        m.next = "SEGMENT"
                    with m.If(self.drain):
                        # The rest of the packet is of no use to anybody; the chains are swept.
                        m.d.comb += self.packets.ready.eq(1)
                        m.next = "KEEP"
            with m.State("USE"):
                m.d.comb += [self.used.valid.eq(~used_given), chains.release.valid.eq(~released)]
                m.d.sync += [used_given.eq(used_given | self.used.ready),
                             released.eq(released | chains.release.ready)]
                with m.If((used_given | self.used.ready) & (released | chains.release.ready)):
                    m.d.sync += position.eq(position + 1)
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += state.write_valid.eq(1)
                m.next = "AGAIN"
                with m.If((left == 0) | self.drain):
                    m.d.comb += self.packets.ready.eq(1)
                    m.next = "IDLE"
            with m.State("KEEP"):
                m.d.comb += state.write_valid.eq(1)
                m.next = "IDLE"

            with m.State("DRAIN_LOAD"):
                m.d.comb += self.packets.ready.eq(1)
                m.next = "DRAIN_TEST"
            with m.State("DRAIN_TEST"):
                m.d.comb += [self.packets.ready.eq(1),
                             chains.order_position.eq(state.read_value[0])]
                m.d.sync += position.eq(state.read_value[0])
                with m.If((chains.parsed != state.read_value[0]) & self._is_sink(row)):
                    m.d.sync += swept_clean.eq(0)
                    m.next = "DRAIN_SLOT"
                with m.Else():
                    m.d.sync += row.eq(row + 1)
                    with m.If(swept_clean != config.rows):
                        m.d.sync += swept_clean.eq(swept_clean + 1)
                    m.next = "DRAIN_LOAD"
                    with m.If(~self.drain):
                        m.next = "IDLE"
            with m.State("DRAIN_SLOT"):
                m.d.sync += [slot.eq(chains.slot), walked.eq(chains.walked)]
                m.next = "DRAIN_CHAIN"
            with m.State("DRAIN_CHAIN"):
                m.d.sync += chain.eq(chains.chain)
                m.next = "DRAIN_RELEASE"
            with m.State("DRAIN_RELEASE"):
                m.d.comb += chains.release.valid.eq(1)
                with m.If(chains.release.ready):
                    m.d.sync += position.eq(position + 1)
                    m.next = "DRAIN_STORE"
            with m.State("DRAIN_STORE"):
                m.d.comb += state.write_valid.eq(1)
                m.next = "DRAIN_LOAD"
        return m
