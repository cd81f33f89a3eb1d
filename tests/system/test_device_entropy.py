# SPDX-License-Identifier: BSD-2-Clause
"""The entropy device: every buffer gets the next 64 bytes of what the source gave, or those it has room for, and says how many."""

import os
import random

import pytest
from resets import reset

from unvirt.config import preset
from unvirt_sim.driver.entropy import ENTROPY_WANTED, EntropyDriver
from unvirt_sim.driver.pci import PciFunction
from unvirt_sim.driver.spec import ENTROPY_DEVICE_ID, VIRTIO_VENDOR, CfgType, Feature, Status, mask
from unvirt_sim.entropy import EntropyStream
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
CHUNK = 64
PACKED = ENTROPY_WANTED | mask(Feature.RING_PACKED)
IN_ORDER = mask(Feature.IN_ORDER, Feature.NOTIFICATION_DATA)
RINGS = {"events": ENTROPY_WANTED, "flags": ENTROPY_WANTED & ~mask(Feature.EVENT_IDX), "in order": ENTROPY_WANTED | IN_ORDER, "packed events": PACKED,
         "packed flags": PACKED & ~mask(Feature.EVENT_IDX), "packed in order": PACKED | IN_ORDER}
LENGTHS = [1, 2, 3, 4, 7, 8, 9, 31, 63, 64, 65, 100, 1500, 4095, 4096]


class Reader:
    """A driver, and the place in the stream of the source where the next buffer has to begin."""

    def __init__(self, simulation, host, *, seed=SEED):
        self.simulation, self.host = simulation, host
        self.stream = EntropyStream(seed)
        self.place = None
        self.driver = None

    def start(self, **options):
        """Begin from enumeration on; what was gathered before is not to be seen any more."""
        self.driver = go(EntropyDriver.find(self.host, seed=SEED))
        self.place = self.simulation.entropy_taken
        go(self.driver.start(**options))
        return self

    def read(self, count):
        """Wait for ``count`` buffers and check every byte and every length."""
        found = go(self.driver.receive(count))
        assert len(found) == count
        for room, data in found:
            assert len(data) == min(room, CHUNK)
            assert data == self.stream.read(self.place, len(data)), f"a buffer of {room} bytes does not hold what is at {self.place}"
            self.place += CHUNK
        assert self.place <= self.simulation.entropy_taken
        return found

    def exchange(self, *buffers, **shape):
        """Post buffers of these element lengths at once, and read them all."""
        for lengths in buffers:
            go(self.driver.post(lengths, publish=False, **shape))
        go(self.driver.queue.publish())
        return self.read(len(buffers))


@pytest.fixture
def reader(device):
    """Return a maker of a :class:`Reader` of an entropy device that is not started yet."""
    def make(*, link=None, settle=3000, **options):
        simulation, host = device("entropy", link=link, seed=SEED, settle=settle, **options)
        return Reader(simulation, host)
    return make


def test_identity(reader):
    """The ids of an entropy device; one queue, no device configuration, no feature bit of its own [virtio 5.4.1 to 5.4.4]."""
    one = reader()
    function = go(PciFunction(one.host).enumerate())
    assert (function.vendor, function.device) == (VIRTIO_VENDOR, ENTROPY_DEVICE_ID)
    assert function.find(CfgType.DEVICE) is None
    one.start()
    device = one.driver.device
    assert go(device.get("num_queues")) == 1
    go(device.set("queue_select", 1))
    assert go(device.get("queue_size")) == 0
    go(one.driver.stop())
    go(device.start_negotiation())
    assert go(device.offered()) & (1 << 24) - 1 == 0
    assert go(one.host.memory_read(function.bars[0].address + 0x2000, 4)) == bytes(4)


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_lengths(reader, wanted):
    """Buffers of 1 to 4096 bytes, alone and together: 64 bytes or what fits, nothing behind, all the next bytes of the stream."""
    one = reader().start(wanted=wanted, queue_size=32, interrupts="poll", order="random")
    for length in LENGTHS:
        one.exchange([length])
    rng = random.Random(f"lengths {SEED}")
    for _ in range(6):
        one.exchange(*([rng.choice((*LENGTHS, rng.randrange(1, 4097)))] for _ in range(rng.randrange(1, 32))))
    go(one.driver.stop())


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_chains(reader, wanted):
    """Chains of up to 20 descriptors and indirect tables, cut anywhere; pages crossed at every kind of alignment."""
    one = reader().start(wanted=wanted, queue_size=32, interrupts="poll")
    rng = random.Random(f"chains {SEED}")
    for pieces, table in ((2, None), (5, None), (20, None), (1, 0), (3, 0), (20, 0)):
        one.exchange(*([rng.randrange(1, 12) for _ in range(pieces)] for _ in range(1 if table is None else 4)), indirect_from=table)
    one.exchange([1] * 20, [63, 1, 500])
    for distance in (1, 7, 8, 63):
        one.exchange([CHUNK], page_offset=4096 - distance)
    go(one.driver.stop())


@pytest.mark.parametrize("interrupts", ["msix", "shared", "intx"])
def test_interrupts(reader, interrupts):
    """A driver that sleeps is woken for every buffer."""
    one = reader().start(queue_size=8, interrupts=interrupts)
    for _ in range(20):
        one.exchange([CHUNK])
        one.exchange([10], [4096], [3])


def test_bad_link(reader):
    """A source, a link and a host that hesitate change nothing; the ring wraps many times."""
    one = reader(link=LinkConfig(tx_stall=0.3, rx_gap=0.3, mac_rx_gap=0.5, latency_spread=200, posted_spread=100))
    one.start(wanted=PACKED, queue_size=7, interrupts="msix")
    rng = random.Random(f"link {SEED}")
    for _ in range(40):
        one.exchange(*([rng.randrange(1, 100)] for _ in range(rng.randrange(1, 7))))


def test_buffers_wait_for_entropy(reader):
    """Without entropy buffers wait as long as it takes, and a reset ends all the same; with it they are served, oldest first."""
    one = reader(link=LinkConfig(mac_rx_gap=1.0)).start(queue_size=16, interrupts="poll")
    for lengths in ([5], [200], [30, 30]):
        go(one.driver.post(lengths))
    one.simulation.run(40_000)
    # The source had offered one piece before it could be seen whether it was wanted; nothing else came.
    assert one.simulation.entropy_taken <= 4 and go(one.driver.collect()) == []
    one.simulation.set_link(LinkConfig(mac_rx_gap=0.98))
    assert [len(data) for _, data in one.read(3)] == [5, CHUNK, 60]
    one.simulation.set_link(LinkConfig(mac_rx_gap=1.0))
    go(one.driver.post([200]))
    go(one.driver.post([CHUNK]))
    go(one.driver.post([CHUNK]))
    one.simulation.run(40_000)
    go(one.driver.stop())
    one.simulation.set_link(LinkConfig())
    one.start(interrupts="poll").exchange([CHUNK], [1])


def test_entropy_waits_for_buffers(reader):
    """A chunk that found no buffer, however often, is neither lost nor given twice; what a source gives in advance is little."""
    one = reader().start(queue_size=16, interrupts="poll")
    one.simulation.run(100_000)
    assert one.simulation.entropy_taken < 2 * CHUNK
    for pause in (0, 3, 50, 1000, 20_000):
        one.exchange([40])
        one.simulation.run(pause)
        one.exchange([CHUNK], [CHUNK], [1])


def test_a_readable_buffer_is_a_violation(reader):
    """A buffer that the device may not write stops it, nothing is written, and after a reset it works [virtio 5.4.6.1]."""
    one = reader().start(queue_size=16, interrupts="poll")
    go(one.driver.queue.add([element(one.host)], token=None))
    go(one.driver.queue.publish())
    one.simulation.run(3000)
    assert go(one.driver.device.status()) & Status.DEVICE_NEEDS_RESET
    one.start(interrupts="poll").exchange([CHUNK])


def element(host):
    """Return an element that the device may read only."""
    from unvirt_sim.driver import Element
    return Element(host.alloc(64, writable=False), 64)


@pytest.mark.parametrize("kind", ["virtio", "flr", "hot", "link", "power"])
def test_reset_in_mid_flight(reader, kind):
    """Whenever the reset comes, the device is quiet when it is done, works again, and gives nothing that it held or gave before."""
    print(f"seed {SEED}")
    rng = random.Random(f"{kind} {SEED}")
    one = reader()
    for _ in range(12):
        one.start(wanted=rng.choice(list(RINGS.values())), queue_size=32, interrupts="poll")
        for _ in range(rng.randrange(1, 20)):
            go(one.driver.post([rng.randrange(1, 200)], publish=False))
        go(one.driver.queue.publish())
        one.simulation.run(rng.choice((rng.randrange(40), rng.randrange(400), rng.randrange(1500))))
        reset(one.simulation, one.driver, kind)
        one.simulation.expect_quiet(True)
        for chain in one.driver.queue.outstanding.values():
            chain.token.free()
        one.driver.queue.release()
        one.simulation.run(3000)
        one.simulation.expect_quiet(False)
        one.start(queue_size=16, interrupts="poll").exchange([CHUNK], [9], [300])
        go(one.driver.stop())


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_suspend_in_mid_flight(reader, wanted):
    """Suspended at any moment and resumed, the device is quiet meanwhile and goes on with the very next chunk. Covers: CORE-SUSP-04, CORE-SUSP-09"""
    rng = random.Random(f"suspend {SEED}")
    one = reader().start(wanted=wanted | mask(Feature.SUSPEND), queue_size=32, interrupts="poll")
    device = one.driver.device
    for _ in range(12):
        count = rng.randrange(1, 20)
        for _ in range(count):
            go(one.driver.post([rng.randrange(1, 200)], publish=False))
        go(one.driver.queue.publish())
        one.simulation.run(rng.choice((rng.randrange(40), rng.randrange(400), rng.randrange(1500))))
        go(device.suspend())
        one.simulation.expect_quiet(True)
        one.simulation.run(2000)
        one.simulation.expect_quiet(False)
        go(device.resume())
        one.read(count)


def test_queue_reset_in_mid_flight(reader):
    """A queue that is reset alone is quiet, and set up again goes on: with chunks that no buffer was given before [virtio 2.6.1]."""
    rng = random.Random(f"queue {SEED}")
    one = reader()
    for wanted in RINGS.values():
        one.start(wanted=wanted | mask(Feature.RING_RESET), queue_size=32, interrupts="poll")
        device = one.driver.device
        assert device.has(Feature.RING_RESET)
        for _ in range(4):
            queue = one.driver.queue
            for _ in range(rng.randrange(1, 20)):
                go(one.driver.post([rng.randrange(1, 200)], publish=False))
            go(queue.publish())
            one.simulation.run(rng.choice((rng.randrange(40), rng.randrange(400), rng.randrange(1500))))
            buffers = [chain.token for chain in queue.outstanding.values()]
            go(device.reset_queue(0))
            for buffer in buffers:
                buffer.free()
            one.simulation.run(1000)
            one.driver.queue = go(device.setup_queue(0, size=32))
            go(one.driver.queue.disable_interrupts())
            go(one.driver.post([CHUNK]))
            (_, data), = go(one.driver.receive(1))
            place = one.stream.read(0, one.simulation.entropy_taken).find(data, one.place)
            assert len(data) == CHUNK and place >= one.place and (place - one.place) % CHUNK == 0
            one.place = place + CHUNK
            one.exchange([9], [300])
        go(one.driver.stop())


@pytest.mark.parametrize("seed", range(2, 5))
def test_random_registers_and_memories(reader, seed, monkeypatch):
    """Nothing depends on what registers and memories hold at power-up."""
    monkeypatch.setattr("test_device_entropy.SEED", seed)
    one = reader(settle=1000)
    one.stream = EntropyStream(seed)
    one.start(interrupts="poll").exchange(*[[length] for length in LENGTHS])


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 128, 256, 512])
def test_widths(reader, width):
    """Every data width."""
    one = reader(data_width=width)
    assert preset("entropy").data_width != width
    for wanted in (ENTROPY_WANTED, PACKED):
        one.start(wanted=wanted, queue_size=32, interrupts="poll")
        one.exchange(*[[length] for length in LENGTHS])
        one.exchange([1] * 20)
        go(one.driver.stop())
