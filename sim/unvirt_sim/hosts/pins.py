# SPDX-License-Identifier: BSD-2-Clause
"""The C++ host model around a device that cocotb simulates: the same model as on the harness, another simulator.

:class:`PinSimulation` is a :class:`~unvirt_sim.harness.Simulation` whose clock is cocotb's: in each cycle the model says what the
inputs are, the simulator settles, and the model sees the outputs. The harness blocks, cocotb does not, so what uses it runs in a
bridge thread (:func:`run_blocking`) while the simulator waits.
"""

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

from cocotb.task import bridge, resume
from cocotb.triggers import Timer

from ..build import BuildError
from ..harness import Event, Simulation

__all__ = ["PinSimulation", "build_pins", "run_blocking"]

_SOURCES = Path(__file__).parents[1] / "cpp"
HALF_PERIOD = 4  # ns: 125 MHz

# The order and widths of cpp/pins.hpp; "data" and "keep" follow the data width.
_INPUTS = (("rx_tlp_header", "header"), ("rx_tlp_data", "data"), ("mac_rx_tdata", "data"), ("mac_rx_tkeep", "keep")) + tuple((name, 1) for name in (
    "rx_tlp_valid", "rx_tlp_first", "rx_tlp_last", "tx_tlp_ready", "fc_ph", "fc_pd", "fc_nph", "fc_npd", "fc_cplh",
    "fc_cpld", "fc_infinite")) + (("feature_mask", "mask"),) + tuple((name, 1) for name in (
        "rst", "link_up", "hot_reset", "mac_link_up", "mac_tx_tready", "mac_rx_tvalid", "mac_rx_tlast", "mac_rx_tuser"))
_OUTPUTS = (("tx_tlp_header", "header"), ("tx_tlp_data", "data"), ("mac_tx_tdata", "data"), ("mac_tx_tkeep", "keep")) + tuple((name, 1) for name in (
    "tx_tlp_valid", "tx_tlp_first", "tx_tlp_last", "rx_tlp_ready", "rx_nonposted_freed", "mac_tx_tvalid",
    "mac_tx_tlast", "mac_tx_tuser", "stat_rx_dropped", "stat_tx_dropped", "stat_unsupported"))


def _pins_type(width):
    kinds = {"header": ctypes.c_uint8 * 16, "data": ctypes.c_uint8 * (width // 8), "keep": ctypes.c_uint64, "mask": ctypes.c_uint32 * 3,
             1: ctypes.c_uint32}

    class Pins(ctypes.Structure):
        _fields_ = [(name, kinds[kind]) for name, kind in _INPUTS + _OUTPUTS]
    return Pins


def build_pins(width, folder="build/pins"):
    """Compile the host model for a data width and return the library's path; kept by content."""
    digest = hashlib.sha256(str(width).encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.read_bytes())
    library = Path(folder).resolve() / f"libpins-{digest.hexdigest()[:20]}.so"
    if library.exists():
        return library
    if shutil.which("g++") is None:
        raise BuildError("g++ is needed to build the host model and was not found; install it (Debian: apt-get install g++)")
    library.parent.mkdir(parents=True, exist_ok=True)
    aside = library.with_suffix(".tmp.so")
    result = subprocess.run(["g++", "-std=c++20", "-O2", "-fPIC", "-shared", "-DUNVIRT_PINS", f"-DUNVIRT_WIDTH={width}",
                             f"-I{_SOURCES}", str(_SOURCES / "harness.cpp"), "-o", str(aside)], capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"Compiling the host model failed:\n{result.stderr[-2000:]}")
    aside.rename(library)
    return library


def run_blocking(function, *arguments):
    """Await a function that uses a :class:`PinSimulation`."""
    return bridge(function)(*arguments)


class PinSimulation(Simulation):
    """The host model and the far end of the Ethernet port around the flat ports of ``dut``.

    Parameters
    ----------
    dut : cocotb handle of the top module
    width : int
        Data width of its ports in bits.
    library : Path, optional
        From :func:`build_pins`.
    options
        Those of :class:`Simulation`.
    """

    _CLOCKING = {
        "unvirt_pins": (ctypes.c_void_p, [ctypes.c_void_p]),
        "unvirt_begin": (None, [ctypes.c_void_p]),
        "unvirt_end": (None, [ctypes.c_void_p]),
        "unvirt_events": (ctypes.c_uint32, [ctypes.c_void_p]),
    }

    def __init__(self, dut, width, *, library=None, **options):
        super().__init__(library or build_pins(width), **options)
        self._clk = dut.clk
        self._pins = _pins_type(width).from_address(self._library.unvirt_pins(self._sim))
        self._inputs = [(name, getattr(dut, name)) for name, kind in _INPUTS if kind == 1]
        self._wide_inputs = [("rx_tlp_valid", [("rx_tlp_header", dut.rx_tlp_header), ("rx_tlp_data", dut.rx_tlp_data)]),
                             ("mac_rx_tvalid", [("mac_rx_tdata", dut.mac_rx_tdata), ("mac_rx_tkeep", dut.mac_rx_tkeep)]),
                             ("rst", [("feature_mask", dut.feature_mask)])]
        self._outputs = {name: getattr(dut, name) for name, _ in _OUTPUTS}
        self._shown = {}

    def run(self, cycles, until=Event(0)):
        return resume(self._run)(cycles, until)

    async def _run(self, cycles, until):
        seen = self._library.unvirt_events(self._sim)
        while cycles > 0 and not seen & until:
            cycles -= 1
            self._library.unvirt_begin(self._sim)
            self._clk.value = 0
            self._put()
            await Timer(HALF_PERIOD, "ns")
            if not self._pins.rst:     # before and in reset the outputs mean nothing
                self._take()
            self._library.unvirt_end(self._sim)
            self._clk.value = 1
            await Timer(HALF_PERIOD, "ns")
            seen |= self._library.unvirt_events(self._sim)
        return Event(seen)

    def _put(self):
        """Put inputs to the device that changed."""
        pins, shown = self._pins, self._shown
        for name, handle in self._inputs:
            value = getattr(pins, name)
            if shown.get(name) != value:
                handle.value = shown[name] = value
        for valid, wide in self._wide_inputs:
            if getattr(pins, valid):
                for name, handle in wide:
                    value = getattr(pins, name)
                    handle.value = value if isinstance(value, int) else int.from_bytes(bytes(value), "little")

    def _take(self):
        """Take the outputs of the device; an unknown value where it matters raises ValueError."""
        pins, outputs = self._pins, self._outputs
        for name in ("tx_tlp_valid", "rx_tlp_ready", "rx_nonposted_freed", "mac_tx_tvalid", "stat_rx_dropped", "stat_tx_dropped",
                     "stat_unsupported"):
            setattr(pins, name, int(outputs[name].value))
        if pins.tx_tlp_valid:
            for name in ("tx_tlp_first", "tx_tlp_last"):
                setattr(pins, name, int(outputs[name].value))
            self._take_data("tx_tlp_header")
            self._take_data("tx_tlp_data")
        if pins.mac_tx_tvalid:
            for name in ("mac_tx_tkeep", "mac_tx_tlast", "mac_tx_tuser"):
                setattr(pins, name, int(outputs[name].value))
            self._take_data("mac_tx_tdata")

    def _take_data(self, name):
        field = getattr(self._pins, name)
        field[:] = int(self._outputs[name].value).to_bytes(len(field), "little")
