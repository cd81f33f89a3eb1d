# SPDX-License-Identifier: BSD-2-Clause
"""The command ``synth`` of the ``unvirt`` program."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from unvirt.config import preset as find_preset
from unvirt.verilog import write_atomically

from .flow import DEVICE, measure
from .picture import draw_hierarchy
from .tools import ToolFailed, ToolMissing

__all__ = ["rows_of", "synth"]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

_SHOWN_LUTS = 100          # modules below this are in the JSON file only
_PATHS = 3
_LARGE_REGISTERS = 64      # bits of a memory in registers from which it stands out


def rows_of(figures):
    """Return figures as the rows of ``synth.json``: the whole flattened core, called ``top``, then one row per instance."""
    def row(module, area, fmax):
        return {"module": module, "queues": figures.rows, "width": figures.width, "lut": area.lut, "ff": area.ff,
                "bram": area.bram, "fmax_mhz": fmax, "lut4": area.lut4, "carry": area.carry, "lutram": area.ram}

    top = row("top", figures.whole, None if figures.fmax is None else round(figures.fmax, 1))
    return [top | {"trellis_comb": figures.cells}] + [row(instance.path, instance.total, None)
                                                      for _, instance in figures.tree.walk()]


def _measure_all(configs, *, seed, place):
    """Measure each device in turn and show what is being done."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("{task.fields[doing]}")
    results = []
    with Progress(*columns, console=errors) as progress:
        for config in configs:
            tasks = {}

            def say(step, text, tasks=tasks, rows=config.rows):
                if step not in tasks:
                    tasks[step] = progress.add_task(f"{step}, {rows} rows", total=1, doing="")
                done = {"completed": 1, "doing": "done"} if text is None else {"doing": text}
                progress.update(tasks[step], **done)

            results.append(measure(config, seed=seed, place=place, say=say))
    return results


def _area_table(results, name):
    table = Table(title=f"{name}, {results[0].width} bits, {DEVICE}", title_justify="left")
    table.add_column("module")
    for figures in results:
        for title in ("LUT", "carry", "LUT RAM", "FF", "block RAM"):
            table.add_column(f"{title}\n{figures.rows} rows", justify="right")

    def add(label, areas, **options):
        cells = [f"{number:,}" for area in areas
                 for number in (area.lut, area.carry, area.ram, area.ff, area.bram)]
        table.add_row(label, *cells, **options)

    add("whole, flattened", [figures.whole for figures in results], end_section=True)
    trees = [{instance.path: instance.total for _, instance in figures.tree.walk()} for figures in results]
    for depth, instance in results[0].tree.walk():
        areas = [tree[instance.path] for tree in trees]
        if max(area.lut for area in areas) >= _SHOWN_LUTS:
            add("  " * depth + instance.name, areas)
    return table


def _memory_table(results):
    table = Table(title="Memories (bits by bits wide, and what each became)", title_justify="left")
    table.add_column("memory")
    for figures in results:
        for title in ("size", "kind"):
            table.add_column(f"{title}\n{figures.rows} rows", justify="right")
    found = [{memory.path: memory for memory in figures.memories} for figures in results]
    for path in dict.fromkeys(path for memories in found for path in memories):
        cells = []
        for memories in found:
            memory = memories.get(path)
            wrong = memory and memory.kind == "registers" and memory.bits >= _LARGE_REGISTERS
            cells += [f"{memory.depth} x {memory.width}", f"[red]{memory.kind}[/]" if wrong else memory.kind] if memory else ["", ""]
        table.add_row(path, *cells)
    return table


def _show_timing(figures):
    target = f"{figures.rows} rows: {figures.fmax:.1f} MHz after place and route, {figures.cells:,} TRELLIS_COMB with the wrapper"
    console.print(target, soft_wrap=True)
    for number, path in enumerate(figures.paths[:_PATHS], 1):
        console.print(f"  {number}. {path.delay:.2f} ns ({path.routing:.2f} routing, {path.levels} cells): {path.source} -> {path.target}",
                      soft_wrap=True, markup=False)
        for name in path.through:
            console.print(f"       {name}", soft_wrap=True, markup=False)


def _growth(results):
    first, last = results[0], results[-1]
    parts = [f"{label} {getattr(last.whole, label.lower()) / getattr(first.whole, label.lower()) - 1:+.1%}" for label in ("LUT", "FF")]
    return f"{first.rows} -> {last.rows} rows: {', '.join(parts)}"


def _parse_rows(context, parameter, value):
    if value is None:
        return [None]
    try:
        return [int(text) for text in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"must be numbers separated by commas, such as 2,512, not {value!r}") from error


@click.command()
@click.option("--preset", "name", default="default", show_default=True, metavar="NAME", help="Preset of the device.")
@click.option("--width", type=int, metavar="BITS", help="Data width, if another than the preset's.")
@click.option("--rows", callback=_parse_rows, metavar="N[,N...]",
              help="Virtqueue rows, if others than the preset's; several are shown side by side.")
@click.option("--no-pnr", is_flag=True, help="Synthesise only: no clock frequency.")
@click.option("--seed", default=1, show_default=True, help="Seed of the placer.")
@click.option("--json", "target", default="build/synth.json", show_default=True, metavar="FILE",
              help="Where the rows {module, queues, width, lut, ff, bram, fmax_mhz} go.")
def synth(name, width, rows, no_pnr, seed, target):
    """Area and clock of the device on an ECP5, by the open flow.

    The core, all ports registered, goes through yosys and nextpnr for LFE5UM5G-85F, speed 8. Shown are area by module, what each
    memory became, the clock and the slowest paths; a picture of area by hierarchy lies beside the JSON file.

    LUT counts a LUT4 as one, a carry cell (CCU2C) as two, a 16 x 4 distributed RAM as four. The first line is the core flattened, as
    it would be used; the others come from a run that keeps the hierarchy, which optimises less.
    """
    try:
        base = find_preset(name)
        if width is not None:
            base = base.with_options(data_width=width)
        configs = [base if count is None else base.with_options(rows=count) for count in rows]
        Path(target).parent.mkdir(parents=True, exist_ok=True)      # known before minutes of work, not after
        results = _measure_all(configs, seed=seed, place=not no_pnr)
    except (ValueError, TypeError, ToolMissing) as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        sys.exit(2)
    except OSError as error:
        errors.print(f"{target} cannot be written: {error.strerror}; name another place.", soft_wrap=True, markup=False)
        sys.exit(2)
    except ToolFailed as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        sys.exit(1)

    console.print(_area_table(results, name))
    console.print(_memory_table(results))
    for figures in results:
        if figures.fmax is not None:
            _show_timing(figures)
    if len(results) > 1:
        console.print(_growth(results))
    target = Path(target)
    write_atomically(target, json.dumps([row for figures in results for row in rows_of(figures)], indent=1) + "\n")
    for figures in results:
        picture = target.with_name(f"{target.stem}-{name}-{figures.width}-{figures.rows}rows.svg")
        draw_hierarchy(figures.tree, f"{name}, {figures.width} bits, {figures.rows} rows: logic cells by module", picture)
        console.print(f"Picture: {picture}", soft_wrap=True)
    console.print(f"Figures: {target}", soft_wrap=True)
