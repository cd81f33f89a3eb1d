# SPDX-License-Identifier: BSD-2-Clause
"""The command ``conformance`` of the ``unvirt`` program."""

import json
import sys
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from .catalogue import load, offered_features
from .collect import ConformanceError, covers, passed
from .matrix import by_area, document, judge

__all__ = ["conformance"]

RESULTS = "build/test-results.json"
DOCUMENT = "docs/conformance.md"


def _write(path, text):
    """Write a file whole or not at all."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ConformanceError(f"There is no folder {path.parent} to write {path.name} to; make it first.")
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _show(rows, has_results):
    table = Table(title="Requirements of VIRTIO 1.4", title_justify="left")
    columns = ("met", "not offered", "named", "open", "open MUST")
    table.add_column("area")
    for column in columns:
        table.add_column(column, justify="right")
    areas = by_area(rows)
    for area, counter in areas.items():
        table.add_row(area, *(str(counter[column]) for column in columns))
    table.add_section()
    total = sum(areas.values(), Counter())
    table.add_row("total", *(str(total[column]) for column in columns))
    console = Console()
    console.print(table)
    if not has_results:
        console.print("There are no test results, so nothing counts as met; run the tests first (make test).")


@click.command()
@click.option("--tests", default="tests", show_default=True, metavar="DIR", help="Folder of the tests.")
@click.option("--results", default=RESULTS, show_default=True, metavar="FILE", help="What the last test run left.")
@click.option("--json", "json_file", metavar="FILE", help="Write the rows {id, status, tests} as JSON.")
@click.option("--docs", is_flag=True, help=f"Write {DOCUMENT}.")
def conformance(tests, results, json_file, docs):
    """Show which requirements of the VIRTIO specification are met.

    A requirement is met when a test that names it in its docstring (Covers: ID, ID) passed in the last run. Rows of features the
    device does not offer are covered by the test that they are not offered.
    """
    try:
        catalogue = load()
        has_results = Path(results).is_file()
        rows = judge(catalogue, covers(tests, catalogue), offered_features(), passed(results) if has_results else None)
        _show(rows, has_results)
        if json_file:
            _write(json_file, json.dumps([{"id": row.requirement.id, "status": row.status, "tests": list(row.tests)}
                                          for row in rows], indent=1) + "\n")
        if docs:
            _write(DOCUMENT, document(rows))
    except ConformanceError as error:
        Console(stderr=True).print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
