# SPDX-License-Identifier: BSD-2-Clause
"""Proof: of a memory that is not transparent nothing is used that was being written as it was looked up."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Cover
from amaranth.lib.wiring import In

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, state  # noqa: E402
from streams import moves  # noqa: E402

from unvirt.virtio.queue.retire import SourceRetire
from unvirt.virtio.queue.source import SourceIssue

ROWS = 2


def issue_stage():
    """Return the issue stage, and what gives the state in which it has just used what it looked up."""
    dut = SourceIssue(rows=ROWS, slots=4, groups=2, granules=8, tags=4, short_tags=4, handle_width=2, buffer_width=10, start_offset=12, header_size=0,
                      shortest=12, longest=300, quantum=128)
    return dut, lambda inner: state(inner, "source_issue", "SLOT")


def retire_stage():
    """Return the retire stage, and what gives the state in which it does."""
    return SourceRetire(rows=ROWS, slots=4, groups=2, granules=8), lambda inner: state(inner, "source_retire", "LOAD")


class SettledSpec(Elaboratable):
    """The solver chooses every input, sweeps among them, and which row is looked at."""

    def __init__(self, stage, late):
        self._dut, self._uses = stage()
        self._late = late           # cycles from the use to the state that tells of it

    def elaborate(self, platform):
        m = Module()
        dut = self._dut
        m.submodules.dut = inner = opened(dut)
        cells = opened_inside(inner, "state").submodules.cells
        self._free(m, dut)
        write, read = cells.write_ports[0], cells.read_ports[0]
        used = Signal()
        m.d.comb += used.eq(self._uses(inner))
        wrong, was = Signal(), Signal()        # what is shown in this cycle, in the one before
        m.d.sync += [wrong.eq(write.en & (write.addr == read.addr)), was.eq(wrong)]
        entered, before = Signal(), Signal()
        m.d.sync += before.eq(used)
        m.d.comb += entered.eq(used & ~before)
        shown = was if self._late else wrong
        m.d.comb += [Assert(~entered | ~shown), Cover(entered & dut.sweep.valid), Cover(moves(dut.visits) & wrong)]
        return m

    @staticmethod
    def _free(m, dut):
        """Let the solver choose all inputs."""
        for _, member, value in dut.signature.flatten(dut):
            if member.flow is In and member.is_port:
                m.d.comb += Value.cast(value).eq(AnySeq(len(Value.cast(value))))


@pytest.mark.parametrize("stage, late", [(issue_stage, 1), (retire_stage, 0)], ids=["issue", "retire"])
@pytest.mark.parametrize("mode, depth", [("prove", 4), ("cover", 16)])
def test_nothing_undefined_is_used(stage, late, mode, depth, tmp_path):
    """By induction; and rows are taken up while others are swept, and looked up as they are written."""
    prove(SettledSpec(stage, late), tmp_path, mode=mode, depth=depth, map_memories=True)
