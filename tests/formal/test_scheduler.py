# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the scheduler neither loses nor doubles a kick."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.virtio.queue.scheduler import Scheduler


class SchedulerSpec(Elaboratable):
    """One row is watched; the solver chooses all inputs.

    The row is owed a visit from a kick that was accepted until a visit taken at or after it. A row owed nothing is never
    visited, and a row owed a visit gets one within ``rows`` visits.
    """

    def __init__(self, *, rows):
        self._rows = rows

    def elaborate(self, platform):
        m = Module()
        rows = self._rows
        dut = Scheduler(rows=rows, kicks=2)
        m.submodules.dut = inner = opened(dut)
        watched = Signal(range(rows))
        m.d.comb += [watched.eq(AnyConst(range(rows))), dut.visits.ready.eq(AnySeq(1))]
        for kick in dut.kicks:
            drive(m, kick)

        kicked = Cat(moves(kick) & (kick.payload == watched) for kick in dut.kicks).any()
        visit = moves(dut.visits)
        visited = visit & (dut.visits.payload == watched)
        owed = Signal()
        others = Signal(range(rows + 2))
        with m.If(visited):
            m.d.sync += [owed.eq(0), others.eq(0)]
        with m.Elif(kicked):
            m.d.sync += owed.eq(1)
        with m.If(visit & ~visited & owed):
            m.d.sync += others.eq(others + 1)
        waited = Signal()
        m.d.sync += waited.eq(owed)
        m.d.comb += [
            Assert(~visited | owed),
            Assert(others < rows),
            Assert(~waited | ~owed | dut.visits.valid),
            Cover((others == rows - 1) & visited),
        ]
        with m.If(dut.kicks[0].valid & dut.kicks[1].valid):
            m.d.comb += Assert(~dut.kicks[1].ready)
        assert_steady(m, dut.visits)
        self._add_inside(m, dut, inner, watched, owed, others)
        return m

    def _add_inside(self, m, dut, inner, watched, owed, others):
        """A row's flag is set just while its number is in the FIFO, once, and in the cycle after it left; what was looked up is what is stored.

        The row that is next is not in the FIFO.
        """
        rows = self._rows
        queued = inner._named_submodules["queued"][0]
        flags, in_order = opened_inside(inner, "queued"), opened_inside(inner, "fifo")
        queue = in_order._named_submodules["entries"][0]
        fifo = opened_inside(in_order, "entries")
        consume, level = register(fifo, "consume"), queue.level
        set_row, test_row, swept, sweeping = (register(flags, name) for name in ("set_row", "test_row", "swept", "sweeping"))
        visited, listed, next_valid, next_row = (register(inner, name) for name in ("visited", "listed", "next_valid", "next_row"))
        ready = queued.ready

        def cell(cells, address):
            port = cells.read_port(domain="comb")
            m.d.comb += port.addr.eq(address)
            return port.data

        # What each look-up shows is what the memory holds now.
        by_set, by_test = (set_row, ready), (test_row, ready | sweeping)
        looked_up = [(cells, port.data, at, valid)
                     for cells, sides in ((flags.submodules.set_bits, (by_test, by_set)), (flags.submodules.clear_bits, (by_set, by_test)))
                     for port, (at, valid) in zip(cells.read_ports, sides)]
        m.d.comb += [Assert(~valid | (shown == cell(cells, at))) for cells, shown, at, valid in looked_up]
        # The sweep clears in the cycle after the one in which it looks.
        m.d.comb += [Assert(~sweeping | (test_row == swept - 1)), Assert(ready | (sweeping == (swept != 0)))]

        cells = fifo.submodules.cells
        entries = []
        for step in range(rows):
            entry = Signal(range(rows), name=f"entry{step}")
            m.d.comb += entry.eq(cell(cells, (consume + step)[:len(consume)]))
            entries.append((step < level, entry))
        m.d.comb += [Assert(register(fifo, "produce") == (consume + level)[:len(consume)]), Assert(ready | (level == 0)), Assert(level <= rows)]
        flag_of = []
        for row in range(rows):
            flag = cell(flags.submodules.set_bits, row) ^ cell(flags.submodules.clear_bits, row)
            there = sum(inside & (entry == row) for inside, entry in entries)
            leaving = visited & (test_row == row)
            m.d.comb += Assert((swept <= row + sweeping) | (flag == there + leaving))
            m.d.comb += Assert(~next_valid | (next_row != row) | ((there == 0) & ~(listed & (set_row == row))))
            flag_of.append(there)
        new = register(flags, "setting") & queued.set_new
        there = Array(flag_of)[watched]
        ahead = Signal(range(rows + 1))
        m.d.comb += ahead.eq(level + next_valid)
        for step, (inside, entry) in reversed(list(enumerate(entries))):
            with m.If(inside & (entry == watched)):
                m.d.comb += ahead.eq(step + next_valid)
        is_next = next_valid & (next_row == watched)
        with m.If(is_next):
            m.d.comb += ahead.eq(0)
        m.d.comb += [
            Assert(owed == (there + (new & (set_row == watched)) + is_next)),
            Assert(listed == register(flags, "setting")),
            Assert(owed | (others == 0)),
            Assert(~owed | (others + ahead < rows)),
            Assert(ready | ~(register(flags, "setting") | visited | owed | next_valid)),
        ]


@pytest.mark.parametrize("rows", [2, 4])
def test_no_kick_is_lost_or_doubled(rows, tmp_path):
    """A kicked row is visited once, within as many visits as there are rows; by induction, with resets at any time."""
    prove(SchedulerSpec(rows=rows), tmp_path, mode="prove", depth=4, map_memories=True)


def test_the_longest_wait_is_reached(tmp_path):
    """The proof speaks of something: a row of four waits for three others."""
    prove(SchedulerSpec(rows=4), tmp_path, mode="cover", depth=16, map_memories=True)
