# SPDX-License-Identifier: BSD-2-Clause
"""The coverage report itself: what counts as a line that took effect, what is crossed, and a case from end to end."""

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from amaranth import *
from amaranth.hdl import Fragment
from amaranth.sim import Simulator
from click.testing import CliRunner
from unvirt_sim.driver.split import SplitQueue
from unvirt_sim.driver.virtqueue import Element

sys.path.append(str(Path(__file__).parent))

from cross import cell, cells, recorded  # noqa: E402
from lines import PREFIX, watch  # noqa: E402
from measure import main  # noqa: E402
from report import Coverage, text  # noqa: E402


class Branches(Elaboratable):
    """One branch of each kind; the marks at the ends of lines name those that are watched."""

    def __init__(self):
        self.a, self.b = Signal(2), Signal(2)

    def elaborate(self, platform):
        m = Module()
        always = Signal()
        m.d.comb += always.eq(1)
        with m.If(self.a == 1):                         # if
            m.d.sync += self.b.eq(self.a)               # if
        with m.Elif(self.a == 2):                       # elif
            with m.Switch(self.b):
                with m.Case(1):                         # case
                    m.d.comb += always.eq(0)            # case
        with m.Else():                                  # else
            m.d.sync += self.b.eq(3)                    # else
        with m.FSM():
            with m.State("IDLE"):                       # idle
                with m.If(self.a == 3):                 # start
                    m.next = "BUSY"
            with m.State("BUSY"):                       # busy
                m.next = "IDLE"
        return m


def marked(*marks):
    """Return the lines of :class:`Branches` with these marks."""
    source, first = inspect.getsourcelines(Branches)
    return {first + number for number, line in enumerate(source) if line.strip().partition("  # ")[2].strip() in marks}


@pytest.mark.parametrize("inputs, marks", [
    ((0,), ("else", "idle")), ((1,), ("if", "idle")), ((2,), ("elif", "idle")), ((1, 2), ("if", "elif", "case", "idle")),
    ((3,), ("else", "idle", "start")), ((3, 2), ("else", "idle", "start", "elif", "busy"))])
def test_lines_take_effect(inputs, marks):
    """Just those below conditions that held, in either domain."""
    dut, lines = Branches(), {}
    fragment = Fragment.get(dut, None)
    watch(fragment, Path(__file__).parent, lines)
    signals = [signal for signal in fragment.statements["comb"]._lhs_signals() if signal.name.startswith(PREFIX)]
    assert {line for _, line in lines} == marked("if", "elif", "case", "else", "idle", "start", "busy")
    assert all(file == Path(__file__).name for file, _ in lines)
    reached = set()

    async def bench(ctx):
        for value in inputs:
            ctx.set(dut.a, value)
            reached.update(signal.name for signal in signals if ctx.get(signal))
            await ctx.tick()

    simulator = Simulator(fragment)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert {line for (_, line), number in lines.items() if f"{PREFIX}{number}" in reached} == marked(*marks)


def test_only_sources_of_the_package():
    """A line elsewhere, as in a library, is not counted."""
    lines = {}
    watch(Fragment.get(Branches(), None), Path("/nowhere"), lines)
    assert not lines


def test_report():
    """An edge makes a line reached in whatever instance; edges are counted by block, buffers by cell."""
    points = [("core.engine.fetch.a", "reached_0:0->1"), ("core.engine.fetch.a", "reached_1:0->1"), ("core.engine.fetch.b", "reached_1:1->0"),
              ("core.engine.fetch.a", "x[0]:0->1"), ("core.engine.fetch.a", "x[0]:1->0"), ("core.tags", "y:0->1"), ("", "z:0->1")]
    coverage = Coverage(points, [("a.py", 7), ("a.py", 8)])
    assert coverage.missed_lines == {"a.py": [7, 8]}
    coverage.add(0b001100, {cells()[0]: 2})
    coverage.add(0b100000, {cells()[0]: 1, cells()[1]: 5})
    assert coverage.missed_lines == {"a.py": [7]}
    assert coverage.toggles == {"engine.fetch": (1, 2), "tags": (1, 1), "top": (0, 1)}
    assert coverage.cells[cells()[0]] == 3
    assert coverage.summary().startswith("1 of 2 lines took effect (50.0 %), 2 of 4 edges of bits were seen (50.0 %), 2 of ")
    written = text(coverage, cases=2, with_long=False)
    assert "2 of them, those that are quick" in written
    assert "| `a.py` | 7 |" in written and "| engine.fetch | 2 | 1 | 50.0 % |" in written and "| split flags any order | 2, 0 |" in written


def a_queue():
    """Return what :func:`cell` looks at of a queue."""
    queue = object.__new__(SplitQueue)
    queue.event_idx = queue.in_order = False
    queue.host = SimpleNamespace(simulation=SimpleNamespace(link=SimpleNamespace(cut="rcb")))
    return queue


@pytest.mark.parametrize("lengths, start, shape", [([9], None, "one descriptor"), ([4, 9], None, "chain"), ([4, 9], 2, "chain"), ([9], 0, "table"),
                                                   ([4, 9], 1, "chain and table")])
@pytest.mark.parametrize("address, alignment", [(0x1000, "64 bytes"), (0x1048, "8 bytes"), (0x104C, "4 bytes"), (0x104E, "2 bytes"), (0x1041, "odd")])
def test_cells(lengths, start, shape, address, alignment):
    """A buffer has one cell, which the list of all has."""
    found = cell(a_queue(), [Element(address, length, True) for length in lengths], start)
    assert found == ("split flags any order", "to write", shape, alignment, "rcb")
    assert found in cells()


def test_an_empty_element_has_no_alignment():
    """It is a descriptor of the chain; where it lies does not matter."""
    assert cell(a_queue(), [Element(1, 0), Element(0x1004, 8)], None)[2:4] == ("chain", "4 bytes")


def test_recording_ends():
    """Both kinds of queues are as before, also behind an exception."""
    before = SplitQueue.add
    with pytest.raises(KeyError), recorded() as counts:
        assert SplitQueue.add is not before
        raise KeyError
    assert SplitQueue.add is before and not counts


def test_bad_options(tmp_path):
    result = CliRunner().invoke(main, ["--cluster", "nonsense://here", "--results", str(tmp_path / "coverage.jsonl")])
    assert result.exit_code == 2 and "No Dask scheduler answers at nonsense://here" in result.output
