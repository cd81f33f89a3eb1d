# SPDX-License-Identifier: BSD-2-Clause
"""Cutting and realigning of write commands.

A TLP's payload starts with the DW of its first byte in lane 0, a command's bytes start in lane 0 of
its first beat. An output beat is a window of the source: with ``shift`` bytes of it from the beat
before (``previous``) and the rest from the beat at hand, it is chosen lane by lane and then rotated
by ``shift``. After a 4 KiB boundary the window goes on with another shift, hence the choice before
the rotation.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.rotate import rotate_left
from .dma import WriteBeat
from .dma_read_issue import byte_enables
from .tlp import PostedHeader, TlpBeat

__all__ = ["WriteCutter"]

_PAGE_BITS = 12


def _span(m, name, max_payload_size, page_offset):
    """Return the bytes from a DW-aligned offset in a page to the next cut, 4..4096."""
    limit = Signal(_PAGE_BITS + 1, name=f"{name}_limit")
    room = Signal(_PAGE_BITS + 1, name=f"{name}_room")
    m.d.comb += [
        # Encodings 6 and 7 are reserved.
        limit.eq(Mux(max_payload_size >= 5, 4096, 128 << max_payload_size)),
        room.eq((1 << _PAGE_BITS) - page_offset),
    ]
    return Mux(room < limit, room, limit)


class WriteCutter(wiring.Component):
    """Turns write commands into memory write TLPs; see :class:`~unvirt.pcie.dma_write.DmaWrite`.

    Latency two cycles, one beat per cycle, in order.

    Members
    -------
    i : ``In(stream.Signature(WriteBeat))``
        Commands.
    o : ``Out(stream.Signature(TlpBeat(PostedHeader)))``
        TLPs.
    max_payload_size, bus_master_enable : ``In``
        From the attachment.
    numbered : ``Out(1)``
        Pulse: the last beat of a command's last TLP enters ``o``, or the command was swallowed.
    idle : ``Out(1)``
        Empty, and not within a command.
    """

    def __init__(self, *, data_width):
        self._data_width = data_width
        super().__init__({
            "i": In(stream.Signature(WriteBeat(data_width))),
            "o": Out(stream.Signature(TlpBeat(PostedHeader, data_width))),
            "max_payload_size": In(3),
            "bus_master_enable": In(1),
            "numbered": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        lane_bits = (lanes - 1).bit_length()

        # Plan: a register for the beat, the first cut already known.
        beat = Signal(WriteBeat(self._data_width), reset_less=True)
        beat_valid = Signal()
        beat_total = Signal(17, reset_less=True)   # bytes from the first DW on
        beat_span = Signal(13, reset_less=True)
        consume = Signal()
        header = self.i.payload.header
        m.d.comb += self.i.ready.eq(~beat_valid | consume)
        span_in = _span(m, "first", self.max_payload_size,
                        Cat(C(0, 2), header.address[2:_PAGE_BITS]))
        with m.If(self.i.ready):
            m.d.sync += [
                beat.eq(self.i.payload),
                beat_valid.eq(self.i.valid),
                beat_total.eq(header.length + header.address[:2]),
                beat_span.eq(span_in),
            ]

        # The command at hand, behind its first TLP: what is left, where it goes, up to which cut.
        shape = data.StructLayout({"function": 8, "address": 62, "total": 17, "span": 13})
        command = Signal(shape)
        rest = Signal(shape)
        active = Signal()          # within a command
        source_done = Signal()     # and its last beat is consumed
        tlp_left = Signal(13)      # bytes of the TLP begun that are still to go
        shift = Signal(lane_bits)
        previous = Signal(self._data_width, reset_less=True)

        # What this cycle works on.
        now = Signal(shape)
        skip = Signal(2)
        shift_now = Signal(lane_bits)
        starts = Signal()          # a TLP starts
        m.d.comb += [starts.eq(tlp_left == 0), now.eq(command), shift_now.eq(shift)]
        with m.If(~active):
            m.d.comb += [
                now.function.eq(beat.header.function),
                now.address.eq(beat.header.address[2:]),
                now.total.eq(beat_total),
                now.span.eq(beat_span),
                skip.eq(beat.header.address[:2]),
                shift_now.eq(skip),
            ]
        size = Signal(13)          # bytes of the TLP from here on, skipped ones included
        taken = Signal(lane_bits + 1)
        tlp_last, last_tlp, need = Signal(), Signal(), Signal()
        m.d.comb += [
            last_tlp.eq(now.total <= now.span),
            size.eq(Mux(starts, Mux(last_tlp, now.total, now.span), tlp_left)),
            tlp_last.eq(size <= lanes),
            taken.eq(Mux(tlp_last, size, lanes)),
            # Bytes beyond those of the previous beat are wanted: this beat is used and used up.
            need.eq(taken > shift_now),
        ]

        # Emit a beat, or swallow one.
        room, emit, swallow = Signal(), Signal(), Signal()
        o_valid = Signal()
        o_ends = Signal()          # it is the command's last beat
        draining = Signal()        # the rest of a command is swallowed, whatever bus mastering does
        stop = starts & (~self.bus_master_enable | draining)
        ended = Signal()
        m.d.comb += [
            self.o.valid.eq(o_valid),
            room.eq(~o_valid | self.o.ready),
            emit.eq(room & Mux(active, beat_valid | ~need, beat_valid) & ~stop),
            # Only behind everything that waits to be numbered.
            swallow.eq(~o_valid & Mux(active, beat_valid | source_done, beat_valid) & stop),
            consume.eq((emit & need) | (swallow & ~source_done)),
            ended.eq(Mux(emit, tlp_last & Mux(starts, last_tlp, command.total == 0),
                         swallow & (source_done | beat.last))),
            self.numbered.eq((self.o.valid & self.o.ready & o_ends)
                             | (swallow & ended)),
            self.idle.eq(~o_valid & ~beat_valid & ~active),
        ]

        # Behind this TLP: the next one starts at the cut.
        cut = Signal(11)
        m.d.comb += [
            cut.eq(now.address[:_PAGE_BITS - 2] + now.span[2:]),
            rest.function.eq(now.function),
            rest.address.eq(Cat(cut[:10], (now.address[10:] + cut[10])[:52])),
            rest.total.eq(Mux(last_tlp, 0, now.total - now.span)),
        ]
        next_span = _span(m, "next", self.max_payload_size, Cat(C(0, 2), cut[:10]))
        m.d.comb += rest.span.eq(next_span)

        with m.If(emit):
            m.d.sync += [
                tlp_left.eq(Mux(tlp_last, 0, size - lanes)),
                # Kept modulo the lanes; after a full beat it is the same as before.
                shift.eq(shift_now - taken),
            ]
            with m.If(starts):
                m.d.sync += command.eq(rest)
        with m.If(consume):
            m.d.sync += previous.eq(beat.data)
        with m.If(emit | swallow):
            m.d.sync += [active.eq(~ended), draining.eq(swallow & ~ended)]
            with m.If(ended):
                m.d.sync += source_done.eq(0)
            with m.Elif(consume):
                m.d.sync += source_done.eq(beat.last)

        self._elaborate_output(m, now, starts, size, ended, skip, shift_now, previous, beat.data,
                               room, emit, tlp_last, o_valid, o_ends)
        return m

    def _elaborate_output(self, m, now, starts, size, ends, skip, shift, previous, current,
                          room, emit, tlp_last, o_valid, o_ends):
        """The realigner and the output register."""
        lanes = self._data_width // 8
        window = Cat(Mux(shift + lane >= lanes, previous.word_select(lane, 8),
                         current.word_select(lane, 8)) for lane in range(lanes))
        turned = rotate_left(m, window, shift)
        length, first_be, last_be = byte_enables(m, "write", skip, size)
        payload = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(payload)
        with m.If(room):
            m.d.sync += o_valid.eq(emit)
        with m.If(emit):
            m.d.sync += [
                payload.data.eq(turned),
                payload.first.eq(starts),
                payload.last.eq(tlp_last),
                payload.header.function.eq(now.function),
                payload.header.address.eq(Cat(C(0, 2), now.address)),
                payload.header.length.eq(length),
                payload.header.first_be.eq(first_be),
                payload.header.last_be.eq(last_be),
                payload.header.pasid.as_value().eq(0),
                o_ends.eq(ends),
            ]
