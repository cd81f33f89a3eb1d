# SPDX-License-Identifier: BSD-2-Clause
"""A device that tells which lines of its source have taken effect.

A line takes effect when the conditions around it hold: those of ``m.If``, ``m.Elif``, ``m.Else``, ``m.Case``, ``m.State``. For each line with such a
branch, or with an assignment in one, there is a signal in each instance that is one while it takes effect: a simulator that counts how often
signals toggle then counts lines. Lines below no condition always take effect and are not counted.

    FlatTop --> fragments --> in each branch, and beside each assignment in one: reached_N = 1 --> RTLIL --> Verilog
"""

from pathlib import Path

import unvirt
from amaranth.hdl import Fragment, Signal
# Not public: the version of Amaranth is pinned, and this package is the only one that looks into what a Module has made.
from amaranth.hdl._ast import Assign, Switch
from unvirt.initial_values import clear_memories, drop_clearing
from unvirt.verilog import FlatTop, synthesizable, to_rtlil

__all__ = ["PREFIX", "watch", "watched_device"]

PREFIX = "reached_"
"""Signals that tell of a line are called so, with its number behind."""

HERE = Path(unvirt.__file__).parent


class _Watched(FlatTop):
    """The flat top with its lines watched; ``lines`` are filled when it is elaborated."""

    def __init__(self, config, lines):
        self._lines = lines
        super().__init__(config)

    def elaborate(self, platform):
        fragment = Fragment.get(super().elaborate(platform), platform)
        watch(fragment, HERE, self._lines)
        return fragment


def watched_device(config):
    """Return the Verilog of a device that tells of its lines, and these lines by their numbers: [(file, line)], files below the package."""
    lines = {}
    text = clear_memories(synthesizable(drop_clearing(to_rtlil(_Watched(config, lines), "unvirt")), top="unvirt"))
    return text, list(lines)


def watch(fragment, root, lines):
    """Add the signals to a fragment and those below it.

    Parameters
    ----------
    fragment : Fragment
    root : Path
        Lines of files below it are watched.
    lines : dict
        {(file, line): number}; new ones are added.
    """
    signals = {}

    def reached(place):
        file, line = place
        if not Path(file).is_relative_to(root):
            return []
        number = lines.setdefault((str(Path(file).relative_to(root)), line), len(lines))
        if number not in signals:
            # Kept, for nobody reads it.
            signals[number] = Signal(name=f"{PREFIX}{number}", attrs={"keep": 1})
        return [signals[number].eq(1)]

    def shadow(statements, branch=None):
        """Return what these statements do, reduced to which lines take effect."""
        out = reached(branch) if branch else []
        for statement in statements:
            if isinstance(statement, Switch):
                cases = [(patterns, shadow(inner, where), where) for patterns, inner, where in statement.cases]
                out.append(Switch(statement.test, cases, src_loc=statement.src_loc))
            elif branch and isinstance(statement, Assign):
                out += reached(statement.src_loc)
        return out

    for statements in list(fragment.statements.values()):
        fragment.add_statements("comb", shadow(statements))
    for inner, _, _ in fragment.subfragments:
        watch(inner, root, lines)
