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
    count:     15         # how many these are, saturated; 0 with neither of the first two


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
        publishes = Signal()
        answer = Signal(SmallAnswer(self._rows))
        found, config = state.read_value[0], self.config.config
        published = Signal(Published(self._rows))
        m.submodules.waiting = waiting = RowList(rows=self._rows)

        # What the memories show is late in the cycle: what becomes of the row is written in the next one, in which an answer is weighed, too.
        now, total = Signal(_DecisionRow), Signal(17)
        write, write_row = Signal(), Signal(row_width(self._rows))
        place = Signal(17)                         # in the packed ring, where the event may lie in the lap before, counted from the start of that
        wanted, again, weighing = Signal(), Signal(), Signal()
        base, offset = Signal(64), Signal(18)
        m.d.comb += [
            wanted.eq(weighing & ~answer.error & self._asked_for(m, place, now.count, answer.value)),
            again.eq(weighing & now.dirty & ~wanted),
        ]
        m.d.sync += [
            write.eq(0),
            write_row.eq(row),
            now.eq(found),
            total.eq(Mux(publishes, published.count, 0) + found.count),
            place.eq(Mux(self.packed, found.place[:15], found.place)
                     + Mux(self.packed & (found.place[15] != answer.value[15]), config.size, 0)),
        ]
        with m.If(publishes):
            m.d.sync += now.place.eq(published.place)

        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
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
            self.interrupts.payload.row.eq(row),
            waiting.i.payload.eq(row),
        ]

        def note():
            """Where the row's value is read, if it is; no read is under way to the reader."""
            m.d.sync += [self.reads.payload.row.eq(row), base.eq(config.driver),
                         offset.eq(Mux(self.event_idx & ~self.packed, 4 + (config.size << 1), 0))]

        # Answers come before what waits for the place that they free.
        takes_waiting, resetting = Signal(), Signal()
        m.d.comb += [
            takes_waiting.eq(waiting.o.valid & ~self.reads.valid),
            resetting.eq(self.row_drain.notify & ~self.row_clean),
            next_row.eq(Mux(self.answers.valid, self.answers.payload.row,
                            Mux(takes_waiting, waiting.o.payload,
                                Mux(self.published.valid, self.published.payload.row, self.row_drain.row)))),
        ]

        def accept():
            """Take the next event; its row is looked up in this cycle."""
            m.d.sync += [row.eq(next_row), answer.eq(self.answers.payload), published.eq(self.published.payload),
                         publishes.eq(~self.answers.valid & ~takes_waiting)]
            m.next = "IDLE"
            with m.If(self.answers.valid):
                m.d.comb += self.answers.ready.eq(1)
                m.next = "DECIDE"
            with m.Elif(takes_waiting):
                m.d.comb += waiting.o.ready.eq(1)
                m.next = "READ"
            with m.Elif(self.published.valid):
                m.d.comb += self.published.ready.eq(1)
                m.next = "DECIDE"
            with m.Elif(resetting):
                m.next = "CHECK"

        in_reset = self.row_drain.notify & (row == self.row_drain.row)
        with m.If(self.reads.ready):
            m.d.sync += self.reads.valid.eq(0)
        with m.If(~self.row_drain.notify):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="notify_decision"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.published.valid & ~self.answers.valid & ~self.reads.valid & waiting.empty & ~write)
                accept()
            with m.State("CHECK"):
                # Only looked at between events, so none of the row is left but a read.
                m.d.sync += self.row_clean.eq(~found.in_flight & ~found.dirty)
                m.next = "IDLE"
            with m.State("DECIDE"):
                possible = ~self.msix_enable | (config.vector != NO_VECTOR)
                m.d.sync += write.eq(1)
                m.next = "IDLE"
                with m.If(~self.reads.valid):
                    note()
                with m.If(self.drain):
                    m.d.sync += [now.in_flight.eq(0), now.dirty.eq(0)]
                with m.Elif(in_reset):
                    # What waits in the list is taken out of it there.
                    m.d.sync += [now.in_flight.eq(found.in_flight & publishes), now.dirty.eq(found.dirty & ~found.in_flight)]
                with m.Elif(~publishes):
                    m.d.comb += self.violation.eq(answer.error)
                    m.d.sync += now.in_flight.eq(0)
                    m.next = "ANSWERED"
                with m.Elif(found.in_flight | found.dirty):
                    m.d.sync += now.dirty.eq(1)
                with m.Elif(possible):
                    with m.If(self.reads.valid | waiting.o.valid):
                        m.d.sync += now.dirty.eq(1)
                        m.next = "WAIT"
                    with m.Else():
                        m.d.sync += [now.in_flight.eq(1), self.reads.valid.eq(1)]
            with m.State("ANSWERED"):
                m.d.sync += [now.eq(now), place.eq(place)]
                m.d.comb += [weighing.eq(1), self.interrupts.valid.eq(wanted), waiting.i.valid.eq(again)]
                with m.If(again | (wanted & self.interrupts.ready)):
                    m.next = "IDLE"
                with m.Elif(~wanted):
                    accept()
            with m.State("WAIT"):
                m.d.comb += waiting.i.valid.eq(1)
                m.next = "IDLE"
            with m.State("READ"):
                note()
                m.d.sync += [write.eq(1), now.dirty.eq(0)]
                with m.If(~self.drain & ~in_reset):
                    m.d.sync += [now.in_flight.eq(1), self.reads.valid.eq(1)]
                m.next = "IDLE"
        return m

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
