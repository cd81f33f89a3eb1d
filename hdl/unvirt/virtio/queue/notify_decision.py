# SPDX-License-Identifier: BSD-2-Clause
"""Used buffer notifications: whether the driver wants one [virtio 2.7.7, 2.8.10]."""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import Notification, QueueConfigPort, row_width
from ..spec import NO_VECTOR, EventMode
from .contract import Published, RowDrain
from .reads import SmallAnswer, SmallRead
from .rows import RowList, RowMemory, Sweep, connect_sweep

__all__ = ["NotifyDecision"]

AVAIL_NO_INTERRUPT = 0
"""Bit of the available ring's flags [virtio 2.7.6]."""

_MOST = 0x7FFF


class _DecisionRow(data.Struct):
    """What is under way for a row: a read, another one wanted behind it, or one that waits for a place in the reader."""

    in_flight: 1
    dirty:     1          # with a read in flight: once more; without one: in the list of those that wait
    place:     16         # behind the newest used entry that the read decides about
    count:     15         # how many these are, saturated; 0 with neither of the first two


class _Event(enum.Enum, shape=4):
    """What it is decided on."""

    NONE = 0
    PUBLISHED = 1      # used entries
    ANSWERED = 2       # a read
    WAITED = 4         # a row of the list may read
    RESET = 8          # is anything left of the row


class NotifyDecision(wiring.Component):
    """Reads the driver's suppression state after each publication of used entries and raises the interrupt it allows.

    The read is issued after the write that published was accepted by the write engine and fenced behind it, so the value is as the driver left it
    after seeing nothing newer [DER-RACE-02]. One read per row is in flight; what is published meanwhile makes the row dirty. The answer decides
    about all that was published until it comes: with an interrupt nothing is left to be read for, without one the value is read once more if the row
    is dirty. Nothing is read when no interrupt could be sent: MSI-X on and no vector. A failed read is a violation.

    The reader has places for a few reads. Rows beyond these wait in a list, each once, with all that is published for them meanwhile: so used
    entries never wait for suppression state, and the more rows are busy and the slower the host is, the fewer reads a packet costs.

    The state is the flags of the available ring; with ``event_idx`` its used_event, an index that must be among the newly used ones; with
    ``packed`` the driver event suppression structure, in which with ``event_idx`` such a place in the ring may be given.

    **Latency**: two cycles from ``published`` to ``reads``, and from an answer to its interrupt. **Throughput**: two cycles an event, two more for
    a read that had to wait, one for an interrupt. **Ordering**: decisions of a row follow each other; rows are independent.
    **Back-pressure**: none on ``published`` and ``answers`` but that of ``interrupts``.

    While ``drain`` nothing is started and answers have no effect; ``idle`` means that nothing is held here, the reader knows what is under way.
    ``sweep`` clears a row while everything is quiet.

    Parameters
    ----------
    rows : int

    Members
    -------
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        The same for one row, from ``notify`` on; no read of it is in flight.
    published : ``In(stream.Signature(Published))``
    answers : ``In(stream.Signature(SmallAnswer))``
    reads : ``Out(stream.Signature(SmallRead))``
        With ``fence``.
    event_idx, packed : ``In(1)``
        VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED was negotiated.
    interrupts : ``Out(stream.Signature(Notification))``
    config : ``Out(QueueConfigPort)``
    msix_enable, drain : ``In(1)``
    violation : ``Out(1)``
        Pulse.
    idle : ``Out(1)``
    sweep : ``In``

    Spec
    ----
    [virtio 2.7.7] Used Buffer Notification Suppression, [virtio 2.8.10] Event Suppression Structure Format
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "event_idx": In(1),
            "packed": In(1),
            "msix_enable": In(1),
            "published": In(stream.Signature(Published(rows))),
            "answers": In(stream.Signature(SmallAnswer(rows))),
            "reads": Out(stream.Signature(SmallRead(rows))),
            "interrupts": Out(stream.Signature(Notification(rows))),
            "config": Out(QueueConfigPort(rows)),
            "violation": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.state = state = RowMemory(_DecisionRow, rows=self._rows, readers=1)
        m.submodules.waiting = waiting = RowList(rows=self._rows)
        connect_sweep(m, self.sweep, (state,))
        found, config = state.read_value[0], self.config.config

        # An event is looked up, then decided on with what the memories show, then what becomes of its row is written. The next one is looked up in
        # the cycle in which it is decided on this one, unless it is of the same row: a cycle later it sees what is written.
        kind, row, next_row = Signal(_Event), Signal(row_width(self._rows)), Signal(row_width(self._rows))
        answer, published = Signal(SmallAnswer(self._rows)), Signal(Published(self._rows))
        weighing, waits = Signal(), Signal()       # an answer; the row goes to the list
        self._elaborate_choice(m, kind, row, next_row, weighing, waiting)
        with m.If(self.answers.ready):
            m.d.sync += answer.eq(self.answers.payload)
        with m.If(self.published.ready):
            m.d.sync += published.eq(self.published.payload)

        now, total = Signal(_DecisionRow), Signal(17)
        write, write_row = Signal(), Signal(row_width(self._rows))
        place = Signal(17)                         # in the packed ring, where the event may lie in the lap before, counted from the start of that
        wanted = Signal()
        base, offset = Signal(64), Signal(18)
        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            wanted.eq(weighing & ~answer.error & self._asked_for(m, place, now.count, answer.value)),
            waiting.i.valid.eq(waits | (weighing & now.dirty & ~wanted)),
            waiting.i.payload.eq(write_row),
            state.write_valid.eq(write),
            state.write_row.eq(write_row),
            state.write_value.in_flight.eq(now.in_flight),
            state.write_value.dirty.eq(now.dirty & ~wanted),
            state.write_value.place.eq(now.place),
            state.write_value.count.eq(Mux(state.write_value.in_flight | state.write_value.dirty, Mux(total[15:].any(), _MOST, total), 0)),
            self.reads.payload.fence.eq(1),
            self.reads.payload.wide.eq(self.packed),
            # used_event lies behind the available ring [virtio 2.7.6].
            self.reads.payload.address.eq(base + offset),
            self.idle.eq((kind == _Event.NONE) & ~self.published.valid & ~self.answers.valid & ~self.reads.valid & ~self.interrupts.valid
                         & waiting.empty & ~write),
        ]
        m.d.sync += [
            write.eq(0), weighing.eq(0), waits.eq(0),
            write_row.eq(row),
            now.eq(found),
            total.eq(Mux(kind == _Event.PUBLISHED, published.count, 0) + found.count),
            place.eq(Mux(self.packed, found.place[:15], found.place)
                     + Mux(self.packed & (found.place[15] != answer.value[15]), config.size, 0)),
        ]
        with m.If(self.reads.ready):
            m.d.sync += self.reads.valid.eq(0)
        with m.If(~self.reads.valid):
            # Where the row's value is read, if it is; no read is under way to the reader.
            m.d.sync += [self.reads.payload.row.eq(row), base.eq(config.driver),
                         offset.eq(Mux(self.event_idx & ~self.packed, 4 + (config.size << 1), 0))]
        with m.If(self.interrupts.ready):
            m.d.sync += self.interrupts.valid.eq(0)
        with m.If(wanted):
            m.d.sync += [self.interrupts.valid.eq(1), self.interrupts.payload.row.eq(write_row)]
        with m.If(~self.row_drain.notify):
            m.d.sync += self.row_clean.eq(0)

        in_reset = self.row_drain.notify & (row == self.row_drain.row)
        possible = ~self.msix_enable | (config.vector != NO_VECTOR)
        with m.Switch(kind):
            with m.Case(_Event.PUBLISHED):
                m.d.sync += [write.eq(1), now.place.eq(published.place)]
                with m.If(self.drain):
                    m.d.sync += [now.in_flight.eq(0), now.dirty.eq(0)]
                with m.Elif(in_reset):
                    # What waits in the list is taken out of it there.
                    m.d.sync += now.dirty.eq(found.dirty & ~found.in_flight)
                with m.Elif(found.in_flight | found.dirty):
                    m.d.sync += now.dirty.eq(1)
                with m.Elif(possible):
                    with m.If(self.reads.valid | waiting.o.valid):
                        m.d.sync += [now.dirty.eq(1), waits.eq(1)]
                    with m.Else():
                        m.d.sync += [now.in_flight.eq(1), self.reads.valid.eq(1)]
            with m.Case(_Event.ANSWERED):
                m.d.sync += [write.eq(1), now.in_flight.eq(0)]
                with m.If(self.drain | in_reset):
                    m.d.sync += now.dirty.eq(0)
                with m.Else():
                    m.d.comb += self.violation.eq(answer.error)
                    m.d.sync += weighing.eq(1)
            with m.Case(_Event.WAITED):
                m.d.sync += [write.eq(1), now.dirty.eq(0)]
                with m.If(~self.drain & ~in_reset):
                    m.d.sync += [now.in_flight.eq(1), self.reads.valid.eq(1)]
            with m.Case(_Event.RESET):
                # Only looked at between events, so none of the row is left but a read.
                m.d.sync += self.row_clean.eq(~found.in_flight & ~found.dirty)
        return m

    def _elaborate_choice(self, m, kind, row, next_row, weighing, waiting):
        """Choose the event that is decided on in the next cycle. Answers come before what waits for the place that they free."""
        answers, published, reset = self.answers, self.published, self.row_drain
        answer_first, waiting_next, free = Signal(), Signal(), Signal()
        event = Signal(_Event)
        m.d.comb += [
            # An answer is kept until it is weighed, and then there is a place for its interrupt.
            answer_first.eq(answers.valid & (kind != _Event.ANSWERED) & ~weighing & ~self.interrupts.valid),
            waiting_next.eq(waiting.o.valid & ~self.reads.valid & (kind != _Event.WAITED)),
            # One that is of the row at hand waits a cycle.
            free.eq((kind == _Event.NONE) | (next_row != row)),
            answers.ready.eq(free & answer_first),
            waiting.o.ready.eq(free & ~answer_first & waiting_next),
            published.ready.eq(free & ~answer_first & ~waiting_next),
            next_row.eq(Mux(answer_first, answers.payload.row,
                            Mux(waiting_next, waiting.o.payload, Mux(published.valid, published.payload.row, reset.row)))),
        ]
        with m.If(answer_first):
            m.d.comb += event.eq(_Event.ANSWERED)
        with m.Elif(waiting_next):
            m.d.comb += event.eq(_Event.WAITED)
        with m.Elif(published.valid):
            m.d.comb += event.eq(_Event.PUBLISHED)
        with m.Elif(reset.notify & ~self.row_clean):
            m.d.comb += event.eq(_Event.RESET)
        m.d.sync += [row.eq(next_row), kind.eq(Mux(free, event, _Event.NONE))]

    def _asked_for(self, m, place, count, value):
        """Return whether the driver, whose suppression state is ``value``, wants to hear of the ``count`` entries before ``place``."""
        # How far the newest place is behind the event.
        event, passed = Signal(16), Signal()
        m.d.comb += [
            event.eq(Mux(self.packed, value[:15], value[:16])),
            passed.eq(((place - event - 1)[:16] < count) | (count == _MOST)),
        ]
        asked = Signal()
        with m.If(self.packed):
            with m.Switch(value[16:18]):
                with m.Case(EventMode.DISABLE):
                    m.d.comb += asked.eq(0)
                with m.Case(EventMode.DESCRIPTOR):
                    m.d.comb += asked.eq(passed | ~self.event_idx)
                with m.Default():
                    m.d.comb += asked.eq(1)
        with m.Else():
            m.d.comb += asked.eq(Mux(self.event_idx, passed, ~value[AVAIL_NO_INTERRUPT]))
        return asked
