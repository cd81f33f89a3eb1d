# SPDX-License-Identifier: BSD-2-Clause
"""Builds the generated Verilog in a simulator and runs cocotb test modules on it."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

from cocotb_tools.check_results import get_results
from cocotb_tools.runner import get_runner

from unvirt.verilog import generate, port_manifest

from ..build import BuildError, verilator_environment
from ..cache import cache_folder, locked
from .pins import build_pins

__all__ = ["SIMULATORS", "BenchFailed", "run_bench"]

SIMULATORS = ("verilator", "icarus")
_TOOLS = {"verilator": {"g++": "g++", "make": "make", "perl": "perl"}, "icarus": {"iverilog": "iverilog", "vvp": "iverilog"}}
_ARGUMENTS = {
    "verilator": ["--no-public-flat-rw", "-O3", "--x-assign", "unique", "--x-initial", "unique", "--noassert", "-Wno-fatal", "-Wno-lint",
                  "-Wno-style", "-Wno-WIDTH", "-Werror-ALWNEVER", "-CFLAGS", "-O1"],
    "icarus": [],
}


class BenchFailed(Exception):
    """Tests of a bench failed, or none ran."""


def _ports_public(config, folder):
    """Write the control file that keeps the ports, and nothing else, visible; everything visible is everything unoptimised."""
    names = [port["name"] for port in port_manifest(config)]
    path = folder / "ports.vlt"
    path.write_text("`verilator_config\n" + "".join(f'public_flat_rw -module "unvirt" -var "{name}"\n' for name in names))
    return path


def _build(simulator, config, folder, verilog):
    """Build the simulation of a device, or find it; return its folder."""
    for tool, package in _TOOLS[simulator].items():
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is needed to simulate with {simulator} and was not found; install it "
                             f"(Debian: apt-get install {package})")
    text = verilog if verilog is not None else generate(config, cache=cache_folder() / "rtl")
    digest = hashlib.sha256(text.encode() + repr(_ARGUMENTS).encode()).hexdigest()[:20]
    place = Path(folder).resolve() / f"{simulator}-{config.data_width}-{digest}"
    if (place / "built").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    with locked(place):
        if not (place / "built").exists():
            source = place / "unvirt.v"
            source.write_text(text)
            sources = [source]
            if simulator == "verilator":
                sources.append(_ports_public(config, place))
            get_runner(simulator).build(sources=sources, hdl_toplevel="unvirt", build_args=_ARGUMENTS[simulator], build_dir=place,
                                        timescale=("1ns", "1ps"), log_file=place / "build.log")
            (place / "built").touch()
    return place


def run_bench(simulator, module, config, *, path, seed, folder="build/bench", log_folder=None, verilog=None, **environment):
    """Run every cocotb test of a module on a device; raise unless at least one ran and all passed.

    Parameters
    ----------
    simulator : str
        One of :data:`SIMULATORS`.
    module : str
        Test module, importable from the folder ``path``.
    config : DeviceConfig
    seed : int
        The tests find it in UNVIRT_SEED.
    folder : Path
        Where simulations are kept.
    log_folder : Path, optional
        Where log and results go, for those that run at the same time as others; by default beside the simulation.
    verilog : str, optional
        Text of a top module ``unvirt`` to simulate instead of the generated one.
    environment
        Further variables for the tests.

    Returns
    -------
    int
        How many tests ran.
    """
    if simulator not in SIMULATORS:
        raise ValueError(f"Simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    variables = {"UNVIRT_WIDTH": str(config.data_width), "UNVIRT_SEED": str(seed), "UNVIRT_PINS": str(build_pins(config.data_width)),
                 "COCOTB_LOG_LEVEL": "WARNING", **environment}
    search = [str(Path(path).resolve()), *sys.path]      # becomes that of the simulation
    with mock.patch.dict(os.environ, verilator_environment()), mock.patch.object(sys, "path", search):
        place = _build(simulator, config, folder, verilog)
        results_folder = Path(log_folder or place)
        log = results_folder / f"{module}.log"
        results = get_runner(simulator).test(
            test_module=module, hdl_toplevel="unvirt", hdl_toplevel_lang="verilog", build_dir=place, test_dir=place,
            seed=seed, extra_env=variables, results_xml=str(results_folder / f"{module}.xml"), log_file=log)
    ran, failed = get_results(results) if Path(results).exists() else (0, 0)
    if not ran or failed:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-60:])
        raise BenchFailed(f"{failed} of {ran} tests of {module} failed on {simulator} (seed {seed}); the log is {log}:\n{tail}")
    return ran
