# SPDX-License-Identifier: BSD-2-Clause
"""Episodes by the farm: a block is the same every time, one that fails is told, and a second run only reads."""

import json

import play
import pytest
from click.testing import CliRunner
from unvirt_sim.farm import Outcome


def test_two_blocks_of_each_ring(tmp_path):
    results = tmp_path / "episodes.jsonl"
    arguments = ["--episodes", "24", "--block", "3", "--processes", "1", "--results", str(results)]
    first = CliRunner().invoke(play.main, arguments)
    assert first.exit_code == 0, first.output
    assert first.stdout.startswith("24 episodes, ") and first.stdout.endswith("0 of 8 blocks failed.\n")
    kept = results.read_text()
    assert len(kept.splitlines()) == 8
    again = CliRunner().invoke(play.main, arguments)
    assert again.stdout == first.stdout and results.read_text() == kept
    entry = json.loads(kept.splitlines()[0])
    ring, number = entry["key"].split()[-2:]
    assert play.play_block(ring, int(number), 3) == entry["value"]


def test_a_block_that_fails(tmp_path, monkeypatch):
    """The judge's complaint and how to repeat the episode are told, and the exit status is 1."""
    monkeypatch.setattr(play, "make", lambda **options: None)
    block = play.play_here("split-flags", 0, 2)
    assert "TypeError" in block["failed"] and "reproduce_failure" in block["failed"]
    monkeypatch.setattr(play, "run", lambda jobs, function, **options: {job.key: Outcome(block) for job in jobs})
    result = CliRunner().invoke(play.main, ["--episodes", "4", "--block", "1", "--results", str(tmp_path / "episodes.jsonl")])
    assert result.exit_code == 1 and "split-flags, block 0: TypeError" in result.stdout
    assert "0 episodes, 0 asked for a reset, 4 of 4 blocks failed." in result.stdout


@pytest.mark.parametrize("arguments, sentence", [(["--block", "0"], "0 is not in the range x>=1"),
                                                 (["--cluster", "nonsense://here"], "No Dask scheduler answers at nonsense://here")])
def test_bad_options(arguments, sentence, tmp_path):
    result = CliRunner().invoke(play.main, [*arguments, "--results", str(tmp_path / "episodes.jsonl")])
    assert result.exit_code == 2 and sentence in result.output
