# SPDX-License-Identifier: BSD-2-Clause
"""Order and credits at the link, seen by a driver that looks as early as it can."""

import pytest

from traffic import SHORT, Traffic, seeded

from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.spec import Isr
from unvirt_sim.harness import LinkConfig
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
    """An ISR that shows a queue interrupt is read only after the used index is in memory, however the writes are held up.

    Covers: DER-ORD-01, DER-ORD-02, PCI-ISR-03
    """
    simulation, host = small(link=LinkConfig(credits=(1, 8, 32, 32, 64, 1024), posted_spread=100))
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=16, interrupts="intx"))
    for number in range(60):
        go(driver.transmit(bytes([number]) * 60))
        for _ in range(2000):
            if go(driver.device.isr()) & Isr.QUEUE:
                break
        else:
            raise AssertionError("no interrupt came")
        assert go(driver.tx.pending()), "the ISR was read before the used index was written"
        assert go(driver.reap()) == 1
