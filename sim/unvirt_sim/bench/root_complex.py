# SPDX-License-Identifier: BSD-2-Clause
"""The own host model beside cocotbext-pcie's root complex: the same device, driver and load on both."""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from ..hosts.runner import BenchFailed as CocotbFailed
from ..hosts.runner import run_bench
from .figures import cycles_per_packet, traffic
from .load import Load
from .session import BenchFailed, Session

__all__ = ["Comparison", "compare", "load_for"]


def load_for(*, way, frame):
    """Return a load that the device itself limits: as many received frames on their way as it never loses.

    It lasts for several times the 64 packets that the driver gives at once: over two of them the phase of a doorbell is worth a percent.
    """
    packets = 1600 if frame < 1500 else 400
    count = {"transmit": packets} if way == "tx" else {"receive": packets}
    return Load(frame=frame, ring=256, reach=16 if frame < 1500 else 8, **count)


@dataclass(frozen=True)
class Comparison:
    """What a packet costs on both hosts: cycles, and bytes up and down the link."""

    own: float
    root_complex: float
    own_bytes: dict
    root_complex_bytes: dict

    @property
    def difference(self):
        """Return how much the own model is off, in percent."""
        return 100 * (self.own / self.root_complex - 1)


def compare(library, config, load, *, seed=1, folder="build/bench"):
    """Return the :class:`Comparison` of one load; ``library`` and the Verilog built in ``folder`` are of the same ``config``.

    Raises
    ------
    BenchFailed
        If either did not work.
    """
    own = Session(library, width=config.data_width, seed=seed).run(load)
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        try:
            run_bench("verilator", "bench_closed_loop", config, path=Path(__file__).parent, seed=seed, folder=folder, log_folder=place,
                      UNVIRT_LOAD=json.dumps(asdict(load)), UNVIRT_RESULT=str(result))
        except CocotbFailed as error:
            raise BenchFailed(str(error)) from error
        other = json.loads(result.read_text())
    name = "tx" if load.transmit else "rx"
    return Comparison(cycles_per_packet(own, name), other["cycles"], traffic(own, name).bytes, other["bytes"])
