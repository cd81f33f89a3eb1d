# SPDX-License-Identifier: BSD-2-Clause
"""``unvirt bench``: limit and measurement side by side."""

import functools
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from unvirt.config import preset

from ..build import BuildError, build_library
from .grid import WIDTHS, Bench
from .link import LINKS
from .peer import PUBLISHED, ratio_to_limit
from .plots import latency_plot, throughput_plot
from .report import markdown, table, write_json
from .session import BenchFailed

__all__ = ["bench"]


class _Library:
    """The simulation library of a preset, built once."""

    def __init__(self, say):
        self._say = say
        self._made = functools.cache(self._make)

    def config(self, name, **options):
        return preset(name).with_options(**options)

    def _make(self, name, options):
        return build_library(self.config(name, **dict(options)), say=self._say)

    def __call__(self, name, **options):
        return self._made(name, tuple(sorted(options.items())))


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
def bench(widths, quick, seed, json_path, plot_folder, write_docs):
    """Measure the simulated device and compare with the best open peer, the physical limit and the targets.

    Everything is deterministic. The limit comes from the same link model and the batches that the device was seen to make. A
    target that is not reached stands in the table as MISSED; the exit status is 0 all the same. The figures are cycles of a 250 MHz
    clock, not a claim about timing closure.
    """
    for folder in [json_path.parent, plot_folder, *([write_docs.parent] if write_docs else [])]:
        _make_folder(folder)
    console = Console(stderr=True)
    measured = Bench(_Library(console.print), widths=[int(width) for width in widths] or list(WIDTHS),
                     quick=quick, seed=seed)
    points = measured.points()
    try:
        with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                      console=console, transient=True) as progress:
            task = progress.add_task("", total=len(points))
            for name, measure in points:
                progress.update(task, description=name)
                try:
                    measure()
                except BenchFailed as error:
                    raise click.UsageError(f"Measuring {name} failed: {error}.") from error
                progress.advance(task)
        write_json(measured.rows, json_path)
        pictures = _pictures(measured)
        for folder in [plot_folder, *([write_docs.parent] if write_docs else [])]:
            for name, text in pictures.items():
                (folder / name).write_text(text)
        if write_docs:
            write_docs.write_text(_page(measured, pictures))
    except BuildError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        raise click.UsageError(f"The results could not be written: {error}.") from error
    screen = Console()
    screen.width = max(screen.width, 118)
    screen.print(table(measured.rows))
    missed = sum(row.met is False for row in measured.rows)
    met = sum(row.met is True for row in measured.rows)
    worst = max(map(ratio_to_limit, PUBLISHED))
    click.echo(f"{met} targets met, {missed} missed. By the same ruler the peer reaches {100 * worst:.1f} % of its limit at "
               f"most. Figures: {json_path}; pictures: {plot_folder}.")


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"Results cannot be written to {folder}: {error.strerror}; name another place.") from error


def _pictures(measured):
    """Return the text of each picture by file name."""
    out = {}
    for width in measured.widths:
        text = throughput_plot(measured.rows, width)
        if text:
            out[f"throughput-{width}.svg"] = text
    if measured.stages:
        out["latency.svg"] = latency_plot(measured.stages)
    return out


def _page(measured, pictures):
    """Return the page of the documentation."""
    shown = "\n".join(f"![{name.removesuffix('.svg')}]({name})\n" for name in pictures)
    links = ", ".join(f"{LINKS[width].name} at {width} bits" for width in measured.widths)
    return f"""# Performance

Written by `unvirt bench --write-docs docs/performance.md`; do not edit. Cycles of a 250 MHz clock in a cycle-accurate simulation,
no claim about timing closure.

Closed loop: a split ring of 1024, one descriptor a packet (12 bytes of virtio header and the frame), buffers aligned to 64 bytes
below 4 GiB, the driver polls, at least 32 buffers in the device. Links: {links}. Completions are cut at 256 bytes and come in
order. RX figures are the highest rate at which no frame is lost. *Latency* is what the host adds to each read, in cycles. *Batch* is
the number of packets from one used index to the next. *Limit* is what the link and the ports need for the same packets at the same
batches (`sim/unvirt_sim/bench/limits.py`). *Peer* is Corundum on a host model with the same link. "both each" counts a packet
each way.

{markdown(measured.rows)}

{shown}"""
