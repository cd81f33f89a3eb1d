# SPDX-License-Identifier: BSD-2-Clause
"""Coverage: which lines of the source take effect, and which bits toggle, while the device meets the cases that mutants meet.

``python tests/coverage/measure.py --help``. Workers of a cluster need this folder in PYTHONPATH.
"""

import base64
import functools
import sys
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import unvirt_sim
from rich.console import Console
from unvirt.verilog import write_atomically
from unvirt_sim.build import build_library
from unvirt_sim.farm import Job, check_cluster, digest, farm_options, run, sentences
from unvirt_sim.harness import Simulation

HERE = Path(__file__).parent
if str(HERE.with_name("mutants")) not in sys.path:
    sys.path += [str(HERE), str(HERE.with_name("mutants"))]

from cross import recorded  # noqa: E402
from lines import watched_device  # noqa: E402
from report import Coverage, text  # noqa: E402
from suite import CASES, CONFIG, LONG, SYSTEM, UNBOUNDED, Trial  # noqa: E402

__all__ = ["main", "measure", "points"]

errors = Console(stderr=True, highlight=False)


@functools.cache
def _library(say=lambda text: None):
    """Return the library that counts, and the lines it knows."""
    verilog, lines = watched_device(CONFIG)
    return build_library(CONFIG, verilog=verilog, coverage=True, say=say), lines


def _written(simulation):
    """Return the lines of what the simulation counted, one for each point, the same points in the same order every time."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.dat"
        simulation.write_coverage(path)
        return [line for line in path.read_bytes().splitlines() if line.startswith(b"C ")]


class _CoveredTrial(Trial):
    """A trial whose simulations are asked, before the next begins, what they have counted: ``toggled`` is a mask of points."""

    toggled = 0

    def _finish(self):
        for simulation in self._made:
            seen = bytes(not line.endswith(b"' 0") for line in _written(simulation))
            self.toggled |= int.from_bytes(_packed(seen), "little")
        super()._finish()


def _packed(flags):
    """Return bits as bytes, the first lowest."""
    digits = flags[::-1].translate(bytes.maketrans(b"\0\1", b"01"))
    return int(digits or b"0", 2).to_bytes(-(-len(flags) // 8), "little")


def measure(case):
    """Run a case; return what it complained of, the mask of the points it reached, and [cell, count] of the cross."""
    trial = _CoveredTrial(_library()[0])
    with recorded() as counts:
        _, complaint = trial.run(case, UNBOUNDED)
    mask = trial.toggled.to_bytes(-(-trial.toggled.bit_length() // 8), "little")
    return {"complaint": complaint, "toggled": base64.b64encode(zlib.compress(mask)).decode(), "cells": [[*entry] for entry in counts.items()]}


def points():
    """Return where each point lies, in the order of the masks: (instance, bit of a signal and the direction of its edge)."""
    found = []
    for line in _written(Simulation(_library()[0])):
        values = dict(part.split("\x02") for part in line.split(b"'")[1].decode().split("\x01")[1:])
        found.append((values["h"].removeprefix("TOP.unvirt").removeprefix("."), values["o"]))
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--long", "with_long", is_flag=True, help="Run the cases that take longest too.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/coverage.jsonl"), show_default=True,
              help="Where the result of each case goes; a further run does the rest.")
@click.option("--write-docs", "docs", type=click.Path(dir_okay=False, path_type=Path), help="Write the report there, as Markdown.")
@farm_options
def main(with_long, results, docs, processes, cluster):
    """Measure what the cases that mutants meet reach on the original device: lines, toggles, and a cross of what the driver gave it.

    The exit status is 1 if a case failed.
    """
    with sentences(errors, results):
        check_cluster(cluster)
        library, lines = _library(errors.print)
        name = f"{library.parent.name} {digest(packages=[unvirt_sim], folders=[SYSTEM, HERE, HERE.with_name('mutants')])}"
        jobs = {case: Job(f"{name} {case}", (case,)) for case in (CASES | LONG if with_long else CASES)}
        outcomes = run(jobs.values(), measure, processes=processes, cluster=cluster, progress=errors, title="Coverage", results_file=results)
        coverage, failed = Coverage(points(), lines), []
        for case, job in jobs.items():
            outcome = outcomes[job.key]
            if complaint := outcome.error or outcome.value["complaint"]:
                failed.append(f"{case}: {complaint}")
            else:
                mask = int.from_bytes(zlib.decompress(base64.b64decode(outcome.value["toggled"])), "little")
                coverage.add(mask, {tuple(cell): count for cell, count in outcome.value["cells"]})
        if docs and not failed:
            write_atomically(docs, text(coverage, cases=len(jobs), with_long=with_long))
    for failure in failed:
        click.echo(failure)
    click.echo(coverage.summary() + (f", {len(failed)} of {len(jobs)} cases failed." if failed else f", {len(jobs)} cases."))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
