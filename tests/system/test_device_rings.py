# SPDX-License-Identifier: BSD-2-Clause
"""Both kinds of virtqueue: what drivers may do and the device may rely on, and what it may do itself, seen in memory and on the link."""

import functools
import itertools
import random
from dataclasses import replace

import pytest
from link_records import flags_written, hits, identity
from settings import BY_FLAGS, RINGS, TIMEOUT
from test_device_faults import put, recovers
from traffic import cut

from unvirt.config import preset
from unvirt_sim.driver.buffers import ScatterBuffer
from unvirt_sim.driver.net import IN_ORDER, PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import DESCRIPTOR, PACKED_DESCRIPTOR, USED_ELEMENT, USED_NO_NOTIFY, DescFlag, Feature
from unvirt_sim.harness_host import HarnessHost
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

TWO = {"split": WANTED, "packed": PACKED}
UNHINTED = ("events", "flags", "packed events", "packed flags")
"""A doorbell does not tell how far the driver is, so the device looks."""
IN_ORDERS = {name: wanted for name, wanted in RINGS.items() if name.endswith("in order")}


def start(small, wanted, *, queue_size=16, interrupts="poll", link=None, **options):
    simulation, host = small(link=link)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=queue_size, interrupts=interrupts, wanted=wanted, **options))
    simulation.run(1500)
    return simulation, host, driver


def frames_out(simulation):
    return [frame for _, frame, _ in simulation.take_frames()]


def publish_silently(queue):
    """Make available what was added, without a doorbell."""
    async def never(*_):
        return False
    wants, queue.wants_notification = queue.wants_notification, never
    assert not go(queue.publish())
    queue.wants_notification = wants


# What a driver may do

@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_write_flag_of_a_table_means_nothing(small, wanted):
    """A descriptor that points to a table may have WRITE or not, whatever is in the table. Covers: PACK-IND-03, SPLIT-IND-01"""
    rng = random.Random(f"write {wanted}")
    simulation, host, driver = start(small, wanted)

    def with_write(queue):
        """Set WRITE in the descriptor of the table that was added last."""
        chain = list(queue.outstanding.values())[-1]
        if wanted == PACKED:
            slot, flags = queue._added[-1]
            queue._added[-1] = slot, flags | DescFlag.WRITE
            return
        at = queue.desc + 16 * chain.slots[-1]
        address, length, flags, following = DESCRIPTOR.unpack(go(host.read(at, 16)))
        go(host.write(at, DESCRIPTOR.pack(address, length, flags | DescFlag.WRITE, following)))

    for number in range(24):
        frame = rng.randbytes(100)
        go(driver.transmit(frame, lengths=cut(rng, 112, 3), indirect_from=0, publish=False))
        go(driver.post(cut(rng, 150, 4), indirect_from=0, publish=False))
        for bit, queue in enumerate((driver.tx, driver.rx)):
            if number >> bit & 1:
                with_write(queue)
            go(queue.publish())
        assert go(driver.wait_transmitted(1)) == 1
        simulation.run(1500)
        assert frames_out(simulation) == [frame]
        simulation.send_frame(frame)
        assert go(driver.receive(1)) == [frame]


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
@pytest.mark.parametrize("table", [None, 0], ids=["ring", "table"])
def test_receive_buffers_of_any_length(small, wanted, table):
    """An element of a receive buffer may be as long as its field can say: what the frame has of it is written, and no other field is disturbed.

    Covers: NET-RXBUF-05
    """
    simulation, host, driver = start(small, wanted, order="random")
    rng = driver.rng
    for bit, lengths in itertools.product(range(13, 32), ([300], [300, 60], [60, 300], [60, 300, 60])):
        buffer = ScatterBuffer(host, lengths, writable=True, rng=rng)
        go(buffer.store())
        # The rest of it is not there: no frame gets so far.
        elements = [replace(element, length=300 | 1 << bit) if element.length == 300 else element for element in buffer.elements()]
        go(driver.rx.add(elements, indirect_from=table, token=buffer))
        go(driver.rx.publish())
        simulation.run(1000)
        frame = rng.randbytes(200)
        simulation.send_frame(frame)
        simulation.run(1000)
        assert go(driver.collect()) == [frame], f"{lengths} with bit {bit}"


def test_short_chains_in_a_long_table(small):
    """A table may have as many entries as its length can say: ``next`` leads anywhere in it, also to one that is nearly the following one.

    Covers: SPLIT-IND-03
    """
    rng = random.Random("long table")
    entries = 0xFFFF
    simulation, host, driver = start(small, WANTED)
    table = host.alloc(16 * entries, 16, writable=False)
    for bit, _ in itertools.product(range(16), range(4)):
        places = [0]
        while len(places) < 9:
            # A jump anywhere, then one to the entry that follows but for a bit.
            beside = (places[-1] + 1) ^ (1 << bit)
            place = beside if len(places) % 2 == 0 and 0 < beside < entries and beside not in places else rng.randrange(1, entries)
            if place not in places:
                places.append(place)
        frame = rng.randbytes(200)
        buffer = ScatterBuffer(host, cut(rng, driver.header_size + len(frame), len(places)), writable=False, rng=rng)
        go(buffer.store(bytes(driver.header_size) + frame))
        for place, following, element in zip(places, [*places[1:], 0], buffer.elements()):
            go(host.write(table + 16 * place, DESCRIPTOR.pack(element.address, element.length, int(DescFlag.NEXT) if following else 0, following)))
        put(driver, driver.tx, {0: (table, 16 * entries, int(DescFlag.INDIRECT), 0)})
        driver.tx.next_idx = driver.tx.avail_idx = driver.tx.avail_idx + 1
        simulation.run(2500)
        assert frames_out(simulation) == [frame], f"bit {bit}: {places}"
        for place in places:
            go(host.write(table + 16 * place, bytes(16)))
        buffer.free()


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_doorbells_without_buffers(small, wanted):
    """A driver may ring as often as it likes: nothing is used that was not made available, and nothing is missed later.

    Covers: PACK-DRV-04, SPLIT-ASUP-05
    """
    rng = random.Random(f"doorbells {wanted}")
    simulation, _, driver = start(small, wanted)
    for _ in range(20):
        for queue in (driver.tx, driver.rx):
            for _ in range(rng.randrange(6)):
                go(queue.notify())
                simulation.run(rng.randrange(200))
        frame = rng.randbytes(60)
        go(driver.transmit(frame))
        for _ in range(rng.randrange(4)):
            go(driver.tx.notify())
        simulation.run(2000)
        assert frames_out(simulation) == [frame]
        assert go(driver.reap()) == 1 and not go(driver.tx.pending()) and not go(driver.rx.pending())


class SlowHost(HarnessHost):
    """A driver's writes to memory become visible in their order, with time between them, and nothing else orders them."""

    pause = None

    async def write(self, address, value):
        await super().write(address, value)
        if self.pause:
            self.simulation.run(self.pause.randrange(30))


def spoil(driver, rng):
    """Put what must not be believed into every free place of the transmit queue, all of whose buffers are back."""
    queue, write = driver.tx, driver.host.write
    nowhere = 0x5555_0000_0000
    queue.host.pause = None
    for slot in range(queue.size):
        noise = rng.getrandbits(16)
        if driver.device.has(Feature.RING_PACKED):
            # As it was left by the device, but for what means nothing there: not available in the lap to come.
            lap = queue.next_wrap if slot >= queue.next_slot else queue.next_wrap ^ 1
            state = DescFlag.AVAIL | DescFlag.USED
            flags = noise & ~state | (0 if lap else state)
            go(write(queue.desc + 16 * slot, PACKED_DESCRIPTOR.pack(nowhere, rng.getrandbits(12), rng.getrandbits(16), flags)))
        else:
            go(write(queue.desc + 16 * slot, DESCRIPTOR.pack(nowhere, rng.getrandbits(12), noise, rng.getrandbits(4))))
            go(write(queue.avail + 4 + 2 * slot, rng.choice((slot, 0xFFFF)).to_bytes(2, "little")))
    queue.host.pause = rng


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_what_is_not_available_is_not_believed(device, wanted):
    """A driver that orders its writes as for hardware, and no more, is enough: entries and descriptors count from the moment they are exposed.

    Until then the places hold addresses of no memory and heads beyond the table. Lists become available while the device looks.

    Covers: CORE-RSVD-12, DER-ORD-03, DER-ORD-04, PACK-DESC-03, PACK-DRV-01
    """
    rng = random.Random(f"spoilt {wanted}")
    simulation, _ = device("minimal", completion_timeout=TIMEOUT, link=LinkConfig(latency=60, latency_spread=250, posted_spread=50))
    driver = go(NetDriver.find(SlowHost(simulation)))
    go(driver.start(wanted=wanted, queue_size=32, interrupts="poll"))
    assert driver.device.has(Feature.ORDER_PLATFORM)
    for number in range(80):
        spoil(driver, rng)
        frames = [rng.randbytes(60) for _ in range(4)]
        for frame in frames:
            go(driver.transmit(frame, lengths=cut(rng, 72, rng.randint(1, 7))))
            simulation.run(rng.randrange(300))
        driver.host.pause = None
        for _ in range(60):
            simulation.run(200)
            if go(driver.reap()) and not driver.tx.outstanding:
                break
        assert not driver.tx.outstanding, f"round {number}: {len(driver.tx.outstanding)} buffers do not come back"
        simulation.run(300)
        assert frames_out(simulation) == frames


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_no_interrupt_is_missed(small, wanted):
    """A driver that sleeps is woken for every buffer that it did not see before; interrupts beyond that do no harm. Covers: SPLIT-USUP-07"""
    rng = random.Random(f"interrupts {wanted}")
    simulation, _, driver = start(small, wanted, interrupts="msix", link=LinkConfig(latency=150, latency_spread=200, posted_spread=100))
    for _ in range(120):
        count = rng.randint(1, 5)
        for _ in range(count):
            go(driver.transmit(bytes(60)))
            simulation.run(rng.choice((0, rng.randrange(400), rng.randrange(1500))))
            go(driver.tx.enable_interrupts())
        # Raises if buffers are used, the driver asked for an interrupt when there were none, and none comes.
        assert go(driver.wait_transmitted(count)) == count


def test_avail_event_without_its_feature(small):
    """Without EVENT_IDX the driver ignores avail_event, so the device leaves it alone; flags it takes to be zero at first.

    Covers: SPLIT-ASUP-07
    """
    simulation, host, driver = start(small, BY_FLAGS, link=LinkConfig(latency=100))
    tx = driver.tx
    event = tx.used + 4 + 8 * tx.size
    go(host.write(event, b"\xa5\x5a"))
    simulation.record()
    for _ in range(30):
        for _ in range(3):
            go(driver.transmit(bytes(60)))
            simulation.run(40)
        go(driver.wait_transmitted(3))
        simulation.run(1500)
    records = simulation.records()
    assert go(host.read(event, 2)) == b"\xa5\x5a" and not hits(records, Seen.UP_WRITE, event, 2) and not hits(records, Seen.UP_READ, event, 2)
    written = [records[index].data & 0xFFFF for index, _, _ in hits(records, Seen.UP_WRITE, tx.used, 2)]
    # Never what it was already.
    assert written[:2] == [USED_NO_NOTIFY, 0] and all(a != b for a, b in zip(written, written[1:]))
    assert len(written) > 20


# What the device may do

@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_doorbells_are_spared(small, wanted):
    """While the device is at work it asks for no doorbells, and loses nothing. Covers: PACK-EVT-06, SPLIT-ASUP-02"""
    simulation, _, driver = start(small, wanted, queue_size=64, link=LinkConfig(latency=100))
    for number in range(10):
        before = driver.tx.notifications
        for _ in range(16):
            go(driver.transmit(bytes(60)))
            simulation.run(60)
        # At first, before the device has ever waited, nothing tells the driver when to ring.
        assert driver.tx.notifications - before <= 8 or number == 0
        assert go(driver.wait_transmitted(16)) == 16
        simulation.run(2000)
        assert len(frames_out(simulation)) == 16


@pytest.mark.parametrize("wanted", [RINGS[name] for name in UNHINTED], ids=UNHINTED)
def test_buffers_are_taken_before_their_doorbell(small, wanted):
    """What is available when the device looks is taken, whether a doorbell came for it or not. Covers: PACK-POLL-01, SPLIT-AVAIL-04"""
    simulation, _, driver = start(small, wanted, link=LinkConfig(latency=200, latency_spread=0, tear=False))
    for delay in (0, 10, 40, 80, 120):
        before = driver.tx.notifications
        go(driver.transmit(b"\1" * 60))
        simulation.run(delay)
        go(driver.transmit(b"\2" * 60, publish=False))
        publish_silently(driver.tx)
        simulation.run(4000)
        assert driver.tx.notifications == before + 1
        assert frames_out(simulation) == [b"\1" * 60, b"\2" * 60]
        assert go(driver.reap()) == 2


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_lines_of_a_ring_stay_in_order(device, wanted):
    """Packets leave in the order of the ring, although several lines of it are read at once and answered in any order."""
    simulation, _, driver = start(functools.partial(device, "wide"), wanted, queue_size=256, link=LinkConfig(latency=20, latency_spread=600))
    for first in (0, 250):
        sent = [(first + number).to_bytes(2, "little") * 30 for number in range(250)]
        for frame in sent:
            go(driver.transmit(frame, publish=False))
        simulation.record()
        go(driver.tx.publish())
        assert go(driver.wait_transmitted(len(sent))) == len(sent)
        simulation.run(2000)
        assert frames_out(simulation) == sent


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
@pytest.mark.parametrize("table", [None, 0], ids=["ring", "table"])
def test_long_lists(small, wanted, table):
    """Lists may have as many elements as the device takes; one more stops it, without a stray access or a hang.

    Covers: PACK-SG-02, SPLIT-FRAME-02, PACK-DRV-02
    """
    most = preset("minimal").max_chain
    simulation, host, driver = start(small, wanted, queue_size=64, interrupts="msix")
    frame = bytes(range(100))
    # The descriptor of a table counts as well.
    pieces = most - (table == 0)
    go(driver.transmit(frame, lengths=[1] * (pieces - 1) + [112 - pieces + 1], indirect_from=table))
    assert go(driver.wait_transmitted(1)) == 1
    simulation.run(500)
    assert frames_out(simulation) == [frame]
    go(driver.transmit(frame, lengths=[1] * pieces + [112 - pieces], indirect_from=table))
    recovers(simulation, host, driver)


def used_entries(simulation, queue):
    """Return [(slot, id)] of the used elements or descriptors written since recording began, in the order in which they were."""
    records = simulation.records()
    if hasattr(queue, "driver_event"):
        return [(slot, identity(queue, slot)) for _, slot in flags_written(records, queue)]
    written = hits(records, Seen.UP_WRITE, queue.used + 4, 8 * queue.size)
    slots = [slot for _, first, size in written for slot in range(first // 8, (first + size) // 8)]
    return [(slot, USED_ELEMENT.unpack(go(queue.host.read(queue.used + 4 + 8 * slot, 8)))[0]) for slot in slots]


@pytest.mark.parametrize("wanted", IN_ORDERS.values(), ids=IN_ORDERS)
def test_buffers_are_used_in_their_order(small, wanted):
    """With IN_ORDER an entry stands for the buffers from the one after its predecessor's, and lies where the first of them belongs.

    Several buffers share one, but a received one that is not full ends it.

    Covers: CORE-RSVD-05, PACK-INORD-01, SPLIT-INORD-01, PACK-INORD-02, SPLIT-INORD-03, SPLIT-INORD-04
    """
    rng = random.Random(f"in order {wanted}")
    simulation, _, driver = start(small, wanted, queue_size=64, link=LinkConfig(latency=100, latency_spread=300, tx_stall=0.5))
    shared = 0
    for number in range(20):
        simulation.record()
        sizes = [rng.choice((60, 90)) for _ in range(12)]
        for size in sizes:
            go(driver.transmit(bytes(size), lengths=cut(rng, size + 12, rng.randint(1, 3) if number % 2 else 1), publish=False))
            go(driver.post([72], publish=False))
        chains = {queue: list(queue.outstanding.values()) for queue in (driver.tx, driver.rx)}
        first = {queue: queue.used_idx % queue.size for queue in chains if hasattr(queue, "used_idx")}
        go(driver.tx.publish())
        go(driver.rx.publish())
        simulation.run(5000)
        lengths = [rng.choice((59, 60, 60)) for _ in range(6)]
        for length in lengths:
            simulation.send_frame(bytes(length))
        simulation.run(2000)
        for queue, given in chains.items():
            heads, following = [chain.head for chain in given], 0
            for slot, head in used_entries(simulation, queue):
                assert head in heads[following:], "a buffer is used out of its turn"
                last = heads.index(head)
                place = (first[queue] + following) % queue.size if queue in first else given[following].slots[0]
                assert slot == place
                if queue is driver.rx:
                    assert all(length == 60 for length in lengths[following:last]), "a buffer that is not full has no entry"
                shared += last - following
                following = last + 1
            assert following == (12 if queue is driver.tx else 6)
        assert go(driver.reap()) == 12 and len(frames_out(simulation)) == 12
        assert len(go(driver.collect())) == 6
        for _ in range(6):
            simulation.send_frame(bytes(60))
        assert len(go(driver.receive(6))) == 6
    assert shared > 50


def reads_of_descriptors(simulation, address, size):
    return len(hits(simulation.records(), Seen.UP_READ, address, size))


@pytest.mark.parametrize("table", [None, 0], ids=["ring", "table"])
def test_descriptors_that_lie_in_sequence_are_read_together(small, table):
    """With IN_ORDER a driver takes slots one after the other, in tables as well: the device needs a read for several. One that does not is served
    all the same.

    Covers: SPLIT-DESC-06, SPLIT-IND-06
    """
    rng = random.Random("sequence")
    simulation, _, driver = start(small, BY_FLAGS | IN_ORDER, queue_size=32)
    tx = driver.tx
    for sequential in (True, True, False, False, False):
        frame = rng.randbytes(88)
        if not sequential:
            rng.shuffle(tx._free)
            tx.in_order = False
        go(driver.transmit(frame, lengths=[10] * 10, indirect_from=table, shuffle=not sequential, publish=False))
        tx.in_order = True
        chain, = tx.outstanding.values()
        simulation.record()
        go(tx.publish())
        assert go(driver.wait_transmitted(1)) == 1
        simulation.run(500)
        assert frames_out(simulation) == [frame]
        count = reads_of_descriptors(simulation, *((tx.desc, 16 * tx.size) if table is None else (chain.table, 160)))
        assert count <= (6 if table is None else 3) if sequential else count > 6
