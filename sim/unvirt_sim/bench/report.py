# SPDX-License-Identifier: BSD-2-Clause
"""The table on the screen, as JSON and as Markdown."""

import json
import os

from rich.box import SIMPLE_HEAD
from rich.table import Table

__all__ = ["markdown", "table", "write_json"]


def _number(value):
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _cells(row):
    """Return the cells of a row as text, the verdict last."""
    sign = "≥ " if row.at_least else "≤ "
    ratio = "-" if not row.limit else f"{row.value / row.limit:.2f}"
    return [row.quantity, str(row.width), row.ring, str(row.queues), "-" if row.frame_size is None else str(row.frame_size),
            str(row.host_latency_cycles), _number(row.batch), f"{_number(row.value)} {row.unit}", _number(row.peer),
            _number(row.limit), ratio, "-" if row.target is None else sign + _number(row.target),
            {True: "met", False: "MISSED", None: ""}[row.met]]


_HEAD = ("quantity", "bits", "ring", "pairs", "frame", "latency", "batch", "unvirt", "peer", "limit", "of limit", "target", "")


def table(rows):
    """Return the rows as a table for the screen."""
    out = Table(title="unvirt, one descriptor a packet, closed loop, driver polls; cycles of 250 MHz",
                box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(_HEAD):
        out.add_column(name, justify="left" if name in ("quantity", "ring", "") else "right", no_wrap=number != 0)
    for row in rows:
        style = {True: "green", False: "bold red", None: ""}[row.met]
        *cells, verdict = _cells(row)
        out.add_row(*cells, f"[{style}]{verdict}[/]" if style else verdict)
    return out


def markdown(rows):
    """Return the rows as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
    for row in rows:
        *cells, verdict = _cells(row)
        lines.append("| " + " | ".join([*cells, f"**{verdict}**" if verdict == "MISSED" else verdict]) + " |")
    return "\n".join(lines)


def write_json(rows, path):
    """Write the rows to a file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    os.replace(part, path)
