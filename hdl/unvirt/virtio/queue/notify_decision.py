# SPDX-License-Identifier: BSD-2-Clause
"""Used buffer notifications: whether the driver wants one [virtio 2.7.7]."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.ring import wrap_sub
from ..contract import Notification, QueueConfigPort, row_width
from ..spec import NO_VECTOR
from .meta import SmallAnswer, SmallRead
from .rows import RowMemory, Sweep
from .used import Published

__all__ = ["NotifyDecision"]

AVAIL_NO_INTERRUPT = 0
"""Bit of the available ring's flags [virtio 2.7.6]."""


class _DecisionRow(data.Struct):
    """What is under way for a row."""

    in_flight: 1
    dirty:     1
    start:     16         # of the indices that the read decides about: up to `latest`
    latest:    16


class NotifyDecision(wiring.Component):
    """Reads the driver's suppression flags, or used_event, after each published index and raises the interrupt they allow.

    The read is issued after the index write was accepted by the write engine and fenced behind it, so the value is as the driver left it after
    seeing no newer index [DER-RACE-02]. One read per row is in flight; an index published meanwhile makes the row dirty, and the value is read
    once more when the answer has come. With ``event_idx`` the driver wants an interrupt if the used index went past used_event: an answer
    decides about all indices published until it comes, and where it raises the interrupt nothing is left to be read for. Nothing is read when no
    interrupt could be sent: MSI-X on and no vector. A failed read is a violation.

    **Latency**: two cycles from ``published`` to ``reads``, and from an answer to its interrupt. **Throughput**: two cycles an event, one more for
    an interrupt and for a read that follows an answer. **Ordering**: decisions of a row follow each other; rows are independent.
    **Back-pressure**: one read waits in a register of its own while answers are still taken: the reader's places come free by answers being taken,
    so waiting for one must not keep them from it.

    While ``drain`` nothing is started and answers have no effect; ``idle`` means that nothing is held here, the reader knows what is under way.
    ``sweep`` clears a row while everything is quiet.

    Parameters
    ----------
    rows : int

    Members
    -------
    published : ``In(stream.Signature(Published))``
    answers : ``In(stream.Signature(SmallAnswer))``
    reads : ``Out(stream.Signature(SmallRead))``
        Of the flags or of used_event, with ``fence``.
    event_idx : ``In(1)``
        VIRTIO_F_EVENT_IDX was negotiated.
    interrupts : ``Out(stream.Signature(Notification))``
    config : ``Out(QueueConfigPort)``
    msix_enable, drain : ``In(1)``
    violation : ``Out(1)``
        Pulse.
    idle : ``Out(1)``
    sweep : ``In``

    Spec
    ----
    [virtio 2.7.7] Used Buffer Notification Suppression, [virtio 2.7.10] Available Buffer Notification Suppression
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "drain": In(1),
            "event_idx": In(1),
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
        connect(m, flipped(self.sweep), state.sweep)
        row, next_row = Signal(row_width(self._rows)), Signal(row_width(self._rows))
        is_answer = Signal()
        answer = Signal(SmallAnswer(self._rows))
        now, found, config = Signal(_DecisionRow), state.read_value[0], self.config.config
        published = Signal(Published(self._rows))
        read = Signal()                        # the row is dirty: once more
        # used_event is one of the indices from `start` to before `latest` [virtio 2.7.10].
        passed = wrap_sub(wrap_sub(found.latest, answer.value), 1) < wrap_sub(found.latest, found.start)
        wanted = Signal()
        again = Signal()
        m.d.comb += [
            wanted.eq(~answer.error & Mux(self.event_idx, passed, ~answer.value[AVAIL_NO_INTERRUPT])),
            again.eq(found.dirty & ~(self.event_idx & wanted)),
        ]

        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            next_row.eq(row),
            state.write_row.eq(row),
            state.write_value.eq(now),
            self.reads.payload.fence.eq(1),
            self.interrupts.payload.row.eq(row),
        ]

        def ask():
            """Read the value; the row's configuration was looked up in the cycle before, whatever the state."""
            m.d.sync += [self.reads.valid.eq(1), self.reads.payload.row.eq(row),
                         # used_event lies behind the available ring [virtio 2.7.6].
                         self.reads.payload.address.eq(config.driver + Mux(self.event_idx, 4 + (config.size << 1), 0))]
            m.next = "IDLE"

        with m.If(self.reads.ready):
            m.d.sync += self.reads.valid.eq(0)
        with m.FSM(name="notify_decision"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.published.valid & ~self.answers.valid
                                         & ~self.reads.valid)
                m.d.sync += [row.eq(next_row), answer.eq(self.answers.payload),
                             is_answer.eq(self.answers.valid)]
                with m.If(self.answers.valid):
                    m.d.comb += [self.answers.ready.eq(1),
                                 next_row.eq(self.answers.payload.row)]
                    m.next = "DECIDE"
                # An answer frees the place that the waiting read needs; a new index would need another one.
                with m.Elif(self.published.valid & ~self.reads.valid):
                    m.d.comb += [self.published.ready.eq(1),
                                 next_row.eq(self.published.payload.row)]
                    m.d.sync += published.eq(self.published.payload)
                    m.next = "DECIDE"
            with m.State("DECIDE"):
                possible = ~self.msix_enable | (config.vector != NO_VECTOR)
                m.d.comb += [state.write_valid.eq(1), now.eq(found)]
                m.d.sync += read.eq(0)
                m.next = "IDLE"
                with m.If(self.drain):
                    m.d.comb += now.as_value().eq(0)
                with m.Elif(is_answer):
                    m.d.comb += [now.in_flight.eq(again), now.dirty.eq(0),
                                 self.violation.eq(answer.error)]
                    m.d.sync += read.eq(again)
                    with m.If(wanted):
                        m.next = "INTERRUPT"
                    with m.Elif(again):
                        m.next = "READ"
                with m.Elif(found.in_flight):
                    m.d.comb += [now.dirty.eq(1), now.latest.eq(published.new)]
                with m.Elif(possible):
                    m.d.comb += [now.in_flight.eq(1), now.start.eq(published.old), now.latest.eq(published.new)]
                    ask()
            with m.State("INTERRUPT"):
                m.d.comb += self.interrupts.valid.eq(1)
                with m.If(self.interrupts.ready):
                    m.next = "IDLE"
                    with m.If(read):
                        m.next = "READ"
            with m.State("READ"):
                with m.If(~self.reads.valid | self.reads.ready):
                    ask()
        return m
