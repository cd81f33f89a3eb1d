# SPDX-License-Identifier: BSD-2-Clause
"""Memories that say that nobody needs what is being written: a device that reads nonsense in that cycle works all the same."""

import os

import pytest
from amaranth import *

from settings import RINGS
from traffic import SHORT, Traffic, seeded

import unvirt.stream.fifo
import unvirt.virtio.queue.chains
import unvirt.virtio.queue.lanes
import unvirt.virtio.queue_configs
from unvirt.config import preset
from unvirt.stream.ram import SettledRead
from unvirt.verilog import generate
from unvirt_sim.build import build_library
from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.scenarios import SCENARIOS, SPLIT_ONLY
from unvirt_sim.driver.spec import Feature
from unvirt_sim.harness import Simulation
from unvirt_sim.harness_host import HarnessHost, run_driver
from unvirt_sim.link import LinkConfig

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
USERS = (unvirt.stream.fifo, unvirt.virtio.queue.chains, unvirt.virtio.queue.lanes, unvirt.virtio.queue_configs)


def read_nonsense(m, cells, *, enable=1):
    """Stands for ``read_settled``: what is being written reads as the complement of what was there."""
    port, (write,) = cells.read_port(domain="comb"), cells.write_ports
    shown = Signal(len(Value.cast(port.data)), reset_less=True)
    hit = write.en.any() & (write.addr == port.addr)
    with m.If(enable):
        m.d.sync += shown.eq(Value.cast(port.data) ^ hit.replicate(len(shown)))
    return SettledRead(port.addr, shown)


@pytest.fixture(scope="module", params=["default", "wide"])
def library(request):
    config = preset(request.param)
    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            patch.setattr(user, "read_settled", read_nonsense)
        text = generate(config)
    assert text != generate(config)
    return build_library(config, verilog=text)


@pytest.fixture
def device(library):
    """Return a maker of (simulation, host); at the end no checker may have complained."""
    made = []

    def make(link=None):
        print(f"seed {SEED}")
        made.append(Simulation(library, link=link or LinkConfig(), seed=SEED))
        made[-1].run(3000)
        return made[-1], HarnessHost(made[-1])

    yield make
    for simulation in made:
        assert simulation.violations == []


@pytest.mark.slow
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_scenarios(device, wanted):
    """Chains of every shape, interrupts of every kind, resets."""
    for name, scenario in SCENARIOS.items():
        if name not in SPLIT_ONLY or not wanted >> Feature.RING_PACKED & 1:
            run_driver(scenario(device()[1], SEED, wanted))


@pytest.mark.slow
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("link", [LinkConfig(latency=0, latency_spread=4), LinkConfig(tx_stall=0.3, rx_gap=0.3, cut="rcb")],
                         ids=["quick", "stalls"])
def test_random_frames_both_ways(device, link, wanted):
    """Frames arrive byte for byte and in order."""
    simulation, host = device(link)

    async def run():
        driver = await NetDriver.find(host, seed=SEED)
        await driver.start(queue_size=64, interrupts="poll", order="random", wanted=wanted)
        await Traffic(simulation, host, driver, rng=seeded(SEED), count=300, sizes=SHORT, receive=None, outstanding=64, pause=600).run()
    run_driver(run())
