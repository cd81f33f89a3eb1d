# SPDX-License-Identifier: BSD-2-Clause
"""Random frames both ways on the harness, byte for byte, with every checker on."""

import os

import pytest

from settings import ANY_LENGTH, RINGS, several_pairs
from traffic import SHORT, SIZES, Traffic, seeded

from unvirt_sim.driver.net import WANTED, NetDriver
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import run_driver

COUNT = int(os.environ.get("UNVIRT_FRAMES", "300"))
SEED = int(os.environ.get("UNVIRT_SEED", "1"))

LINKS = {
    "quick": LinkConfig(latency=0, latency_spread=4),
    "stalls": LinkConfig(tx_stall=0.3, rx_gap=0.3, mac_tx_stall=0.3, mac_rx_gap=0.3, cut="rcb"),
    "slow": LinkConfig(latency=250, latency_spread=250, posted_spread=200),
    "large": LinkConfig(cut="large", reorder=False),
}


def traffic(device, preset, link, *, queue_size=128, receive=None, outstanding=64, count=COUNT, seed=SEED, sizes=SHORT,
            pause=600, interrupts="poll", order="fifo", wanted=WANTED, **options):
    simulation, host = device(preset, link=link, seed=seed, **options)

    async def run():
        driver = await NetDriver.find(host, seed=seed)
        await driver.start(queue_size=queue_size, interrupts=interrupts, order=order,
                           wanted=wanted & ANY_LENGTH if max(sizes) > 1518 else wanted)
        await Traffic(simulation, host, driver, rng=seeded(seed), count=count, sizes=sizes, receive=receive,
                      outstanding=outstanding, pause=pause).run()
    run_driver(run())
    return simulation


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_random_frames_both_ways(device, preset, link, wanted):
    """Frames of 14 to 9018 bytes in chains of any shape arrive unchanged and in order.

    Covers: SPLIT-FRAME-01, SPLIT-IND-01, SPLIT-IND-02, SPLIT-IND-03, SPLIT-IND-04, SPLIT-USED-01, SPLIT-USED-02, SPLIT-USED-05,
    SPLIT-USED-06, SPLIT-LAY-02, SPLIT-LAY-03, SPLIT-DESC-01, SPLIT-DESC-03, SPLIT-DESC-04, SPLIT-AVAIL-02, SPLIT-AVAIL-06,
    SPLIT-ASUP-04, SPLIT-ASUP-06, CORE-RSVD-13, DER-ORD-01, DER-ORD-03, DER-PCI-03, NET-HDR-01, NET-HDR-03, NET-TX-22, NET-RX-05, NET-RX-26
    """
    traffic(device, preset, LINKS[link], sizes=SIZES, order="random", wanted=wanted)


@pytest.mark.parametrize("preset", ["default", "wide"])
def test_large_frames_in_merged_buffers(device, preset):
    """Frames up to 9018 bytes over several receive buffers, num_buffers right.

    Covers: NET-RXBUF-01, NET-RXBUF-03, NET-RX-02, NET-RX-03, NET-RX-04, NET-RX-41
    """
    traffic(device, preset, LinkConfig(), receive=(777,), sizes=SIZES)


@pytest.mark.parametrize("width", [32, 128, 512])
def test_every_width(device, width):
    """The widths between and beyond the presets carry traffic too."""
    traffic(device, "default", LINKS["stalls"], data_width=width, sizes=SIZES, **(several_pairs() if width in (32, 512) else {}))


@pytest.mark.parametrize("size", [1, 2, 4, 256])
def test_a_ring_wraps(device, size):
    """Rings wrap many times. Covers: SPLIT-LAY-01, SPLIT-AVAIL-01, SPLIT-USED-04"""
    traffic(device, "default", LINKS["quick"], queue_size=size, outstanding=size, sizes=(14, 64))


def any_link(rng):
    """Return a host and link of random stalls, latencies, orders and cuts."""
    def some(*values):
        return rng.choice((0.0, *values))

    return LinkConfig(latency=rng.choice((0, 10, 50, 250)), latency_spread=rng.choice((0, 20, 200)),
                      posted_spread=rng.choice((0, 20, 200)), cut=rng.choice(("large", "rcb", "random")),
                      reorder=rng.random() < 0.8, tx_stall=some(0.1, 0.5), rx_gap=some(0.1, 0.5),
                      mac_tx_stall=some(0.1, 0.5), mac_rx_gap=some(0.1, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_ten_thousand_frames(device, preset):
    """10,000 frames each way, 14 to 9018 bytes, over links that change every 500.

    Covers: SPLIT-FRAME-01, SPLIT-IND-02, SPLIT-USED-02, DER-ORD-01, DER-ORD-03, DER-PCI-03, NET-RX-02
    """
    rng = seeded(SEED)
    simulation, host = device(preset, seed=SEED)

    async def run():
        driver = await NetDriver.find(host, seed=SEED)
        await driver.start(queue_size=256, interrupts="poll", order="random", wanted=WANTED & ANY_LENGTH)
        sizes = (*SIZES, *rng.sample(range(14, 9019), 40))
        for batch in range(20):
            simulation.set_link(any_link(rng))
            print(f"batch {batch}: {simulation.link}")
            await Traffic(simulation, host, driver, rng=rng, count=500, sizes=sizes).run()
    run_driver(run())


@pytest.mark.slow
@pytest.mark.parametrize("size, count", [(2, 131_072), (256, 131_072), (32768, 70_000)])
def test_a_ring_wraps_often(device, size, count):
    """The index of a small ring wraps twice, a ring of 32768 itself. Covers: SPLIT-LAY-01, SPLIT-AVAIL-01, SPLIT-USED-04"""
    traffic(device, "default", LINKS["quick"], queue_size=size, outstanding=size, sizes=(14, 64), count=count, pause=200,
            max_queue_size=max(size, 1024))
