# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the reset of a queue takes every stage in its turn, touches no other row, and ends."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register, state  # noqa: E402
from streams import moves  # noqa: E402

from unvirt.virtio.queue.row_reset import RowReset

SETTLE = 3
"""Cycles for which rest must stand."""

WAIT = 4
"""A stage takes no longer than so many cycles to be clean once it is asked to be."""

LONGEST = 5 * WAIT + 2 * SETTLE + 6
"""Cycles of one reset: four stages and the sweep, rest that stands twice, and a cycle between each."""


class RowResetSpec(Elaboratable):
    """Rows come to be in reset when the solver likes, and are until they come back from the block; so is one of them that is watched.

    Each stage is clean when the solver likes, but within ``WAIT`` cycles. ``rested`` ... ``settled`` tell of the reset under way what its stages
    said, in their order; ``excused``: the whole engine was quiet meanwhile.
    """

    def __init__(self, *, rows):
        self._rows = rows

    def elaborate(self, platform):
        m = Module()
        rows = self._rows
        dut = RowReset(rows=rows, settle=SETTLE)
        m.submodules.dut = inner = opened(dut)
        drain, sweep, done, row = dut.drain, dut.sweep, dut.done, dut.drain.row
        stages = (dut.row_rest, dut.services_clean, dut.used_passed, dut.notify_clean)
        m.d.comb += [port.eq(AnySeq(1)) for port in (*stages, dut.quiet, dut.cleared, sweep.done, done.ready)]

        # All rows are swept at power-up and at a reset, which takes two cycles at least.
        swept_before, swept_long, dropped = Signal(), Signal(), Signal()
        m.d.sync += [swept_before.eq(dut.cleared), swept_long.eq(~dut.cleared | swept_before)]
        m.d.comb += Assume(dut.cleared | swept_long & ~dropped)

        # Which rows are in reset: a look at them takes a cycle.
        in_reset, shown, shown_row = Signal(rows), Signal(), Signal.like(row)
        returned = Mux(moves(done), 1 << done.payload, 0)
        kept = Mux(dut.cleared, AnySeq(rows), (1 << rows) - 1)
        m.d.sync += [in_reset.eq((in_reset | AnySeq(rows)) & ~returned & kept), dropped.eq((in_reset & ~kept) != 0),
                     shown.eq(in_reset.bit_select(dut.config.row, 1)), shown_row.eq(dut.config.row)]
        m.d.comb += dut.config.config.in_reset.eq(shown)
        chosen = in_reset.bit_select(row, 1)

        # Each stage does as it is asked, in time; a rest may end before that.
        waits = []
        for name, asked, says in (("fetch", drain.fetch, dut.row_rest), ("services", drain.services, dut.services_clean),
                                  ("used", dut.used_mark, dut.used_passed), ("notify", drain.notify, dut.notify_clean),
                                  ("sweep", sweep.valid, sweep.done)):
            waits.append(wait := Signal(range(WAIT + 1), name=f"wait_{name}"))
            with m.If(~asked):
                m.d.sync += wait.eq(0)
            with m.Elif(wait != WAIT):
                m.d.sync += wait.eq(wait + 1)
            with m.Else():
                m.d.comb += Assume(says)

        # What the stages said in this reset.
        rest = Signal(range(SETTLE + 1))
        rested, emptied, written, quieted, excused, swept, settled = said = [
            Signal(name=name) for name in ("rested", "emptied", "written", "quieted", "excused", "swept", "settled")]
        with m.If(~drain.fetch | ~dut.row_rest | (sweep.valid & sweep.done & ~dut.cleared)):
            m.d.sync += rest.eq(0)
        with m.Elif(rest != SETTLE):
            m.d.sync += rest.eq(rest + 1)
        for flag, now in ((rested, rest == SETTLE), (emptied, drain.services & dut.services_clean), (written, dut.used_mark & dut.used_passed),
                          (quieted, drain.notify & dut.notify_clean), (excused, dut.quiet), (swept, sweep.valid & sweep.done),
                          (settled, swept & ((rest == SETTLE) | dut.quiet | dut.cleared))):
            with m.If(now):
                m.d.sync += flag.eq(1)
        with m.If(~drain.fetch):
            m.d.sync += [flag.eq(0) for flag in said]
        m.d.comb += [
            Assert(~drain.services | rested | excused),
            Assert(~dut.used_mark | (drain.services & rested & emptied)),
            Assert(~drain.notify | (rested & emptied & written) | excused),
            Assert(~sweep.valid | (drain.fetch & drain.services & drain.notify & ((rested & emptied & written & quieted) | excused))),
            Assert(~done.valid | (drain.fetch & drain.services & drain.notify & swept & settled)),
            Assert(~swept | (rested & emptied & written & quieted) | excused),
        ]

        # One row at a time, which is in reset; its levels stay until it is over, then they fall for a cycle.
        before, row_before, over, sweeps, offers = Signal(3), Signal.like(row), Signal(), Signal(), Signal()
        levels = Cat(drain.fetch, drain.services, drain.notify)
        m.d.sync += [before.eq(levels), row_before.eq(row), over.eq(moves(done)), sweeps.eq(sweep.valid & ~sweep.done & ~dut.cleared),
                     offers.eq(done.valid & ~done.ready & ~dut.cleared)]
        ended = Signal()
        m.d.sync += ended.eq(over)
        m.d.comb += [
            Assert((sweep.row == row) & (done.payload == row)),
            Assert(~(before[0] & drain.fetch) | (row == row_before) & ((before & ~levels) == 0)),
            Assert(drain.fetch | (levels == 0)),
            Assert(~ended | ~drain.fetch),
            Assert(before[0] | ~drain.fetch | chosen),
            Assert(~sweep.valid | chosen),
            Assert(~done.valid | chosen | dut.cleared),
            Assert(~sweeps | sweep.valid),
            Assert(~offers | done.valid),
        ]

        # A reset takes no longer than its stages, and each row is come to when every other was passed by once.
        idle = state(inner, "row_reset", "IDLE")
        busy, was_idle = Signal(range(LONGEST + 2)), Signal()
        m.d.sync += [busy.eq(Mux(idle, 0, busy + ~done.valid)), was_idle.eq(idle)]
        watched, steps = Signal.like(row), Signal(range(rows + 2))
        m.d.comb += watched.eq(AnyConst(len(row)))
        with m.If(~in_reset.bit_select(watched, 1) | dut.cleared | (drain.fetch & (row == watched))):
            m.d.sync += steps.eq(0)
        with m.Elif(idle):
            m.d.sync += steps.eq(steps + ~(shown & ~drain.fetch))
        away = (watched - row)[:len(row)]
        m.d.comb += [
            Assert(busy <= LONGEST),
            Assert(steps <= rows),
            Assert((steps == 0) | (steps + away <= rows)),
            Assert(~idle | ~was_idle | (levels == 0)),
            Assert(~idle | drain.fetch | dut.cleared | (shown_row == row)),
            Assert(~idle | drain.fetch | (steps == 0) | (row != watched) | shown),
            Assert(idle | chosen | (done.valid & dut.cleared)),
            Cover(moves(done) & (busy == LONGEST) & ~excused),
            Cover(moves(done) & ~excused & (row != watched) & (steps == rows - 1)),
            Cover(moves(done) & excused & ~rested),
        ]
        self._add_inside(m, inner, rest, waits, busy, levels, said)
        return m

    def _add_inside(self, m, inner, rest, waits, busy, levels, said):
        """How far a reset is in each of its states, and how long it has taken to come there."""
        rested, emptied, written, _, excused, swept, settled = said
        fetch, services, used, notify, sweep = waits
        begun = WAIT + SETTLE + 1
        m.d.comb += [Assert(register(inner, "rest") == rest), *(Assert(wait <= WAIT) for wait in waits)]
        for name, level, flags, taken in (
                ("FETCH", 1, ~swept, Mux(fetch == WAIT, WAIT + rest, fetch)),
                ("SERVICES", 3, ~swept & rested, begun + services),
                ("USED", 3, ~swept & rested & emptied, begun + WAIT + 1 + used),
                ("NOTIFY", 7, ~swept & rested & emptied & written, begun + 2 * (WAIT + 1) + notify),
                ("SWEEP", 7, ~swept, begun + 3 * (WAIT + 1) + sweep),
                ("SETTLE", 7, swept, Mux(fetch == WAIT, begun + 4 * (WAIT + 1) + rest, fetch)),
                ("DONE", 7, swept & settled, LONGEST)):
            m.d.comb += Assert(~state(inner, "row_reset", name) | ((levels == level) & flags & (busy <= taken)))
        m.d.comb += Assert(state(inner, "row_reset", "IDLE") | (fetch == WAIT) | (busy <= fetch))


@pytest.mark.parametrize("rows", [2, 4])
def test_a_reset_keeps_its_order_and_ends(rows, tmp_path):
    """By induction: for any number of cycles, with resets of the device at any time."""
    prove(RowResetSpec(rows=rows), tmp_path, mode="prove", depth=3)


def test_resets_end(tmp_path):
    """The proof speaks of something: a reset that takes as long as it may, one while another row waits, one cut short by a quiet engine."""
    prove(RowResetSpec(rows=2), tmp_path, mode="cover", depth=LONGEST + 8)
