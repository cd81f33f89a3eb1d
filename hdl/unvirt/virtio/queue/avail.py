# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the split ring: when to read the index, when ring entries, when to ask for doorbells.

    visits ----------+                  +--> used flags (NO_NOTIFY) or avail_event
    index answers ---+--> event of a row --> plan --> reads of entries, of the index
    lines finished --+          ^     rows    |
                                +--- state <--+

Per row: `known` (index read last) and `fetched` (first entry not yet requested), one index read and a few ring reads in flight.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ...stream.ring import wrap_sub
from ..contract import Doorbell, QueueConfigPort, row_width
from .avail_plan import AvailPlan, AvailRow
from .contract import RowDrain
from .reads import LineRead, SmallAnswer, SmallRead
from .row_plan import connect_plan
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["AvailController"]


class AvailController(wiring.Component):
    """Decides what to read next of a row's available ring [virtio 2.7.13].

    A doorbell makes the index be read once, unless the row is at rest and it tells the index itself [virtio 2.9]; as long as entries are known they
    are fetched line by line. When the driver notifies although work is in progress, notifications are switched off (used flags = 1) and the index is
    polled, one read in flight, until it shows nothing new; then flags = 0 is written and the index read again behind that write [DER-RACE-01]. With
    ``event_idx`` a driver that has notified is silent by itself until avail_event is written: so the index is polled in the same way, and where it
    stands still it is written to avail_event instead [virtio 2.7.10]. An index more than the queue size ahead of the position is a violation. An
    event takes eight cycles, its first four beside the last four of the one before, unless that is of the same row (see
    :class:`~unvirt.virtio.queue.avail_plan.AvailPlan`); and what its requests wait.

    **Ordering**: rows have their turns in the order of ``visits``, and one that finds no context for its line keeps the turn until there is one.
    Answers, finished lines and turns are served round robin.

    Parameters
    ----------
    rows, slots, window, lines : int
        Rows, chain slots; positions that one row may hold, and lines of ring entries that it may have under way, at most seven.

    Members
    -------
    event_idx : ``In(1)``
        VIRTIO_F_EVENT_IDX was negotiated.
    drain : ``In(1)``
        Nothing new is asked for; answers are consumed without effect.
    hold : ``In(1)``
        Nothing new is asked for, and a row does not come back for that: once ``hold`` has fallen each is to be notified of.
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset, which is not enabled; nothing of its ring is under way.
    visits, notified_valid, notified : ``In``
        Rows to serve; the doorbells themselves, never stalled.
    rung_row, rung, rung_clear : ``Out``/``In``/``Out``
        Whether a row was notified (synchronous), and that this was seen.
    index_answers, finished : ``In(stream)``
        What came of earlier requests.
    index_reads, ring_reads : ``Out(stream)``
    index_free, ring_free : ``In(1)``
        There is a context for an index read, for a ring read.
    again : ``Out(stream)``
        Rows that could not go on for want of slots or of a context for an index, back to the scheduler's tail.
    flags : ``Out(stream.Signature(WriteBeat))``
        Writes of used flags and of avail_event.
    retired_row, retired : ``Out``/``In``
        Position after the last chain given back (synchronous).
    coming_row, coming : ``In``/``Out``
        Whether entries of that row are on their way: known and not yet chains, or the index is being read (synchronous). It
        falls only when the last of them has become a chain.
    free_slots, unused : ``In``
        Slots in the pool; reserved slots given back in this cycle.
    added : ``In(1)``
        A reserved slot was taken in this cycle.
    config : ``Out(QueueConfigPort)``
    violation, idle : ``Out(1)``
    """

    def __init__(self, *, data_width, rows, slots, window, lines):
        self._data_width = data_width
        self._rows = rows
        self._sizes = {"rows": rows, "slots": slots, "window": window, "lines": lines}
        width = row_width(rows)
        super().__init__({
            "event_idx": In(1),
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "visits": In(stream.Signature(width)),
            "notified_valid": In(1),
            "notified": In(Doorbell(rows)),
            "rung_row": Out(width),
            "rung": In(1),
            "rung_clear": Out(1),
            "index_answers": In(stream.Signature(SmallAnswer(rows))),
            "finished": In(stream.Signature(width)),
            "index_reads": Out(stream.Signature(SmallRead(rows))),
            "index_free": In(1),
            "ring_free": In(1),
            "ring_reads": Out(stream.Signature(LineRead(rows))),
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
            "violation": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        # Of a row at hand in the plan, or being swept, nothing that is found is used; while the engine is drained there are no visits.
        m.submodules.state = state = RowMemory(AvailRow, rows=self._rows, readers=1, settled=True)
        m.submodules.coming = coming = RowMemory(1, rows=self._rows, readers=1)
        # What the newest doorbell of each row told.
        m.submodules.hints = hints = RowMemory(data.StructLayout({"there": 1, "index": 16}), rows=self._rows, readers=1)
        m.submodules.plan = plan = AvailPlan(**self._sizes)
        connect_sweep(m, self.sweep, (state, coming, hints))
        for name in ("index_reads", "ring_reads", "again"):
            connect(m, getattr(plan, name), flipped(getattr(self, name)))
        connect_plan(m, plan, state, coming)

        row = Signal(row_width(self._rows))
        next_row = Signal.like(row)
        is_answer = Signal()
        is_finished = Signal()
        answer = Signal(SmallAnswer(self._rows))
        index = answer.value[:16]
        now = Signal(AvailRow)                 # the row being served
        found = state.read_value[0]
        old = Signal()                         # what is found was being changed as it was looked up
        config = Signal.like(self.config.config)
        m.d.sync += old.eq(plan.busy & (plan.row == next_row))
        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            self.retired_row.eq(next_row),
            next_row.eq(row),
            hints.write_valid.eq(self.notified_valid),
            hints.write_row.eq(self.notified.row),
            hints.write_value.there.eq(self.notified.hinted),
            hints.write_value.index.eq(self.notified.hint),
            hints.read_row[0].eq(row),
            self.rung_row.eq(row),
            coming.read_row[0].eq(self.coming_row),
            self.coming.eq(coming.read_value[0]),
            *(getattr(plan, name).eq(getattr(self, name)) for name in (
                "drain", "hold", "row_drain", "index_free", "ring_free", "free_slots", "unused", "added")),
            plan.others.eq(self.visits.valid),
            self.row_clean.eq(plan.row_clean),
        ]

        # What a judgement compares is subtracted the cycle before.
        fresh = Signal(16)                     # entries that the answer tells of, beyond those fetched
        same = Signal()                        # its index is the one that is known
        level = Signal()                       # all that is known was fetched
        ahead = Signal(16)                     # the same of a doorbell's hint
        hinted = Signal()
        hint_index = Signal(16)
        was_stale = Signal()
        held = Signal(16)
        fence = Signal()
        flags_value = Signal(16)
        flags_address = Signal(64)
        mask = Signal(16)
        m.d.sync += mask.eq(config.size - 1)
        taken = hinted & (ahead != 0) & (ahead <= config.size)
        task = plan.tasks.payload
        m.d.comb += [
            task.row.eq(row),
            task.now.eq(now),
            task.config.eq(config),
            task.mask.eq(mask),
            task.pending.eq(Mux(taken, ahead, wrap_sub(now.known, now.fetched))),
            task.held.eq(held),
            task.turn.eq(~is_answer & ~is_finished),
            task.fence.eq(fence),
            self.flags.payload.first.eq(1),
            self.flags.payload.last.eq(1),
            self.flags.payload.empty.eq(self._data_width // 8 - 2),
            self.flags.payload.data.eq(flags_value),
            self.flags.payload.header.address.eq(flags_address),
            self.flags.payload.header.length.eq(2),
        ]
        with m.If(taken):
            m.d.comb += [task.now.known.eq(hint_index), task.now.stale.eq(was_stale)]
            with m.If(self.event_idx):
                m.d.comb += task.now.silent.eq(1)

        with m.FSM(name="avail"):
            with m.State("IDLE"):
                # Round robin: one kind may lead to more of itself for ever, as answers do if a driver notifies of each buffer.
                answered, finished = self.index_answers.valid, self.finished.valid
                turn = Mux(plan.parked, self.ring_free, self.visits.valid) & ~plan.deciding
                m.d.comb += self.idle.eq(~self.visits.valid & ~answered & ~finished & ~plan.parked & ~plan.busy)
                m.d.sync += [is_answer.eq(0), is_finished.eq(0), fence.eq(0), row.eq(next_row)]
                with m.If(answered & ~(is_answer & (finished | turn)) & ~(is_finished & turn)):
                    m.d.comb += [self.index_answers.ready.eq(1), next_row.eq(self.index_answers.payload.row)]
                    m.d.sync += [answer.eq(self.index_answers.payload), is_answer.eq(1)]
                    m.next = "LOAD"
                with m.Elif(finished & ~(is_finished & turn)):
                    m.d.comb += [self.finished.ready.eq(1), next_row.eq(self.finished.payload)]
                    m.d.sync += is_finished.eq(1)
                    m.next = "LOAD"
                with m.Elif(turn):
                    # Nobody's turn comes before this one has got what it wants: contexts go round as the rows do.
                    m.d.comb += [next_row.eq(Mux(plan.parked, plan.parked_row, self.visits.payload)), self.visits.ready.eq(~plan.parked)]
                    m.next = "LOAD"

            with m.State("LOAD"):
                m.d.sync += [
                    now.eq(found),
                    config.eq(self.config.config),
                    held.eq(wrap_sub(found.fetched, self.retired)),
                    fresh.eq(wrap_sub(index, found.fetched)),
                    same.eq(index == found.known),
                    level.eq(found.known == found.fetched),
                ]
                # Whether a doorbell came is looked up in this cycle.
                with m.If(is_answer):
                    m.d.sync += now.index_pending.eq(0)
                with m.If(is_finished):
                    m.d.sync += now.lines.eq(found.lines - 1)
                with m.If(~old):
                    m.next = "JUDGE"
                # A row that was seen at rest is being swept: what is found of it would be old, should the plan take long.
                with m.If(self.row_drain.fetch & plan.row_clean & (row == self.row_drain.row)):
                    m.next = "IDLE"

            with m.State("JUDGE"):
                stale = now.stale | self.rung
                hint = hints.read_value[0]
                m.d.comb += self.rung_clear.eq(self.rung)
                m.d.sync += [
                    now.stale.eq(stale),
                    was_stale.eq(now.stale),
                    # A doorbell may be older than an index already read; what it hints at is known only if it is ahead of that.
                    hinted.eq(self.rung & hint.there & ~is_answer & ~now.index_pending & level & config.enabled),
                    hint_index.eq(hint.index),
                    ahead.eq(wrap_sub(hint.index, now.fetched)),
                    # avail_event lies behind the used elements.
                    flags_address.eq(config.device + Mux(self.event_idx, 4 + (config.size << 3), 0)),
                ]
                m.next = "PLAN"
                with m.If(is_answer & ~self.drain & config.enabled):
                    busy = stale | ~level
                    with m.If(answer.error | (fresh > config.size)):
                        # [virtio 2.7.13.3] the index never runs ahead of the ring [SPLIT-AVAIL-05].
                        m.d.comb += self.violation.eq(1)
                    with m.Else():
                        m.d.sync += now.known.eq(index)
                        with m.If(~same):
                            with m.If(self.event_idx):
                                m.d.sync += now.silent.eq(1)
                            with m.Elif(busy & ~now.silent):
                                m.d.sync += [now.silent.eq(1), flags_value.eq(1)]
                                m.next = "WRITE_FLAGS"
                        with m.Elif(~busy & now.silent):
                            # Nothing new: ask for doorbells again, then look once more.
                            m.d.sync += [now.silent.eq(0), now.stale.eq(1), fence.eq(1),
                                         flags_value.eq(Mux(self.event_idx, index, 0))]
                            m.next = "WRITE_FLAGS"

            with m.State("WRITE_FLAGS"):
                m.d.comb += self.flags.valid.eq(1)
                with m.If(self.flags.ready):
                    m.next = "PLAN"

            with m.State("PLAN"):
                m.d.comb += plan.tasks.valid.eq(1)
                with m.If(plan.tasks.ready):
                    m.next = "IDLE"
        return m
