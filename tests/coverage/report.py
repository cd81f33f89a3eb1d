# SPDX-License-Identifier: BSD-2-Clause
"""What was covered, counted and written down."""

from collections import Counter, defaultdict
from itertools import groupby, product

from cross import ALIGNMENTS, CUTS, RINGS, SHAPES, cells
from lines import PREFIX

__all__ = ["Coverage", "text"]

ROLES = ("to read", "to write")


class Coverage:
    """Points reached by any case that was added.

    Parameters
    ----------
    points : list of (str, str)
        Instance and edge of a bit, in the order of the masks.
    lines : list of (str, int)
        File and line of each signal that tells of a line.
    """

    def __init__(self, points, lines):
        self._points, self._lines = points, lines
        self._mask = 0
        self.cells = Counter()

    def add(self, mask, counts):
        """Add the points in a mask of bits, and buffers: {cell: count}."""
        self._mask |= mask
        self.cells.update(counts)

    def _seen(self):
        """Yield (instance, edge, whether it was seen) of all points."""
        for number, (instance, edge) in enumerate(self._points):
            yield instance, edge, bool(self._mask >> number & 1)

    @property
    def missed_lines(self):
        """{file: its lines that never took effect}."""
        reached = {int(edge.partition(":")[0].removeprefix(PREFIX)) for _, edge, seen in self._seen() if seen and edge.startswith(PREFIX)}
        out = defaultdict(list)
        for number, (file, line) in enumerate(self._lines):
            if number not in reached:
                out[file].append(line)
        return {file: sorted(out[file]) for file in sorted(out)}

    @property
    def toggles(self):
        """{block: (edges seen, edges)}; a block is an instance of the device, those of the engine each for itself."""
        seen, total = Counter(), Counter()
        for instance, edge, there in self._seen():
            if not edge.startswith(PREFIX):
                parts = instance.split(".")[1:] or ["top"]
                block = ".".join(parts[:2] if parts[0] == "engine" else parts[:1])
                total[block] += 1
                seen[block] += there
        return {block: (seen[block], total[block]) for block in sorted(total)}

    def summary(self):
        """Return the three figures in a sentence without its full stop."""
        missed = sum(map(len, self.missed_lines.values()))
        seen, total = map(sum, zip(*self.toggles.values(), strict=True))
        crossed = sum(cell in self.cells for cell in cells())
        return (f"{len(self._lines) - missed} of {len(self._lines)} lines took effect ({_percent(len(self._lines) - missed, len(self._lines))}), "
                f"{seen} of {total} edges of bits were seen ({_percent(seen, total)}), "
                f"{crossed} of {len(cells())} cells of the cross had a buffer ({_percent(crossed, len(cells()))})")


def _percent(part, whole):
    return f"{100 * part / max(whole, 1):.1f} %"


def _ranges(numbers):
    """Return sorted numbers as text, neighbours joined."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def text(coverage, *, cases, with_long):
    """Return the report of so many cases as Markdown; ``with_long``: those that take long are among them."""
    which = "the long ones too" if with_long else "those that are quick"
    out = ["# Coverage", "",
           "Written by `tests/coverage/measure.py --write-docs`. The cases are those that mutants meet (`tests/mutants/suite.py`): the system tests "
           f"on one small device of 64 bits with four queue pairs; {cases} of them, {which}. {coverage.summary()}.", "",
           "## Lines", "",
           "Of the Amaranth source: a line takes effect when the conditions around it hold, in any instance. Lines below no condition are not "
           "counted.", ""]
    out += ["| file | lines that never took effect |", "|---|---|"]
    out += [f"| `{file}` | {_ranges(lines)} |" for file, lines in coverage.missed_lines.items()]
    out += ["", "## Toggles", "", "Of every bit of every named signal both edges count. Bits that are constant in this device count as missed.", "",
            "| block | edges | seen | |", "|---|---|---|---|"]
    out += [f"| {block} | {total} | {seen} | {_percent(seen, total)} |" for block, (seen, total) in coverage.toggles.items()]
    out += ["", "## What the driver gave to the device", "",
            f"Buffers, by ring, role and shape; in each cell how many of the {len(ALIGNMENTS) * len(CUTS)} pairs of alignment "
            f"({', '.join(ALIGNMENTS)}) and cut of completions ({', '.join(CUTS)}) had a buffer, and how many the rarest pair had. "
            "In a packed ring no chain ends in a table.", "",
            "| ring | " + " | ".join(f"{role}: {shape}" for role, shape in product(ROLES, SHAPES)) + " |",
            "|---" * (1 + len(ROLES) * len(SHAPES)) + "|"]
    for ring in RINGS:
        row = []
        for role, shape in product(ROLES, SHAPES):
            counts = [coverage.cells[cell] for cell in cells() if cell[:3] == (ring, role, shape)]
            row.append(f"{sum(map(bool, counts))}, {min(counts)}" if counts else "-")
        out.append(f"| {ring} | " + " | ".join(row) + " |")
    return "\n".join(out) + "\n"
