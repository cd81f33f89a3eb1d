# SPDX-License-Identifier: BSD-2-Clause
"""Notification coalescing: how long used buffers may wait before the driver is told [virtio 5.1.9.5.9].

    published ---> [row: packets, count, place, since] ---> due
                        ^                   |
                    sweep of all rows: time is up
"""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import QueueConfigPort, row_width
from .contract import Published, RowDrain
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["CoalescePortSignature", "CoalesceSetting", "Coalescer"]


class CoalesceSetting(data.Struct):
    """Packets or microseconds, whichever comes first; each packet is told of if either is 0."""

    packets:      16
    microseconds: 16


def CoalescePortSignature(rows):
    """Settings of the rows, as whoever makes them sees it.

    Members
    -------
    set_valid, set_row, setting : ``Out``
        New setting of a row, one per cycle.
    ask : ``Out(stream.Signature(row))``
    answer_valid, answer, answer_enabled : ``In``
        One cycle after ``ask``: the row's setting, and whether the queue is enabled.
    """
    row = row_width(rows)
    return wiring.Signature({
        "set_valid": Out(1),
        "set_row": Out(row),
        "setting": Out(CoalesceSetting),
        "ask": Out(stream.Signature(row)),
        "answer_valid": In(1),
        "answer": In(CoalesceSetting),
        "answer_enabled": In(1),
    })


class _WaitingRow(data.Struct):
    """What the driver of a row was not told of yet."""

    packets: 16          # 0: nothing
    count:   16          # ring entries, saturated
    place:   16
    since:   17          # time of the first one, microseconds


class _Kind(enum.Enum, shape=2):
    """What a row was looked up for."""

    NOTHING = 0
    PUBLICATION = 1
    ASK = 2
    SWEEP = 3


class Coalescer(wiring.Component):
    """Holds back publications of used entries until there are enough of them or the first is old enough.

    What comes out takes the same way as without coalescing: suppression is decided by what the driver wants then [DER-RACE-04]. Nothing is ever
    lost: a row that holds something is looked at once in every sweep, new settings count from the next look on.

    **Latency**: none until a setting other than zero was written, two cycles after it. **Resolution**: one microsecond and one sweep of ``rows``
    cycles: a notification is due no earlier than asked for and no later than that after it, while ``due`` is not stalled and not more than every
    second cycle brings a publication. **Reset**: with ``drain`` publications vanish; ``sweep`` clears settings and what waits.

    Parameters
    ----------
    rows : int
    cycles_per_microsecond : int

    Members
    -------
    drain : ``In(1)``
    row_drain : ``In(RowDrain)``
        The same for one row, from ``notify`` on.
    hold : ``In(1)``, still : ``Out(1)``
        Everything is due at once; nothing is under way, and with ``hold`` nothing waits either.
    published : ``In(stream.Signature(Published))``, due : ``Out(stream.Signature(Published))``
    port : ``In(CoalescePortSignature)``
    config : ``Out(QueueConfigPort)``
    idle : ``Out(1)``
        Nothing is under way; what waits for its time does not count.
    sweep : ``In``

    Spec
    ----
    [virtio 5.1.9.5.9] Notifications Coalescing
    """

    def __init__(self, *, rows, cycles_per_microsecond):
        self._rows = rows
        self._cycles = cycles_per_microsecond
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "published": In(stream.Signature(Published(rows))),
            "due": Out(stream.Signature(Published(rows))),
            "port": In(CoalescePortSignature(rows)),
            "config": Out(QueueConfigPort(rows)),
            "idle": Out(1),
            "still": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        port = self.port
        m.submodules.settings = settings = RowMemory(CoalesceSetting, rows=self._rows, readers=1)
        m.submodules.state = state = RowMemory(_WaitingRow, rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (settings, state))
        now = Signal(17)
        cycle = Signal(range(self._cycles))
        m.d.sync += cycle.eq(cycle + 1)
        with m.If(cycle == self._cycles - 1):
            m.d.sync += [cycle.eq(0), now.eq(now + 1)]

        # Until there is a setting everything passes through; the change is made between publications.
        active = Signal()
        wanted = Signal()
        with m.If(port.set_valid & Value.cast(port.setting).any()):
            m.d.sync += wanted.eq(1)
        with m.If(wanted & ~self.published.valid):
            m.d.sync += active.eq(1)
        with m.If(self.drain):
            m.d.sync += [wanted.eq(0), active.eq(0)]

        # First cycle: whose row is looked up.
        kind = Signal(_Kind)
        next_kind = Signal(_Kind)
        row, next_row, sweep_row = (Signal(row_width(self._rows), name=name) for name in ("row", "next_row", "sweep_row"))
        event = Signal(Published(self._rows))
        held = Signal()
        stalled = Signal()
        m.d.sync += [row.eq(next_row), kind.eq(next_kind)]
        with m.If(stalled):
            m.d.comb += [next_row.eq(row), next_kind.eq(kind)]
        with m.Elif(active & self.published.valid):
            m.d.comb += [next_row.eq(self.published.payload.row), next_kind.eq(_Kind.PUBLICATION)]
            m.d.sync += event.eq(self.published.payload)
        with m.Elif(port.ask.valid):
            m.d.comb += [next_row.eq(port.ask.payload), next_kind.eq(_Kind.ASK), port.ask.ready.eq(1)]
        with m.Elif(active):
            m.d.comb += [next_row.eq(sweep_row), next_kind.eq(_Kind.SWEEP)]
            m.d.sync += sweep_row.eq(Mux(sweep_row == self._rows - 1, 0, sweep_row + 1))
        m.d.comb += [
            settings.write_valid.eq(port.set_valid),
            settings.write_row.eq(port.set_row),
            settings.write_value.eq(port.setting),
            settings.read_row[0].eq(next_row),
            state.read_row[0].eq(next_row),
            self.config.row.eq(next_row),
        ]

        # Second cycle: whether the driver is told.
        found, setting = state.read_value[0], settings.read_value[0]
        total = Signal(_WaitingRow)
        publication = kind == _Kind.PUBLICATION
        packets = found.packets + Mux(publication, event.packets, 0)
        count = found.count + Mux(publication, event.count, 0)
        age = Signal(17)
        enough = Signal()
        due = Signal()
        drain = Signal()
        m.d.comb += [
            drain.eq(self.drain | (self.row_drain.notify & (row == self.row_drain.row))),
            total.packets.eq(Mux(packets[16], 0xFFFF, packets)),
            total.count.eq(Mux(count[16], 0xFFFF, count)),
            total.place.eq(Mux(publication, event.place, found.place)),
            total.since.eq(Mux(found.packets == 0, now, found.since)),
            age.eq(Mux(found.packets == 0, 0, now - found.since)),
            # Ticks are counted: only with one more than asked for the time is up for certain.
            enough.eq(self.hold | (setting.packets == 0) | (setting.microseconds == 0) | (total.packets >= setting.packets)
                      | (age > setting.microseconds)),
            due.eq(~drain & (held | ((publication | (kind == _Kind.SWEEP)) & (total.packets != 0) & enough))),
            stalled.eq(due & ~self.due.ready),
            state.write_valid.eq(~drain & ((publication & ~due) | (due & self.due.ready))),
            state.write_row.eq(row),
            state.write_value.eq(Mux(due, 0, total)),
            port.answer_valid.eq(kind == _Kind.ASK),
            port.answer.eq(setting),
            port.answer_enabled.eq(self.config.config.enabled),
            self.idle.eq(~self.published.valid & ~publication & ~due),
        ]
        # With `hold`: whether nothing was found so far in this round of all rows, and nothing in the one before.
        clean, flushed = Signal(), Signal()
        with m.If(~self.hold | publication | due):
            m.d.sync += [clean.eq(0), flushed.eq(0)]
        with m.Elif((kind == _Kind.SWEEP) & (row == self._rows - 1)):
            m.d.sync += [clean.eq(1), flushed.eq(clean)]
        m.d.comb += self.still.eq(self.idle & (flushed | ~active))
        # A setting that is written meanwhile takes nothing back that was offered.
        m.d.sync += held.eq(stalled)

        with m.If(self.drain):
            m.d.comb += self.published.ready.eq(1)
        with m.Elif(active):
            m.d.comb += [
                self.published.ready.eq(~stalled),
                self.due.valid.eq(due),
                self.due.payload.row.eq(row),
                self.due.payload.place.eq(total.place),
                self.due.payload.count.eq(total.count),
                self.due.payload.packets.eq(total.packets),
            ]
        with m.Else():
            m.d.comb += [
                self.published.ready.eq(self.due.ready),
                self.due.valid.eq(self.published.valid),
                self.due.payload.eq(self.published.payload),
            ]
        return m
