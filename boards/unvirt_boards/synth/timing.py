# SPDX-License-Identifier: BSD-2-Clause
"""Longest paths from register to register, out of the delays (SDF) that nextpnr wrote after routing.

nextpnr itself reports one path for each pair of clocks; to improve a design one wants several that differ.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TimingPath", "read_paths"]

_CLOCKS = {"CLK", "CLKA", "CLKB", "WCK", "CLKO", "CLKI"}
_CELL = re.compile(r"(?:_(?:LUT4|PFUMX|L6MUX21|CCU2C|TRELLIS_FF|TRELLIS_DPR16X4|DP16KD)(?:_|$)|\$).*")
_MAXIMUM = r"\(-?\d+:-?\d+:(-?\d+)\)"
_INSTANCE = re.compile(r"\(INSTANCE (\S*)\)")
_WIRE = re.compile(rf"\(INTERCONNECT (\S+)/(\w+) (\S+)/(\w+) {_MAXIMUM} {_MAXIMUM}\)")
_LOGIC = re.compile(rf"\(IOPATH (\w+) (\w+) {_MAXIMUM} {_MAXIMUM}\)")
_SETUP = re.compile(rf"\(SETUPHOLD \(posedge (\w+)\) \(\w+ \w+\) {_MAXIMUM} ")


@dataclass(frozen=True)
class TimingPath:
    """One path; delays in nanoseconds, setup time included."""

    source: str
    target: str
    delay: float
    routing: float
    levels: int                # cells passed between the registers
    through: tuple             # names of what is passed, repetitions removed


def _plain(cell, core):
    """Return the name that the source text knows: without escapes, cell kind and the wrapper's prefix."""
    name = _CELL.sub("", cell.replace("\\", ""))
    prefix = core.partition(".")[2] + "."
    return name.removeprefix(prefix)


def _read(path):
    """Return edges by source node, clocked starts with their delay, and setup times by node."""
    edges, starts, setups, cell = defaultdict(list), {}, {}, None
    for line in Path(path).read_text().splitlines():
        if match := _WIRE.search(line):
            if match[4] not in _CLOCKS:
                edges[match[1], match[2]].append(((match[3], match[4]), max(int(match[5]), int(match[6])), True))
        elif match := _LOGIC.search(line):
            delay = max(int(match[3]), int(match[4]))
            if match[1] in _CLOCKS:
                starts[cell, match[2]] = max(delay, starts.get((cell, match[2]), 0))
            else:
                edges[cell, match[1]].append(((cell, match[2]), delay, False))
        elif match := _SETUP.search(line):
            setups[cell, match[1]] = int(match[2])
        elif match := _INSTANCE.search(line):
            cell = match[1]
    return edges, starts, setups


def _arrivals(edges, starts):
    """Return the latest arrival at each node and the node it came from, in topological order from the clocked starts."""
    waits = defaultdict(int)
    reached, pending = set(starts), list(starts)
    while pending:
        for node, _, _ in edges[pending.pop()]:
            waits[node] += 1
            if node not in reached:
                reached.add(node)
                pending.append(node)
    arrival, origin = dict(starts), {}
    pending = [node for node in starts if not waits[node]]
    while pending:
        here = pending.pop()
        for node, delay, wire in edges[here]:
            if arrival[here] + delay > arrival.get(node, -1):
                arrival[node] = arrival[here] + delay
                origin[node] = here, delay, wire
            waits[node] -= 1
            if not waits[node]:
                pending.append(node)
    return arrival, origin


def read_paths(sdf, core, count=10):
    """Return the slowest paths between different registers, slowest first.

    Parameters
    ----------
    sdf : Path
    core : str
        Path of the measured instance in the netlist; its name is left out of the paths' names.
    count : int
        How many, each with a register pair of its own.
    """
    edges, starts, setups = _read(sdf)
    arrival, origin = _arrivals(edges, starts)
    ends = sorted(((arrival[node] + setup, node) for node, setup in setups.items() if node in arrival),
                  reverse=True)
    paths, seen = [], set()
    for delay, end in ends:
        node, routing, cells = end, 0, []
        while node in origin:
            node, part, wire = origin[node]
            routing += part if wire else 0
            if not cells or cells[-1] != node[0]:
                cells.append(node[0])
        source, target = _plain(node[0], core), _plain(end[0], core)
        if (source, target) in seen:
            continue
        seen.add((source, target))
        inner = [cell for cell in reversed(cells) if cell not in (node[0], end[0])]
        through = tuple(dict.fromkeys(_plain(cell, core) for cell in inner))
        paths.append(TimingPath(source, target, delay / 1000, routing / 1000, len(inner), through))
        if len(paths) == count:
            break
    return paths
