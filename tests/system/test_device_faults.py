# SPDX-License-Identifier: BSD-2-Clause
"""Reads of the device that fail, and drivers that break the rules: DEVICE_NEEDS_RESET, no hang, no stray access, recovery by a reset."""

import random

import pytest

from settings import TIMEOUT
from traffic import SHORT, Traffic

from unvirt_sim.driver.net import PACKED, NetDriver
from unvirt_sim.driver.spec import DESCRIPTOR, PACKED_DESCRIPTOR, DescFlag, Status
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

NEXT, WRITE, INDIRECT = (int(flag) for flag in (DescFlag.NEXT, DescFlag.WRITE, DescFlag.INDIRECT))


def start(small, seed=1, queue_size=16):
    simulation, host = small(seed=seed)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=queue_size, interrupts="msix"))
    go(driver.fill([800, 800], limit=6))
    simulation.run(2000)
    return simulation, host, driver


def recovers(simulation, host, driver, *, patience=3 * TIMEOUT):
    """The device asks for a reset by a configuration interrupt, is quiet, answers, and works after the reset."""
    end = simulation.cycle + patience
    while not go(driver.device.status()) & Status.DEVICE_NEEDS_RESET:
        assert simulation.cycle < end, "the device does not ask for a reset"
        simulation.run(100)
    simulation.run(500)
    assert host.interrupt_count(0) == 1, "no configuration interrupt came"
    assert go(driver.device.status()) & Status.DRIVER_OK
    simulation.set_link(LinkConfig())
    go(driver.tx.notify())
    simulation.run(500)
    go(driver.device.set("device_status", 0))
    for _ in range(2000):
        if go(driver.device.status()) == 0:
            break
        simulation.run(20)
    assert go(driver.device.status()) == 0, "the reset does not end"
    simulation.expect_quiet(True)
    simulation.run(2 * TIMEOUT)
    simulation.expect_quiet(False)
    for queue in driver.device.queues.values():
        queue.outstanding = {}
        queue.release()
    driver.device.queues = {}
    simulation.run(2000)
    simulation.take_frames()
    again = go(NetDriver.find(host))
    go(again.start(queue_size=64, interrupts="poll"))
    go(Traffic(simulation, host, again, rng=random.Random(1), count=20, sizes=SHORT, outstanding=24, window=12).run())


@pytest.mark.parametrize("fault", ["drop", "unsupported", "abort", "poison"])
@pytest.mark.parametrize("seed", [1, 2])
def test_failing_reads(small, fault, seed):
    """A read that is never answered, refused, aborted or poisoned ends in DEVICE_NEEDS_RESET.

    Covers: DER-ERR-02, DER-ERR-03, CORE-STATUS-03, CORE-STATUS-04, CORE-STATUS-08, CORE-CFG-07
    """
    simulation, host, driver = start(small, seed)
    simulation.set_link(LinkConfig(**{fault: 0.1}))
    for _ in range(30):
        if driver.tx.free_slots:
            go(driver.transmit(bytes(600), lengths=[12, 200, 400][: 3] if driver.tx.free_slots >= 3 else None))
        simulation.run(300)
        if go(driver.device.status()) & Status.DEVICE_NEEDS_RESET:
            break
    recovers(simulation, host, driver)


def test_late_answers(small):
    """An answer after the timeout is dropped, its tag used again only then; the reset cures all. Covers: DER-ERR-02"""
    simulation, host, driver = start(small)
    simulation.set_link(LinkConfig(latency=2 * TIMEOUT, latency_spread=0))
    go(driver.transmit(bytes(600)))
    simulation.run(TIMEOUT + 1000)
    recovers(simulation, host, driver)


# Rings and chains against the rules

def put(driver, queue, entries, head=0, count=1):
    """Write descriptors {slot: (address, length, flags, next)} and make ``head`` available."""
    async def run():
        for slot, fields in entries.items():
            await driver.host.write(queue.desc + 16 * slot, DESCRIPTOR.pack(*fields))
        await driver.host.write(queue.avail + 4 + 2 * (queue.next_idx % queue.size), head.to_bytes(2, "little"))
        await driver.host.write(queue.avail + 2, (queue.avail_idx + count & 0xFFFF).to_bytes(2, "little"))
        await queue.notify()
    go(run())


def table(driver, entries):
    """Return the address of an indirect table of these descriptors."""
    at = driver.host.alloc(16 * len(entries), 16, writable=False)
    go(driver.host.write(at, b"".join(DESCRIPTOR.pack(*fields) for fields in entries)))
    return at


def violations(driver):
    """Return {name: (entries, head, index step)} of what a transmit queue must not hold."""
    data = driver.host.alloc(4096, writable=False)
    good = (data, 100, 0, 0)
    nested = table(driver, [(data, 64, INDIRECT, 0)])
    inner_loop = table(driver, [(data, 10, NEXT, 1), (data, 10, NEXT, 0)])
    inner_beyond = table(driver, [(data, 10, NEXT, 2), (data, 10, 0, 0)])
    inner_order = table(driver, [(data, 10, NEXT | WRITE, 1), (data, 10, 0, 0)])
    return {
        "index jumps ahead": ({0: good}, 0, 17),
        "index goes back": ({0: good}, 0, -1),
        "head beyond the table": ({0: good}, 16, 1),
        "head far beyond": ({0: good}, 0xFFFF, 1),
        "next beyond the table": ({0: (data, 50, NEXT, 16)}, 0, 1),
        "next 2048 beyond": ({0: (data, 50, NEXT, 0x801), 1: good}, 0, 1),
        "next 32768 beyond": ({0: (data, 50, NEXT, 0x8001), 1: good}, 0, 1),
        "chain that loops": ({0: (data, 50, NEXT, 1), 1: (data, 50, NEXT, 0)}, 0, 1),
        "chain that follows itself": ({0: (data, 50, NEXT, 0)}, 0, 1),
        "readable after writable": ({0: (data, 12, NEXT | WRITE, 1), 1: good}, 0, 1),
        "table inside a table": ({0: (nested, 16, INDIRECT, 0)}, 0, 1),
        "table with NEXT": ({0: (nested, 16, INDIRECT | NEXT, 1), 1: good}, 0, 1),
        "table of odd length": ({0: (inner_loop, 24, INDIRECT, 0)}, 0, 1),
        "table of length zero": ({0: (inner_loop, 0, INDIRECT, 0)}, 0, 1),
        "table that loops": ({0: (inner_loop, 32, INDIRECT, 0)}, 0, 1),
        "table entry beyond its end": ({0: (inner_beyond, 32, INDIRECT, 0)}, 0, 1),
        "readable after writable in a table": ({0: (inner_order, 32, INDIRECT, 0)}, 0, 1),
    }


NAMES = ("index jumps ahead", "index goes back", "head beyond the table", "head far beyond", "next beyond the table", "next 2048 beyond",
         "next 32768 beyond", "chain that loops", "chain that follows itself", "readable after writable", "table inside a table",
         "table with NEXT", "table of odd length", "table of length zero", "table that loops", "table entry beyond its end",
         "readable after writable in a table")


@pytest.mark.parametrize("name", NAMES)
def test_violations_of_the_ring(small, name):
    """Malformed rings and chains stop the device without a stray access or a hang.

    Covers: DER-ERR-01, DER-ERR-03, CORE-STATUS-03, CORE-STATUS-04, SPLIT-AVAIL-05, SPLIT-DESC-05, SPLIT-IND-05, SPLIT-FRAME-03
    """
    simulation, host, driver = start(small)
    entries, head, step = violations(driver)[name]
    put(driver, driver.tx, entries, head, step)
    recovers(simulation, host, driver)


def test_packed_chain_longer_than_its_ring(small):
    """A chain round and round a packed ring, with an end that the driver makes when the device is in its third lap: it is a violation before, and
    no slot beyond the ring is read. What was exposed the device reads again, and may, so a driver that changes it is on its own.

    Covers: DER-ERR-01, DER-ERR-03, PACK-DRV-02, CORE-VQ-04
    """
    size, latency = 8, 400
    simulation, host = small(link=LinkConfig(latency=latency, latency_spread=0))
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=PACKED, queue_size=size, interrupts="msix"))
    ring, data = driver.tx.desc, host.alloc(4096, writable=False)

    def write(flags):
        for slot in reversed(range(size)):
            go(host.write(ring + 16 * slot, PACKED_DESCRIPTOR.pack(data, 20, 0, flags)))

    simulation.record()
    write(NEXT | int(DescFlag.AVAIL))
    go(driver.tx.notify())
    end = simulation.cycle + 12 * latency

    def laps():
        return sum(record.kind == Seen.UP_READ and record.address == ring for record in simulation.records())

    while laps() < 3 and simulation.cycle < end:
        simulation.run(20)
    write(int(DescFlag.AVAIL))
    go(driver.tx.notify())
    recovers(simulation, host, driver)
    assert laps() == 2, "one look of the available side, one of the walk that came round"


@pytest.mark.parametrize("where", ["ring", "table", "buffer"])
def test_memory_that_is_not_there(small, where):
    """Addresses the platform does not map are answered Unsupported Request: the device stops, and writes nothing. Covers: DER-ERR-02"""
    simulation, host, driver = start(small)
    nowhere = 0x5555_0000_0000
    simulation.expect_errors(True)
    entries = {"buffer": {0: (nowhere, 100, 0, 0)}, "table": {0: (nowhere, 32, INDIRECT, 0)}, "ring": {0: (nowhere, 100, 0, 0)}}[where]
    if where == "ring":
        host.free(driver.tx.desc)
        entries = {}
        driver.tx.desc = host.alloc(16 * 16, 16)
    put(driver, driver.tx, entries)
    recovers(simulation, host, driver)
    simulation.expect_errors(False)
