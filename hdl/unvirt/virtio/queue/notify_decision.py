# SPDX-License-Identifier: BSD-2-Clause
"""Used buffer notifications: whether the driver wants one [virtio 2.7.7]."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..contract import Notification, QueueConfigPort, row_width
from .meta import SmallAnswer, SmallRead
from .rows import RowMemory, Sweep
from .used import Published

__all__ = ["NotifyDecision"]


class _DecisionRow(data.Struct):
    in_flight: 1
    dirty:     1


class NotifyDecision(wiring.Component):
    """Reads the driver's suppression flags after each published index and raises the interrupt they allow.

    The read is issued after the index write was accepted by the write engine and fenced behind it, so the flags are as the driver left them after seeing no newer
    index [DER-RACE-02]. One read per row is in flight; an index published meanwhile makes the row dirty, and the flags are read once more when the answer has come.
    Nothing is read when no interrupt could be sent: MSI-X on and no vector. Three cycles an event and what its request waits. A failed
    read is a violation. While ``drain`` nothing is started and answers have no effect.

    Members
    -------
    published : ``In(stream.Signature(Published))``
    answers : ``In(stream.Signature(SmallAnswer))``
    reads : ``Out(stream.Signature(SmallRead))``
    interrupts : ``Out(stream.Signature(Notification))``
    config : ``Out(QueueConfigPort)``
    msix_enable, drain : ``In(1)``
    violation, idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "drain": In(1),
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
        is_answer, failed, wanted = Signal(), Signal(), Signal()
        now = Signal(_DecisionRow)
        read = Signal()
        driver = Signal(64)

        m.d.comb += [
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
            next_row.eq(row),
            state.write_row.eq(row),
            state.write_value.eq(now),
            self.reads.payload.row.eq(row),
            self.reads.payload.address.eq(driver),
            self.reads.payload.fence.eq(1),
            self.interrupts.payload.row.eq(row),
        ]
        with m.FSM(name="notify_decision"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.published.valid & ~self.answers.valid)
                m.d.sync += [row.eq(next_row), is_answer.eq(self.answers.valid),
                             failed.eq(self.answers.payload.error),
                             wanted.eq(~self.answers.payload.value[0])]
                with m.If(self.answers.valid):
                    m.d.comb += [self.answers.ready.eq(1),
                                 next_row.eq(self.answers.payload.row)]
                    m.next = "LOAD"
                with m.Elif(self.published.valid):
                    m.d.comb += [self.published.ready.eq(1),
                                 next_row.eq(self.published.payload.row)]
                    m.next = "LOAD"
            with m.State("LOAD"):
                config, found = self.config.config, state.read_value[0]
                possible = ~self.msix_enable | (config.vector != 0xFFFF)
                m.d.sync += [now.eq(found), driver.eq(config.driver), read.eq(0)]
                m.next = "STORE"
                with m.If(is_answer):
                    m.d.sync += [now.in_flight.eq(found.dirty), now.dirty.eq(0),
                                 read.eq(found.dirty)]
                    with m.If(failed & ~self.drain):
                        m.d.comb += self.violation.eq(1)
                with m.Elif(found.in_flight):
                    m.d.sync += now.dirty.eq(1)
                with m.Elif(possible):
                    m.d.sync += [now.in_flight.eq(1), read.eq(1)]
                with m.If(self.drain):
                    m.d.sync += [now.eq(0), read.eq(0)]
            with m.State("STORE"):
                m.d.comb += state.write_valid.eq(1)
                m.next = "IDLE"
                with m.If(is_answer & wanted & ~failed & ~self.drain):
                    m.next = "INTERRUPT"
                with m.Elif(read):
                    m.next = "READ"
            with m.State("INTERRUPT"):
                m.d.comb += self.interrupts.valid.eq(1)
                with m.If(self.interrupts.ready):
                    m.next = "IDLE"
                    with m.If(read):
                        m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.reads.valid.eq(1)
                with m.If(self.reads.ready):
                    m.next = "IDLE"
        return m
