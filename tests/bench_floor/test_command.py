# SPDX-License-Identifier: BSD-2-Clause
"""``unvirt bench`` as a user sees it."""

import json

import pytest
from click.testing import CliRunner

from unvirt_sim.cli import main

KEYS = {"quantity", "width", "ring", "queues", "frame_size", "host_latency_cycles", "batch", "value", "unit", "peer", "target",
        "limit", "met"}


def test_quick(tmp_path, monkeypatch):
    """The table, the figures and the pictures; a miss is called a miss in both."""
    result = CliRunner().invoke(main, [
        "bench", "--quick", "--width", "256", "--json", str(tmp_path / "bench.json"), "--plots", str(tmp_path / "plots"),
        "--write-docs", str(tmp_path / "docs" / "performance.md")])
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert all(KEYS <= set(row) for row in rows)
    units = {row["quantity"] for row in rows}
    assert {"TX cycles per packet", "RX cycles per packet", "both each cycles per packet", "TX PCIe bytes per packet",
            "TX doorbell to MAC, less round trips", "RX last beat to MSI-X, less round trip",
            "TX data reads in flight, mean"} <= units
    ratio = next(row for row in rows if row["quantity"] == "TX at 1 us against 0")
    near, far = (next(row["value"] for row in rows if row["quantity"] == "TX cycles per packet" and row["host_latency_cycles"] == latency)
                 for latency in (0, 250))
    assert ratio["value"] == pytest.approx(far / near, abs=0.01)
    kept = (tmp_path / "bench.jsonl").read_text()
    missed = [row for row in rows if row["met"] is False]
    assert result.output.count("MISSED") == len(missed)
    assert f"{len(missed)} missed" in result.output
    assert (tmp_path / "plots" / "latency.svg").read_text().startswith("<svg")
    assert "| TX cycles per packet |" in (tmp_path / "docs" / "performance.md").read_text()
    again = CliRunner().invoke(main, ["bench", "--quick", "--width", "256", "--json", str(tmp_path / "bench.json"),
                                      "--plots", str(tmp_path / "plots")])
    assert json.loads((tmp_path / "bench.json").read_text()) == rows, again.output
    assert (tmp_path / "bench.jsonl").read_text() == kept, "points that had been measured were measured again"


@pytest.mark.parametrize("arguments, sentence", [
    (["--width", "100"], "'100' is not one of '64', '256', '512'"),
    (["--cluster", "nonsense://here"], "No Dask scheduler answers at nonsense://here"),
    (["--seed", "0"], "0 is not in the range x>=1"),
])
def test_bad_options(arguments, sentence):
    """One sentence, exit status 2."""
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output


def test_unwritable_results(tmp_path, monkeypatch):
    """A place where nothing can be written is said in one sentence, before anything is measured."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    result = CliRunner().invoke(main, ["bench", "--quick", "--json", str(blocked / "bench.json")])
    assert result.exit_code == 2
    assert "cannot be written" in result.output
