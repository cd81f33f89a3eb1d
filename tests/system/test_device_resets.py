# SPDX-License-Identifier: BSD-2-Clause
"""Resets of every kind at any moment under traffic: they end, nothing moves afterwards, and the device works again."""

import os
import random

import pytest

from resets import reset
from traffic import SHORT, Traffic, seeded

from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.spec import Status
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.records import Seen

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
KINDS = ("virtio", "flr", "hot", "link", "power")


def free(driver):
    """Take the driver's memory away: from now on every access to it is a violation."""
    for queue in driver.device.queues.values():
        for chain in queue.outstanding.values():
            chain.token.free()
        queue.release()
    driver.device.queues = {}


def work(simulation, host, seed, count=30):
    """Bring the device up from enumeration on and pass frames both ways."""
    driver = go(NetDriver.find(host, seed=seed))
    go(driver.start(queue_size=64, interrupts="poll", order="random"))
    go(Traffic(simulation, host, driver, rng=random.Random(seed), count=count, sizes=SHORT, outstanding=24, window=12).run())
    return driver


async def burst(simulation, host, driver, rng):
    """Leave as much as possible under way."""
    await driver.fill([700, 900], limit=24)
    for _ in range(12):
        await driver.transmit(rng.randbytes(rng.choice(SHORT)), publish=False)
    await driver.tx.publish()
    for _ in range(8):
        await host.send_frame(rng.randbytes(rng.choice(SHORT)))


@pytest.mark.parametrize("kind", KINDS)
def test_reset_under_traffic(small, kind):
    """Whenever the reset comes, the device is quiet when it is done, and works again with memory of its own.

    Covers: CORE-RESET-01, CORE-RESET-02, CORE-RESET-03, CORE-RESET-04, CORE-STATUS-05, DER-RST-01, DER-RST-03, DER-RST-05, PCI-COMMON-08,
    PCI-COMMON-27
    """
    print(f"seed {SEED}")
    rng = random.Random(f"{kind} {SEED}")
    simulation, host = small(seed=SEED)
    for episode in range(6):
        driver = go(NetDriver.find(host, seed=episode))
        go(driver.start(queue_size=32, interrupts=rng.choice(("msix", "intx", "poll"))))
        go(burst(simulation, host, driver, rng))
        simulation.run(rng.choice((rng.randrange(40), rng.randrange(400), rng.randrange(3000))))
        reset(simulation, driver, kind)
        seen = len(simulation.take_messages())
        simulation.expect_quiet(True)
        free(driver)
        if kind != "virtio":
            assert go(driver.device.function.read(0, 4)) == 0x1041_1AF4
        simulation.run(3000)
        assert len(simulation.take_messages()) == 0, f"{seen} messages came late"
        simulation.expect_quiet(False)
        simulation.run(2000)
        simulation.take_frames()
        work(simulation, host, SEED + episode, count=10)
        go(NetDriver.find(host))                              # enumeration takes whatever state there is
        reset_again = go(NetDriver.find(host))
        go(reset_again.device.reset())


@pytest.mark.parametrize("kind", KINDS)
def test_traffic_after_reset(small, kind):
    """The traffic test passes again after a reset of a device that worked. Covers: CORE-FEAT-05, CORE-RESET-01, SPLIT-AVAIL-03"""
    simulation, host = small(seed=SEED)
    driver = work(simulation, host, SEED)
    reset(simulation, driver, kind)
    free(driver)
    simulation.run(2000)
    driver = go(NetDriver.find(host, seed=2))
    go(driver.start(queue_size=64, interrupts="poll"))
    go(Traffic(simulation, host, driver, rng=seeded(SEED), count=100, sizes=SHORT, outstanding=24, window=12).run())


@pytest.mark.parametrize("stalled", (False, True))
@pytest.mark.parametrize("kind", KINDS)
def test_reset_cuts_a_frame(small, kind, stalled):
    """A reset in the middle of a frame on its way to the MAC, moving or held there, leaves nothing of it for the next one.

    Of one that comes in meanwhile a reset of the chip leaves nothing either.
    """
    simulation, host = small(seed=SEED)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=32, interrupts="poll"))
    go(driver.transmit(bytes(range(250)) * 6))
    simulation.run(400)
    assert not simulation.take_frames(), "the frame left before the reset"
    simulation.mac_stalled = stalled
    simulation.record()
    simulation.send_frame(bytes(1500))
    simulation.run(20)
    if kind == "virtio":
        simulation.mac_stalled = False
    reset(simulation, driver, kind)
    simulation.mac_stalled = False
    free(driver)
    simulation.run(2000)
    left = [(len(frame) < 1500, aborted) for _, frame, aborted in simulation.take_frames()]
    assert left == ([] if kind == "power" else [(True, True)]), "a frame cut off is not marked, or outlived the chip it was in"
    came = [record for record in simulation.records() if record.kind == Seen.FRAME_IN]
    assert len(came) == (kind != "power")
    work(simulation, host, SEED)


@pytest.mark.parametrize("seed", range(1, 5))
def test_random_registers_and_memories(small, seed):
    """Nothing depends on what registers and memories hold at power-up."""
    simulation, host = small(seed=seed, random_init=True, settle=0)
    simulation.run(1000)
    work(simulation, host, seed)


# Deadlocks

def stuck(small):
    """Return a device with receive buffers fetched and few credits at a time."""
    simulation, host = small(link=LinkConfig(credits=(64, 1024, 4, 4, 64, 1024)))
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=32, interrupts="poll"))
    go(driver.fill([1600], limit=16))
    simulation.run(2000)
    return simulation, host, driver


def ends(simulation, driver):
    """The virtio reset ends, and the device works afterwards."""
    reset(simulation, driver, "virtio")
    free(driver)


def test_dead_mac(small):
    """A MAC that takes nothing, for ever: receive goes on, registers answer, the reset ends. Covers: CORE-RESET-01, PCI-COMMON-27"""
    simulation, host, driver = stuck(small)
    simulation.mac_stalled = True
    for number in range(16):
        go(driver.transmit(bytes([number]) * 1514, publish=False))
    go(driver.tx.publish())
    simulation.run(20_000)
    simulation.send_frame(bytes(64))
    assert go(driver.receive(1)) == [bytes(64)], "receive stands still behind transmit"
    ends(simulation, driver)
    simulation.mac_stalled = False
    simulation.run(3000)
    simulation.take_frames()
    work(simulation, host, 1)


def test_posted_move_without_nonposted_credits(small):
    """No credit for reads: frames still go to buffers that were fetched, doorbells are taken, registers answer."""
    simulation, host, driver = stuck(small)
    starve_reads(simulation, driver)
    before = simulation.counters["read_requests"]
    go(driver.tx.notify())
    for number in range(4):
        simulation.send_frame(bytes([number]) * 100)
    assert len(go(driver.receive(4))) == 4
    assert simulation.counters["read_requests"] == before, "reads go on without credits; the test tests nothing"
    assert go(driver.device.status()) == Status(0x0F)
    feed_reads(simulation)
    go(driver.wait_transmitted(8))
    go(driver.stop())
    simulation.take_frames()
    work(simulation, host, 1)


def test_reset_without_nonposted_credits(small):
    """Reads that wait for credits keep the reset from ending, and nothing else from going on; with credits it ends.

    Covers: DER-RST-01, PCI-COMMON-08
    """
    simulation, host, driver = stuck(small)
    starve_reads(simulation, driver)
    go(driver.device.set("device_status", 0))
    for _ in range(20):
        assert go(driver.device.status()) != 0, "0 is read while reads may still be sent"
        simulation.run(200)
    feed_reads(simulation)
    ends(simulation, driver)
    simulation.take_frames()
    work(simulation, host, 1)


def starve_reads(simulation, driver):
    """Stop the credits for reads and make the device use up what it has."""
    for kind in (2, 3):
        simulation.block_credits(kind)
    for _ in range(8):
        go(driver.transmit(bytes(1400), lengths=[12, 1400], publish=False))
    go(driver.tx.publish())
    simulation.run(800)


def feed_reads(simulation):
    for kind in (2, 3):
        simulation.block_credits(kind, False)
    simulation.run(3000)


def test_status_is_read_without_posted_credits(small):
    """Posted writes stand still: a read that has nothing to wait for is answered, and with credits back everything goes on."""
    simulation, host, driver = stuck(small)
    for kind in (0, 1):
        simulation.block_credits(kind)
    number = simulation._access(False, False, driver.device._base[1] + 0x14, 1)
    simulation.run(5000)
    simulation._collect()
    assert number in simulation._answers, "with no write under way there is nothing to wait for"
    simulation._answers.pop(number)
    for index in range(60):
        simulation.send_frame(bytes([index]) * 200)
        go(driver.transmit(bytes(64))) if driver.tx.free_slots else None
    simulation.run(20_000)
    number = simulation._access(False, False, driver.device._base[1] + 0x14, 1)
    simulation.memory_write(driver.device._base[2] + 4, b"\1\0")
    simulation.run(5000)
    for kind in (0, 1):
        simulation.block_credits(kind, False)
    assert simulation._wait(number, "status") & 0xFF == 0x0F
    simulation.run(20_000)
    ends(simulation, driver)
    simulation.run(3000)
    simulation.take_frames()
    work(simulation, host, 1)


def test_dead_mac_and_function_level_reset(small):
    """FLR ends with the MAC dead."""
    simulation, host, driver = stuck(small)
    simulation.mac_stalled = True
    for _ in range(16):
        go(driver.transmit(bytes(1514), publish=False))
    go(driver.tx.publish())
    simulation.run(20_000)
    reset(simulation, driver, "flr")
    free(driver)
    simulation.mac_stalled = False
    simulation.run(3000)
    simulation.take_frames()
    work(simulation, host, 1)


def test_a_reset_of_a_device_in_reset(device):
    """A status of 0 that is read after a reset of a device in reset means that it is done: what the driver writes next counts.

    Covers: CORE-RESET-02
    """
    _, host = device("default", rows=64)
    found = go(NetDriver.find(host)).device
    go(found.reset())
    for _ in range(4):
        go(found.set("device_status", 0))
        assert go(found.status()) == 0
        go(found.set("device_status", 1 << 0))
        assert go(found.status()) == 1
        go(found.reset())
