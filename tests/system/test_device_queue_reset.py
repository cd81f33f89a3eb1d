# SPDX-License-Identifier: BSD-2-Clause
"""The reset of one queue: whenever it comes it ends, nothing of the queue moves afterwards, the others go on, and the queue comes back."""

import os
import random

import pytest
from settings import PAIRS, TIMEOUT, several_pairs

from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import COALESCING, IN_ORDER, MULTIQUEUE, PACKED, TX_VECTOR, WANTED, NetDriver
from unvirt_sim.driver.spec import NO_VECTOR, Ctrl, CtrlAck, Feature, Status, mask
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
RINGS = {"split": WANTED, "split flags": WANTED & ~mask(Feature.EVENT_IDX), "packed": PACKED, "packed in order": PACKED | IN_ORDER}
SIZES = (14, 60, 61, 200, 700, 1514)


def start(device, wanted, preset="default", pairs=PAIRS, interrupts="poll", queue_size=32, link=None, **options):
    options |= several_pairs(preset) if pairs > 1 else {}
    simulation, host = device(preset, link=link, **options)
    driver = go(NetDriver.find(host, seed=SEED))
    go(driver.start(wanted=wanted | (MULTIQUEUE if pairs > 1 else 0), queue_size=queue_size, interrupts=interrupts, pairs=pairs))
    return simulation, host, driver


def sent(simulation):
    """Return the frames that the device sent since the last call."""
    return [frame for _, frame, _ in simulation.take_frames()]


def again(driver, role, **options):
    """Reset a queue and bring it back."""
    count = go(driver.reset_queue(role))
    go(driver.restart_queue(role, **options))
    return count


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_a_queue_comes_back_with_another_size(device, wanted):
    """A queue that was reset starts from the beginning, with the size, addresses and vector it is given then.

    Covers: CORE-VQRST-03, CORE-VQRST-04, CORE-VQRST-06, PCI-COMMON-11, PCI-COMMON-12, PCI-COMMON-14
    """
    simulation, _, driver = start(device, wanted, pairs=1)
    frame = random.Random(SEED).randbytes(600)
    for size in (32, 8, 64, 16):
        assert go(driver.fill([900], limit=8)) == 8
        for _ in range(3):
            go(driver.transmit(frame))
            simulation.send_frame(frame)
        assert go(driver.wait_transmitted(3)) == 3
        assert go(driver.receive(3)) == [frame] * 3
        simulation.run(2000)
        assert sent(simulation) == [frame] * 3
        assert again(driver, "rx", size=size) == 5
        assert again(driver, "tx", size=size) == 0


def test_registers(device):
    """``queue_reset`` reads 1 until the reset is done; then the queue's fields have their defaults. Other writes have no effect.

    Covers: PCI-COMMON-10, PCI-COMMON-13, PCI-COMMON-14, DER-CFG-01
    """
    simulation, host, driver = start(device, WANTED, pairs=1)
    registers = driver.device
    go(registers.set("queue_select", 1))
    largest = 1024
    for value in (0, 2, 0x101, 0xFFFF):
        go(registers.set("queue_reset", value))
        assert go(registers.get("queue_reset")) == 0 and go(registers.get("queue_enable")) == 1
    go(registers.set("queue_select", 5))
    go(registers.set("queue_reset", 1))
    assert go(registers.get("queue_reset")) == 0
    go(registers.set("queue_select", 1))
    # With a read under way the reset takes as long as the host takes to answer.
    simulation.set_link(LinkConfig(latency=3000))
    go(driver.transmit(bytes(60)))
    simulation.run(200)
    go(registers.set("queue_reset", 1))
    assert go(registers.get("queue_reset")) == 1 and go(registers.get("queue_enable")) == 0
    go(registers.set("queue_size", 8))
    go(registers.set("queue_enable", 1))
    assert go(registers.get("queue_reset")) == 1 and go(registers.get("queue_enable")) == 0
    simulation.run(20_000)
    assert go(registers.get("queue_reset")) == 0 and go(registers.get("queue_enable")) == 0
    assert go(registers.get("queue_size")) == largest and go(registers.get("queue_msix_vector")) == NO_VECTOR
    for field in ("queue_desc", "queue_driver", "queue_device"):
        assert go(registers.get(field)) == 0
    go(registers.set("queue_reset", 1))                      # of a queue that is not enabled
    assert go(registers.get("queue_reset")) == 0


def test_before_the_features_are_agreed(device):
    """RING_RESET counts from FEATURES_OK on, not while it is only accepted, nor if the device refuses what was accepted."""
    simulation, host = device("default")
    driver = go(VirtioDevice.find(host))
    go(driver.start_negotiation())
    go(driver.setup_queue(1, size=8))
    offered = go(driver.offered())
    for word in (offered, offered | mask(Feature.CSUM)):
        go(driver.accept(word))
        go(driver.set("queue_select", 1))
        go(driver.set("queue_reset", 1))
        simulation.run(200)
        assert go(driver.get("queue_reset")) == 0 and go(driver.get("queue_enable")) == 1
    go(driver.add_status(Status.FEATURES_OK))
    assert not go(driver.status()) & Status.FEATURES_OK
    go(driver.set("queue_reset", 1))
    simulation.run(200)
    assert go(driver.get("queue_reset")) == 0 and go(driver.get("queue_enable")) == 1


def test_without_the_feature(device):
    """Without RING_RESET the register means nothing."""
    simulation, _, driver = start(device, WANTED & ~mask(Feature.RING_RESET), pairs=1)
    go(driver.device.set("queue_select", 1))
    go(driver.device.set("queue_reset", 1))
    simulation.run(2000)
    assert go(driver.device.get("queue_reset")) == 0 and go(driver.device.get("queue_enable")) == 1
    go(driver.transmit(bytes(60)))
    assert go(driver.wait_transmitted(1)) == 1


class Pair:
    """One queue pair with frames of its own, that go out marked and come in steered by what was sent."""

    def __init__(self, driver, number, rng):
        self.driver, self.number, self.rng = driver, number, rng
        self.sent, self.back = [], 0

    def send(self, count):
        for _ in range(count):
            frame = bytes([2, 0, 0, 0, 0, self.number]) + len(self.sent).to_bytes(4, "little") + self.rng.randbytes(self.rng.choice(SIZES) - 10)
            shape = self.rng.randrange(3)
            whole = len(frame) + self.driver.header_size
            lengths = {0: [whole], 1: [self.driver.header_size, len(frame)], 2: [1, whole - 8, 7]}[shape]
            if self.driver.tx.free_slots < len(lengths):
                break
            go(self.driver.transmit(frame, lengths=lengths, indirect_from=0 if self.rng.random() < 0.3 else None, publish=False))
            self.sent.append(frame)
        go(self.driver.tx.publish())

    def reap(self):
        self.back += go(self.driver.reap())


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_while_the_others_run(device, wanted, preset):
    """Queues of one pair are reset at random moments with all kinds of work under way; the others lose and repeat nothing.

    Memory of the queue is taken away when its reset is done, so any later access is a violation.

    Covers: CORE-VQRST-01, CORE-VQRST-02, CORE-VQRST-05, DER-RST-02
    """
    print(f"seed {SEED}")
    rng = random.Random(f"queue reset {preset} {SEED}")
    simulation, _, driver = start(device, wanted, preset, queue_size=64, link=LinkConfig(latency=120, latency_spread=100))
    pairs = [Pair(driver.pair(number), number, rng) for number in range(PAIRS)]
    seen = {number: [] for number in range(PAIRS)}
    given_up = 0
    for episode in range(60):
        for pair in pairs:
            go(pair.driver.fill([300, 1400], limit=8))
            pair.send(rng.randrange(10))
        for _ in range(rng.randrange(4)):
            simulation.send_frame(rng.randbytes(rng.choice(SIZES)))
        simulation.run(rng.choice((rng.randrange(60), rng.randrange(600), rng.randrange(3000))))
        victim = pairs[episode % PAIRS]
        victim.reap()
        role = rng.choice(("tx", "rx"))
        go(victim.driver.collect())
        count = again(victim.driver, role, size=rng.choice((16, 32, 64)))
        if role == "tx":
            given_up += count
            # What was not used may have been sent or not, but nothing of it is sent from now on: those before it were used in order.
            victim.back += count
        for pair in pairs:
            pair.reap()
            if pair is not victim:
                go(pair.driver.collect())
        for frame in sent(simulation):
            seen[frame[5]].append(frame)
    simulation.run(20_000)
    for pair in pairs:
        pair.reap()
        assert pair.back == len(pair.sent)
    for frame in sent(simulation):
        seen[frame[5]].append(frame)
    assert given_up > 20
    missing = 0
    for pair in pairs:
        # Each frame once at most, in order, and none missing but those of a reset queue.
        found = seen[pair.number]
        places = [int.from_bytes(frame[6:10], "little") for frame in found]
        assert places == sorted(set(places))
        assert all(frame == pair.sent[place] for frame, place in zip(found, places, strict=True))
        missing += len(pair.sent) - len(found)
    assert missing <= given_up
    for pair in pairs:
        pair.send(5)
    simulation.run(10_000)
    assert go(driver.device.status()) & Status.DEVICE_NEEDS_RESET == 0


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_with_the_mac_dead(device, wanted):
    """A transmit queue is reset although its frames, and those of others, wait for a MAC that takes none."""
    simulation, _, driver = start(device, wanted, pairs=2)
    simulation.mac_stalled = True
    simulation.run(100)
    for pair in range(2):
        for _ in range(30):
            go(driver.pair(pair).transmit(bytes(1500), publish=False))
        go(driver.pair(pair).tx.publish())
    simulation.run(20_000)
    assert again(driver.pair(1), "tx") > 0
    go(driver.pair(1).transmit(bytes(99)))
    simulation.run(2000)
    simulation.mac_stalled = False
    simulation.run(40_000)
    assert go(driver.pair(0).reap()) == 30 and go(driver.pair(1).reap()) == 1
    assert sent(simulation)[-1] in (bytes(99), bytes(1500))


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
@pytest.mark.parametrize("area", ["ring", "data"])
def test_with_reads_never_answered(small, wanted, area):
    """A reset of a queue whose reads are never answered ends with their timeout. Covers: DER-RST-02"""
    simulation, host = small()
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted, queue_size=16, interrupts="poll"))
    if area == "ring":
        simulation.mute(driver.tx.areas[1 if wanted == WANTED else 0], 64)
        go(driver.transmit(bytes(500)))
    else:
        go(driver.transmit(bytes(500), publish=False))
        buffer = next(iter(driver.tx.outstanding.values())).elements[0]
        simulation.mute(buffer.address, 64)
        go(driver.tx.publish())
    simulation.run(500)
    before = simulation.cycle
    go(driver.reset_queue("tx"))
    assert simulation.cycle - before < 2 * TIMEOUT
    go(driver.stop())


def test_the_control_queue(device):
    """The control queue can be reset with a command under way, and takes commands afterwards."""
    simulation, host, driver = start(device, WANTED, queue_size=32)
    control = driver.control
    rng = random.Random(SEED)
    for _ in range(12):
        waits = control.command(Ctrl.MQ_VQ_PAIRS_SET, (2).to_bytes(2, "little"))
        # The command is put into the ring and rung for; the answer is not waited for.
        try:
            while True:
                step = waits.send(None)
                del step
                if control.queue.outstanding and control.queue.notifications:
                    break
        except StopIteration:
            pass
        waits.close()
        simulation.run(rng.randrange(700))
        go(driver.device.reset_queue(control.queue.index))
        control.queue = go(driver.device.setup_queue(2 * PAIRS, size=16))
        assert go(control.set_pairs(4)) == CtrlAck.OK


def test_coalescing_after_a_queue_reset(device):
    """A queue that comes back coalesces as all of its kind were told last, not as it was told itself. Covers: NET-COAL-05, NET-COAL-06"""
    _, _, driver = start(device, WANTED | COALESCING, pairs=1)
    control = driver.control
    for role, queue, kind in (("tx", 1, Ctrl.NOTF_COAL_TX_SET), ("rx", 0, Ctrl.NOTF_COAL_RX_SET)):
        assert go(control.coalesce_queue(queue, 7, 70)) == CtrlAck.OK
        go(driver.reset_queue(role))
        assert go(control.coalescing(queue)) == (CtrlAck.ERR, (0, 0))
        go(driver.restart_queue(role))
        assert go(control.coalescing(queue)) == (CtrlAck.OK, (0, 0))
        assert go(control.coalesce(kind, 9, 90)) == CtrlAck.OK
        assert go(control.coalesce_queue(queue, 7, 70)) == CtrlAck.OK
        again(driver, role)
        assert go(control.coalescing(queue)) == (CtrlAck.OK, (9, 90))


def test_no_interrupt_after_a_queue_reset(device):
    """What was coalesced when the queue was reset is never told of. Covers: CORE-VQRST-02"""
    simulation, host, driver = start(device, WANTED | COALESCING, pairs=1, interrupts="msix")
    go(driver.tx.enable_interrupts())
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, 100, 50)) == CtrlAck.OK
    for _ in range(3):
        go(driver.transmit(bytes(60)))
    simulation.run(2000)
    assert go(driver.reap()) == 3
    again(driver, "tx")
    simulation.run(20_000)
    assert host.interrupt_count(TX_VECTOR) == 0


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_a_reset_of_the_device_meanwhile(device, wanted):
    """A device reset in the middle of queue resets makes them void. Covers: PCI-COMMON-10"""
    simulation, host, _ = start(device, wanted)
    rng = random.Random(SEED)
    for _ in range(12):
        driver = go(NetDriver.find(host))
        go(driver.start(wanted=wanted | MULTIQUEUE, queue_size=32, interrupts="poll", pairs=PAIRS))
        for number in range(PAIRS):
            go(driver.pair(number).fill([1600], limit=6))
            go(driver.pair(number).transmit(bytes(200)))
        simulation.run(rng.randrange(300))
        for queue in (0, 1, 3, 4, 7):
            go(driver.device.set("queue_select", queue))
            go(driver.device.set("queue_reset", 1))
        simulation.run(rng.randrange(200))
        go(driver.stop())
        go(driver.device.set("queue_select", 1))
        assert go(driver.device.get("queue_reset")) == 0 and go(driver.device.get("queue_enable")) == 0


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_without_bus_mastering(small, wanted):
    """Bus mastering goes off with everything under way: resets of queues end, nothing is requested, and a reset of the device cures all.

    Covers: CORE-VQRST-01, DER-PCI-01
    """
    for delay in (0, 3, 20, 90, 300):
        simulation, host = small(seed=SEED)
        driver = go(NetDriver.find(host, seed=SEED))
        go(driver.start(wanted=wanted, queue_size=32, interrupts="msix"))
        go(driver.fill([700], limit=16))
        for _ in range(12):
            go(driver.transmit(bytes(300), publish=False))
            simulation.send_frame(bytes(200))
        go(driver.tx.publish())
        simulation.run(delay)
        simulation.expect_errors(True)                       # bus mastering goes off with reads under way
        go(driver.device.function.command(bus_master=False))
        simulation.run(2000)
        simulation.expect_errors(False)
        simulation.expect_quiet(True)
        for role in ("tx", "rx"):
            go(driver.reset_queue(role))
            simulation.run(500)
        simulation.expect_quiet(False)
        go(driver.device.function.command())
        simulation.run(2000)
        go(driver.device.reset())
        simulation.take_frames()
        driver = go(NetDriver.find(host, seed=SEED))
        go(driver.start(wanted=wanted, queue_size=32, interrupts="msix"))
        frame = random.Random(SEED).randbytes(600)
        go(driver.fill([900], limit=8))
        go(driver.transmit(frame))
        assert go(driver.wait_transmitted(1)) == 1
        simulation.send_frame(frame)
        assert go(driver.receive(1)) == [frame]
        assert sent(simulation) == [frame]


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_many_queues_at_once(device, wanted):
    """The driver resets several queues without waiting for each; all come back."""
    simulation, _, driver = start(device, wanted, link=LinkConfig(latency=150, latency_spread=100))
    rng = random.Random(f"many {SEED}")
    registers = driver.device
    for _ in range(10):
        for number in range(PAIRS):
            go(driver.pair(number).fill([1600], limit=6))
            for _ in range(3):
                go(driver.pair(number).transmit(rng.randbytes(200)))
        simulation.run(rng.randrange(600))
        chosen = rng.sample([(number, role) for number in range(PAIRS) for role in ("rx", "tx")], 5)
        for number, role in chosen:
            go(registers.set("queue_select", getattr(driver.pair(number), role).index))
            go(registers.set("queue_reset", 1))
        for number, role in chosen:
            # Asked for again while it is under way, or done: no effect.
            go(driver.pair(number).reset_queue(role))
        for number, role in rng.sample(chosen, 5):
            go(driver.pair(number).restart_queue(role, size=rng.choice((16, 32))))
        simulation.run(6000)
        for number in range(PAIRS):
            go(driver.pair(number).reap())
            assert not driver.pair(number).tx.outstanding
            go(driver.pair(number).collect())
