# SPDX-License-Identifier: BSD-2-Clause
"""cocotb: the reference driver's scenarios on cocotbext-pcie's root complex."""

import os

import cocotb

from unvirt_sim.driver.scenarios import SCENARIOS
from unvirt_sim.hosts.root_complex import RootComplexHost

SEED = int(os.environ["UNVIRT_SEED"])


@cocotb.test()
@cocotb.parametrize(name=list(SCENARIOS))
async def scenario(dut, name):
    """One scenario after the root complex enumerated the bus; every second one with completions cut at each boundary."""
    split = bool((list(SCENARIOS).index(name) + SEED) % 2)
    host = await RootComplexHost.open(dut, int(os.environ["UNVIRT_WIDTH"]), split=split)
    try:
        await SCENARIOS[name](host, SEED)
        assert host.violations == [], host.violations
    finally:
        host.close()
