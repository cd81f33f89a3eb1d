# SPDX-License-Identifier: BSD-2-Clause
"""Mutation check: how many mutants of the queue engine and the DMA engines does the suite notice?

``python tests/mutants/check.py --help``. Workers of a cluster need this folder in PYTHONPATH.
"""

import functools
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click
import unvirt_sim
from netlist import mutated
from rates import RATES, SLACK
from rich.console import Console
from suite import CASES, CONFIG, LONG, SYSTEM, UNBOUNDED, Trial
from unvirt.verilog import write_atomically
from unvirt_sim.build import build_library
from unvirt_sim.farm import Job, check_cluster, digest, farm_options, run, sentences

__all__ = ["main", "measure", "summary", "try_mutant"]

HERE = Path(__file__).parent

errors = Console(stderr=True, highlight=False)


def budget(case, cycles):
    """Return what a mutant may take for a case that takes the original so many cycles."""
    return int(SLACK * cycles) if case in RATES else 3 * cycles + 30_000


@functools.cache
def _library(count, seed, say=lambda text: None):
    verilog, mutations = mutated(CONFIG, count=count, seed=seed)
    return build_library(CONFIG, verilog=verilog, mutants=True, say=say), mutations


def measure(count, seed, case):
    """Run a case with the original; return (cycles, complaint or None, mask of the mutants that it can tell, in hexadecimal)."""
    trial = Trial(_library(count, seed)[0])
    return (*trial.run(case, UNBOUNDED), f"{trial.infected:x}")


def try_mutant(count, seed, number, cycles):
    """Run the cases on a mutant, quickest first, to the first that complains.

    Return its name and complaint, and how many cases were run. ``cycles`` has what each case takes the original.
    """
    trial = Trial(_library(count, seed)[0], number)
    for tried, (case, taken) in enumerate(sorted(cycles.items(), key=lambda item: item[1]), 1):
        _, complaint = trial.run(case, budget(case, taken))
        if complaint is not None:
            return {"caught": True, "by": case, "complaint": complaint, "cases": tried}
    return {"caught": False, "cases": len(cycles)}


def summary(mutations, outcomes):
    """Return what ``mutants.json`` says of mutants that were tried: {number: Outcome}."""
    rows = []
    for mutation in mutations:
        outcome = outcomes[mutation.number]
        if outcome.died:
            result = {"caught": True, "by": "crash", "complaint": outcome.error}
        elif outcome.error:
            result = {"caught": None, "complaint": outcome.error}
        else:
            result = outcome.value
        rows.append(asdict(mutation) | result)
    caught = sum(row["caught"] is True for row in rows)
    return {"mutants": len(rows), "caught": caught, "survived": sum(row["caught"] is False for row in rows),
            "not tried": sum(row["caught"] is None for row in rows), "rows": rows}


class Check:
    """Tries mutants with sets of cases.

    Parameters
    ----------
    count, seed : int
        Of the mutants.
    name : str
        Of everything that results depend on.
    farm : callable
        Runs jobs with a function.
    """

    def __init__(self, count, seed, name, farm):
        self._which, self._name, self._farm = (count, seed), name, farm

    def run(self, title, cases, mutations):
        """Return {number: Outcome} of these mutants with these cases, after the original has passed all."""
        jobs = {case: Job(f"{self._name} original {case}", (*self._which, case)) for case in cases}
        outcomes = self._farm(jobs.values(), measure, title=f"{title}, the original")
        original = {case: outcomes[job.key] for case, job in jobs.items()}
        if wrong := [f"{case}: {outcome.error or outcome.value[1]}" for case, outcome in original.items() if outcome.error or outcome.value[1]]:
            raise RuntimeError("The suite fails with the original: " + "; ".join(wrong))

        def job(number):
            # Where its bit never differs, a mutant does just what the original does.
            cycles = {case: outcome.value[0] for case, outcome in original.items() if int(outcome.value[2], 16) >> number & 1}
            return Job(f"{self._name} {title} {number}", (*self._which, number, cycles))

        jobs = {mutation.number: job(mutation.number) for mutation in mutations}
        outcomes = self._farm(jobs.values(), try_mutant, title=f"{title}, mutants")
        return {number: outcomes[job.key] for number, job in jobs.items()}


def _report(found, target):
    """Print who survived, and the score."""
    for row in found["rows"]:
        if not row["caught"]:
            why = row.get("complaint") or (f"survived {row['cases']} cases" if row["cases"] else "its bit never differs")
            click.echo(f"{row['number']:4} {row['mode']:6} {row['block']}: {row['what']} ({row['source']}) {why}")
    tried = found["caught"] + found["survived"]
    by = Counter(row["by"].partition(":")[0] for row in found["rows"] if row["caught"])
    click.echo(f"{found['caught']} of {tried} mutants caught, {100 * found['caught'] / max(tried, 1):.1f} %: "
               + ", ".join(f"{number} by {name}" for name, number in by.most_common()) + f". Details: {target}.")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--count", type=click.IntRange(1, 5000), default=500, show_default=True, help="How many mutants.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Of their choice.")
@click.option("--long", "with_long", is_flag=True, help="Try the survivors with the cases that take longest too.")
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/mutants.json"), show_default=True,
              help="Where the result of each goes; beside it, as .jsonl, what a further run need not do again.")
@farm_options
def main(count, seed, with_long, target, processes, cluster):
    """Try mutants of the queue engine and the DMA engines with the tests of the whole device.

    All are in one netlist, made once. The exit status is 0 whatever the score is.
    """
    with sentences(errors, target, refused=(ValueError,), failed=(RuntimeError,)):
        target.parent.mkdir(parents=True, exist_ok=True)
        check_cluster(cluster)
        library, mutations = _library(count, seed, errors.print)
        name = f"{library.parent.name} {digest(packages=[unvirt_sim], folders=[SYSTEM, HERE])}"
        check = Check(count, seed, name, functools.partial(run, processes=processes, cluster=cluster, progress=errors,
                                                           results_file=target.with_suffix(".jsonl")))
        outcomes = check.run("Suite", CASES, mutations)
        if with_long:
            survivors = [mutation for mutation in mutations if not outcomes[mutation.number].error and not outcomes[mutation.number].value["caught"]]
            outcomes |= check.run("Long cases", LONG, survivors)
        found = summary(mutations, outcomes)
        write_atomically(target, json.dumps(found, indent=1) + "\n")
    _report(found, target)


if __name__ == "__main__":
    main()
