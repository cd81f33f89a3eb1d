# SPDX-License-Identifier: BSD-2-Clause
"""Cutting and realigning of write commands.

A TLP's payload starts with the DW of its first byte in lane 0, a command's bytes start in lane 0 of
its first beat. An output beat is a window of the source: with ``shift`` bytes of it from the beat
before (``previous``) and the rest from the beat at hand, it is chosen lane by lane and then rotated
by ``shift``. After a 4 KiB boundary the window goes on with another shift, hence the choice before
the rotation.

What is known of a TLP before it starts is its *plan*. That of a command's first one follows from the
beat at hand; that of each other one is made in the cycle after the one before it has started, from
where the command goes on, and is then in registers.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.buffer import SkidBuffer
from ..stream.rotate import rotate_left
from .dma import WriteBeat
from .dma_read_issue import byte_enables
from .tlp import PostedHeader, TlpBeat

__all__ = ["Arrival", "Place", "Plan", "WriteCutter"]

_PAGE_DWS = 1024


class Arrival(data.StructLayout):
    """A beat of a command, and what takes a sum to know of it."""

    def __init__(self, data_width):
        super().__init__({
            "data": data_width,
            "last": 1,
            "function": 8,
            "skip": 2,              # bytes of the first DW that are not written
            "address": 62,          # as in a Place
            "total": 15,
            "end": 2,
            "room": 11,
        })


class Place(data.StructLayout):
    """A command from some DW on: its first one, or a cut."""

    def __init__(self):
        super().__init__({
            "function": 8,
            "address": 62,          # DWs
            "total": 15,            # DWs left
            "end": 2,               # bytes of the last one, 0 if all four
            "room": 11,             # DWs to the end of the page, 1..1024
            "limit": 6,             # 32 DWs that a TLP may have
        })


class Plan(data.StructLayout):
    """What is known of a TLP before it starts."""

    def __init__(self, lane_bits):
        super().__init__({
            "fits": 1,              # the command ends with it
            "paged": 1,             # if not, it ends at a page, not at the limit
            "single": 1,            # it has one beat
            "double": 1,            # it has one or two
            "length": 11,           # DWs
            "first_be": 4,
            "last_be": 4,
            "pulls": 1,             # its last beat needs a beat of the source that the one before it did not
            "after": lane_bits,     # shift of the TLP behind it
        })


class WriteCutter(wiring.Component):
    """Turns write commands into memory write TLPs; see :class:`~unvirt.pcie.dma_write.DmaWrite`.

    Latency two cycles, one beat per cycle, in order; behind a TLP of one beat that a page ends there
    is an empty cycle. ``i.ready`` depends on registers only. A command keeps to the maximum payload
    size that there was when it began.

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

        m.submodules.slice = beats = SkidBuffer(Arrival(self._data_width))
        beat, beat_valid, entering = beats.o.payload, beats.o.valid, beats.i.payload
        consume = Signal()
        header = self.i.payload.header
        bytes_up = Signal(17)      # bytes from the first DW on, and three
        m.d.comb += [
            bytes_up.eq(header.length + (header.address[:2] + 3)),
            self.i.ready.eq(beats.i.ready), beats.i.valid.eq(self.i.valid), beats.o.ready.eq(consume),
            entering.data.eq(self.i.payload.data), entering.last.eq(self.i.payload.last),
            entering.function.eq(header.function),
            entering.skip.eq(header.address[:2]), entering.address.eq(header.address[2:]),
            entering.total.eq(bytes_up[2:]), entering.end.eq(bytes_up[:2] + 1),
            entering.room.eq(_PAGE_DWS - header.address[2:12]),
        ]

        # The command at hand: where it goes on behind the TLP that started last.
        active = Signal()          # within a command
        source_done = Signal()     # and its last beat is consumed
        begins = Signal()          # and no TLP is begun
        draining = Signal()        # the rest of it is swallowed, whatever bus mastering does
        command = Signal(Place())
        plan = Signal(Plan(lane_bits))
        planned = Signal()         # the plan is that of the next TLP
        # The TLP begun.
        count = Signal(11)         # DWs from the beat before on
        tlp_last = Signal()        # the next beat is the last one
        tlp_need = Signal()        # and a beat of the source is needed for it
        tlp_fits = Signal()        # as in its plan
        tlp_pulls = Signal()
        after = Signal(lane_bits)
        shift = Signal(lane_bits)
        previous = Signal(self._data_width, reset_less=True)

        # What this cycle works on.
        at = Signal(Place())
        skip = Signal(2)
        shift_now = Signal(lane_bits)
        limit = Signal(6)
        m.d.comb += [
            # Encodings 6 and 7 are reserved.
            limit.eq(Mux(self.max_payload_size >= 5, 32, 1 << self.max_payload_size)),
            skip.eq(beat.skip),
            at.eq(command), shift_now.eq(shift),
        ]
        with m.If(~active):
            m.d.comb += [
                at.function.eq(beat.function), at.address.eq(beat.address), at.total.eq(beat.total), at.end.eq(beat.end),
                at.room.eq(beat.room), at.limit.eq(limit), shift_now.eq(skip),
            ]
        first = self._elaborate_plan(m, "first", beat, limit, skip, skip)
        following = self._elaborate_plan(m, "following", command, command.limit, C(0, 2), after)
        now = Signal(Plan(lane_bits))
        starts = Signal()          # a TLP starts
        last = Signal()            # this is its last beat
        need = Signal()            # bytes beyond those of the previous beat are wanted: this beat is used and used up
        ends = Signal()            # this is the command's last beat
        m.d.sync += plan.eq(following)
        m.d.comb += [
            now.eq(Mux(active, plan.as_value(), first.as_value())),
            starts.eq(~active | begins),
            last.eq(Mux(active, Mux(begins, plan.single, tlp_last), first.single)),
            need.eq(~active | Mux(begins, ~plan.single | plan.pulls, tlp_need)),
            ends.eq(last & Mux(active & ~begins, tlp_fits, now.fits)),
        ]

        # Emit a beat, or swallow one.
        room = Signal()
        emit = Signal()
        swallow = Signal()
        o_valid = Signal()
        o_ends = Signal()          # it is the command's last beat
        ended = Signal()
        stop = starts & (~self.bus_master_enable | draining)
        m.d.comb += [
            self.o.valid.eq(o_valid),
            room.eq(~o_valid | self.o.ready),
            emit.eq(room & (beat_valid | ~need) & (~active | ~begins | planned) & ~stop),
            # Only behind everything that waits to be numbered.
            swallow.eq(~o_valid & (beat_valid | source_done) & stop),
            consume.eq((emit & need) | (swallow & ~source_done)),
            ended.eq((emit & ends) | (swallow & (source_done | beat.last))),
            self.numbered.eq((self.o.valid & self.o.ready & o_ends) | (swallow & ended)),
            self.idle.eq(~o_valid & ~beat_valid & ~active),
        ]
        with m.If(consume):
            m.d.sync += previous.eq(beat.data)
        with m.If(emit | swallow):
            m.d.sync += [active.eq(~ended), begins.eq(last | swallow), draining.eq(swallow & ~ended)]
        m.d.sync += source_done.eq((source_done | (consume & beat.last)) & ~ended)

        next_last = Signal()
        m.d.comb += next_last.eq(Mux(starts, now.double, count <= 3 * lanes // 4))
        m.d.sync += planned.eq(~(emit & starts))
        with m.If(emit):
            m.d.sync += [
                tlp_last.eq(next_last),
                tlp_need.eq(~next_last | Mux(starts, now.pulls, tlp_pulls)),
                # Kept modulo the lanes; after a full beat it is the same as before.
                shift.eq(Mux(last, Mux(starts, now.after, after), shift_now)),
                count.eq(Mux(starts, now.length, count - lanes // 4)),
            ]
        with m.If(emit & starts):
            m.d.sync += [tlp_fits.eq(now.fits), tlp_pulls.eq(now.pulls), after.eq(now.after)]
            self._go_on(m, command, at, now.paged)

        self._elaborate_output(m, at, now, starts, last, ends, shift_now, previous, beat.data, room, emit, o_valid, o_ends)
        return m

    def _elaborate_plan(self, m, name, place, limit, skip, shift):
        """Return the plan of the TLP that starts at ``place``; all that it depends on is compared at once."""
        lane_dws = self._data_width // 32
        dw_bits = (lane_dws - 1).bit_length()
        plan = Signal(Plan(dw_bits + 2), name=f"{name}_plan")
        whole = Signal(name=f"{name}_whole")
        paged = Signal(name=f"{name}_paged")
        edge = Signal(4, name=f"{name}_edge")
        total, end, room, most = place.total, place.end, place.room, Cat(C(0, 5), limit)

        def within(beats):
            return (total <= beats * lane_dws) | (room <= beats * lane_dws) | (most <= beats * lane_dws)

        def pulls(size, end):
            return Cat((end - 1)[:2], (size - 1)[:dw_bits]) >= shift

        # The end, as far as byte enables depend on it: those of a TLP that is cut reach to the end of a DW.
        with m.If(whole):
            m.d.comb += edge.eq(Mux(total == 1, Cat(end, end == 0), Cat(end, C(2, 2))))
        with m.Else():
            m.d.comb += edge.eq(Mux(room == 1, 4, 8))
        _, first_be, last_be = byte_enables(m, name, skip, edge)
        m.d.comb += [
            paged.eq(room <= most),
            whole.eq((total <= room) & (total <= most)),
            plan.fits.eq(whole), plan.paged.eq(paged),
            plan.single.eq(within(1)), plan.double.eq(within(2)),
            plan.length.eq(Mux(whole, total, Mux(paged, room, most))),
            plan.first_be.eq(first_be), plan.last_be.eq(last_be),
            # A limit is a number of full beats.
            plan.pulls.eq(Mux(whole, pulls(total, end), ~paged | pulls(room, C(0, 2)))),
            plan.after.eq(Mux(paged, shift - Cat(C(0, 2), room), shift)),
        ]
        return plan

    def _go_on(self, m, command, at, paged):
        """Let the command go on behind the TLP that starts at ``at``: at the next page, or with what it has on this one."""
        most = Cat(C(0, 5), at.limit)
        m.d.sync += command.eq(at)
        with m.If(paged):
            m.d.sync += [
                command.address.eq(Cat(C(0, 10), (at.address[10:] + 1)[:52])),
                command.total.eq(at.total - at.room),
                command.room.eq(_PAGE_DWS),
            ]
        with m.Else():
            m.d.sync += [
                command.address[:10].eq(at.address[:10] + most),
                command.total.eq(at.total - most),
                command.room.eq(at.room - most),
            ]

    def _elaborate_output(self, m, at, plan, starts, last, ends, shift, previous, current, room, emit, o_valid, o_ends):
        """The realigner and the output register."""
        lanes = self._data_width // 8
        window = Cat(Mux(shift + lane >= lanes, previous.word_select(lane, 8),
                         current.word_select(lane, 8)) for lane in range(lanes))
        turned = rotate_left(m, window, shift)
        payload = Signal(self.o.payload.shape(), reset_less=True)
        m.d.comb += self.o.payload.eq(payload)
        with m.If(room):
            # Nobody looks at them unless a beat was emitted.
            m.d.sync += [
                o_valid.eq(emit),
                payload.data.eq(turned),
                payload.first.eq(starts),
                payload.last.eq(last),
                payload.header.function.eq(at.function),
                payload.header.address.eq(Cat(C(0, 2), at.address)),
                payload.header.length.eq(plan.length),
                payload.header.first_be.eq(plan.first_be),
                payload.header.last_be.eq(plan.last_be),
                payload.header.pasid.as_value().eq(0),
                o_ends.eq(ends),
            ]
