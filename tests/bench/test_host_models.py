# SPDX-License-Identifier: BSD-2-Clause
"""The own host model against cocotbext-pcie's root complex: the same cycles for the same device, driver and load."""

import os

from unvirt.config import preset
from unvirt_sim.bench.root_complex import compare, load_for
from unvirt_sim.build import build_library

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


def test_cycles_per_packet():
    """64-byte frames at 64 bits cost the same within 2 %; ``unvirt bench --root-complex`` compares eight points."""
    print(f"seed {SEED}")
    config = preset("default")
    for way in ("tx", "rx"):
        found = compare(build_library(config), config, load_for(way=way, frame=64), seed=SEED)
        print(f"{way}: own {found.own:.2f}, root complex {found.root_complex:.2f} cycles a packet: {found.difference:+.2f} %")
        assert abs(found.difference) <= 2
