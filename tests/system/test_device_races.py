# SPDX-License-Identifier: BSD-2-Clause
"""Buffers that become available while the device looks: at every moment of it, and though parts of what it sees are older than others."""

import os
import random

import pytest

from settings import RINGS
from traffic import cut

from unvirt_sim.driver.net import NetDriver
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_buffers_come_while_the_device_looks(small, wanted):
    """One frame, another behind it at once, a third in many pieces at any time after: all leave, though nobody looks after them.

    The ring is small, so that what lay in its places before differs; each 64 bytes of a read are as old as they like.

    Covers: DER-RACE-01, PACK-DRV-01, PACK-DRV-05, PACK-SG-01, PACK-WRAP-02, PACK-WRAP-04, PACK-DESC-03, PACK-POLL-02, PACK-USED-03
    """
    rng = random.Random(f"races {SEED}")
    print(f"seed {SEED}; UNVIRT_SEED={SEED} repeats it")
    simulation, host = small(link=LinkConfig(latency=60, latency_spread=250, posted_spread=100))
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=16, interrupts="poll", wanted=wanted))
    for number in range(300):
        frames = [rng.randbytes(60) for _ in range(3)]
        go(driver.transmit(frames[0]))
        simulation.run(rng.randrange(30))
        go(driver.transmit(frames[1]))
        simulation.run(rng.randrange(900))
        go(driver.transmit(frames[2], lengths=cut(rng, 60 + driver.header_size, rng.randint(1, 9))))
        for _ in range(60):
            simulation.run(200)
            if len(driver.tx.outstanding) == 0 or go(driver.reap()) and not driver.tx.outstanding:
                break
        assert not driver.tx.outstanding, f"round {number}: {len(driver.tx.outstanding)} buffers do not come back"
        assert [frame for _, frame, _ in simulation.take_frames()] == frames
