# SPDX-License-Identifier: BSD-2-Clause
"""Receive: frames from the MAC wait in a ring of memory until the sink finds buffers for them.

    MAC --> ring of words: | room for the header, frame | ... |
                 | whole frames                       ^ reads
                 v                                    |
             places (FIFO) --> oldest, behind --> sink
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..stream.buffer import HalfBuffer
from ..stream.fifo import MemoryQueue
from ..stream.ring import wrap_sub
from ..virtio.queue.lanes import LaneMemory
from ..virtio.queue.sink import SinkPacket
from .spec import NET_HEADER_SIZE, NetHeader
from .transmit import MacBeat

__all__ = ["Receive"]

SHORTEST_FRAME = 14
"""Bytes of an Ethernet header; anything shorter is dropped."""

COMMON_FRAME = 60
"""Bytes of the shortest frame that a MAC passes on without padding of its own; the FIFO of places holds a memory full of these."""


class Receive(wiring.Component):
    """Stores received frames behind room for their virtio header, oldest first.

    **Latency**: a frame becomes visible one cycle after its last beat if none waits. **Throughput**: one beat per cycle, without a gap between
    frames. The MAC is never stalled: a frame is dropped and counted if it is bad, shorter than 14 bytes, longer than ``frame_limit``, or finds no
    room; its memory is free again three cycles later, and no other frame is touched. The header in front of a frame is all zero but for
    ``num_buffers`` [virtio 5.1.9.4], put in while the sink reads. **Reset** forgets all frames; memory contents never show.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    mac_valid, mac : ``In``
        One beat of a frame.
    frame_limit : ``In(14)``
        Longest frame in bytes, without FCS.
    packets : ``Out(stream.Signature(SinkPacket))``
        The oldest frame and those behind it; taking it gives its memory back.
    read_word, read_data : ``In``/``Out``
        Synchronous read of the oldest frame's bytes; still good in the cycle after the frame was taken.
    buffers : ``In(16)``
        How many buffers the frame in ``read_data`` was given.
    pair : ``In``
        The queue pair of a frame, two cycles after its last beat; not looked at if there is only one.
    mark, settled : ``In(1)``/``Out(1)``
        ``settled`` falls with ``mark`` and rises when the sink has taken all frames that were stored before.
    crowded, behind : ``Out(1)``
        Whole frames hold three quarters of the memory at least, a 32nd.
    stat_dropped : ``Out(1)``
        Pulse for each frame dropped here.
    """

    def __init__(self, config):
        self._config = config
        lanes = config.data_width // 8
        self._words = config.rx_buffer_size // lanes
        super().__init__({
            "mac_valid": In(1),
            "mac": In(MacBeat(config.data_width)),
            "frame_limit": In(14),
            "packets": Out(stream.Signature(SinkPacket(config, config.rx_buffer_size))),
            "read_word": In(range(self._words)),
            "read_data": Out(config.data_width),
            "buffers": In(16),
            "pair": In(range(max(2, config.queue_pairs))),
            "mark": In(1),
            "settled": Out(1),
            "crowded": Out(1),
            "behind": Out(1),
            "stat_dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._config.data_width // 8
        words = self._words
        word_bits = (words - 1).bit_length()
        m.submodules.memory = cells = LaneMemory(data_width=self._config.data_width,
                                                 size=self._config.rx_buffer_size)
        place_shape = data.StructLayout({"start": word_bits, "length": 14})   # the header included
        steered_shape = data.StructLayout({"place": place_shape, "pair": self.pair.shape()})
        # Runts may fill the FIFO before the memory; they are dropped like any frame without room.
        least = -(-(NET_HEADER_SIZE + COMMON_FRAME) // lanes)
        m.submodules.places = places = MemoryQueue(steered_shape, words // least)

        whole = stream.Signature(place_shape).create()   # a frame has become visible
        freed = Signal(range(words + 1))                 # words given back in the cycle before
        self._elaborate_store(m, cells, whole, freed)
        steered = self._elaborate_steering(m, places, whole)
        oldest = self._elaborate_places(m, places, steered, freed)
        self._elaborate_settled(m, steered)
        self._elaborate_read(m, cells, oldest.place.start)
        return m

    def _elaborate_store(self, m, cells, whole, freed):
        """Write beats; a frame that is given up leaves ``start`` where it was."""
        beat = self.mac
        word_bits = len(self.read_word)
        lanes = len(beat.data) // 8
        # The frame begins at lane `shift` of word `skip`: a constant rotation, so wires only.
        skip, shift = NET_HEADER_SIZE // lanes, NET_HEADER_SIZE % lanes

        start, place = Signal(word_bits), Signal(word_bits)   # of the frame coming in; of its next beat
        first_place = Signal(word_bits, init=skip)   # of its first beat
        length = Signal(14)                    # with the header
        left, few = Signal(14), Signal()       # bytes that it may still have; these may be less than a beat has
        missing = Signal(range(SHORTEST_FRAME + 1))    # bytes to the shortest frame
        bad = Signal()
        now_place, now_length, now_left, now_missing = Signal(word_bits), Signal(15), Signal(14), Signal.like(missing)
        size = Signal(range(lanes + 1))        # of the beat
        long_enough = Signal()
        room, write, give_up, good = Signal(), Signal(), Signal(), Signal()
        spill = Signal()                       # the last byte is in the second word that its beat touches

        m.d.comb += [
            now_place.eq(Mux(beat.first, first_place, place)),
            size.eq(lanes - beat.empty),
            now_length.eq(Mux(beat.first, NET_HEADER_SIZE, length) + size),
            now_left.eq(Mux(beat.first, self.frame_limit, left)),
            now_missing.eq(Mux(beat.first, SHORTEST_FRAME, missing)),
            long_enough.eq(size >= now_missing),
            # No limit is less than a beat. Much hangs on this: so it is known before what has to be compared.
            give_up.eq(~room | (~beat.first & (bad | (few & (size > left[:len(size)]))))),
            # A frame that gets too long has room still.
            write.eq(self.mac_valid & (beat.first | ~bad) & room),
            cells.write.address_low.eq(now_place),
            cells.write.address_high.eq(now_place + 1),
            cells.write.enable.eq(write.replicate(lanes)),
            spill.eq(beat.empty < shift),
            good.eq(~give_up & ~beat.error & long_enough & whole.ready),
            whole.valid.eq(self.mac_valid & beat.last & good),
            whole.payload.start.eq(start),
            whole.payload.length.eq(now_length),
            self.stat_dropped.eq(self.mac_valid & beat.last & ~good),
        ]
        for lane in range(lanes):
            m.d.comb += [
                cells.write.data.word_select(lane, 8).eq(
                    beat.data.word_select((lane - shift) % lanes, 8)),
                cells.write.high[lane].eq(lane < shift),
            ]
        with m.If(self.mac_valid):
            m.d.sync += [place.eq(now_place + 1), length.eq(now_length), left.eq(now_left - lanes), bad.eq(give_up),
                         few.eq(now_left <= 2 * lanes), missing.eq(Mux(long_enough, 0, now_missing - size))]
            with m.If(beat.last & good):
                # The whole frame keeps the words up to its last byte.
                m.d.sync += [start.eq(now_place + 1 + spill), first_place.eq(now_place + (1 + skip) + spill)]
        self._elaborate_space(m, freed, room=room, write=write, good=good, spill=spill if shift else C(1, 1), first_words=skip + 1 + (shift != 0))

    def _elaborate_space(self, m, freed, *, room, write, good, spill, first_words):
        """Count words: each beat claims what it touches first; what a frame does not keep comes back soon after."""
        beat = self.mac
        words = self._words
        space = Signal(range(words + 1), init=words)
        mine = Signal(range(words + 1))        # words of the frame coming in
        open_, ended, kept, spilled = Signal(), Signal(), Signal(), Signal()   # before this cycle
        back, stored = Signal(range(words + 1)), Signal(range(words + 1))
        used = Signal(range(words + 1))        # words of the frames that are whole
        claim = Mux(write, Mux(beat.first, first_words, 1), 0)
        m.d.comb += room.eq(Mux(beat.first, space >= first_words, space != 0))
        m.d.sync += [
            space.eq(space - claim + back),
            ended.eq(self.mac_valid & beat.last),
            kept.eq(good),
            spilled.eq(spill),
            back.eq(freed + Mux(ended & kept, ~spilled, 0)),
            stored.eq(Mux(ended & kept, mine - ~spilled, 0)),
            used.eq(used + stored - freed),
            self.crowded.eq(used[-1] | used[-3:-1].all()),
            self.behind.eq(used[-6:].any()),
        ]
        with m.If(self.mac_valid):
            m.d.sync += [mine.eq(Mux(beat.first, 0, mine) + claim), open_.eq(~beat.last)]
        # Given up, or its end never came.
        with m.If((ended & ~kept) | (self.mac_valid & beat.first & open_)):
            m.d.sync += back.eq(freed + mine)

    def _elaborate_steering(self, m, places, whole):
        """Return the stream of frames with their queue pairs."""
        steered = stream.Signature(places.shape).create()
        if self._config.queue_pairs == 1:
            m.d.comb += [steered.valid.eq(whole.valid), steered.payload.place.eq(whole.payload), whole.ready.eq(steered.ready)]
            return steered
        # On the way of two cycles there may be two frames; places are kept for them.
        m.d.comb += whole.ready.eq(places.level < places.depth - 3)
        valid, place = whole.valid, whole.payload
        for number in range(2):
            later, later_place = Signal(name=f"steered_{number}"), Signal(place.shape(), name=f"steered_place_{number}")
            m.d.sync += [later.eq(valid & whole.ready if number == 0 else valid), later_place.eq(place)]
            valid, place = later, later_place
        m.d.comb += [steered.valid.eq(valid), steered.payload.place.eq(place), steered.payload.pair.eq(self.pair)]
        return steered

    def _elaborate_settled(self, m, steered):
        """Count frames in and out: those that were in at ``mark`` must be out."""
        into, out, last = Signal(16), Signal(16), Signal(16)
        waiting = Signal()
        come, gone = Signal(), Signal()        # in the cycle before
        m.d.sync += [
            come.eq(steered.valid & steered.ready),
            gone.eq(self.packets.valid & self.packets.ready),
            into.eq(into + come),
            out.eq(out + gone),
        ]
        with m.If(self.mark):
            m.d.sync += [last.eq(into + come), waiting.eq(1)]
        with m.Elif(waiting):
            m.d.sync += waiting.eq(wrap_sub(out, last)[15])
        m.d.comb += self.settled.eq(~self.mark & ~waiting)

    def _elaborate_places(self, m, places, whole, freed):
        """Order the frames; return the place of the oldest."""
        out = self.packets
        lanes = self._config.data_width // 8
        lane_bits = (lanes - 1).bit_length()
        oldest = Signal(places.shape)
        valid, direct = Signal(), Signal()
        behind, stages = [places.o], []
        for number in range(len(out.payload.behind) - 1):
            m.submodules[f"behind{number}"] = stage = HalfBuffer(places.shape)
            connect(m, behind[0], stage.i)
            behind.insert(0, stage.o)
            stages.append(stage)
        following = behind[0]
        m.d.comb += [
            # Nobody waits: past the FIFO, which would take two cycles.
            direct.eq(~valid & (places.level == 0) & ~Cat(stage.o.valid for stage in stages).any()),
            whole.ready.eq(direct | places.i.ready),
            places.i.valid.eq(whole.valid & ~direct),
            places.i.payload.eq(whole.payload),
            following.ready.eq(~valid | out.ready),
            out.valid.eq(valid),
        ]
        with m.If(following.ready):
            m.d.sync += [valid.eq(following.valid | (direct & whole.valid)),
                         oldest.eq(Mux(direct, whole.payload, following.payload))]
        m.d.sync += freed.eq(Mux(valid & out.ready, (oldest.place.length + lanes - 1) >> lane_bits, 0))

        m.d.comb += [shown.valid.eq(held.valid) for shown, held in zip(out.payload.behind, behind)]
        for packet, place in ((out.payload, oldest), *((shown, held.payload) for shown, held in zip(out.payload.behind, behind))):
            m.d.comb += [
                packet.row.eq(place.pair << 1),
                packet.address.eq(place.place.start << lane_bits),
                packet.length.eq(place.place.length),
            ]
        return oldest

    def _elaborate_read(self, m, cells, start):
        """Read words, with the header in front of the frame."""
        width = self._config.data_width
        header_words = -(-NET_HEADER_SIZE * 8 // width)
        header, padded = Signal(NetHeader), Signal(width * header_words)
        asked = Signal(header_words)           # which of these `read_data` shows
        m.d.comb += [
            cells.read_word.eq(self.read_word),
            header.num_buffers.eq(self.buffers),
            padded.eq(header),
            self.read_data.eq(cells.read_data),
        ]
        for word in range(header_words):
            here = min(width, 8 * NET_HEADER_SIZE - width * word)
            m.d.sync += asked[word].eq(self.read_word == (start + word)[:len(start)])
            with m.If(asked[word]):
                m.d.comb += self.read_data[:here].eq(padded.word_select(word, width)[:here])
