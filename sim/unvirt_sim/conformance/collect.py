# SPDX-License-Identifier: BSD-2-Clause
"""What the tests say they cover, and how they ended."""

import ast
import json
from collections import defaultdict
from pathlib import Path

__all__ = ["ConformanceError", "covers", "passed"]


class ConformanceError(Exception):
    """Something is wrong with what was given; the message is one sentence."""


def _ids(docstring):
    """Return the ids of a docstring: everything from ``Covers:`` to the end of its paragraph."""
    _, found, rest = docstring.partition("Covers:")
    if not found:
        return []
    paragraph = rest.split("\n\n")[0]
    return [word.strip(".") for word in paragraph.replace(",", " ").split()]


def _tests(tree, prefix=""):
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield from _tests(node, f"{prefix}{node.name}::")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            yield f"{prefix}{node.name}", ast.get_docstring(node) or ""


def covers(folder, catalogue):
    """Return {id: [tests]} from the docstrings of the tests below ``folder``; nothing is imported or run.

    Raises
    ------
    ConformanceError
        If a test names an id that is not in the catalogue.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConformanceError(f"There is no folder of tests {folder}; give it with --tests.")
    found = defaultdict(list)
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise ConformanceError(f"{path} cannot be read as Python (line {error.lineno}); correct it.") from error
        for name, docstring in _tests(tree):
            for number in _ids(docstring):
                if number not in catalogue:
                    raise ConformanceError(f"{path}::{name} covers {number!r}, which is not in the catalogue; "
                                           f"ids are those of requirements.csv, separated by commas, last in their paragraph.")
                found[number].append(f"{folder.name}/{path.relative_to(folder).as_posix()}::{name}")
    return dict(found)


def passed(path):
    """Return the tests that passed, from the results the test run left: at least one variant did, and none failed.

    Raises
    ------
    ConformanceError
        If the file is not such a file.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))["tests"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConformanceError(f"{path} is not a file of test results; run the tests to make it.") from error
    outcomes = defaultdict(set)
    for name, outcome in results.items():
        outcomes[name.partition("[")[0]].add(outcome)
    return {name for name, seen in outcomes.items() if "passed" in seen and "failed" not in seen}
