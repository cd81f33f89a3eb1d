# SPDX-License-Identifier: BSD-2-Clause
"""The mutation check itself: what a mutation is called, what counts as caught, and a few mutants from end to end."""

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

sys.path.append(str(Path(__file__).parents[1] / "system"))

from netlist import Mutation  # noqa: E402
from check import main, summary  # noqa: E402
from unvirt_sim.farm import Outcome  # noqa: E402

LINES = {
    r"mutate -mode inv -module unvirt -cell $flatten\core.\engine.\fetch.\walker.$298 -port A -portbit 0 -src hdl/unvirt/virtio/queue/walker.py:366":
        ("inv", "engine.fetch.walker", "A[0] of $298", "virtio/queue/walker.py:366"),
    r"mutate -mode const1 -module unvirt -cell core.engine.fetch.meta.records -port WR_DATA -portbit 12 -wire core.engine.fetch.meta.write__data$51 "
    r"-wirebit 12 -src hdl/unvirt/virtio/queue/meta.py:207 -src hdl/unvirt/virtio/queue/meta.py:192":
        ("const1", "engine.fetch.meta", "engine.fetch.meta.write__data$51[12], WR_DATA[12] of records",
         "virtio/queue/meta.py:207, virtio/queue/meta.py:192"),
    r"mutate -mode cnot1 -module unvirt -cell $flatten\core.\engine.\fetch.\packed$614.\controller.$240 -port Y -portbit 1 -ctrlbit 8 "
    r"-src hdl/unvirt/virtio/queue/packed.py:225":
        ("cnot1", "engine.fetch.packed$614.controller", "Y[1] of $240 while bit 8 is 1", "virtio/queue/packed.py:225"),
    r"mutate -mode inv -module unvirt -cell $flatten\core.\dma_write.\cutter.$procmux$682 -port Y -portbit 2 -wire core.dma_write.cutter.shift_now "
    r"-wirebit 2 -src hdl/unvirt/pcie/dma_write_cut.py:102":
        ("inv", "dma_write.cutter", "dma_write.cutter.shift_now[2], Y[2] of $procmux$682", "pcie/dma_write_cut.py:102"),
    r"mutate -mode const0 -module unvirt -cell $flatten\core.\engine.\fetch.\walker.$auto$pmuxtree.cc:65:recursive_mux_generator$10483 -port A "
    r"-portbit 0":
        ("const0", "engine.fetch.walker", "A[0] of pmuxtree:recursive_mux_generator", ""),
}


@pytest.mark.parametrize("line", LINES)
def test_a_mutation_says_where_and_what(line):
    assert Mutation.read(7, line) == Mutation(7, *LINES[line])


def test_summary():
    """A worker that died is a mutant that was caught; a job that could not be run is neither caught nor survived."""
    mutations = [Mutation(number, "inv", "engine", "x[0]", "") for number in (1, 2, 5, 6)]
    found = summary(mutations, {1: Outcome({"caught": True, "by": "net: x", "complaint": "no", "cases": 3}),
                                2: Outcome({"caught": False, "cases": 9}), 5: Outcome(error="its worker died", died=True),
                                6: Outcome(error="OSError: no space")})
    assert (found["mutants"], found["caught"], found["survived"], found["not tried"]) == (4, 2, 1, 1)
    assert [row["caught"] for row in found["rows"]] == [True, False, True, None]
    assert found["rows"][2]["by"] == "crash"


@pytest.mark.parametrize("arguments, sentence", [(["--count", "0"], "0 is not in the range 1<=x<=5000"),
                                                 (["--cluster", "nonsense://here"], "No Dask scheduler answers at nonsense://here")])
def test_bad_options(arguments, sentence, tmp_path):
    result = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "mutants.json")])
    assert result.exit_code == 2 and sentence in result.output


@pytest.mark.slow
def test_ten_mutants(tmp_path):
    """The original passes the whole suite, most of ten mutants do not, and a second run only reads the results."""
    target = tmp_path / "mutants.json"
    arguments = ["--count", "10", "--seed", "3", "--json", str(target)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    assert found["mutants"] == 10 and found["not tried"] == 0 and found["caught"] >= 6
    kept = target.with_suffix(".jsonl").read_text()
    again = CliRunner().invoke(main, arguments)
    assert again.stdout == result.stdout and target.with_suffix(".jsonl").read_text() == kept
