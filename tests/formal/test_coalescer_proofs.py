# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the coalescer tells of every used buffer once, of no other, and in time."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import drive, moves  # noqa: E402

from unvirt.virtio.contract import row_width
from unvirt.virtio.queue.coalescer import _Kind, Coalescer, CoalesceSetting
from unvirt.virtio.queue.contract import Published

MICROSECOND = 2
"""Cycles. A power of two: others make the solver multiply for minutes."""

GAP = 3
"""In so many cycles running there is one in which ``due`` does not stall, and nothing is published or asked."""


def saturated(value):
    """Return a sum of 16-bit numbers in 16 bits."""
    return Mux(value[16:].any(), 0xFFFF, value[:16])


class CoalescerSpec(Elaboratable):
    """One row is watched; publications, settings, questions, drains and stalls are the solver's.

    ``packets``, ``count``, ``place``: what was published of the row and not told yet. It is told all at once, and nothing else is. ``age``: cycles
    since the first of it could have been told. It is offered in the cycle after it came if it may not wait, and when it has become ``enough`` by age
    or by a new setting, as soon as the sweep has had ``rows`` turns.

    With ``fair`` no more than every ``GAP``-th cycle is sure to be the sweep's; without, there may be none, and nothing is said about time.
    """

    def __init__(self, *, rows, fair):
        self._rows, self._fair = rows, fair

    def elaborate(self, platform):
        m = Module()
        rows = self._rows
        dut = Coalescer(rows=rows, cycles_per_microsecond=MICROSECOND)
        m.submodules.dut = inner = opened(dut)
        port, due, published, sweep = dut.port, dut.due, dut.published, dut.sweep
        watched = Signal(row_width(rows))
        m.d.comb += watched.eq(AnyConst(row_width(rows)))
        drive(m, published)
        drive(m, port.ask)
        m.d.comb += [
            due.ready.eq(AnySeq(1)), dut.drain.eq(AnySeq(1)), Value.cast(dut.row_drain).eq(AnySeq(len(Value.cast(dut.row_drain)))),
            port.set_valid.eq(AnySeq(1)), port.set_row.eq(AnySeq(row_width(rows))), Value.cast(port.setting).eq(AnySeq(32)),
            sweep.valid.eq(AnySeq(1)), sweep.row.eq(AnySeq(row_width(rows))), dut.config.config.enabled.eq(AnySeq(1)),
            *(Assume(row < rows) for row in (watched, published.payload.row, port.ask.payload, port.set_row, sweep.row, dut.row_drain.row)),
            # Whoever publishes has something to tell of.
            Assume(published.payload.packets != 0),
        ]

        # A drain stays until its rows were swept, at power-up too; a row is swept in a drain that has begun, and held until it was.
        drains, drained, fresh, stale = Signal(), Signal(init=1), Signal(init=1), Signal(init=1)
        began, sweeping, swept_row = Signal(), Signal(), Signal(row_width(rows))
        of_watched = sweep.row == watched
        m.d.comb += drains.eq(dut.drain | (dut.row_drain.notify & (dut.row_drain.row == watched)))
        sweep_drains = dut.drain | (dut.row_drain.notify & (dut.row_drain.row == sweep.row))
        over = Signal()
        m.d.sync += [sweeping.eq(sweep.valid & ~sweep.done), over.eq(sweep.valid & sweep.done), swept_row.eq(sweep.row), drained.eq(drains),
                     began.eq(dut.drain | dut.row_drain.notify)]
        before, before_all = Signal.like(dut.row_drain), Signal()
        m.d.sync += [before.eq(dut.row_drain), before_all.eq(dut.drain)]
        m.d.comb += [
            Assume(~sweeping | (sweep.valid & (sweep.row == swept_row))),
            Assume(~sweep.valid | (sweep_drains & began)),
            # The level of a row falls before that of another rises.
            Assume(~(before.notify & dut.row_drain.notify) | (dut.row_drain.row == before.row)),
            Assume(~stale | drains),
            Assume(~fresh | dut.drain),
            # Nobody uses the row that is being swept; rows follow each other at rest only.
            Assume(~(sweep.valid & port.set_valid) | ((port.set_row != sweep.row) & ~dut.drain)),
            Assume(~over | ~sweep.valid | dut.drain),
        ]
        with m.If(drains):
            m.d.sync += [stale.eq(1), fresh.eq(fresh | dut.drain)]
        with m.If(sweep.valid & sweep.done & of_watched & drained):
            m.d.sync += [stale.eq(0), fresh.eq(dut.drain & ~before_all)]

        # The setting of the row.
        setting = Signal(CoalesceSetting)
        with m.If(sweep.valid & sweep.done & of_watched):
            m.d.sync += Value.cast(setting).eq(0)
        with m.If(port.set_valid & (port.set_row == watched)):
            m.d.sync += setting.eq(port.setting)
        asked, asked_row = Signal(), Signal(row_width(rows))
        m.d.sync += [asked.eq(moves(port.ask) & (port.ask.payload == watched)), asked_row.eq(dut.config.row)]
        m.d.comb += [
            Assert(~asked | stale | (port.answer_valid & (port.answer.as_value() == setting.as_value()))),
            Assert(~asked | ((asked_row == watched) & (port.answer_enabled == dut.config.config.enabled))),
        ]

        # What was published and not told.
        active = register(inner, "active")
        packets, count, place = (Signal(16, name=name) for name in ("packets", "count", "place"))
        age = Signal(range(1 << 18))
        accepts = active & moves(published) & (published.payload.row == watched)
        offers = due.valid & (due.payload.row == watched) & active
        tells = offers & due.ready
        empty = Signal()
        m.d.comb += empty.eq(tells | drains | (packets == 0))
        m.d.sync += age.eq(age + 1)
        with m.If(tells | drains):
            m.d.sync += [packets.eq(0), count.eq(0), place.eq(0)]
        with m.If(accepts):
            m.d.sync += [packets.eq(saturated(published.payload.packets + Mux(empty, 0, packets))),
                         count.eq(saturated(published.payload.count + Mux(empty, 0, count))), place.eq(published.payload.place)]
            with m.If(empty):
                m.d.sync += age.eq(0)
        ever, reset_alone = Signal(), Signal()
        with m.If(port.set_valid & Value.cast(port.setting).any()):
            m.d.sync += ever.eq(1)
        with m.If(dut.drain):
            m.d.sync += ever.eq(0)
        with m.If(drained & ~drains & ~before_all):
            m.d.sync += reset_alone.eq(active)
        m.d.comb += [
            Assert(~register(inner, "wanted") | ever),
            Assert(~active | ever | dut.drain | before_all),
            Assert(~offers | ((packets != 0) & (Value.cast(due.payload) == Cat(watched, place, count, packets)))),
            # As long as there is no setting everything passes through.
            Assert(active | (packets == 0) | drains),
            Assert(active | dut.drain | ((due.valid == published.valid) & (published.ready == due.ready)
                                         & (Value.cast(due.payload) == Value.cast(published.payload)))),
            Assert(~dut.drain | (published.ready & ~due.valid)),
            Assert(~dut.idle | ~(due.valid | published.valid)),
        ]

        # An offer stays, but for a drain.
        stalled, shown = Signal(), Signal(len(Value.cast(due.payload)))
        m.d.sync += [stalled.eq(due.valid & ~due.ready), shown.eq(due.payload)]
        row_drains = dut.row_drain.notify & (dut.row_drain.row == shown[:len(watched)])
        m.d.comb += Assert(~stalled | dut.drain | row_drains | (due.valid & (Value.cast(due.payload) == shown)))

        # What may not wait is offered at once.
        at_once, fell, came = Signal(), Signal(), Signal()
        m.d.comb += [at_once.eq((setting.packets == 0) | (setting.microseconds == 0)), fell.eq(packets >= setting.packets)]
        m.d.sync += came.eq(accepts)
        m.d.comb += Assert(~came | drains | ~(at_once | fell) | offers)
        kind = register(inner, "kind")
        m.d.comb += [
            Assert(register(inner, "held") == (stalled & active)),
            Assert(active | dut.drain | (kind == _Kind.NOTHING.value) | (kind == _Kind.ASK.value)),
            Assert(~(stalled & active) | (kind == _Kind.PUBLICATION.value) | (kind == _Kind.SWEEP.value)),
            Assert(~(stalled & active) | (shown[:len(watched)] == register(inner, "row"))),
        ]
        self._add_inside(m, inner, watched, stale, sweeping & (swept_row == watched), setting, packets, count, place)
        if self._fair:
            self._add_time(m, dut, inner, watched, drains, stale, setting, packets, age, offers, tells, at_once | fell)
        m.d.comb += [
            Cover(tells & (count == 3) & ~at_once & ~fell),
            Cover(tells & (count == 3) & ~at_once & fell & (age > 4)),
            Cover(tells & (count == 3) & at_once & ~came & (age > 2)),
            Cover(tells & (count == 3) & reset_alone & (age > 2)),
        ]
        return m

    def _add_inside(self, m, inner, watched, stale, sweeping, setting, packets, count, place):
        """The memories hold what is untold, but for a publication that is being added; what was looked up is what they hold."""
        shown = {name: inner._named_submodules[name][0].read_value[0] for name in ("state", "settings")}
        memories = {name: opened_inside(inner, name) for name in shown}
        cells = {name: memory.submodules.cells.read_port(domain="comb") for name, memory in memories.items()}
        m.d.comb += [cell.addr.eq(watched) for cell in cells.values()]
        row, event = register(inner, "row"), Published(self._rows)(register(inner, "event"))
        looked = row == watched
        adds = Signal()
        m.d.comb += adds.eq((register(inner, "kind") == _Kind.PUBLICATION.value) & looked)
        self._held = held = Signal.like(shown["state"])
        m.d.comb += held.as_value().eq(cells["state"].data)
        self._adds = adds
        m.d.comb += [
            *(Assert(~sweeping | ~register(memories[name], "swept") | (cells[name].data == 0)) for name in shown),
            *(Assert(stale | ~looked | (Value.cast(shown[name]) == cells[name].data)) for name in shown),
            Assert(stale | (cells["settings"].data == setting.as_value())),
            Assert(stale | adds | (Cat(held.packets, held.count, held.place) == Cat(packets, count, place))),
            Assert(stale | ~adds | (Cat(packets, count, place) == Cat(saturated(held.packets + event.packets), saturated(held.count + event.count),
                                                                      event.place))),
            Assert(stale | (held.packets != 0) | (held.as_value() == 0)),
            Assert(~adds | (event.packets != 0)),
            Assert(row < self._rows),
            Assert(register(inner, "sweep_row") < self._rows),
        ]

    def _add_time(self, m, dut, inner, watched, drains, stale, setting, packets, age, offers, tells, at_once):
        """Not before its time, and no later than ``rows`` turns of the sweep after it."""
        rows = self._rows
        active, now, cycle, sweep_row = (register(inner, name) for name in ("active", "now", "cycle", "sweep_row"))
        turn = active & ~(dut.due.valid & ~dut.due.ready) & ~dut.published.valid & ~dut.port.ask.valid
        gap = Signal(range(GAP))
        with m.If(~active | turn | dut.drain):
            m.d.sync += gap.eq(0)
        with m.Else():
            m.d.comb += Assume(gap != GAP - 1)
            m.d.sync += gap.eq(gap + 1)

        offered, owing = Signal(), Signal()
        turns, owed = Signal(range(rows + 2)), Signal(range(GAP * (rows + 2)))
        asked_for = setting.microseconds * MICROSECOND
        m.d.sync += offered.eq(offers & ~tells)
        m.d.comb += owing.eq((packets != 0) & ~drains & (at_once | (age >= asked_for + MICROSECOND) | offered))
        with m.If(owing & ~tells):
            m.d.sync += [turns.eq(turns + turn), owed.eq(owed + 1)]
        with m.Else():
            m.d.sync += [turns.eq(0), owed.eq(0)]
        away = Mux(watched >= sweep_row, watched - sweep_row, watched + rows - sweep_row)
        m.d.comb += [
            Assert(~offers | offered | at_once | (age > asked_for)),
            Assert(~owing | offers | (turns < rows)),
            Assert(owed < GAP * (rows + 1)),
            Assert(~owing | offers | (turns + away < rows)),
            Assert(turns <= rows),
            Assert(owed <= GAP * turns + gap),
        ]

        # The time in the memory is that of the first publication.
        phase = Signal(range(MICROSECOND))
        first = self._adds & (self._held.packets == 0)
        with m.If(age == 0):
            m.d.sync += phase.eq(cycle)
        ticks = (now - self._held.since)[:17]
        m.d.comb += [
            Assert(stale | (packets == 0) | ((age == 0) == (first & ~offered))),
            Assert(stale | (packets == 0) | first | (ticks * MICROSECOND + cycle == age + phase)),
            # However long was asked for: the clock has not gone round.
            Assert((packets == 0) | (age <= (1 << 16) * MICROSECOND + owed)),
        ]


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("fair", [False, True], ids=["no_time", "in_time"])
def test_everything_published_is_told(rows, fair, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(CoalescerSpec(rows=rows, fair=fair), tmp_path, mode="prove", depth=2, map_memories=True)


def test_rows_that_wait_are_told(tmp_path):
    """The proof speaks of something: three entries are told of when their time is up, others when they are enough."""
    prove(CoalescerSpec(rows=2, fair=True), tmp_path, mode="cover", depth=24, map_memories=True)
