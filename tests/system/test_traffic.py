# SPDX-License-Identifier: BSD-2-Clause
"""Random frames both ways on the harness, byte for byte, with every checker on."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from traffic import both_ways, seeded  # noqa: E402

from unvirt_sim.driver.net import NetDriver  # noqa: E402
from unvirt_sim.harness import LinkConfig  # noqa: E402
from unvirt_sim.harness_host import run_driver  # noqa: E402

COUNT = int(os.environ.get("UNVIRT_FRAMES", "600"))
SEED = int(os.environ.get("UNVIRT_SEED", "1"))

LINKS = {
    "quick": LinkConfig(latency=0, latency_spread=4),
    "stalls": LinkConfig(tx_stall=0.3, rx_gap=0.3, mac_tx_stall=0.3, mac_rx_gap=0.3, cut="rcb"),
    "slow": LinkConfig(latency=250, latency_spread=250, posted_spread=200),
}


def traffic(device, preset, link, *, queue_size=128, receive=(1530,), outstanding=64, count=COUNT,
            seed=SEED, sizes=None, interrupts="poll", **options):
    simulation, host = device(preset, link=link, seed=seed, **options)

    async def run():
        driver = await NetDriver.find(host, seed=seed)
        await driver.start(queue_size=queue_size, interrupts=interrupts)
        extra = {} if sizes is None else {"sizes": sizes}
        await both_ways(simulation, host, driver, rng=seeded(seed), count=count,
                        receive=list(receive), outstanding=outstanding, **extra)
    run_driver(run())
    return simulation


SHORT = (14, 15, 59, 60, 64, 127, 128, 243, 244, 600, 1500, 1514)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_random_frames_both_ways(device, preset, link):
    """Frames of 14 to 1514 bytes in chains of any shape arrive unchanged and in order.

    Covers: SPLIT-FRAME-01, SPLIT-IND-01, SPLIT-IND-02, SPLIT-IND-03, SPLIT-IND-04, SPLIT-USED-01, SPLIT-USED-02, SPLIT-USED-05,
    SPLIT-USED-06, DER-ORD-01, DER-ORD-03, DER-PCI-03, NET-HDR-01, NET-TX-22, NET-RX-05, NET-RX-26
    """
    traffic(device, preset, LINKS[link], sizes=SHORT)


@pytest.mark.parametrize("preset", ["default", "wide"])
def test_large_frames_in_merged_buffers(device, preset):
    """Frames up to 9018 bytes over several receive buffers, num_buffers right.

    Covers: NET-RXBUF-01, NET-RXBUF-03, NET-RX-02, NET-RX-03, NET-RX-04, NET-RX-41
    """
    traffic(device, preset, LinkConfig(), receive=(777,), outstanding=64, count=150, mtu=9000)


@pytest.mark.parametrize("width", [32, 128, 512])
def test_every_width(device, width):
    """The widths between and beyond the presets carry traffic too."""
    traffic(device, "default", LINKS["stalls"], data_width=width, sizes=SHORT, count=200)


@pytest.mark.parametrize("size", [2, 256])
def test_a_ring_wraps(device, size):
    """Rings wrap many times. Covers: SPLIT-LAY-01, SPLIT-AVAIL-01, SPLIT-USED-04"""
    traffic(device, "default", LINKS["quick"], queue_size=size, outstanding=size, sizes=(14, 64),
            count=COUNT if size > 2 else 100)
