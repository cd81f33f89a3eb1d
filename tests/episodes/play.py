# SPDX-License-Identifier: BSD-2-Clause
"""Many more episodes of the driver that breaks the rules than a test run has time for, in blocks that are jobs of the farm.

``python tests/episodes/play.py --help``. Workers of a cluster need this folder in PYTHONPATH.
"""

import contextlib
import io
import json
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import unvirt
import unvirt_sim
from rich.console import Console
from unvirt_sim.farm import Job, check_cluster, digest, farm_options, run, sentences

SYSTEM = Path(__file__).parents[1] / "system"
if str(SYSTEM) not in sys.path:
    sys.path.append(str(SYSTEM))

from adversary import LINK  # noqa: E402
from test_device_adversary import RINGS, episodes, make  # noqa: E402

__all__ = ["main", "play_block", "play_here"]

errors = Console(stderr=True, highlight=False)


def play_block(ring, number, count):
    """:func:`play_here` in an interpreter of its own, so that a block is the same everywhere.

    hypothesis draws from the constants of all modules that happen to be loaded, and these differ from one worker to the next.
    """
    call = f"import json, play; print(json.dumps(play.play_here({ring!r}, {number}, {count})))"
    child = subprocess.run([sys.executable, "-c", call], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return json.loads(child.stdout) if child.returncode == 0 else {"failed": child.stderr.strip()}


def play_here(ring, number, count):
    """Play ``count`` episodes; return how often what was done, and what the judge said of the shortest that failed, with what repeats it."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return {"done": episodes(make, count, *RINGS[ring], number=number)}
    except (Exception, pytest.fail.Exception) as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        return {"failed": f"{type(error).__name__}: {error}\n{notes}\n{said.getvalue()}".strip()}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--episodes", "total", type=click.IntRange(1), default=100_000, show_default=True, help="How many, a quarter for each kind of ring.")
@click.option("--block", type=click.IntRange(1), default=250, show_default=True, help="Episodes of one job.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/episodes.jsonl"), show_default=True,
              help="Where the blocks that are done go; a further run does the rest.")
@farm_options
def main(total, block, results, processes, cluster):
    """Play episodes of a driver that breaks every rule, on the small device; the exit status is 1 if the judge complained.

    A block that fails ends at its shortest failing episode.
    """
    with sentences(errors, results):
        check_cluster(cluster)
        make(link=LINK, seed=1)                                 # built once, before many want it
        name = digest(block, version("hypothesis"), packages=[unvirt, unvirt_sim], folders=[SYSTEM])
        jobs = [Job(f"{name} {ring} {number}", (ring, number, block))
                for number in range(-(-total // (block * len(RINGS)))) for ring in RINGS]
        outcomes = run(jobs, play_block, processes=processes, cluster=cluster, results_file=results, progress=errors, title="Episodes")
    done, failures = Counter(), []
    for job in jobs:
        outcome = outcomes[job.key]
        if complaint := outcome.error or outcome.value.get("failed"):
            failures.append(f"{job.arguments[0]}, block {job.arguments[1]}: {complaint}")
        else:
            done.update(outcome.value["done"])
    for failure in failures:
        click.echo(failure)
    click.echo(f"{done['episodes']} episodes, {done['asked for a reset']} asked for a reset, {len(failures)} of {len(jobs)} blocks failed.")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
