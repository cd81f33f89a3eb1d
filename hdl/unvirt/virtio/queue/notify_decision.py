# SPDX-License-Identifier: BSD-2-Clause
"""Used buffer notifications: whether the driver wants one [virtio 2.7.7, 2.8.10]."""

from amaranth import *
from amaranth.lib import data, stream, wiring
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
    count:     15         # how many these are, saturated


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
        connect_sweep(m, self.sweep, (state,))
        row, next_row = Signal(row_width(self._rows)), Signal(row_width(self._rows))
        is_answer = Signal()
        answer = Signal(SmallAnswer(self._rows))
        now, found, config = Signal(_DecisionRow), state.read_value[0], self.config.config
        published = Signal(Published(self._rows))
        m.submodules.waiting = waiting = RowList(rows=self._rows)
        wanted = Signal()
        again = Signal()
        m.d.comb += [
            wanted.eq(~answer.error & self._asked_for(m, found, answer.value, config.size)),
            again.eq(found.dirty & ~wanted),
        ]
        total = Signal(17)
        m.d.comb += total.eq(published.count + Mux(found.in_flight | found.dirty, found.count, 0))

        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            next_row.eq(row),
            state.write_row.eq(row),
            state.write_value.eq(now),
            self.reads.payload.fence.eq(1),
            self.reads.payload.wide.eq(self.packed),
            self.interrupts.payload.row.eq(row),
        ]

        def ask():
            """Read the value; the row's configuration was looked up in the cycle before, whatever the state."""
            m.d.comb += [now.in_flight.eq(1), now.dirty.eq(0)]
            m.d.sync += [self.reads.valid.eq(1), self.reads.payload.row.eq(row),
                         # used_event lies behind the available ring [virtio 2.7.6].
                         self.reads.payload.address.eq(config.driver + Mux(self.event_idx & ~self.packed, 4 + (config.size << 1), 0))]

        m.d.comb += waiting.i.payload.eq(row)
        in_reset = self.row_drain.notify & (row == self.row_drain.row)
        with m.If(self.reads.ready):
            m.d.sync += self.reads.valid.eq(0)
        with m.If(~self.row_drain.notify):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="notify_decision"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.published.valid & ~self.answers.valid & ~self.reads.valid & waiting.empty)
                m.d.sync += [row.eq(next_row), answer.eq(self.answers.payload), published.eq(self.published.payload),
                             is_answer.eq(self.answers.valid)]
                # Answers come before what waits for the place that they free.
                with m.If(self.answers.valid):
                    m.d.comb += [self.answers.ready.eq(1), next_row.eq(self.answers.payload.row)]
                    m.next = "DECIDE"
                with m.Elif(waiting.o.valid & ~self.reads.valid):
                    m.d.comb += [waiting.o.ready.eq(1), next_row.eq(waiting.o.payload)]
                    m.next = "READ"
                with m.Elif(self.published.valid):
                    m.d.comb += [self.published.ready.eq(1), next_row.eq(self.published.payload.row)]
                    m.next = "DECIDE"
                with m.Elif(self.row_drain.notify & ~self.row_clean):
                    m.d.comb += next_row.eq(self.row_drain.row)
                    m.next = "CHECK"
            with m.State("CHECK"):
                # Only looked at between events, so none of the row is left but a read.
                m.d.sync += self.row_clean.eq(~found.in_flight & ~found.dirty)
                m.next = "IDLE"
            with m.State("DECIDE"):
                possible = ~self.msix_enable | (config.vector != NO_VECTOR)
                m.d.comb += [state.write_valid.eq(1), now.eq(found)]
                m.next = "IDLE"
                with m.If(self.drain):
                    m.d.comb += now.as_value().eq(0)
                with m.Elif(in_reset):
                    # What waits in the list is taken out of it there.
                    m.d.comb += [now.in_flight.eq(found.in_flight & ~is_answer), now.dirty.eq(found.dirty & ~found.in_flight)]
                with m.Elif(is_answer):
                    m.d.comb += [now.in_flight.eq(0), now.dirty.eq(again), self.violation.eq(answer.error)]
                    with m.If(wanted):
                        m.next = "INTERRUPT"
                    with m.Elif(again):
                        m.next = "WAIT"
                with m.Elif(found.in_flight | found.dirty | possible):
                    m.d.comb += [now.dirty.eq(1), now.place.eq(published.place), now.count.eq(Mux(total[15:].any(), _MOST, total))]
                    with m.If(~found.in_flight & ~found.dirty):
                        with m.If(self.reads.valid | waiting.o.valid):
                            m.next = "WAIT"
                        with m.Else():
                            ask()
            with m.State("INTERRUPT"):
                m.d.comb += self.interrupts.valid.eq(1)
                with m.If(self.interrupts.ready):
                    m.next = "IDLE"
            with m.State("WAIT"):
                m.d.comb += waiting.i.valid.eq(1)
                m.next = "IDLE"
            with m.State("READ"):
                m.d.comb += [state.write_valid.eq(1), now.eq(found), now.dirty.eq(0)]
                with m.If(~self.drain & ~in_reset):
                    ask()
                m.next = "IDLE"
        return m

    def _asked_for(self, m, row, value, size):
        """Return whether the driver, whose suppression state is ``value``, wants to hear of what ``row`` holds."""
        # How far the newest place is behind the event; in the packed ring the event may lie in the lap before.
        place, event = Signal(17), Signal(16)
        passed = Signal()
        m.d.comb += [place.eq(row.place), event.eq(value[:16])]
        with m.If(self.packed):
            m.d.comb += [place.eq(row.place[:15] + Mux(row.place[15] == value[15], 0, size)), event.eq(value[:15])]
        m.d.comb += passed.eq(((place - event - 1)[:16] < row.count) | (row.count == _MOST))
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
