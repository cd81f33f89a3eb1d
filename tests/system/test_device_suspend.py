# SPDX-License-Identifier: BSD-2-Clause
"""Suspend and resume: whenever it is asked to the device comes to rest, nothing moves or changes until the resume, and nothing was lost."""

import os
import random

import pytest
from resets import reset
from settings import PAIRS, RINGS, TIMEOUT, several_pairs
from test_device_multiqueue import flow
from traffic import shape

from unvirt_sim.driver import Element
from unvirt_sim.driver.net import COALESCING, CONFIG_VECTOR, MULTIQUEUE, PACKED, RX_VECTOR, SUSPENSION, TX_VECTOR, WANTED, NetDriver
from unvirt_sim.driver.spec import Ctrl, CtrlAck, Feature, Status, mask
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
SIZES = (14, 60, 61, 200, 700, 1514)
RUNNING, SUSPENDED = 0x0F, 0x1B
NUMBER = 8
"""Bytes of a frame that say which it is."""


def start(host, wanted=WANTED, interrupts="poll", queue_size=64, **options):
    """Return a driver that may suspend the device."""
    driver = go(NetDriver.find(host, seed=SEED))
    go(driver.start(wanted=wanted | SUSPENSION, queue_size=queue_size, interrupts=interrupts, **options))
    return driver


def generator(name):
    """Return a generator and print its seed."""
    print(f"seed {SEED}; UNVIRT_SEED={SEED} repeats it")
    return random.Random(f"suspend {name} {SEED}")


class Both:
    """Numbered frames both ways, and what became of them."""

    def __init__(self, simulation, driver, rng):
        self.simulation, self.driver, self.rng = simulation, driver, rng
        self.sent, self.out, self.back = [], 0, 0         # given to the device, that left it, whose buffers came back
        self.incoming, self.place, self.taken = [], 0, 0  # that came from outside, the next that may come, how many came

    def frame(self, number):
        return number.to_bytes(NUMBER, "little") + self.rng.randbytes(self.rng.choice(SIZES) - NUMBER)

    def _shape(self, total):
        lengths, indirect, shuffle = shape(self.rng, self.driver.header_size, total, self.rng.randrange(50))
        return lengths, 0 if indirect and self.driver.device.has(Feature.RING_PACKED) else indirect, shuffle

    def post(self, count):
        """Give the device receive buffers of any shape."""
        ring = self.driver.rx
        for _ in range(count):
            lengths, indirect, shuffle = self._shape(self.rng.choice((64, 777, 1530, 4096)))
            if ring.free_slots < (len(lengths) if indirect is None else indirect + 1) or len(ring.outstanding) > 24:
                break
            go(self.driver.post(lengths, indirect_from=indirect, shuffle=shuffle, publish=False))
        go(ring.publish())

    def send(self, count):
        ring = self.driver.tx
        for _ in range(count):
            frame = self.frame(len(self.sent))
            lengths, indirect, shuffle = self._shape(self.driver.header_size + len(frame))
            if ring.free_slots < (len(lengths) if indirect is None else indirect + 1):
                break
            go(self.driver.transmit(frame, lengths=lengths, indirect_from=indirect, shuffle=shuffle, publish=False))
            self.sent.append(frame)
        go(ring.publish())

    def arrive(self, count):
        for _ in range(count):
            self.incoming.append(self.frame(len(self.incoming)))
            self.simulation.send_frame(self.incoming[-1])

    def look(self):
        """See what has come, from memory and at the MAC: each frame once, as it was, in order."""
        for _, frame, aborted in self.simulation.take_frames():
            assert not aborted and frame == self.sent[self.out], f"frame {self.out} did not leave as it was"
            self.out += 1
        for frame in go(self.driver.collect()):
            number = int.from_bytes(frame[:NUMBER], "little")
            assert number >= self.place and frame == self.incoming[number], f"frame {number} did not come as it was"
            self.place, self.taken = number + 1, self.taken + 1
        self.back += go(self.driver.reap())

    @property
    def dropped(self):
        return self.simulation.counters["rx_dropped"]


def rest(simulation, both, rng):
    """Do everything to a suspended device that must have no effect, and see that there is none."""
    simulation.expect_quiet(True)
    both.look()
    state = both.out, both.back, both.taken
    assert both.out == both.back, "a frame was sent whose buffer is not used, or the other way round"
    for _ in range(rng.randrange(1, 4)):
        both.send(rng.randrange(6))
        both.post(rng.randrange(6))
        go(both.driver.tx.notify())
        go(both.driver.rx.notify())
        both.arrive(rng.randrange(4))
        simulation.run(rng.choice((10, 500, 3000)))
        assert go(both.driver.device.status()) == SUSPENDED
    simulation.run(4000)
    both.look()
    assert (both.out, both.back, both.taken) == state, "something moved while suspended"
    assert both.taken + both.dropped == len(both.incoming), "a frame was kept"
    simulation.expect_quiet(False)


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_with_traffic(device, wanted, preset):
    """Suspended at random moments with all kinds of work under way: no access, no used buffer until the resume; no frame is lost or repeated but
    those that came from outside meanwhile, which are counted.

    Covers: CORE-SUSP-04, CORE-SUSP-08, CORE-SUSP-09, CORE-SUSP-10, CORE-SUSP-11, CORE-SUSP-13, CORE-SUSP-14, DER-INIT-02
    """
    rng = generator(f"traffic {preset}")
    simulation, host = device(preset, link=LinkConfig(latency=120, latency_spread=100))
    driver = start(host, wanted)
    both = Both(simulation, driver, rng)
    kept = 0
    for _ in range(40):
        both.post(rng.randrange(10))
        both.send(rng.randrange(10))
        both.arrive(rng.randrange(5))
        simulation.run(rng.choice((rng.randrange(60), rng.randrange(600), rng.randrange(3000))))
        assert go(driver.device.status()) == RUNNING
        go(driver.device.suspend())
        assert go(driver.device.status()) == SUSPENDED
        rest(simulation, both, rng)
        kept += len(both.sent) - both.out
        go(driver.device.resume())
        assert go(driver.device.status()) == RUNNING
        if rng.random() < 0.5:
            simulation.run(rng.randrange(4000))
            both.look()
    simulation.run(30_000)
    both.look()
    assert kept > 40, "the device was never suspended with work left"
    assert both.out == both.back == len(both.sent) and not driver.tx.outstanding
    # What comes now finds the buffers that were posted while the device was suspended.
    both.post(10)
    simulation.run(5000)
    before = both.dropped
    both.arrive(3)
    simulation.run(5000)
    both.look()
    assert both.place == len(both.incoming) and both.dropped == before
    assert both.taken + both.dropped == len(both.incoming)


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_at_every_moment(device, wanted):
    """One frame each way, suspended so and so many cycles after the doorbell: wherever the work is, it ends or waits.

    Covers: CORE-SUSP-10, CORE-SUSP-11
    """
    simulation, host = device("default", link=LinkConfig(latency=60, latency_spread=0))
    driver = start(host, wanted)
    both = Both(simulation, driver, generator("moment"))
    outcomes = set()
    for delay in range(0, 900, 13):
        go(driver.fill([300, 300], limit=8))
        both.send(1)
        both.arrive(1)
        simulation.run(delay)
        before = both.out
        go(driver.device.suspend())
        simulation.expect_quiet(True)
        both.look()
        outcomes.add(both.out - before)
        simulation.run(800)
        simulation.expect_quiet(False)
        go(driver.device.resume())
        simulation.run(1500)
        both.look()
        assert both.out == both.back == len(both.sent)
    assert outcomes >= {0, 1}


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_no_further_buffers(device, wanted):
    """Of many frames that were published together only those are sent that the device had begun with. Covers: CORE-SUSP-10"""
    simulation, host = device("default")
    driver = start(host, wanted, queue_size=512)
    for delay in (1500, 3000):
        for number in range(400):
            go(driver.transmit(number.to_bytes(NUMBER, "little") + bytes(1400), publish=False))
        go(driver.tx.publish())
        simulation.run(delay)
        go(driver.device.suspend())
        simulation.expect_quiet(True)
        done = len(simulation.take_frames())
        assert go(driver.reap()) == done and 0 < done < 200
        simulation.run(3000)
        simulation.expect_quiet(False)
        go(driver.device.resume())
        simulation.run(100_000)
        assert [int.from_bytes(frame[:NUMBER], "little") for _, frame, _ in simulation.take_frames()] == list(range(done, 400))
        assert go(driver.reap()) == 400 - done


def test_interrupts_that_are_due(device):
    """What is held back to be told of later is told of before the device is suspended; then nothing is. Covers: CORE-SUSP-03, CORE-SUSP-12"""
    for wanted in (WANTED, PACKED):
        simulation, host = device("default")
        driver = start(host, wanted | COALESCING, interrupts="msix")
        for kind in (Ctrl.NOTF_COAL_TX_SET, Ctrl.NOTF_COAL_RX_SET):
            assert go(driver.control.coalesce(kind, 500, 60_000)) == CtrlAck.OK
        for episode in range(1, 8):
            go(driver.fill([2000], limit=16))
            go(driver.rx.enable_interrupts())
            go(driver.tx.enable_interrupts())
            for _ in range(3):
                go(driver.transmit(bytes(60)))
                simulation.send_frame(bytes(60))
            # From the fifth on some may not have been used yet.
            simulation.run(3000 if episode < 5 else 400 * (episode - 4))
            assert host.interrupt_count(TX_VECTOR) == host.interrupt_count(RX_VECTOR) == episode - 1
            go(driver.device.suspend())
            counts = host.interrupt_count(TX_VECTOR), host.interrupt_count(RX_VECTOR)
            assert counts == (episode, episode), "not told of before it is suspended"
            simulation.expect_quiet(True)
            go(driver.rx.enable_interrupts())
            go(driver.tx.enable_interrupts())
            go(driver.transmit(bytes(60)))
            simulation.send_frame(bytes(60))
            simulation.run(5000)
            simulation.expect_quiet(False)
            assert (host.interrupt_count(TX_VECTOR), host.interrupt_count(RX_VECTOR)) == counts
            go(driver.device.resume())
            simulation.run(3000)
            assert go(driver.reap()) == 4 and 1 <= len(go(driver.collect())) <= 3
        assert host.interrupt_count(CONFIG_VECTOR) == 0


@pytest.mark.parametrize("kind", ["virtio", "flr", "hot"])
def test_resets(device, kind):
    """A reset while the suspension is under way, or done, is one like any other. Covers: CORE-SUSP-08"""
    rng = generator(f"reset {kind}")
    simulation, host = device("default", link=LinkConfig(latency=100, latency_spread=80))
    for episode in range(24):
        driver = start(host, (WANTED, PACKED)[episode % 2])
        both = Both(simulation, driver, rng)
        both.post(12)
        simulation.run(1500)
        both.send(8)
        both.arrive(4)
        simulation.run(rng.randrange(600))
        go(driver.device.set("device_status", 0x1F))
        simulation.run(rng.choice((0, rng.randrange(100), rng.randrange(600), 8000)))
        reset(simulation, driver, kind)
        simulation.expect_quiet(True)
        simulation.run(1000)
        simulation.expect_quiet(False)
        simulation.take_frames()
    driver = start(host)
    go(driver.transmit(bytes(60)))
    assert go(driver.wait_transmitted(1)) == 1


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_what_never_ends(small, wanted):
    """With a MAC that takes no frame, or reads that are never answered, the suspension ends in DEVICE_NEEDS_RESET. Covers: CORE-SUSP-08"""
    simulation, host = small()
    for episode in ("mac", "read"):
        driver = start(host, wanted, interrupts="msix", queue_size=64)
        simulation.run(1000)
        before = host.interrupt_count(CONFIG_VECTOR)
        if episode == "mac":
            simulation.mac_stalled = True
        for _ in range(30):
            go(driver.transmit(bytes(1000), publish=False))
        if episode == "read":
            simulation.mute(next(iter(driver.tx.outstanding.values())).elements[0].address, 64)
        go(driver.tx.publish())
        simulation.run(3000 if episode == "mac" else 300)
        go(driver.device.set("device_status", 0x1F))
        simulation.run(1000)
        assert go(driver.device.status()) == RUNNING, "status cannot be read, or is wrong, while the suspension is under way"
        simulation.run(17 * TIMEOUT if episode == "mac" else 2 * TIMEOUT)
        assert go(driver.device.status()) == RUNNING | Status.DEVICE_NEEDS_RESET
        assert host.interrupt_count(CONFIG_VECTOR) == before + 1
        simulation.mac_stalled = False
        simulation.mute(0, 0)
        go(driver.stop())
        simulation.run(20_000)
        simulation.take_frames()


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_nothing_from_outside_keeps_it_awake(device, wanted):
    """Frames without a gap and doorbells without end do not keep the device from coming to rest. Covers: CORE-SUSP-08"""
    simulation, host = device("default")
    driver = start(host, wanted)
    for _ in range(3):
        go(driver.fill([1600], limit=40))
        simulation.run(3000)
        for _ in range(3000):
            simulation.send_frame(bytes(60))
        simulation.run(300)
        go(driver.device.set("device_status", 0x1F))
        for count in range(600):                             # noqa: B007
            go(driver.tx.notify())
            go(driver.rx.notify())
            if go(driver.device.status()) == SUSPENDED:
                break
        assert simulation.frames_waiting, "there were too few frames"
        assert go(driver.device.status()) == SUSPENDED, "it goes on for ever"
        assert count < 200
        simulation.expect_quiet(True)
        simulation.run(3000)
        simulation.expect_quiet(False)
        while simulation.frames_waiting:
            simulation.run(1000)
        go(driver.collect())
        go(driver.device.resume())


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_with_queues_in_reset(device, wanted):
    """The reset of a queue that is under way ends before the device is suspended; the queue comes back after the resume.

    Covers: CORE-SUSP-05, CORE-SUSP-08
    """
    rng = generator("queue reset")
    simulation, host = device("default", link=LinkConfig(latency=150, latency_spread=100), **several_pairs())
    driver = start(host, wanted | MULTIQUEUE, pairs=PAIRS, queue_size=32)
    registers = driver.device
    for _ in range(16):
        for number in range(PAIRS):
            go(driver.pair(number).fill([300, 1400], limit=6))
            for _ in range(3):
                go(driver.pair(number).transmit(rng.randbytes(200)))
        simulation.run(rng.randrange(600))
        chosen = rng.sample([(number, role) for number in range(PAIRS) for role in ("rx", "tx")], rng.choice((1, 4, 8)))
        for number, role in chosen:
            go(registers.set("queue_select", getattr(driver.pair(number), role).index))
            go(registers.set("queue_reset", 1))
        simulation.run(rng.choice((0, rng.randrange(40), rng.randrange(400))))
        go(registers.suspend())
        simulation.expect_quiet(True)
        assert go(registers.get("queue_reset")) == 0, "a reset is still under way"
        simulation.run(3000)
        simulation.expect_quiet(False)
        go(registers.resume())
        for number, role in chosen:
            go(driver.pair(number).reset_queue(role))
            go(driver.pair(number).restart_queue(role))
        simulation.run(6000)
        simulation.take_frames()
        for number in range(PAIRS):
            go(driver.pair(number).reap())
            assert not driver.pair(number).tx.outstanding
            go(driver.pair(number).collect())


def test_with_commands(device):
    """A command that waits for received frames to be where they belong ends, although frames are dropped from then on. Covers: CORE-SUSP-11"""
    rng = generator("commands")
    simulation, host = device("default", **several_pairs())
    driver = start(host, WANTED | MULTIQUEUE, pairs=PAIRS, queue_size=32)
    queue, under_way = driver.control.queue, 0
    for episode in range(20):
        for number in range(PAIRS):
            go(driver.pair(number).fill([1600], limit=8))
        for _ in range(20):
            simulation.send_frame(bytes(200))
        simulation.run(rng.randrange(200))
        request, answer = host.alloc(4, writable=False), host.alloc(1)
        go(host.write(request, bytes((*Ctrl.MQ_VQ_PAIRS_SET, 1 + episode % PAIRS, 0))))
        go(host.write(answer, b"\xff"))
        go(queue.add([Element(request, 4), Element(answer, 1, writable=True)]))
        go(queue.publish())
        simulation.run(rng.randrange(900))
        go(driver.device.suspend())
        simulation.expect_quiet(True)
        simulation.run(1000)
        simulation.expect_quiet(False)
        under_way += len(go(queue.harvest()))
        go(driver.device.resume())
        simulation.run(6000)
        go(queue.harvest())
        assert not queue.outstanding and go(host.read(answer, 1))[0] == CtrlAck.OK
        for number in range(PAIRS):
            go(driver.pair(number).collect())
    assert 3 < under_way < 20


def comes_to_rest(simulation, driver, cycles=8000):
    """Read the status again and again: from the answer on that says that the device is suspended it does nothing."""
    end = simulation.cycle + cycles
    while (status := go(driver.device.status())) != SUSPENDED:
        assert simulation.cycle < end and status == RUNNING, f"the status is {status!r}"
    simulation.expect_quiet(True)
    simulation.run(1000)
    simulation.expect_quiet(False)
    assert simulation.violations == [], simulation.violations[0]


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_used_buffers_that_wait(device, wanted):
    """Writes stand still while more packets of some queues have left than fit into one burst of used elements, of others a single one, and nobody
    wants an interrupt; suspended meanwhile, the device writes all that is used before it says that it is. Covers: CORE-SUSP-08, CORE-SUSP-11
    """
    link = LinkConfig(latency=0, latency_spread=0, posted_spread=0, credits=(10, 64, 32, 32, 64, 1024))
    simulation, host = device("default", **several_pairs(), link=link)
    driver = start(host, wanted | MULTIQUEUE, pairs=PAIRS)
    go(driver.device.use_msix([CONFIG_VECTOR]))              # no queue has a vector: nothing is read before the next burst
    pairs = [driver.pair(number) for number in range(PAIRS)]
    for episode in range(4 * PAIRS):
        simulation.run(3000)
        for kind in (0, 1):
            simulation.block_credits(kind)
        first = episode % PAIRS
        for pair, count in zip(pairs[first:] + pairs[:first], (20, 1, 32, 31)):
            for _ in range(count):
                go(pair.transmit(bytes(60), publish=False))
            go(pair.tx.publish())
            simulation.run(500)
        go(driver.device.set("device_status", 0x1F))
        simulation.run(200 + episode)
        for kind in (0, 1):
            simulation.block_credits(kind, False)
        comes_to_rest(simulation, driver)
        done = sum(go(pair.reap()) for pair in pairs)
        go(driver.device.resume())
        simulation.run(6000)
        assert done + sum(go(pair.reap()) for pair in pairs) == 84 == len(simulation.take_frames())


def test_many_answers_at_once(device):
    """Doorbells of all queues until the device is told to suspend, and right behind that the indices come that were read before, the last of a
    queue that is known to have more buffers than there is room for: what has to be written then is, before the device is suspended.

    Covers: CORE-SUSP-08, CORE-SUSP-09
    """
    late = LinkConfig(latency=600, latency_spread=0, cut="large")
    simulation, host = device("default", **several_pairs())
    driver = start(host, WANTED & ~mask(Feature.EVENT_IDX) | MULTIQUEUE, pairs=PAIRS)
    pairs = [driver.pair(number) for number in range(PAIRS)]
    for number, pair in enumerate(pairs):
        go(pair.transmit(flow(number, "udp")))
    for episode in range(24):
        pair = pairs[episode % PAIRS]
        others = [queue for one in pairs for queue in (one.rx, one.tx) if queue is not pair.rx]
        go(pair.fill([100], limit=20))                       # more than are fetched ahead
        simulation.run(3000)
        simulation.set_link(late)
        for queue in others:
            go(queue.notify())
        go(pair.post([100]))
        simulation.run(590)
        for number in range(130):                            # for so long the answers pile up behind them
            go(others[number % len(others)].notify())
        go(driver.device.set("device_status", 0x1F))
        simulation.run(130 + episode)
        comes_to_rest(simulation, driver)
        simulation.set_link(LinkConfig())
        go(driver.device.resume())
        simulation.run(3000)
        frames = [flow(episode % PAIRS, "udp", back=True)] * 21
        for frame in frames:
            simulation.send_frame(frame)
        assert go(pair.receive(21)) == frames
