# SPDX-License-Identifier: BSD-2-Clause
"""The status of every requirement, and the table of it."""

from collections import Counter
from dataclasses import dataclass

__all__ = ["NOT_OFFERED_ID", "NOT_TRANSITIONAL_ID", "STATUSES", "Row", "judge", "document", "by_area"]

NOT_OFFERED_ID = "CORE-FEAT-04"
"""Tests of this row compare the offered features with the exact set that :func:`~.catalogue.offered_features` gives; they cover
every row of a feature outside of it."""

NOT_TRANSITIONAL_ID = "LEG-FEAT-02"
"""Tests of this row show that there is no legacy interface; they cover the other rows of its area."""

STATUSES = ("met", "named", "not offered", "open")
"""``named``: a test claims it, but there is no passing result."""


@dataclass(frozen=True)
class Row:
    """A requirement with what is known of it."""

    requirement: object
    status: str
    tests: tuple


def judge(catalogue, covered, offered, passing):
    """Return a :class:`Row` for every requirement; ``passing`` is the set of tests that passed, None without results."""
    rows = []
    for requirement in catalogue.values():
        applies = requirement.applies(offered)
        witness = NOT_TRANSITIONAL_ID if requirement.area == "legacy" else NOT_OFFERED_ID
        tests = covered.get(requirement.id if applies else witness, ())
        good = tuple(test for test in tests if passing is not None and test in passing)
        if good:
            status = "met" if applies else "not offered"
        else:
            status = "named" if tests else "open"
        rows.append(Row(requirement, status, good or tuple(tests)))
    return rows


def by_area(rows):
    """Return {area: Counter of statuses}, with ``open MUST`` counted once more."""
    areas = {}
    for row in rows:
        counter = areas.setdefault(row.requirement.area, Counter())
        counter[row.status] += 1
        if row.status in ("open", "named") and row.requirement.level.startswith("MUST"):
            counter["open MUST"] += 1
    return areas


def document(rows):
    """Return the matrix as a page of documentation."""
    lines = [
        "# Conformance", "",
        "Made by `unvirt conformance --docs` from the docstrings of the tests and the results of the last test run; not edited by hand.",
        "The requirements are those of VIRTIO 1.4 (committee specification 01) that concern a network device on PCI",
        "([requirements.csv](../sim/unvirt_sim/conformance/requirements.csv)).", "",
        "*met*: a passing test checks it. *not offered*: it belongs to a feature (or the legacy interface) that a passing test shows",
        "not to be offered. *named*: a test claims it without a passing result. *open*: no test checks it; a MAY row is open unless",
        "the device uses the permission.",
        "", "| area | met | not offered | named | open | open or named, MUST |", "|---|---|---|---|---|---|",
    ]
    areas = by_area(rows)
    total = sum(areas.values(), Counter())
    for area, counter in [*areas.items(), ("total", total)]:
        lines.append(f"| {area} | {counter['met']} | {counter['not offered']} | {counter['named']} | {counter['open']} "
                     f"| {counter['open MUST']} |")
    lines += ["", "## Open", "", "| id | level | side | requirement |", "|---|---|---|---|"]
    for row in rows:
        if row.status in ("open", "named"):
            needed = row.requirement
            text = needed.requirement.replace("|", "\\|")
            lines.append(f"| {needed.id} | {needed.level} | {needed.side} | {text} |")
    lines += ["", "## Met", "", "| id | tests |", "|---|---|"]
    for row in rows:
        if row.status == "met":
            lines.append(f"| {row.requirement.id} | {', '.join(f'`{test}`' for test in row.tests)} |")
    return "\n".join(lines) + "\n"
