# SPDX-License-Identifier: BSD-2-Clause
"""cocotb: the reference driver's scenarios over the flat ports, the harness's host model at the other end."""

import os
from pathlib import Path

import cocotb

from unvirt_sim.driver.scenarios import SCENARIOS
from unvirt_sim.harness_host import HarnessHost, run_driver
from unvirt_sim.hosts.pins import PinSimulation, run_blocking

SEED = int(os.environ["UNVIRT_SEED"])
NAMES = os.environ["UNVIRT_SCENARIOS"].split()


def powered(dut):
    """Return the simulation just after power-on."""
    simulation = PinSimulation(dut, int(os.environ["UNVIRT_WIDTH"]), library=Path(os.environ["UNVIRT_PINS"]), seed=SEED)
    simulation.reset("power")
    return simulation


@cocotb.test()
@cocotb.parametrize(name=NAMES)
async def scenario(dut, name):
    """One scenario from power-on; no checker may have complained."""
    def drive():
        simulation = powered(dut)
        run_driver(SCENARIOS[name](HarnessHost(simulation), SEED))
        assert simulation.violations == [], simulation.violations
        cocotb.log.warning("%s took %d cycles", name, simulation.cycle)
    await run_blocking(drive)
