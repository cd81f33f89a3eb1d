# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the split ring: when to read the index, when ring entries, when to ask for doorbells.

    visits ----------+                     +--> index reads
    index answers ---+--> one row at a time +--> ring reads
    lines finished --+                     +--> used flags (NO_NOTIFY) or avail_event

Per row: `known` (index read last) and `fetched` (first entry not yet requested), one index read and a few ring reads in flight.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ...stream.ring import wrap_sub
from ..contract import Doorbell, QueueConfigPort, row_width
from .contract import RowDrain, worth_fetching
from .reads import LineRead, SmallAnswer, SmallRead
from .rows import RowMemory, Sweep, connect_sweep
from .slots import SlotBudget

__all__ = ["AvailController"]

_LINE = 64
"""Entries in a line of 128 bytes."""

_WORTH_A_LINE = 16
"""Entries for which a line is read although others of the row are under way."""


def _least(one, other):
    return Mux(one < other, one, other)


class AvailRow(data.Struct):
    """State of a row on the available side; all zero after a reset."""

    known:         16
    fetched:       16
    index_pending: 1      # an index read is in flight
    lines:         3      # of ring entries that are being fetched or parsed
    stale:         1      # a doorbell came after the last index read was asked for
    silent:        1      # the driver does not notify: it was told so, or avail_event lies behind its index


class AvailController(wiring.Component):
    """Decides what to read next of a row's available ring [virtio 2.7.13].

    A doorbell makes the index be read once, unless the row is at rest and it tells the index itself [virtio 2.9]; as long as entries are known they
    are fetched line by line. When the driver notifies although work is in progress, notifications are switched off (used flags = 1) and the index is
    polled, one read in flight, until it shows nothing new; then flags = 0 is written and the index read again behind that write [DER-RACE-01]. With
    ``event_idx`` a driver that has notified is silent by itself until avail_event is written: so the index is polled in the same way, and where it
    stands still it is written to avail_event instead [virtio 2.7.10]. An index more than the queue size ahead of the position is a violation. Each
    event takes eight cycles, nine if its row comes back, and what its requests wait.

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
        self._lines = lines
        self._data_width = data_width
        self._rows = rows
        self._slots = slots
        self._window = window
        self._worth = worth_fetching(window)
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
        # Stored in another state than looked up. What is found of a row that is being swept is not stored any more, and a queue that is not enabled
        # reads nothing; while the engine is drained there are no visits.
        m.submodules.state = state = RowMemory(AvailRow, rows=self._rows, readers=1, settled=True)
        m.submodules.coming = coming = RowMemory(1, rows=self._rows, readers=1)
        # What the newest doorbell of each row told.
        m.submodules.hints = hints = RowMemory(data.StructLayout({"there": 1, "index": 16}), rows=self._rows, readers=1)
        m.submodules.budget = budget = SlotBudget(slots=self._slots)
        connect_sweep(m, self.sweep, (state, coming, hints))

        row = Signal(row_width(self._rows))
        next_row = Signal.like(row)
        is_answer, is_finished = Signal(), Signal()
        answer = Signal(SmallAnswer(self._rows))
        index = answer.value[:16]
        now = Signal(AvailRow)                 # the row being served
        found = state.read_value[0]
        config = Signal.like(self.config.config)
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
            state.write_row.eq(row),
            state.write_value.eq(now),
            coming.write_valid.eq(state.write_valid),
            coming.write_row.eq(row),
            coming.read_row[0].eq(self.coming_row),
            self.coming.eq(coming.read_value[0]),
        ]

        # What a judgement compares is subtracted the cycle before.
        fresh = Signal(16)                     # entries that the answer tells of, beyond those fetched
        same = Signal()                        # its index is the one that is known
        level = Signal()                       # all that is known was fetched
        ahead = Signal(16)                     # the same of a doorbell's hint
        hinted = Signal()
        hint_index = Signal(16)
        was_stale = Signal()
        pending = Signal(16)
        held = Signal(16)
        room = Signal(range(self._window + 1))
        free = Signal(range(self._slots + 1))
        ring_left = Signal(16)
        entry = Signal(64)
        line_left = Signal(7)
        count = Signal(7)
        some = Signal()                        # count is not zero
        soon = Signal()                        # little is known beyond what was asked for
        again = Signal()                       # for want of a context
        narrow = Signal()                      # a window so full that a line would bring little
        parked = Signal()                      # a row that had its turn waits for a context for its line
        parked_row = Signal.like(row)
        by_turn = Signal()
        fence = Signal()
        flags_value = Signal(16)
        flags_address = Signal(64)
        mask = Signal(16)
        m.d.sync += mask.eq(config.size - 1)
        m.d.comb += [
            by_turn.eq(~is_answer & ~is_finished),
            budget.unused.eq(self.unused),
            budget.added.eq(self.added),
            budget.free_slots.eq(self.free_slots),
            budget.held.eq(held),
        ]

        self._drive_requests(m, row, now, config, count, entry, fence, flags_value, flags_address)

        with m.If(~self.row_drain.fetch):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="avail"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.visits.valid & ~self.index_answers.valid & ~self.finished.valid & ~parked)
                m.d.sync += [is_answer.eq(0), is_finished.eq(0), fence.eq(0), again.eq(0)]
                # Round robin: one kind may lead to more of itself for ever, as answers do if a driver notifies of each buffer.
                answered, finished, turn = self.index_answers.valid, self.finished.valid, Mux(parked, self.ring_free, self.visits.valid)
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
                    m.d.comb += [next_row.eq(Mux(parked, parked_row, self.visits.payload)), self.visits.ready.eq(~parked)]
                    m.d.sync += parked.eq(0)
                    m.next = "LOAD"
                m.d.sync += row.eq(next_row)

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
                m.next = "JUDGE"

            with m.State("JUDGE"):
                stale = now.stale | self.rung
                hint = hints.read_value[0]
                m.d.comb += self.rung_clear.eq(self.rung)
                m.d.sync += [
                    now.stale.eq(stale),
                    was_stale.eq(now.stale),
                    # A doorbell may be older than an index already read; what it hints at is known only if it is ahead of that.
                    hinted.eq(self.rung & hint.there & ~is_answer & ~now.index_pending & level),
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
                with m.If(~config.enabled | self.drain):
                    m.next = "STORE"

            with m.State("WRITE_FLAGS"):
                m.d.comb += self.flags.valid.eq(1)
                with m.If(self.flags.ready):
                    m.next = "PLAN"

            with m.State("PLAN"):
                offset = now.fetched & mask
                taken = hinted & (ahead != 0) & (ahead <= config.size)
                m.d.sync += [
                    pending.eq(Mux(taken, ahead, wrap_sub(now.known, now.fetched))),
                    room.eq(Mux(held < self._window, self._window - held, 0)),
                    free.eq(budget.spare),
                    ring_left.eq(config.size - offset),
                    entry.eq(config.driver + 4 + (offset << 1)),
                    # Ring entries are 2-byte aligned; one read stays inside a 128-byte line.
                    line_left.eq(_LINE - (config.driver[1:7] + 2 + offset[:6])[:6]),
                    hinted.eq(0),
                ]
                with m.If(taken):
                    m.d.sync += [now.known.eq(hint_index), now.stale.eq(was_stale)]
                    with m.If(self.event_idx):
                        m.d.sync += now.silent.eq(1)
                m.next = "LIMIT"

            with m.State("LIMIT"):
                limits = (line_left, ring_left, pending, room, free)

                def all_limits(condition):
                    return Cat(condition(limit) for limit in limits).all()

                # Two by two: what is in this line, and what there is.
                wanted = _least(free, _least(_least(ring_left, line_left), _least(room, pending)))
                # Beside others a line must be worth a read: the fewer entries, the more bytes each of them and its descriptor cost. An end of a
                # line or of the ring with much behind it is, unless other rows wait for their turn: who goes without it stands still.
                much = (pending >= _WORTH_A_LINE) & (room >= _WORTH_A_LINE) & (free >= _WORTH_A_LINE)
                worth = (now.lines == 0) | all_limits(lambda limit: limit >= _WORTH_A_LINE) | (much & ~self.visits.valid & ~parked)
                narrowed = ~by_turn & (room < self._worth) & (room < pending)
                asks = ~(self.hold | (now.lines == self._lines)) & worth
                m.d.sync += [
                    count.eq(wanted),
                    some.eq(asks & ~narrowed & all_limits(lambda limit: limit != 0)),
                    narrow.eq(asks & narrowed & (pending != 0)),
                ]
                m.next = "RING"

            with m.State("RING"):
                # Contexts come back as answers are taken and lines are finished, here: waiting for one would keep them from it.
                may = self.ring_free & (by_turn | ~parked)
                rest = wrap_sub(pending, count)
                m.d.comb += self.ring_reads.valid.eq(some & may)
                m.d.sync += soon.eq(pending == 0)
                with m.If(~(some & may)):
                    m.next = "INDEX"
                    m.d.sync += some.eq(0)
                    with m.If(some & by_turn):
                        m.d.sync += [parked.eq(1), parked_row.eq(row)]
                with m.Elif(self.ring_reads.ready):
                    m.d.comb += budget.reserve.eq(count)
                    m.d.sync += [now.fetched.eq(now.fetched + count), now.lines.eq(now.lines + 1),
                                 pending.eq(rest), room.eq(room - count), soon.eq(rest <= _LINE)]
                    m.next = "INDEX"

            with m.State("INDEX"):
                # With a line read here whose next is the last that is known, a silent driver's index is looked at, so that more follows at once.
                wanted = (now.stale | (now.silent & soon)) & ~now.index_pending & ~self.hold
                m.d.comb += self.index_reads.valid.eq(wanted & self.index_free)
                with m.If(~wanted):
                    m.next = "STORE"
                with m.Elif(~self.index_free):
                    m.d.sync += again.eq(1)
                    m.next = "STORE"
                with m.Elif(self.index_reads.ready):
                    m.d.sync += [now.stale.eq(0), now.index_pending.eq(1)]
                    m.next = "STORE"

            with m.State("STORE"):
                # What is reset was seen at rest: it is swept, and not written any more.
                mine = self.row_drain.fetch & (row == self.row_drain.row)
                m.d.comb += [
                    state.write_valid.eq(~(mine & self.row_clean)),
                    coming.write_value.eq(config.enabled & ((pending != 0) | (now.lines != 0) | now.index_pending)),
                ]
                m.next = "IDLE"
                with m.If(mine & ~config.enabled & ~now.index_pending & (now.lines == 0)):
                    m.d.sync += self.row_clean.eq(1)
                # With lines under way the end of one brings the row back, with a full window chains that are done with; else it comes by itself.
                another = some & (now.lines != self._lines) & (pending >= _WORTH_A_LINE) & (room >= _WORTH_A_LINE)
                more = (pending != 0) & (room != 0) & ~narrow & ((now.lines == 0) | another)
                with m.If((again | (more & ~(parked & (parked_row == row)))) & config.enabled & ~self.drain & ~self.hold):
                    m.next = "AGAIN"

            with m.State("AGAIN"):
                m.d.comb += [self.again.valid.eq(1), self.again.payload.eq(row)]
                with m.If(self.again.ready | self.drain):
                    m.next = "IDLE"
        return m

    def _drive_requests(self, m, row, now, config, count, entry, fence, flags_value, flags_address):
        """Payloads of the requests; valid is driven by the states."""
        m.d.comb += [
            self.index_reads.payload.row.eq(row),
            self.index_reads.payload.address.eq(config.driver + 2),
            self.index_reads.payload.fence.eq(fence),
            self.ring_reads.payload.row.eq(row),
            self.ring_reads.payload.address.eq(entry),
            self.ring_reads.payload.length.eq(count << 1),
            self.ring_reads.payload.position.eq(now.fetched),
            self.ring_reads.payload.count.eq(count),
            self.flags.payload.first.eq(1),
            self.flags.payload.last.eq(1),
            self.flags.payload.empty.eq(self._data_width // 8 - 2),
            self.flags.payload.data.eq(flags_value),
            self.flags.payload.header.address.eq(flags_address),
            self.flags.payload.header.length.eq(2),
        ]
