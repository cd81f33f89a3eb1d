# SPDX-License-Identifier: BSD-2-Clause
"""Receive: frames from the MAC wait in a ring of memory until the sink finds buffers for them."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..stream.fifo import MemoryQueue
from ..virtio.queue.lanes import LaneMemory
from ..virtio.queue.sink import SinkPacket
from .spec import NET_HEADER_SIZE, NetHeader
from .transmit import MacBeat

__all__ = ["Receive"]


class Receive(wiring.Component):
    """Stores received frames behind room for their virtio header, oldest first.

    A frame becomes visible two cycles after its last beat. It is dropped and counted if it is bad, shorter than 14 bytes, longer than ``frame_limit``,
    or finds no room; a frame that has begun never disturbs another. The MAC is never stalled. The header in front of a frame is
    all zero but for ``num_buffers`` [virtio 5.1.9.4.1], put in while the sink reads.

    Members
    -------
    mac_valid, mac : ``In``
        One beat of a frame.
    frame_limit : ``In(14)``
        Longest frame in bytes.
    row : ``In``
        The receive queue frames go to.
    packets : ``Out(stream.Signature(SinkPacket))``
        The oldest frame; taking it gives its memory back.
    read_word, read_data, buffers : ``In``/``Out``/``In``
        Synchronous read of the oldest frame's bytes, and how many buffers it was given.
    stat_dropped : ``Out(1)``
    """

    def __init__(self, config, *, row=0):
        self._config = config
        self._row = row
        lanes = config.data_width // 8
        self._words = config.rx_buffer_size // lanes
        super().__init__({
            "mac_valid": In(1),
            "mac": In(MacBeat(config.data_width)),
            "frame_limit": In(14),
            "packets": Out(stream.Signature(SinkPacket(config.rows, config.rx_buffer_size))),
            "read_word": In(range(self._words)),
            "read_data": Out(config.data_width),
            "buffers": In(16),
            "stat_dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._config.data_width
        lanes = width // 8
        words = self._words
        word_bits = (words - 1).bit_length()
        # The frame begins at lane `shift` of word `skip`: a constant rotation, so wires only.
        skip, shift = NET_HEADER_SIZE // lanes, NET_HEADER_SIZE % lanes
        m.submodules.memory = cells = LaneMemory(data_width=width, size=self._config.rx_buffer_size)
        frame_shape = data.StructLayout({"start": word_bits, "length": 14})
        m.submodules.frames = frames = MemoryQueue(frame_shape, max(16, words // 8))

        start, place = Signal(word_bits), Signal(word_bits)   # of the frame coming in; of its next beat
        used = Signal(range(words + 1))        # words of whole frames and of the one coming in
        mine = Signal(range(words + 1))        # words of the one coming in
        length = Signal(14)
        bad = Signal()
        beat = self.mac
        bytes_here = Signal(range(lanes + 1))
        now_length = Signal(15)
        total = Signal(15)
        now_start, now_place = Signal(word_bits), Signal(word_bits)
        now_mine = Signal(range(words + 2))
        room, was_bad, give_up = Signal(), Signal(), Signal()
        freed = Signal(range(words + 1))
        kept = Signal(range(words + 2))

        m.d.comb += [
            bytes_here.eq(lanes - beat.empty),
            now_length.eq(Mux(beat.first, 0, length) + bytes_here),
            total.eq(now_length + NET_HEADER_SIZE),
            now_start.eq(start),
            now_place.eq(Mux(beat.first, start + skip, place)),
            # A beat may touch two words; the frame so far needs this many.
            now_mine.eq(Mux(beat.first, skip + 2, mine + 1)),
            room.eq(used + now_mine <= words),
            was_bad.eq(~beat.first & bad),
            give_up.eq(was_bad | ~room | (now_length > self.frame_limit)),
            cells.write.address_low.eq(now_place),
            cells.write.address_high.eq(now_place + 1),
        ]
        for lane in range(lanes):
            source = (lane - shift) % lanes
            m.d.comb += [
                cells.write.data.word_select(lane, 8).eq(beat.data.word_select(source, 8)),
                cells.write.high[lane].eq(lane < shift),
                cells.write.enable[lane].eq(self.mac_valid & ~give_up),
            ]

        # The whole frame takes the words up to its last byte.
        taken = Signal(range(words + 1))
        good = Signal()
        lane_bits = (lanes - 1).bit_length()
        m.d.comb += [
            taken.eq((total + lanes - 1) >> lane_bits),
            good.eq(~give_up & ~beat.error & (now_length >= 14) & frames.i.ready),
            frames.i.valid.eq(self.mac_valid & beat.last & good),
            frames.i.payload.start.eq(now_start),
            frames.i.payload.length.eq(now_length),
            self.stat_dropped.eq(self.mac_valid & beat.last & ~good),
            kept.eq(used - freed),
        ]
        m.d.sync += used.eq(kept)
        with m.If(self.mac_valid):
            m.d.sync += [place.eq(now_place + 1), length.eq(now_length), mine.eq(now_mine),
                         bad.eq(give_up)]
            with m.If(beat.last & good):
                m.d.sync += [start.eq(start + taken), used.eq(kept + taken)]

        out, oldest = self.packets, frames.o.payload
        m.d.comb += [
            out.valid.eq(frames.o.valid),
            out.payload.row.eq(self._row),
            out.payload.address.eq(oldest.start << lane_bits),
            out.payload.length.eq(oldest.length + NET_HEADER_SIZE),
            frames.o.ready.eq(out.ready),
        ]
        with m.If(out.valid & out.ready):
            m.d.comb += freed.eq((oldest.length + NET_HEADER_SIZE + lanes - 1) >> lane_bits)

        header = Signal(NetHeader)
        asked = Signal(word_bits)
        padded = Signal(width * (skip + 1))
        m.d.comb += [
            cells.read_word.eq(self.read_word),
            header.num_buffers.eq(self.buffers),
            padded.eq(header),
            self.read_data.eq(cells.read_data),
        ]
        m.d.sync += asked.eq(self.read_word - oldest.start)
        for word in range(skip + (shift != 0)):
            here = min(width, 8 * NET_HEADER_SIZE - width * word)
            with m.If(asked == word):
                m.d.comb += self.read_data[:here].eq(padded.word_select(word, width)[:here])
        return m
