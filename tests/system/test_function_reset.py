# SPDX-License-Identifier: BSD-2-Clause
"""Function-Level Reset of the whole device: it ends by itself, also with work and interrupts on their way, and leaves a new function."""

import os

import pytest
from traffic import both_ways, seeded

from unvirt_sim.driver.net import NetDriver
from unvirt_sim.harness import LinkConfig
from unvirt_sim.harness_host import run_driver

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@pytest.mark.parametrize("interrupts", ["poll", "msix", "intx"])
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_function_level_reset(device, preset, interrupts):
    """Traffic, FLR with buffers posted and frames arriving, and traffic again, three times.

    The wait for the end is the driver's 1,000 cycles. A table whose clearing held the reset up kept the function in reset for ever.
    """
    simulation, host = device(preset, link=LinkConfig(), seed=SEED)
    rng = seeded(SEED)

    async def run():
        driver = await NetDriver.find(host, seed=SEED)
        for _ in range(3):
            await driver.start(queue_size=64, interrupts=interrupts)
            await both_ways(simulation, host, driver, rng=rng, count=20, receive=[1530], outstanding=32, sizes=(60, 243, 1514))
            for _ in range(5):
                await host.send_frame(bytes(200))
            simulation.run(rng.randrange(300))
            assert await driver.device.function.flr()
            simulation.take_frames()

    run_driver(run())
