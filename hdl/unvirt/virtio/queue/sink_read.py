# SPDX-License-Identifier: BSD-2-Clause
"""The sink's way out: bytes of the personality's memory, turned and packed, become write commands."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ...stream.fifo import Queue
from ...stream.rotate import rotate_right

__all__ = ["ReadCommand", "ByteReader", "fits_word"]

DEPTH = 4
"""Beats between the memory and the write engine; covers the memory's latency twice."""


class ReadCommand(data.StructLayout):
    """A run of bytes that goes to one place.

    ``ends_packet``: the packet's memory is not read again after this one. ``ends_chain``: to be told once the bytes have left. ``short`` and
    ``direct`` say of source and length what the reader would find out too late; see :func:`fits_word`.
    """

    def __init__(self, size):
        super().__init__({
            "source": range(size),       # first byte in the memory
            "length": 14,                # bytes, at least 1
            "short": 1,                  # not more of them than a word has
            "direct": 1,                 # they begin with a word of the memory, or lie in one
            "address": 64,               # where they go
            "buffers": 16,               # shown beside every word read for this command
            "ends_chain": 1,
            "ends_packet": 1,
        })


def fits_word(source, length, lanes):
    """Return whether ``length`` bytes are no more than a word, and whether those from byte ``source`` on, if they are no more, lie in one."""
    lane_bits = (lanes - 1).bit_length()
    offset, count = source[:lane_bits], length[:lane_bits + 1]
    short = ~length[lane_bits + 1:].any() & ~(count[-1] & count[:-1].any())
    return short, offset + count <= lanes


class ByteReader(wiring.Component):
    """Reads bytes of any alignment from a synchronous memory and makes write commands of them.

    **Latency**: two cycles from command to first beat. **Throughput**: one beat per cycle, commands without a gap; one that is not aligned and
    does not fit one word costs a cycle more. **Ordering**: as commanded. **Back-pressure**: stops reading; four beats wait at most. Between
    ``commands`` and ``writes`` is no combinational path. **Reset** forgets everything.

    Parameters
    ----------
    data_width, size : int
        Bits of a word and a beat; bytes of the memory, a power of two.

    Members
    -------
    commands : ``In(stream.Signature(ReadCommand(size)))``
        Taken as the first word is asked for.
    read_word, read_data : ``Out``/``In``
        The memory shows the word of one cycle in the next.
    buffers : ``Out(16)``
        Of the command that the word in ``read_data`` belongs to.
    writes : ``Out(stream.Signature(WriteBeat(data_width)))``
    packet_read : ``Out(1)``
        Pulse: the last word of a packet is asked for in this cycle.
    chain_written : ``Out(1)``
        Pulse: the last beat of a chain is taken in this cycle.
    reading : ``Out(1)``
        Within a command.
    idle : ``Out(1)``
        Nothing is held.
    """

    def __init__(self, *, data_width, size):
        self._data_width = data_width
        self._size = size
        super().__init__({
            "commands": In(stream.Signature(ReadCommand(size))),
            "read_word": Out(range(size * 8 // data_width)),
            "read_data": In(data_width),
            "buffers": Out(16),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
            "packet_read": Out(1),
            "chain_written": Out(1),
            "reading": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        lane_bits = (lanes - 1).bit_length()
        out_shape = data.StructLayout({"beat": WriteBeat(self._data_width), "ends_chain": 1})
        m.submodules.output = output = Queue(out_shape, DEPTH)

        # Asking. The first word of a command is asked for as it is taken: no cycle is lost between commands.
        command = self.commands.payload
        now = Signal(command.shape())          # `length` and `source` are those of the next word
        rest = Signal(command.shape())
        rest_last = Signal()                   # no more than a word is left
        first, fill, fill_rest = Signal(), Signal(), Signal()   # `fill`: this word only fills `held`
        offset = Signal(lane_bits)
        direct, direct_rest = Signal(), Signal()
        arrived, arrived_beat = Signal(), Signal()
        go, ask, last_word = Signal(), Signal(), Signal()
        m.d.comb += [
            now.eq(Mux(self.reading, rest, command)),
            first.eq(~self.reading | fill_rest),
            offset.eq(now.source[:lane_bits]),
            direct.eq(Mux(self.reading, direct_rest, command.direct)),
            fill.eq(~self.reading & ~command.direct),
            last_word.eq(Mux(self.reading, rest_last, command.direct & command.short)),
            go.eq(output.level + arrived_beat < DEPTH),
            self.commands.ready.eq(go & ~self.reading),
            ask.eq(go & (self.reading | self.commands.valid)),
            self.read_word.eq(now.source >> lane_bits),
            self.packet_read.eq(ask & last_word & now.ends_packet),
        ]

        with m.If(ask):
            m.d.sync += [
                rest.eq(now),
                rest.source.eq(now.source + lanes),
                rest.length.eq(now.length - lanes),
                rest_last.eq(Mux(self.reading, rest.length <= 2 * lanes, command.length <= 2 * lanes)),
                direct_rest.eq(direct),
                fill_rest.eq(fill),
                self.reading.eq(~last_word),
                self.buffers.eq(now.buffers),
            ]
            with m.If(fill):
                m.d.sync += [rest.length.eq(command.length), rest_last.eq(command.short)]

        # Joining: one rotation, the older word kept as it was turned.
        beat = output.i.payload.beat
        turn = Signal(lane_bits)
        kept = Signal(lanes)                   # lanes of a beat that are those of the older word
        held = Signal(self._data_width, reset_less=True)
        address, length = Signal.like(beat.header.address, reset_less=True), Signal.like(beat.header.length, reset_less=True)
        arrived_first, arrived_last, arrived_ends = Signal(), Signal(), Signal()
        arrived_empty = Signal.like(beat.empty)
        rotated = Signal(self._data_width)
        m.d.sync += [arrived.eq(ask), arrived_beat.eq(ask & ~fill)]
        with m.If(ask):
            m.d.sync += [
                turn.eq(offset),
                kept.eq(Cat(~direct & (offset < lanes - lane) for lane in range(lanes))),
                arrived_first.eq(first), arrived_last.eq(last_word),
                arrived_ends.eq(last_word & now.ends_chain),
                arrived_empty.eq(Mux(last_word, (lanes - now.length)[:len(arrived_empty)], 0)),
            ]
        with m.If(ask & ~self.reading):
            m.d.sync += [address.eq(command.address), length.eq(command.length)]
        with m.If(arrived):
            m.d.sync += held.eq(rotated)
        m.d.comb += [
            rotated.eq(rotate_right(m, self.read_data, turn)),
            output.i.valid.eq(arrived_beat),
            output.i.payload.ends_chain.eq(arrived_ends),
            beat.header.address.eq(address),
            beat.header.length.eq(length),
            beat.first.eq(arrived_first),
            beat.last.eq(arrived_last),
            beat.empty.eq(arrived_empty),
        ]
        for lane in range(lanes):
            m.d.comb += beat.data.word_select(lane, 8).eq(
                Mux(kept[lane], held.word_select(lane, 8), rotated.word_select(lane, 8)))

        m.d.comb += [
            self.writes.valid.eq(output.o.valid),
            self.writes.payload.eq(output.o.payload.beat),
            output.o.ready.eq(self.writes.ready),
            self.chain_written.eq(output.o.valid & self.writes.ready
                                  & output.o.payload.ends_chain),
            self.idle.eq(~self.reading & ~arrived & ~output.o.valid),
        ]
        return m
