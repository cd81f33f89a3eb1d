# SPDX-License-Identifier: BSD-2-Clause
"""The tests can fail: deliberate breaks of the RTL, kept as patches, each makes the tests it names fail.

A patch begins with ``What:`` (the defect, in one sentence) and one or more ``Fails:`` (a test that must notice it).
"""

import functools
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATCHES = sorted(HERE.glob("*.patch"))
COMPLAINTS = ("AssertionError", "CheckFailed", "CompletionFailed", "DriverTimeout", "DID NOT RAISE")
"""What a test says that noticed something; anything else is a break that did not even run."""

LIMIT = 1500
"""Seconds for one run; compiling the simulation takes a minute or two of them."""


def header(patch, key):
    """Return the values of ``key`` above the first file of a patch."""
    lines = patch.read_text(encoding="utf-8").partition("\n---")[0].splitlines()
    return [line.removeprefix(f"{key}: ") for line in lines if line.startswith(f"{key}: ")]


def run(root, test, result):
    """Run a test in a tree; return (exit status, complaints, other failures, output)."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(str(root / name) for name in ("hdl", "sim", "boards"))
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--junitxml={result}", test],
                          cwd=root, env=environment, capture_output=True, text=True, timeout=LIMIT)
    noticed, others = [], []
    for entry in ElementTree.parse(result).iter() if result.exists() else ():
        if entry.tag in ("failure", "error"):
            message = f"{entry.get('message')} {entry.text}"
            kind = noticed if any(word in message for word in COMPLAINTS) and "ImportError" not in message else others
            kind.append(entry.get("message"))
    return done.returncode, noticed, others, done.stdout[-3000:] + done.stderr[-1000:]


@functools.cache
def unbroken(test, result):
    """Run a test in this tree; return its exit status and output."""
    status, _, _, output = run(ROOT, test, result)
    return status, output


def test_there_are_enough():
    """Ten breaks at least, each with what it is and what notices it."""
    assert len(PATCHES) >= 10
    for patch in PATCHES:
        assert len(header(patch, "What")) == 1 and header(patch, "Fails"), patch.name


def apply(patch, tree, *options):
    """Apply a patch to a tree that is no repository, or pretend to; return what git said against it."""
    done = subprocess.run(["git", "apply", "-C1", *options, str(patch)], cwd=tree, capture_output=True, text=True,
                          env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)})
    return done.stderr if done.returncode else ""


def test_every_break_applies():
    """A patch that the RTL has outgrown proves nothing."""
    complaints = [said for patch in PATCHES if (said := apply(patch, ROOT, "--check"))]
    assert not complaints, "Make these breaks anew:\n" + "".join(complaints)


@pytest.mark.slow
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_break_is_noticed(patch, tmp_path):
    """The tests a patch names pass without it and fail with it, by a complaint of theirs."""
    for test in header(patch, "Fails"):
        status, output = unbroken(test, Path(tmp_path) / "unbroken.xml")
        assert status == 0, f"{test} does not pass without the break:\n{output}"
    tree = tmp_path / "tree"
    for name in ("hdl", "sim", "boards", "tests"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "build"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, tree / name)
    said = apply(patch, tree)
    assert not said, f"{patch.name} no longer applies; make it anew:\n{said}"
    for test in header(patch, "Fails"):
        status, noticed, others, output = run(tree, test, tmp_path / "broken.xml")
        print(f"{patch.stem}: {test}: {noticed}")
        assert status != 0, f"{test} does not notice: {header(patch, 'What')[0]}"
        assert noticed and not others, f"{test} failed, but not by a complaint of its own:\n{others}\n{output}"
