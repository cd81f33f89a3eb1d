# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the packed ring: when to read which line, and when to ask for doorbells.

    visits --+                +--> jobs: lines to look at, in ring order
    results -+--> event of a row --> plan --> reads of lines, device event suppression
                   ^          rows    |
                   +------ state <----+
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ..contract import QueueConfigPort, row_width
from ..spec import EventMode
from .contract import CHAIN_LENGTH_WIDTH, RowDrain
from .packed_ends import ChainEnd
from .packed_heads import LineEnd, PackedJob, PackedResult
from .packed_lines import ArrivedLine, lines_of
from .packed_plan import PackedPlan, PackedRow
from .reads import LineRead
from .row_plan import connect_plan
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["PackedController"]

RUN = 63
"""Descriptors in a row from which on there may be any number."""

USUAL_AHEAD = 3
"""``ahead`` of a run that is as long as expected."""


class PackedController(wiring.Component):
    """Decides which lines of a row's packed ring to read next [virtio 2.8].

    A doorbell makes as many descriptors be read as are usual, and the one that will not be available: runs of some length lead to runs of that
    length, of shorter ones halfway to theirs. If there are more, or if 63 or more are usual, lines of up to eight descriptors are read: as long as
    all of a line are available, twice as many may be under way, up to 120 descriptors, with 128 contexts 224. The first that is not available ends
    that: what was read beyond it means nothing. Then, if a doorbell came meanwhile, the ring is read again from there; otherwise the driver is asked
    for doorbells if it is silent (enabled, or with ``event_idx`` for that very descriptor), and this one descriptor read once more behind that write
    [DER-RACE-01]. When the driver notifies although work is in progress, notifications are disabled.

    An event takes three cycles, one more if a result, or the end of a chain, leads to a line being looked at, and one more if it is of the row of the
    event before, which waits until that one has read and stored, see :class:`~unvirt.virtio.queue.packed_plan.PackedPlan`.

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
        self._lines = lines_of(contexts)
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
            "line_number": Out(range(self._lines)),
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
        # A row at hand in the plan is not looked up, nor one that is being swept; while the engine is drained there are no visits.
        m.submodules.state = state = RowMemory(PackedRow(self._lines), rows=self._rows, readers=1, settled=True)
        m.submodules.coming = coming = RowMemory(1, rows=self._rows, readers=1)
        m.submodules.plan = plan = PackedPlan(data_width=self._data_width, rows=self._rows, lines=self._lines, slots=self._slots,
                                                 window=self._window)
        connect_sweep(m, self.sweep, (state, coming))
        connect(m, plan.reads, flipped(self.reads))
        connect(m, plan.again, flipped(self.again))
        connect(m, plan.flags, flipped(self.flags))
        connect_plan(m, plan, state, coming)
        m.d.comb += [
            *(getattr(plan, name).eq(getattr(self, name)) for name in (
                "event_idx", "drain", "hold", "row_drain", "others", "room", "context_free", "contexts_free", "retired", "free_slots", "unused",
                "added")),
            *(getattr(self, name).eq(getattr(plan, name)) for name in ("row_clean", "room_row", "retired_row")),
            coming.read_row[0].eq(self.coming_row),
            self.coming.eq(coming.read_value[0]),
        ]
        self._elaborate_events(m, state, plan)
        return m

    def _elaborate_events(self, m, state, plan):
        """One row at a time: what its event changes, and the next line to look at."""
        row = Signal(row_width(self._rows))
        next_row = Signal.like(row)
        now, found = Signal(PackedRow(self._lines)), state.read_value[0]
        most_ahead = self._lines.bit_length() - 1
        size, enabled, block = Signal(16), Signal(), Signal(2)
        is_result = Signal()                       # of a line that was looked at
        turn = Signal()                            # it is the row's turn
        kicked = Signal()                          # nothing was under way for the row
        loading = Signal()
        result = Signal(PackedResult(self._rows))
        write, mode = Signal(), Signal(EventMode)
        task, job = plan.tasks.payload, self.jobs.payload

        m.d.comb += [
            next_row.eq(row),
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            self.line_row.eq(row),
            self.line_number.eq(Mux(loading, found.taken, now.taken)),
            self.rung_row.eq(row),
            job.row.eq(row), job.line.eq(self.line), job.slot.eq(now.slot), job.lap.eq(now.lap), job.size.eq(size), job.block.eq(block),
            job.position.eq(now.position),
            job.drop.eq((now.dropped != 0) | self.drain | ~enabled),
            # The row's configuration is shown as long as the row is presented.
            task.row.eq(row), task.now.eq(now), task.config.eq(self.config.config), task.kicked.eq(kicked), task.turn.eq(turn),
            task.write.eq(write), task.mode.eq(mode),
        ]

        # How far `slot` moves.
        step = Signal(CHAIN_LENGTH_WIDTH)
        moved = Signal(17)
        m.d.comb += moved.eq(now.slot + step)

        def move():
            m.d.sync += now.slot.eq(moved)
            with m.If(moved >= size):
                m.d.sync += [now.slot.eq(moved - size), now.lap.eq(~now.lap)]

        def restart():
            """What is under way means nothing."""
            m.d.sync += [now.dropped.eq(now.asked - now.taken), now.flight.eq(0), now.ahead.eq(0)]

        def end():
            """The last chain of the line that was looked at may have ended."""
            m.d.comb += [self.end_take.eq(self.end_here), step.eq(self.end.length)]
            with m.If(self.end_take & now.open & (self.end.position == (now.position - 1)[:16])):
                move()
                m.d.sync += [now.open.eq(0), now.going.eq(1)]

        def look():
            """Have the next line looked at if it is here and there is a place for the job."""
            m.d.comb += self.jobs.valid.eq(self.line_here & ~now.looking & (job.drop | ~now.open))
            with m.If(self.jobs.valid & self.jobs.ready):
                m.d.comb += self.line_take.eq(1)
                m.d.sync += [now.looking.eq(1), now.taken.eq(now.taken + 1)]
                with m.If(now.dropped != 0):
                    m.d.sync += now.dropped.eq(now.dropped - 1)
                m.next = "PLAN"

        picked = Mux(self.results.valid, self.results.payload.row, self.visits.payload)
        free = Signal()
        m.d.comb += free.eq((self.results.valid | self.visits.valid) & ~(plan.busy & (picked == plan.row)))

        def pick():
            """Go on with the next event, a result first."""
            m.d.comb += [self.results.ready.eq(self.results.valid), self.visits.ready.eq(~self.results.valid), next_row.eq(picked)]
            m.d.sync += [row.eq(picked), is_result.eq(self.results.valid), turn.eq(self.turn & ~self.results.valid), write.eq(0),
                         result.eq(self.results.payload)]
            # A row that was seen at rest is being swept: what is read of it would be old, should this take long.
            with m.If(~(self.row_drain.fetch & plan.row_clean & (picked == self.row_drain.row))):
                m.next = "LOAD"

        def hand_over():
            m.d.comb += plan.tasks.valid.eq(1)
            m.next = "PLAN"
            with m.If(plan.tasks.ready):
                m.next = "IDLE"
                with m.If(free & (picked != row)):
                    pick()

        with m.FSM(name="packed"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.visits.valid & ~self.results.valid & ~plan.busy)
                with m.If(free):
                    pick()

            with m.State("LOAD"):
                # Whether a doorbell came, and whether the next line, is looked up in this cycle.
                m.d.comb += loading.eq(1)
                config = self.config.config
                m.d.sync += [now.eq(found), size.eq(config.size), enabled.eq(config.enabled), block.eq(config.desc[4:6])]
                with m.If(is_result):
                    m.d.sync += now.looking.eq(0)
                m.next = "JUDGE"

            with m.State("JUDGE"):
                stale = now.stale | self.rung
                at_work = (now.flight != 0) | now.looking | now.open
                m.d.comb += self.rung_clear.eq(self.rung)
                m.d.sync += [now.stale.eq(stale), now.going.eq(now.going | stale), kicked.eq(~is_result & ~at_work)]
                with m.If(~is_result & ~at_work & (now.usual != 0)):
                    m.d.sync += now.ahead.eq(USUAL_AHEAD)
                m.next = "JOB"

                with m.If(is_result):
                    m.d.comb += step.eq(result.descriptors)
                    # An end that was told while this line was looked at.
                    with m.If((result.end == LineEnd.OPEN) | now.open):
                        m.next = "END"
                with m.Elif(now.looking):
                    # The result of the line that is being looked at does all there is to do.
                    with m.If(~self.rung):
                        m.next = "IDLE"
                with m.Else():
                    end()
                    with m.If(~self.end_here):
                        look()
                with m.If(is_result & (result.end != LineEnd.DROPPED)):
                    move()
                    m.d.sync += [now.position.eq(now.position + result.chains),
                                 now.flight.eq(now.flight - result.descriptors)]
                    with m.If(self.event_idx & (result.chains != 0)):
                        m.d.sync += now.silent.eq(1)
                    found = Signal(7)
                    m.d.comb += found.eq(now.run + result.descriptors)
                    m.d.sync += now.run.eq(Mux(found[6], RUN, found))
                    with m.Switch(result.end):
                        with m.Case(LineEnd.DONE):
                            with m.If(now.usual == 0):
                                m.d.sync += now.ahead.eq(now.ahead + (now.ahead != most_ahead))
                            with m.Elif((found <= now.usual) | now.usual.all()):
                                m.d.sync += now.ahead.eq(Mux(now.ahead >= USUAL_AHEAD, now.ahead + (now.ahead != most_ahead), USUAL_AHEAD))
                            with m.Else():
                                # As many lines as there were.
                                m.d.sync += [now.usual.eq(0), now.ahead.eq(Mux(found[4:].any(), 2, found[3]))]
                        with m.Case(LineEnd.OPEN):
                            restart()
                            m.d.sync += now.open.eq(1)
                        with m.Case(LineEnd.EMPTY):
                            restart()
                            m.d.sync += [now.run.eq(0), now.going.eq(stale)]
                            with m.If(found != 0):
                                m.d.sync += now.usual.eq(Mux(found >= RUN, RUN, Mux(now.usual > found, (now.usual + found) >> 1, found)))
                                with m.If(stale):
                                    m.d.sync += now.ahead.eq(USUAL_AHEAD)
                            with m.If(~stale & (now.silent | (self.event_idx & (result.chains != 0)))):
                                # Nothing new: ask for doorbells again, then look once more.
                                m.d.sync += [now.silent.eq(0), now.going.eq(1), now.fence.eq(1), write.eq(1),
                                             mode.eq(Mux(self.event_idx, EventMode.DESCRIPTOR, EventMode.ENABLE))]
                with m.Elif(self.rung & at_work & ~now.silent & ~self.event_idx):
                    m.d.sync += [now.silent.eq(1), write.eq(1), mode.eq(EventMode.DISABLE)]

            with m.State("END"):
                end()
                m.next = "JOB"

            with m.State("JOB"):
                look()
                with m.If(~self.jobs.valid):
                    hand_over()
            with m.State("PLAN"):
                hand_over()
