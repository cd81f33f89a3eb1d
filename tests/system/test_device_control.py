# SPDX-License-Identifier: BSD-2-Clause
"""The control queue apart from what its commands are for: whether it is there, what a refused command leaves, what an answer is."""

import random

import pytest
from link_records import hits
from settings import PAIRS, several_pairs
from test_device_multiqueue import arrive, fill, flow

from unvirt_sim.driver.buffers import ScatterBuffer
from unvirt_sim.driver.net import COALESCING, MULTIQUEUE, PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import COALESCE, CTRL_HEADER, Ctrl, CtrlAck
from unvirt_sim.driver.virtqueue import Element
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.records import Seen

TWO = {"split": WANTED, "packed": PACKED}
TX = 1


def start(device, wanted):
    simulation, host = device("default", **several_pairs())
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted, queue_size=32, interrupts="poll", pairs=PAIRS if wanted & MULTIQUEUE else 1))
    simulation.run(2000)
    return simulation, host, driver


@pytest.mark.parametrize("index", [2, 2 * PAIRS])
@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_no_control_queue_without_its_feature(device, wanted, index):
    """Without CTRL_VQ neither queue that may be the control queue with it reads or answers a command. Covers: NET-VQ-03"""
    simulation, host = device("default", **several_pairs())
    driver = go(NetDriver.find(host))
    rng = random.Random(index)
    go(driver.device.negotiate(wanted))
    queue = go(driver.device.setup_queue(index, size=16))
    go(driver.device.driver_ok())
    request, answer = (ScatterBuffer(host, lengths, writable=writable, rng=rng) for lengths, writable in (([4], False), ([1], True)))
    go(request.store(CTRL_HEADER.pack(*Ctrl.MQ_VQ_PAIRS_SET) + b"\1\0"))
    go(answer.store())
    simulation.record()
    go(queue.add(request.elements() + answer.elements()))
    go(queue.publish())
    simulation.run(20_000)
    assert not go(queue.pending())
    go(answer.check_unchanged())
    assert not hits(simulation.records(), Seen.UP_READ, request.base, request.size)
    assert not hits(simulation.records(), Seen.UP_WRITE, answer.base, answer.size)


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_commands_on_the_link(device, wanted):
    """However a command lies in memory, only its readable elements are read, and only the bytes of the answer written, once.

    Covers: NET-CTRL-01, NET-CTRL-02, NET-CTRL-03, PACK-DESC-01, SPLIT-DESC-01
    """
    rng = random.Random(f"link {wanted}")
    simulation, host, driver = start(device, wanted | MULTIQUEUE | COALESCING)
    queue = driver.control.queue
    value = b""
    for number in range(40):
        # The last setting, and what it is.
        get = number % 2
        value = value if get else COALESCE.pack(rng.randrange(1, 65536), rng.randrange(1, 65536))
        kind, body = (Ctrl.NOTF_COAL_VQ_GET, b"") if get else (Ctrl.NOTF_COAL_VQ_SET, value)
        data = CTRL_HEADER.pack(*kind) + TX.to_bytes(2, "little") + rng.randbytes(2) + body
        pieces = [1] * len(data) if number % 8 == 0 else cut_any(rng, len(data))
        expected = value + b"\0" if get else b"\0"
        request = ScatterBuffer(host, pieces, writable=False, rng=rng)
        answer = ScatterBuffer(host, cut_any(rng, len(expected) + rng.randrange(4)), writable=True, rng=rng)
        go(request.store(data))
        go(answer.store())
        simulation.record()
        go(queue.add(request.elements() + answer.elements(), indirect_from=rng.choice((None, 0))))
        go(queue.publish())
        simulation.run(6000)
        used, = go(queue.harvest())
        assert used.length == len(expected)
        assert go(answer.load(len(expected))) == expected
        go(request.check_unchanged())
        records = simulation.records()
        assert not hits(records, Seen.UP_WRITE, request.base, request.size) and not hits(records, Seen.UP_READ, answer.base, answer.size)
        assert sum(size for *_, size in hits(records, Seen.UP_WRITE, answer.base, answer.size)) == len(expected)
        request.free()
        answer.free()


def cut_any(rng, total):
    """Return lengths that sum to ``total``, zeroes among them."""
    places = sorted(rng.randrange(total + 1) for _ in range(rng.randrange(5)))
    return [b - a for a, b in zip([0, *places], [*places, total])]


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_a_refused_command_changes_nothing(device, wanted):
    """After ERR the number of pairs, and what queues coalesce with that come back, are as before. Covers: DER-CTRL-03, DER-CTRL-01"""
    simulation, _, driver = start(device, wanted | MULTIQUEUE | COALESCING)
    fill(driver)
    control = driver.control
    flows = [flow(number, "udp", back=True) for number in range(16)]
    assert go(control.set_pairs(2)) == CtrlAck.OK
    assert go(control.coalesce(Ctrl.NOTF_COAL_TX_SET, 7, 70)) == CtrlAck.OK
    for count in (0, PAIRS + 1, 0x102, 0xFFFF):
        assert go(control.set_pairs(count)) == CtrlAck.ERR
        assert set(arrive(simulation, driver, flows)) == {0, 1}
        fill(driver)
    for data in (b"\4", b"\4\0\0"):
        assert go(control.command(Ctrl.MQ_VQ_PAIRS_SET, data)) == CtrlAck.ERR
    assert set(arrive(simulation, driver, flows)) == {0, 1}
    for packets, microseconds in ((0x10009, 9), (9, 0x10009)):
        assert go(control.coalesce(Ctrl.NOTF_COAL_TX_SET, packets, microseconds)) == CtrlAck.ERR
        assert go(control.coalescing(TX)) == (CtrlAck.OK, (7, 70))
        go(driver.reset_queue("tx"))
        go(driver.restart_queue("tx"))
        assert go(control.coalescing(TX)) == (CtrlAck.OK, (7, 70))


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_commands_of_one_descriptor(device, wanted):
    """A command without room for an answer is used with a length of zero and nothing is read beyond it; one without a command gets ERR, and not a
    byte more is written than that.
    """
    rng = random.Random("one descriptor")
    simulation, host, driver = start(device, wanted | MULTIQUEUE)
    queue = driver.control.queue
    for size, writable in [*((size, False) for size in range(1, 18)), *((size, True) for size in (1, 2, 8, 15, 16, 17, 64))]:
        buffer = ScatterBuffer(host, [size], writable=writable, rng=rng)
        go(buffer.store((CTRL_HEADER.pack(*Ctrl.MQ_VQ_PAIRS_SET) + b"\1\0" + bytes(16))[:size] if not writable else b""))
        simulation.record()
        go(queue.add(buffer.elements()))
        go(queue.publish())
        simulation.run(6000)
        used, = go(queue.harvest())
        assert used.length == int(writable)
        records = simulation.records()
        if writable:
            assert go(buffer.load(1)) == bytes([CtrlAck.ERR])
            assert not hits(records, Seen.UP_READ, buffer.base, buffer.size)
        else:
            go(buffer.check_unchanged())
            assert not hits(records, Seen.UP_WRITE, buffer.base, buffer.size)
            assert sum(length for *_, length in hits(records, Seen.UP_READ, buffer.base, buffer.size)) == size
        buffer.free()


def test_commands_of_many_descriptors(device):
    """Commands of up to 31 descriptors in a packed ring: what follows lies where the driver looks for it."""
    _, _, driver = start(device, PACKED | MULTIQUEUE)
    for pieces in (15, 16, 17, 24, 31, 5):
        data = CTRL_HEADER.pack(*Ctrl.MQ_VQ_PAIRS_SET) + b"\1\0"
        cut = [1] * len(data) + [0] * (pieces - 1 - len(data))
        assert go(driver.control.command(Ctrl.MQ_VQ_PAIRS_SET, b"\1\0", cut=cut)) == CtrlAck.OK


@pytest.mark.parametrize("wanted", TWO.values(), ids=TWO)
def test_more_commands_than_an_index_counts(device, wanted):
    """Each command is answered, once and in its turn, however many there were before: those without a byte by ERR, in between real ones.

    Covers: NET-CTRL-01, NET-CTRL-03
    """
    simulation, host = device("default", **several_pairs())
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted | MULTIQUEUE, queue_size=256, interrupts="poll", pairs=PAIRS))
    queue, answer = driver.control.queue, host.alloc(1)
    for done in range(0, 0x10000 + 512, 200):
        go(host.write(answer, b"\xff"))
        for _ in range(200):
            go(queue.add([Element(answer, 1, writable=True)]))
        heads = [chain.head for chain in queue.outstanding.values()]
        go(queue.publish())
        used = []
        for _ in range(100):
            simulation.run(200)
            used += go(queue.harvest())
            if len(used) == len(heads):
                break
        assert [(entry.chain.head, entry.length) for entry in used] == [(head, 1) for head in heads], f"after {done} commands"
        assert go(host.read(answer, 1)) == bytes([CtrlAck.ERR])
        assert go(driver.control.set_pairs(done // 200 % PAIRS + 1)) == CtrlAck.OK, f"after {done} commands"
