# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the packed ring: when to read which line, and when to ask for doorbells.

    visits -----------+                     +--> reads of lines
    results ----------+--> one row at a time +--> jobs: lines to look at, in ring order
                                            +--> device event suppression
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ...stream.ring import wrap_sub
from ..contract import QueueConfigPort, row_width
from ..spec import EventMode
from .contract import CHAIN_LENGTH_WIDTH, RowDrain
from .packed_ends import ChainEnd
from .packed_heads import LineEnd, PackedJob, PackedResult
from .packed_lines import LINES, ArrivedLine
from .reads import LineRead
from .rows import RowMemory, Sweep, connect_sweep
from .slots import SlotBudget

__all__ = ["PackedController"]

_AHEAD = LINES - 1
"""Most lines of a row under way."""

_LINE = 8
"""Descriptors in a line of 128 bytes."""


class PackedRow(data.Struct):
    """State of a row on the available side; all zero after a reset."""

    slot:     15     # next descriptor to look at
    lap:      1      # complement of the wrap counter there
    flight:   8      # descriptors from `slot` on that were requested
    position: 16     # of the next chain
    asked:    4      # lines requested, modulo LINES
    taken:    4      # of them looked at
    dropped:  4      # of those under way, the oldest that mean nothing any more
    ahead:    4      # lines that may be under way beside one
    going:    1      # there may be more to see
    stale:    1      # a doorbell came while lines were under way
    silent:   1      # the driver does not notify: it was told so, or its event lies behind
    looking:  1      # a line is being looked at
    open:     1      # at `slot` lies a chain whose end is not known yet
    fence:    1      # the next read goes behind the writes before it


class PackedController(wiring.Component):
    """Decides which lines of a row's packed ring to read next [virtio 2.8].

    A doorbell makes one line of up to eight descriptors be read; as long as all of a line are available, twice as many may be under way, up to
    120 descriptors. The first that is not available ends that: what was read beyond it means nothing. Then, if a doorbell came meanwhile, the line is
    read again; otherwise the driver is asked for doorbells if it is silent (enabled, or with ``event_idx`` for that very descriptor), and the
    line read once more behind that write [DER-RACE-01]. When the driver notifies although work is in progress, notifications are disabled.

    Each event takes eight cycles, a line that arrives while another one of its row is looked at three; each read three more, and what its requests
    wait. Reads go only where a context is free, so that no row waits here for what another holds; and while rows wait in the scheduler, only for the
    row whose turn it is: all others go to its tail.

    Parameters
    ----------
    data_width, rows, contexts, slots, window : int

    Members
    -------
    event_idx : ``In(1)``
        VIRTIO_F_EVENT_IDX was negotiated.
    drain : ``In(1)``
        Nothing new is asked for; lines that arrive are given back.
    hold, row_drain, row_clean, visits, turn, others, rung_row, rung, rung_clear, again, flags, retired_row, retired, coming_row, coming, free_slots,
    unused, added, config :
        As in :class:`~unvirt.virtio.queue.avail.AvailController`.
    reads : ``Out(stream.Signature(LineRead))``
        ``position`` carries the number of the line.
    room_row, room : ``Out``/``In``
        Whether that row may have another read (synchronous).
    context_free, contexts_free : ``In(1)``
        A read would be taken at once; and some others after it.
    line_row, line_number, line_here, line, line_take :
        See :class:`~unvirt.virtio.queue.packed_lines.LineTable`.
    end_here, end, end_take :
        See :class:`~unvirt.virtio.queue.packed_ends.ChainEnds`; its row is that of the line.
    jobs, results :
        See :class:`~unvirt.virtio.queue.packed_heads.PackedHeads`. There must be a place for the result of every job taken.
    idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, *, data_width, rows, contexts, slots, window):
        self._data_width = data_width
        self._rows = rows
        self._contexts = contexts
        self._slots = slots
        self._window = window
        width = row_width(rows)
        super().__init__({
            "event_idx": In(1),
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "visits": In(stream.Signature(width)),
            "turn": In(1),
            "others": In(1),
            "rung_row": Out(width),
            "rung": In(1),
            "rung_clear": Out(1),
            "reads": Out(stream.Signature(LineRead(rows))),
            "room_row": Out(width),
            "room": In(1),
            "context_free": In(1),
            "contexts_free": In(1),
            "line_row": Out(width),
            "line_number": Out(range(LINES)),
            "line_here": In(1),
            "line": In(ArrivedLine(contexts)),
            "line_take": Out(1),
            "jobs": Out(stream.Signature(PackedJob(rows, contexts))),
            "results": In(stream.Signature(PackedResult(rows))),
            "end_here": In(1),
            "end": In(ChainEnd),
            "end_take": Out(1),
            "again": Out(stream.Signature(width)),
            "flags": Out(stream.Signature(WriteBeat(data_width))),
            "retired_row": Out(width),
            "retired": In(16),
            "coming_row": In(width),
            "coming": Out(1),
            "free_slots": In(range(slots + 1)),
            "unused": In(7),
            "added": In(1),
            "config": Out(QueueConfigPort(rows)),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.state = state = RowMemory(PackedRow, rows=self._rows, readers=1)
        m.submodules.coming = coming = RowMemory(1, rows=self._rows, readers=1)
        m.submodules.budget = budget = SlotBudget(slots=self._slots)
        connect_sweep(m, self.sweep, (state, coming))

        row, next_row = Signal(row_width(self._rows)), Signal(row_width(self._rows))
        now, found = Signal(PackedRow), state.read_value[0]
        config = Signal.like(self.config.config)
        is_result, turn = Signal(), Signal()       # of a line that was looked at; of the row whose turn it is
        kicked = Signal()                          # nothing was under way for the row
        result = Signal(PackedResult(self._rows))
        held = Signal(16)
        start = Signal(16)                         # first descriptor that was not requested
        count = Signal(range(_LINE + 1))
        wanted = Signal()
        crowded, gives_way = Signal(), Signal()    # there is more to read than may be read now; for others have their turn
        write = Signal()
        mode = Signal(EventMode)
        under_way = Signal(4)

        m.d.comb += [
            next_row.eq(row),
            state.read_row[0].eq(next_row),
            state.write_row.eq(row),
            state.write_value.eq(now),
            self.config.row.eq(next_row),
            self.retired_row.eq(next_row),
            self.room_row.eq(row),
            self.line_row.eq(row),
            self.line_number.eq(now.taken),
            self.rung_row.eq(row),
            coming.write_valid.eq(state.write_valid),
            coming.write_row.eq(row),
            coming.write_value.eq(config.enabled & (now.going | (now.flight != 0) | now.looking | now.open)),
            coming.read_row[0].eq(self.coming_row),
            self.coming.eq(coming.read_value[0]),
            budget.unused.eq(self.unused),
            budget.added.eq(self.added),
            budget.free_slots.eq(self.free_slots),
            budget.held.eq(held),
            under_way.eq(now.asked - now.taken),
            self.again.payload.eq(row),
        ]
        self._drive_requests(m, row, now, config, count, start, mode)

        # How far `slot` moves.
        step = Signal(CHAIN_LENGTH_WIDTH)
        moved = Signal(17)
        m.d.comb += moved.eq(now.slot + step)

        def move():
            m.d.sync += now.slot.eq(moved)
            with m.If(moved >= config.size):
                m.d.sync += [now.slot.eq(moved - config.size), now.lap.eq(~now.lap)]

        with m.If(~self.row_drain.fetch):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="packed"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.visits.valid & ~self.results.valid)
                m.d.sync += [row.eq(next_row), is_result.eq(self.results.valid), turn.eq(self.turn & ~self.results.valid), write.eq(0),
                             result.eq(self.results.payload)]
                with m.If(self.results.valid):
                    m.d.comb += [self.results.ready.eq(1), next_row.eq(self.results.payload.row)]
                    m.next = "LOAD"
                with m.Elif(self.visits.valid):
                    m.d.comb += [self.visits.ready.eq(1), next_row.eq(self.visits.payload)]
                    m.next = "LOAD"

            with m.State("LOAD"):
                # Whether a doorbell came is looked up in this cycle.
                m.d.sync += [now.eq(found), config.eq(self.config.config)]
                with m.If(is_result):
                    m.d.sync += now.looking.eq(0)
                m.next = "JUDGE"

            with m.State("JUDGE"):
                stale = now.stale | self.rung
                at_work = (now.flight != 0) | now.looking | now.open
                m.d.comb += [self.rung_clear.eq(self.rung), step.eq(result.descriptors)]
                m.d.sync += [now.stale.eq(stale), now.going.eq(now.going | stale), kicked.eq(~is_result & ~at_work)]
                m.next = "END"

                def restart():
                    """What is under way means nothing."""
                    m.d.sync += [now.dropped.eq(under_way), now.flight.eq(0), now.ahead.eq(0)]

                with m.If(is_result & (result.end != LineEnd.DROPPED)):
                    move()
                    m.d.sync += [now.position.eq(now.position + result.chains),
                                 now.flight.eq(now.flight - result.descriptors)]
                    with m.If(self.event_idx & (result.chains != 0)):
                        m.d.sync += now.silent.eq(1)
                    with m.Switch(result.end):
                        with m.Case(LineEnd.DONE):
                            m.d.sync += now.ahead.eq(Mux(now.ahead[2:].any(), _AHEAD - 1, (now.ahead << 1) | 1))
                        with m.Case(LineEnd.OPEN):
                            restart()
                            m.d.sync += now.open.eq(1)
                        with m.Case(LineEnd.EMPTY):
                            restart()
                            m.d.sync += now.going.eq(stale)
                            with m.If(~stale & (now.silent | (self.event_idx & (result.chains != 0)))):
                                # Nothing new: ask for doorbells again, then look once more.
                                m.d.sync += [now.silent.eq(0), now.going.eq(1), now.fence.eq(1), write.eq(1),
                                             mode.eq(Mux(self.event_idx, EventMode.DESCRIPTOR, EventMode.ENABLE))]
                with m.Elif(self.rung & at_work & ~now.silent & ~self.event_idx):
                    m.d.sync += [now.silent.eq(1), write.eq(1), mode.eq(EventMode.DISABLE)]
                with m.Elif(~is_result & now.looking & ~self.rung):
                    # The result of the line that is being looked at does all there is to do.
                    m.next = "IDLE"

            with m.State("END"):
                # While a line is looked at, it may be its last chain that has ended.
                m.d.comb += [self.end_take.eq(self.end_here & ~now.looking), step.eq(self.end.length)]
                with m.If(self.end_take & now.open & (self.end.position == (now.position - 1)[:16])):
                    move()
                    m.d.sync += [now.open.eq(0), now.going.eq(1)]
                m.next = "JOB"

            with m.State("JOB"):
                held_line = self.jobs.payload
                m.d.comb += held_line.drop.eq((now.dropped != 0) | self.drain | ~config.enabled)
                m.d.comb += self.jobs.valid.eq(self.line_here & ~now.looking & (held_line.drop | ~now.open))
                m.next = "WRITE"
                with m.If(self.jobs.valid):
                    m.d.comb += self.line_take.eq(self.jobs.ready)
                    with m.If(self.jobs.ready):
                        m.d.sync += [now.looking.eq(1), now.taken.eq(now.taken + 1)]
                        with m.If(now.dropped != 0):
                            m.d.sync += now.dropped.eq(now.dropped - 1)
                    with m.Else():
                        m.next = "JOB"
            with m.State("WRITE"):
                m.d.comb += self.flags.valid.eq(write & config.enabled & ~self.drain)
                with m.If(~self.flags.valid | self.flags.ready):
                    m.next = "PLAN"

            with m.State("PLAN"):
                ahead_slot = Signal(17)
                m.d.comb += ahead_slot.eq(now.slot + now.flight)
                m.d.sync += [
                    start.eq(Mux(ahead_slot >= config.size, ahead_slot - config.size, ahead_slot)),
                    held.eq(wrap_sub(now.position, self.retired) + now.flight),
                    wanted.eq(now.going & ~now.open & config.enabled & ~self.drain & ~self.hold & (under_way != _AHEAD)
                              & ((under_way - now.dropped)[:4] <= now.ahead)),
                ]
                m.next = "LIMIT"
            with m.State("LIMIT"):
                line_left, ring_left, flight_left = Signal(4), Signal(16), Signal(16)
                room, bound = Signal(range(self._window + 1)), Signal(range(self._window + 1))
                m.d.comb += [
                    line_left.eq(_LINE - (config.desc[4:7] + start[:3])[:3]),
                    ring_left.eq(config.size - start),
                    # Not more than once around.
                    flight_left.eq(Mux(config.size < _LINE * _AHEAD, config.size, _LINE * _AHEAD) - now.flight),
                    # A row that goes on by itself takes whole lines: one descriptor at a time, as one chain after the other is done with, a few rows
                    # would keep everything here busy. What is left of its window it gets when it is kicked.
                    bound.eq(Mux(kicked & (under_way == 0), self._window, self._window - min(_LINE, self._window // 2) + 1)),
                    room.eq(Mux(held < bound, self._window - held, 0)),
                ]
                smallest = line_left
                for limit in (ring_left, flight_left, room, budget.spare):
                    chosen = Signal(4)
                    m.d.comb += chosen.eq(Mux(limit < smallest, limit, smallest))
                    smallest = chosen
                m.d.sync += [count.eq(Mux(wanted, smallest, 0)),
                             crowded.eq(wanted & (flight_left != 0) & (room != 0) & (smallest == 0))]
                # Lines that arrived come before rows that wait for their turn: a few rows that read on with every line would keep all others out.
                m.d.sync += gives_way.eq(~turn & self.others)
                m.next = "READ"
            with m.State("READ"):
                # The last contexts are for rows that have none, which would never find one free beside rows that come back with every answer.
                possible = (count != 0) & self.room & ~gives_way & Mux(under_way == 0, self.context_free, self.contexts_free)
                m.d.comb += self.reads.valid.eq(possible)
                with m.If((count != 0) & ~possible):
                    m.d.sync += crowded.eq(1)
                with m.If(~possible):
                    m.next = "STORE"
                with m.Elif(self.reads.ready):
                    m.d.comb += budget.reserve.eq(count)
                    m.d.sync += [now.flight.eq(now.flight + count), now.asked.eq(now.asked + 1), now.fence.eq(0)]
                    with m.If(now.flight == 0):
                        m.d.sync += now.stale.eq(0)
                    m.next = "PLAN"

            with m.State("STORE"):
                # What is reset was seen at rest: it is swept, and not written any more.
                mine = self.row_drain.fetch & (row == self.row_drain.row)
                m.d.comb += state.write_valid.eq(~(mine & self.row_clean))
                with m.If(mine & ~config.enabled & (under_way == 0) & ~now.looking):
                    m.d.sync += self.row_clean.eq(1)
                m.next = "IDLE"
                with m.If(crowded & ~self.drain):
                    m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += self.again.valid.eq(1)
                with m.If(self.again.ready | self.drain):
                    m.next = "IDLE"
        return m

    def _drive_requests(self, m, row, now, config, count, start, mode):
        """Payloads of the requests; valid is driven by the states."""
        job = self.jobs.payload
        m.d.comb += [
            job.row.eq(row),
            job.line.eq(self.line),
            job.slot.eq(now.slot),
            job.lap.eq(now.lap),
            job.size.eq(config.size),
            job.block.eq(config.desc[4:6]),
            job.position.eq(now.position),
            self.reads.payload.row.eq(row),
            self.reads.payload.address.eq(config.desc + (start << 4)),
            self.reads.payload.length.eq(count << 4),
            self.reads.payload.position.eq(now.asked),
            self.reads.payload.count.eq(count),
            self.reads.payload.fence.eq(now.fence),
            self.flags.payload.first.eq(1),
            self.flags.payload.last.eq(1),
            self.flags.payload.empty.eq(self._data_width // 8 - 4),
            # {slot, wrap counter}, mode [virtio 2.8.14].
            self.flags.payload.data.eq(Cat(Mux(self.event_idx, Cat(now.slot, ~now.lap), C(0, 16)), mode.as_value())),
            self.flags.payload.header.address.eq(config.device),
            self.flags.payload.header.length.eq(4),
        ]
