# SPDX-License-Identifier: BSD-2-Clause
"""The packed ring as it goes by on the link: what is read in which order, what is written where, and how often."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from link_records import flags_written, hits, identity
from settings import RINGS, TIMEOUT
from test_device_faults import recovers
from traffic import cut

from unvirt_sim.driver.net import PACKED, NetDriver
from unvirt_sim.driver.spec import PACKED_DESCRIPTOR, DescFlag, EventMode
from unvirt_sim.harness_host import HarnessHost
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

NEXT, WRITE, INDIRECT, AVAIL = (int(flag) for flag in (DescFlag.NEXT, DescFlag.WRITE, DescFlag.INDIRECT, DescFlag.AVAIL))
PACKED_RINGS = {name: wanted for name, wanted in RINGS.items() if name.startswith("packed")}
OUT_OF_ORDER = {name: wanted for name, wanted in PACKED_RINGS.items() if not name.endswith("in order")}
SLOW = LinkConfig(latency=100, latency_spread=300, posted_spread=100, tx_stall=0.5)
"""Reads are answered in any order, and writes wait."""
FEW_CREDITS = replace(SLOW, credits=(1, 64, 32, 32, 64, 1024))


def start(small, wanted=PACKED, *, queue_size=37, link=SLOW, interrupts="poll", **options):
    simulation, host = small(link=link)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=queue_size, interrupts=interrupts, wanted=wanted, **options))
    simulation.run(1000)
    return simulation, host, driver


def shape(rng, total, single):
    """Return the lengths of a list, and whether it lies in a table."""
    if single:
        return [total], None
    return cut(rng, total, rng.choice((1, 1, 1, 1, 2, 7))), rng.choice((None, None, None, 0))


def give(driver, rng, count, *, total=612, single=False):
    """Give the device ``count`` lists of each kind that become available together; return the chains of both queues."""
    for _ in range(count):
        lengths, table = shape(rng, total, single)
        go(driver.post(lengths, indirect_from=table, shuffle=True, publish=False))
        lengths, table = shape(rng, total, single)
        go(driver.transmit(rng.randbytes(total - driver.header_size), lengths=lengths, indirect_from=table, shuffle=True, publish=False))
    chains = [list(queue.outstanding.values()) for queue in (driver.rx, driver.tx)]
    go(driver.rx.publish())
    go(driver.tx.publish())
    return chains


def take_back(simulation, driver, count):
    """Wait until ``count`` frames of each kind are through."""
    for _ in range(200):
        simulation.run(200)
        if not driver.tx.outstanding or go(driver.reap()) and not driver.tx.outstanding:
            break
    assert len(simulation.take_frames()) == count
    assert len(go(driver.receive(count))) == count and not driver.rx.outstanding


@pytest.mark.parametrize("wanted", OUT_OF_ORDER.values(), ids=OUT_OF_ORDER)
def test_used_descriptors(small, wanted):
    """Used descriptors follow each other in the ring in the order in which buffers are done with, each written once, and never cut
    between length, id and flags.

    Data of later buffers comes before that of earlier ones: none is used out of its turn, or in the place where it came from.

    Covers: PACK-ORD-02, PACK-USED-05, PACK-DESC-04, DER-ORD-05
    """
    rng = random.Random(f"used {wanted}")
    simulation, _, driver = start(small, wanted, queue_size=64, order="random", link=FEW_CREDITS)
    bursts = Counter()
    for _ in range(25):
        count, total = rng.choice(((rng.randint(1, 6), 612), (24, 80)))
        simulation.record()
        simulation.block_credits(0, count == 24)             # writes pile up
        both = give(driver, rng, count, total=total, single=count == 24)
        simulation.run(6000)
        simulation.block_credits(0, False)
        for _ in range(count):
            simulation.send_frame(rng.randbytes(total - driver.header_size))
        take_back(simulation, driver, count)
        records = simulation.records()
        for queue, chains in zip((driver.rx, driver.tx), both):
            written = Counter()
            for _, first, size in hits(records, Seen.UP_WRITE, queue.desc, 16 * queue.size):
                # Length, id and flags are the second half of a descriptor.
                assert first % 8 == size % 8 == 0, f"a used descriptor is cut: {size} bytes at {first}"
                written.update(range(first, first + size))
                bursts[size] += 1
            assert set(written.values()) == {1}, "a descriptor was written again"
            used = flags_written(records, queue)
            assert [slot for _, slot in used] == [chain.slots[0] for chain in chains]
            assert [identity(queue, slot) for _, slot in used] == [chain.head for chain in chains]
            if queue is driver.rx:
                done = [max(index for element in chain.elements for index, *_ in
                            hits(records, Seen.UP_WRITE, element.address, element.length)) for chain in chains]
                assert done == sorted(done) and all(end < index for end, (index, _) in zip(done, used))
    print(bursts)
    assert max(bursts) == 128, "no burst was cut at the largest payload"


@pytest.mark.parametrize("wanted", PACKED_RINGS.values(), ids=PACKED_RINGS)
def test_merged_buffers_are_used_first_one_last(small, wanted):
    """Of a frame over several buffers the first is used when all the others are; with IN_ORDER one descriptor tells of all.

    Covers: DER-ORD-06
    """
    rng = random.Random(f"merged {wanted}")
    simulation, _, driver = start(small, wanted, queue_size=50)
    for _ in range(30):
        go(driver.fill([100], limit=45))
        slots = [chain.slots[0] for chain in driver.rx.outstanding.values()]
        simulation.run(3000)
        simulation.record()
        simulation.send_frame(rng.randbytes(rng.choice((60, 150, 300, 700, 1500))))
        assert len(go(driver.receive(1))) == 1
        count = driver.headers[-1][-1]
        found = [slot for _, slot in flags_written(simulation.records(), driver.rx)]
        # In the order of the ring, which may end among them.
        assert found == (slots[:1] if driver.rx.in_order else slots[1:count] + slots[:1]), count


def test_lists_are_taken_in_their_order(small):
    """Whatever the order in which lines of the ring are answered, the device begins with the list that comes first, and its first element.

    Covers: PACK-ORD-01
    """
    rng = random.Random("order")
    simulation, _, driver = start(small, queue_size=61, order="random")
    for _ in range(12):
        simulation.record()
        _, chains = give(driver, rng, 14, total=100)
        elements = [element for chain in chains for element in chain.elements]
        simulation.run(12_000)
        begun = []
        for record in simulation.records():
            begun += [number for number, element in enumerate(elements) if record.kind == Seen.UP_READ and number not in begun
                      and record.address < element.address + element.length and element.address < record.address + record.bytes]
        assert begun == list(range(len(elements)))
        for _ in range(14):
            simulation.send_frame(bytes(60))
        take_back(simulation, driver, 14)


@pytest.mark.parametrize("wanted", PACKED_RINGS.values(), ids=PACKED_RINGS)
def test_areas(small, wanted):
    """The driver area is read, the device area written, never the other way round; what is written there is a mode that was agreed on.

    Covers: PACK-LAY-04, PACK-EVT-04
    """
    simulation, _, driver = start(small, wanted, link=LinkConfig(latency=100), interrupts="msix")
    events = driver.tx.event_idx
    go(driver.fill([200]))
    simulation.record()
    modes = Counter()
    for _ in range(40):
        for _ in range(3):
            go(driver.transmit(bytes(60)))
            simulation.run(40)
        go(driver.wait_transmitted(3))
        simulation.send_frame(bytes(60))
        assert len(go(driver.receive(1, refill=[200]))) == 1
        simulation.run(1500)
    records = simulation.records()
    for queue in (driver.rx, driver.tx):
        assert len(hits(records, Seen.UP_READ, queue.driver_event, 4)) > 20
        assert hits(records, Seen.UP_WRITE, queue.driver_event, 4) == hits(records, Seen.UP_READ, queue.device_event, 4) == []
        for index, first, size in hits(records, Seen.UP_WRITE, queue.device_event, 4):
            place, mode = records[index].data & 0xFFFF, records[index].data >> 16
            assert (first, size) == (0, 4)
            assert mode in ((EventMode.ENABLE, EventMode.DISABLE, EventMode.DESCRIPTOR) if events else (EventMode.ENABLE, EventMode.DISABLE))
            assert (place & 0x7FFF) < queue.size if events else place == 0
            modes[mode] += 1
    print(modes)
    assert modes[EventMode.DESCRIPTOR] > 20 if events else min(modes[EventMode.ENABLE], modes[EventMode.DISABLE]) > 20


class ExactHost(HarnessHost):
    """Allocates no better aligned than asked for: at odd multiples of the alignment, ``step`` of them on from one place to the next."""

    def __init__(self, simulation, step):
        super().__init__(simulation)
        self.step = step

    def alloc(self, size, align=64, *, writable=True):
        base = super().alloc(1, 4096)
        super().free(base)
        self.step += 2
        start = base + align * (self.step % (4096 // align) | 1)
        self.simulation.map_memory(start, max(size, 1), writable=writable)
        self._sizes[start] = max(size, 1)
        for place in self._next:                             # whichever it was
            self._next[place] = -(-(self._next[place] + size) // 4096) * 4096 + 4096
        return start


@pytest.mark.parametrize("step", [0, 6, 120, 1010])
@pytest.mark.parametrize("queue_size", [5, 16, 33])
def test_areas_lie_anywhere(device, queue_size, step):
    """Rings at any multiple of 16 and event structures at any of 4 are as good, also across and at the end of pages; not a byte more is used.

    Covers: PACK-LAY-02
    """
    rng = random.Random(f"areas {queue_size} {step}")
    simulation, _ = device("minimal", completion_timeout=TIMEOUT, link=LinkConfig())
    driver = go(NetDriver.find(ExactHost(simulation, step)))
    go(driver.start(queue_size=queue_size, interrupts="msix", wanted=PACKED))
    queues = (driver.rx, driver.tx)
    assert all(queue.desc % 32 == 16 and queue.driver_event % 8 == 4 and queue.device_event % 8 == 4 for queue in queues)
    for _ in range(8):
        for _ in range(3):
            go(driver.post([300], publish=False))
        go(driver.rx.publish())
        simulation.run(1500)
        frames = [rng.randbytes(200) for _ in range(3)]
        for frame in frames:
            go(driver.transmit(frame, publish=False))
            simulation.send_frame(frame)
        go(driver.tx.publish())
        assert go(driver.wait_transmitted(3)) == 3
        assert go(driver.receive(3)) == frames
        simulation.run(500)
        assert [frame for _, frame, _ in simulation.take_frames()] == frames


@pytest.mark.parametrize("wanted", PACKED_RINGS.values(), ids=PACKED_RINGS)
def test_lists_and_tables_alternate(small, wanted):
    """Lists in the ring and in tables of 1 to 20 elements follow each other; a table takes one slot, and the id of that slot.

    In the tables every bit that means nothing there is set at random, ids among them.

    Covers: PACK-IND-01, PACK-IND-02, PACK-IND-04, PACK-IND-05, PACK-LAY-03
    """
    rng = random.Random(f"alternate {wanted}")
    order = "fifo" if wanted == RINGS["packed in order"] else "random"
    simulation, _, driver = start(small, wanted, queue_size=23, link=LinkConfig(), order=order)
    for _ in range(60):
        frames = []
        for table in (None, 0, None, 0):
            frames.append(rng.randbytes(rng.choice((60, 200))))
            total = len(frames[-1]) + driver.header_size
            pieces = rng.choice((1, 2, 8, 9, 16, 20)) if table == 0 else rng.randint(1, 4)
            go(driver.transmit(frames[-1], lengths=cut(rng, total, pieces), indirect_from=table, shuffle=True, publish=False))
            go(driver.post(cut(rng, 212, pieces), indirect_from=table, shuffle=True, publish=False))
        go(driver.tx.publish())
        go(driver.rx.publish())
        assert go(driver.wait_transmitted(4)) == 4
        simulation.run(1000)
        assert [frame for _, frame, _ in simulation.take_frames()] == frames
        for frame in frames:
            simulation.send_frame(frame)
        assert go(driver.receive(4)) == frames


def malformed(driver):
    """Return {name: descriptors in the ring, (address, length, flags)} of lists that must not be."""
    data = driver.host.alloc(4096, writable=False)
    good = (data, 100, 0)

    def table(*entries):
        at = driver.host.alloc(16 * len(entries), 16, writable=False)
        go(driver.host.write(at, b"".join(PACKED_DESCRIPTOR.pack(address, length, 0, flags) for address, length, flags in entries)))
        return at, 16 * len(entries), INDIRECT

    one = table(good)
    return {
        "table with NEXT": [(*one[:2], INDIRECT | NEXT), good],
        "table behind an element": [(data, 50, NEXT), (*one[:2], INDIRECT | NEXT), good],
        "table of odd length": [(one[0], 24, INDIRECT)],
        "table of length zero": [(one[0], 0, INDIRECT)],
        "readable after writable": [(data, 12, NEXT | WRITE), good],
        "readable after writable in a table": [table((data, 12, WRITE), good)],
    }


MALFORMED = ("table with NEXT", "table behind an element", "table of odd length", "table of length zero", "readable after writable",
             "readable after writable in a table")


@pytest.mark.parametrize("name", MALFORMED)
def test_violations_of_the_packed_ring(small, name):
    """Malformed lists stop the device without a stray access or a hang.

    Covers: PACK-IND-06, PACK-DRV-03, DER-ERR-01, DER-ERR-03, CORE-STATUS-03
    """
    simulation, host = small()
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=PACKED, queue_size=16, interrupts="msix"))
    pieces = malformed(driver)[name]
    for slot, (address, length, flags) in reversed(list(enumerate(pieces))):
        go(host.write(driver.tx.desc + 16 * slot, PACKED_DESCRIPTOR.pack(address, length, 7, flags | AVAIL)))
    go(driver.tx.notify())
    recovers(simulation, host, driver)


@pytest.mark.parametrize("queue_size", [1, 2, 3, 5, 7])
def test_lists_that_fill_the_ring(small, queue_size):
    """A list of as many descriptors as the ring has is as good as a shorter one, and a table in a ring of one. Covers: PACK-LAY-02"""
    rng = random.Random(queue_size)
    simulation, _, driver = start(small, PACKED, queue_size=queue_size, link=LinkConfig())
    for number in range(4 * queue_size + 4):
        frame = rng.randbytes(100)
        pieces = queue_size if number % 3 else rng.randint(1, queue_size)
        table = 0 if queue_size == 1 and number % 2 else None
        go(driver.transmit(frame, lengths=cut(rng, 100 + driver.header_size, 4 if table == 0 else pieces), indirect_from=table))
        assert go(driver.wait_transmitted(1)) == 1
        simulation.run(500)
        assert [data for _, data, _ in simulation.take_frames()] == [frame]
