# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the scheduler neither loses nor doubles a kick."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, connect, flipped

sys.path.insert(0, str(Path(__file__).parent))
from prove import prove  # noqa: E402

from unvirt.virtio.queue.scheduler import Scheduler


class SchedulerSpec(wiring.Component):
    """One row is watched; the solver chooses all inputs.

    The row is owed a visit from a kick that was accepted until a visit taken at or after it. A row owed nothing is never
    visited, and a row owed a visit gets one within ``rows`` visits.
    """

    def __init__(self, *, rows, watched):
        self._rows = rows
        self._watched = watched
        width = (rows - 1).bit_length()
        super().__init__({
            "kicks": In(stream.Signature(width)).array(2),
            "taken": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Scheduler(rows=self._rows, kicks=2)
        watched = self._watched
        for mine, kick in zip(self.kicks, dut.kicks):
            connect(m, flipped(mine), kick)
        m.d.comb += dut.visits.ready.eq(self.taken)

        kicked = Cat(kick.valid & kick.ready & (kick.payload == watched) for kick in dut.kicks).any()
        visit = dut.visits.valid & dut.visits.ready
        visited = visit & (dut.visits.payload == watched)
        owed = Signal()
        others = Signal(range(self._rows + 2))
        with m.If(visited):
            m.d.sync += [owed.eq(0), others.eq(0)]
        with m.Elif(kicked):
            m.d.sync += owed.eq(1)
        with m.If(visit & ~visited & owed):
            m.d.sync += others.eq(others + 1)

        m.d.comb += [
            Assert(~visited | owed),
            Assert(others < self._rows),
        ]
        with m.If(dut.kicks[0].valid & dut.kicks[1].valid):
            m.d.comb += Assert(~dut.kicks[1].ready)
        return m


@pytest.mark.parametrize("rows, watched", [(2, 0), (2, 1)])
def test_no_kick_is_lost_or_doubled(rows, watched, tmp_path):
    """A kicked row is visited once, within as many visits as there are rows (bounded, 12 cycles)."""
    prove(SchedulerSpec(rows=rows, watched=watched), tmp_path, mode="bmc", depth=12)
