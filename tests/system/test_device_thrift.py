# SPDX-License-Identifier: BSD-2-Clause
"""What a packet costs on the link: how many TLPs, payload bytes and beats there are for each cause, in twelve fixed scenarios.

The counts are golden: a change of one of them is a decision, not an accident. They are those of a device that looks for more work before it asks for
doorbells again (of a split ring an index read more than a single packet needs; a packed ring is read by lines as long as nothing is known of how
many packets are usual: seven of eight come in one line, so that the eighth is a batch of its own), and that publishes a used buffer at once if
nothing waits behind it. Tables of descriptors are among the data.
"""

from collections import Counter

import pytest

from unvirt_sim.driver.net import PACKED, WANTED, NetDriver
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

CALM = LinkConfig(latency=100, latency_spread=0, posted_spread=0, tear=False, cut="large", reorder=False)
RINGS = {"split": WANTED, "packed": PACKED}
LANES = 8


class Causes:
    """Tells from its address what a TLP is for."""

    def __init__(self, driver):
        self.driver = driver
        self.indexed, self.armed = set(), set()       # queues whose index was read; and since then re-armed

    def regions(self, queue):
        """Return {cause: (address, bytes)} of what a queue has in memory; the most special come first."""
        if hasattr(queue, "avail"):
            size = queue.size
            return {"used index": (queue.used, 4), "event": (queue.used + 4 + 8 * size, 2), "used": (queue.used + 4, 8 * size),
                    "suppression": (queue.avail + 4 + 2 * size, 2), "index": (queue.avail, 4), "ring": (queue.avail + 4, 2 * size),
                    "descriptor": (queue.desc, 16 * size)}
        return {"event": (queue.device_event, 4), "suppression": (queue.driver_event, 4), "descriptor": (queue.desc, 16 * queue.size)}

    def of(self, record):
        """Return the cause of a record, None for what only answers another TLP."""
        if record.kind in (Seen.UP_COMPLETION, Seen.DOWN_COMPLETION, Seen.FRAME_IN, Seen.FRAME_OUT):
            return None
        if record.kind in (Seen.DOWN_READ, Seen.DOWN_WRITE, Seen.DOWN_CONFIG):
            return "doorbell" if record.kind == Seen.DOWN_WRITE else "register"
        for queue in (self.driver.rx, self.driver.tx):
            for cause, (address, size) in self.regions(queue).items():
                if address <= record.address < address + size:
                    return self._of_queue(queue, cause, record.kind == Seen.UP_WRITE)
        return "interrupt" if record.kind == Seen.UP_WRITE and record.address >> 20 == 0xFEE else "data"

    def _of_queue(self, queue, cause, write):
        if cause == "event":
            self.armed.add(queue.index)
        if cause == "descriptor" and write:
            return "used"
        looks = cause == ("index" if hasattr(queue, "avail") else "descriptor")
        if looks and queue.index in self.armed:
            self.armed.discard(queue.index)
            return "re-read"
        return cause


def beats(record):
    """Return the beats of a TLP on the raw stream of 64 bits."""
    header = 16 if record.address >> 32 else 12
    writes = record.kind in (Seen.UP_WRITE, Seen.DOWN_WRITE)
    first = record.address % 4 if writes else 0
    return -(-(header + (-(-(first + record.bytes) // 4) * 4 if writes else 0)) // LANES)


def transmit(driver, count, **shape):
    """Publish frames of 60 bytes together; wait until all have come back."""
    for _ in range(count):
        go(driver.transmit(bytes(60), publish=False, page_offset=256, **shape))
    go(driver.tx.publish())
    assert go(driver.wait_transmitted(count)) == count


def receive(driver, lengths):
    """Let frames arrive without a gap; wait until the driver has them all."""
    for length in lengths:
        driver.host.simulation.send_frame(bytes(length))
    assert [len(frame) for frame in go(driver.receive(len(lengths)))] == lengths


SCENARIOS = {
    "send one": (lambda driver: transmit(driver, 1), 0),
    "send eight": (lambda driver: transmit(driver, 8), 0),
    "send one of two elements in a table": (lambda driver: transmit(driver, 1, lengths=[12, 60], indirect_from=0), 0),
    "receive one": (lambda driver: receive(driver, [60]), 8),
    "receive eight": (lambda driver: receive(driver, [60] * 8), 16),
    "receive one in four buffers": (lambda driver: receive(driver, [1000]), 8),
}

GOLDEN = {
    ("split", "send one"): {"doorbell": (1, 2, 3), "index": (2, 4, 4), "ring": (1, 2, 2), "descriptor": (1, 16, 2), "data": (1, 72, 2),
        "used": (1, 8, 3), "used index": (1, 2, 2), "suppression": (1, 2, 2), "interrupt": (1, 4, 2), "event": (1, 2, 2), "re-read": (1, 2, 2)},
    ("split", "send eight"): {"doorbell": (1, 2, 3), "index": (2, 4, 4), "ring": (1, 16, 2), "descriptor": (1, 128, 2), "data": (8, 576, 16),
        "used": (8, 64, 24), "used index": (8, 16, 16), "suppression": (1, 2, 2), "interrupt": (1, 4, 2), "event": (1, 2, 2), "re-read": (1, 2, 2)},
    ("split", "send one of two elements in a table"): {"doorbell": (1, 2, 3), "index": (2, 4, 4), "ring": (1, 2, 2), "descriptor": (1, 16, 2),
        "data": (3, 104, 6), "used": (1, 8, 3), "used index": (1, 2, 2), "suppression": (1, 2, 2), "interrupt": (1, 4, 2), "event": (1, 2, 2),
        "re-read": (1, 2, 2)},
    ("split", "receive one"): {"data": (1, 72, 11), "used": (1, 8, 3), "used index": (1, 2, 3), "suppression": (1, 2, 2), "interrupt": (1, 4, 2)},
    ("split", "receive eight"): {"data": (8, 576, 88), "used": (2, 64, 12), "used index": (2, 4, 6), "suppression": (1, 2, 2),
        "interrupt": (1, 4, 2)},
    ("split", "receive one in four buffers"): {"data": (11, 1012, 149), "used": (1, 32, 6), "used index": (1, 2, 3), "suppression": (1, 2, 2),
        "interrupt": (1, 4, 2)},
    ("packed", "send one"): {"doorbell": (1, 2, 3), "descriptor": (1, 112, 2), "data": (1, 72, 2), "used": (1, 8, 3), "suppression": (1, 4, 2),
        "interrupt": (1, 4, 2), "event": (1, 4, 2), "re-read": (1, 16, 2)},
    ("packed", "send eight"): {"doorbell": (1, 2, 3), "descriptor": (3, 368, 6), "data": (8, 576, 16), "used": (8, 64, 24),
        "suppression": (2, 8, 4), "interrupt": (2, 8, 4), "event": (1, 4, 2), "re-read": (1, 16, 2)},
    ("packed", "send one of two elements in a table"): {"doorbell": (1, 2, 3), "descriptor": (1, 112, 2), "data": (3, 104, 6), "used": (1, 8, 3),
        "suppression": (1, 4, 2), "interrupt": (1, 4, 2), "event": (1, 4, 2), "re-read": (1, 16, 2)},
    ("packed", "receive one"): {"data": (1, 72, 11), "used": (1, 8, 3), "suppression": (1, 4, 2), "interrupt": (1, 4, 2)},
    ("packed", "receive eight"): {"data": (8, 576, 88), "used": (2, 112, 18), "suppression": (1, 4, 2), "interrupt": (1, 4, 2)},
    ("packed", "receive one in four buffers"): {"data": (11, 1012, 149), "used": (2, 48, 10), "suppression": (1, 4, 2), "interrupt": (1, 4, 2)},
}
"""{(ring, scenario): {cause: (TLPs, bytes, beats)}}; without a doorbell, the buffers were already in the device."""


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_golden_counts(device, ring, scenario):
    """No TLP too many: each cause has the count, the bytes and the beats that it had when they were looked at one by one."""
    simulation, host = device("default", link=CALM, random_init=False)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=RINGS[ring], queue_size=64, interrupts="msix"))
    act, buffers = SCENARIOS[scenario]
    for _ in range(buffers):
        go(driver.post([268], page_offset=256, publish=False))
    go(driver.rx.publish())
    simulation.run(5000)
    simulation.record()
    act(driver)
    simulation.run(5000)
    causes, found = Causes(driver), Counter()
    for record in simulation.records():
        cause = causes.of(record)
        if cause:
            found[cause] += 1
            found[cause, "bytes"] += record.bytes
            found[cause, "beats"] += beats(record)
    seen = {cause: (count, found[cause, "bytes"], found[cause, "beats"]) for cause, count in found.items() if isinstance(cause, str)}
    print(ring, scenario, seen)
    assert seen == GOLDEN[ring, scenario]


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_as_many_as_usual(device, count):
    """Of a packed ring, what the driver usually gives at once is read, and the descriptor behind it that tells the end, in one round of reads."""
    simulation, host = device("default", link=CALM, random_init=False)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=PACKED, queue_size=64, interrupts="msix"))
    transmit(driver, count)
    simulation.run(5000)
    simulation.record()
    transmit(driver, count)
    simulation.run(5000)
    causes = Causes(driver)
    seen = [(causes.of(record), record) for record in simulation.records()]
    reads = [record for cause, record in seen if cause == "descriptor"]
    assert sum(record.bytes for record in reads) == 16 * (count + 1)
    assert reads[-1].last - reads[0].last < CALM.latency
    assert [record.bytes for cause, record in seen if cause == "re-read"] == [16]
    assert sum(record.kind == Seen.FRAME_OUT for _, record in seen) == count


def test_more_than_usual(device):
    """A run that is longer than those before it is read to its end; its length is then expected, shorter ones lead halfway to theirs."""
    simulation, host = device("default", link=CALM, random_init=False)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=PACKED, queue_size=64, interrupts="msix"))
    transmit(driver, 1)
    sizes = []
    for count in (40, 40, 4, 4):
        simulation.run(5000)
        simulation.record()
        transmit(driver, count)
        causes = Causes(driver)
        sizes.append(sum(record.bytes for record in simulation.records() if causes.of(record) == "descriptor") // 16)
    assert sizes[0] >= 41
    assert sizes[1:] == [41, 41, 23]


def test_a_run_without_end(device):
    """After a run of 63 descriptors or more, of which no length is kept, eight lines are asked for at once, then whole ones."""
    simulation, host = device("default", link=CALM, random_init=False)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=PACKED, queue_size=256, interrupts="msix"))
    transmit(driver, 100)
    simulation.run(5000)
    simulation.record()
    transmit(driver, 100)
    causes = Causes(driver)
    lines = [record.last for record in simulation.records() if causes.of(record) == "descriptor"]
    assert sum(line - lines[0] < CALM.latency for line in lines) == 8
    assert len(lines) <= 16


@pytest.mark.parametrize("elements", [9, 12, 17, 25, 33, 64])
@pytest.mark.parametrize("ring", ["split", "packed"])
def test_long_chains_that_wait_cost_nothing(device, ring, elements):
    """Receive buffers of more elements than can all be known at once are read, then no more: a device without traffic is silent."""
    simulation, host = device("default", link=CALM)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=RINGS[ring], queue_size=2048, interrupts="msix"))
    go(driver.fill([64] * elements, limit=24))
    simulation.run(40_000)
    simulation.record()
    simulation.run(10_000)
    assert simulation.records() == []
