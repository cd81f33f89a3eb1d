# SPDX-License-Identifier: BSD-2-Clause
"""Order and credits at the link, seen by a driver that looks as early as it can."""

import pytest

from settings import BY_FLAGS
from tlps import MEMORY, parse_completion, request
from traffic import SHORT, Traffic, seeded

from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.spec import CfgType, Isr
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import run_driver as go

SCARCE = {
    "one header": LinkConfig(credits=(1, 8, 1, 1, 1, 2)),
    "many headers, little data": LinkConfig(credits=(16, 9, 8, 8, 8, 8)),
    "none for long": LinkConfig(credits=(2, 16, 1, 1, 2, 8), tx_stall=0.7, latency=100),
}


@pytest.mark.parametrize("name", SCARCE)
def test_few_credits(small, name):
    """Traffic goes on with the fewest credits a link partner may give, and never exceeds them. Covers: PCI-BUS-01"""
    simulation, host = small(link=SCARCE[name])
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=64, interrupts="poll"))
    go(Traffic(simulation, host, driver, rng=seeded(3), count=60, sizes=SHORT, outstanding=24, window=12).run())


def test_nothing_passes_the_writes_before_it(small):
    """The ISR that shows a queue interrupt is completed only after the used index went out, though posted writes stand still meanwhile.

    Covers: DER-ORD-01, DER-ORD-02, PCI-ISR-03
    """
    rng = seeded(1)
    simulation, host = small(link=LinkConfig(credits=(1, 8, 32, 32, 64, 1024), latency=5, posted_spread=0))
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=16, interrupts="intx", wanted=BY_FLAGS))
    held = early = 0
    for number in range(60):
        go(driver.transmit(bytes([number]) * 60))
        simulation.run(rng.randrange(400))
        simulation.block_credits(0)
        simulation.run(rng.randrange(800))
        simulation.inject(request(MEMORY, driver.device._base[CfgType.ISR], first=1), nonposted=True)
        simulation.run(1500)
        answers = simulation.take_completions()
        held += not answers
        for answer in answers:
            if parse_completion(answer)[3][0] & Isr.QUEUE:
                early += 1
                assert go(driver.tx.pending()), "the ISR was read before the used index was written"
        simulation.block_credits(0, False)
        simulation.run(3000)
        assert go(driver.reap()) == 1
        go(driver.device.isr())            # what this frame has left behind
        assert len(answers) + len(simulation.take_completions()) == 1
    print(f"{held} reads waited for a write, {early} told of one that was out")
    assert held > 10 and early > 10
