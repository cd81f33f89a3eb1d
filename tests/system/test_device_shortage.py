# SPDX-License-Identifier: BSD-2-Clause
"""Where something runs out: room before the MAC, tags, contexts of walks, groups of segments; and what is lost then for good."""

import random

import pytest
from settings import PAIRS, TIMEOUT, several_pairs
from test_device_multiqueue import flow
from tlps import completion
from traffic import SHORT, Traffic, cut

from unvirt_sim.driver import Element
from unvirt_sim.driver.buffers import ScatterBuffer
from unvirt_sim.driver.net import MULTIQUEUE, PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import CTRL_HEADER, Ctrl, CtrlAck, Status
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

RINGS = {"split": WANTED, "packed": PACKED}

def start(device, wanted, *, pairs=1, queue_size=64, **options):
    simulation, host = device("default", **several_pairs(), **options)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted | (MULTIQUEUE if pairs > 1 else 0), queue_size=queue_size, interrupts="poll", pairs=pairs))
    simulation.run(2000)
    return simulation, host, driver


def leave(simulation, count, patience=200_000):
    """Return the next ``count`` frames that the device sends."""
    frames, end = [], simulation.cycle + patience
    while len(frames) < count:
        assert simulation.cycle < end, f"{len(frames)} frames of {count} have left"
        simulation.run(500)
        frames += [frame for _, frame, _ in simulation.take_frames()]
    return frames


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_short_frames_before_a_stalled_mac(device, wanted):
    """More packets than have a place before the MAC are complete while it stands still: all leave, in order, when it goes on."""
    simulation, _, driver = start(device, wanted)
    frames = [bytes([number]) * 60 for number in range(50)]
    for _ in range(2):
        simulation.mac_stalled = True
        for frame in frames:
            go(driver.transmit(frame, publish=False))
        go(driver.tx.publish())
        simulation.run(20_000)
        assert not simulation.take_frames()
        simulation.mac_stalled = False
        assert leave(simulation, len(frames)) == frames
        assert go(driver.wait_transmitted(len(frames))) == len(frames)


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_a_queue_without_answers(device, wanted):
    """A queue of short frames whose buffers are never read does not keep the tags from another, also where the host allows 32 tags only."""
    simulation, _, driver = start(device, wanted, pairs=2, link=LinkConfig(latency=100))
    dead, alive = driver.pair(0), driver.pair(1)
    for _ in range(60):
        go(dead.transmit(bytes(60), publish=False))
    for buffer in [chain.token for chain in dead.tx.outstanding.values()]:
        simulation.mute(buffer.base, buffer.size)
    go(dead.tx.publish())
    simulation.run(3000)
    frames = [bytes([number]) * 200 for number in range(30)]
    for frame in frames:
        go(alive.transmit(frame))
        simulation.run(300)
    assert leave(simulation, len(frames)) == frames
    simulation.mute(0, 0)


@pytest.mark.parametrize("latency", [20, 600])
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_long_chains_on_all_queues(device, wanted, latency):
    """All transmit queues are full of chains of many descriptors, in rings and in tables, and all receive queues have buffers of several: more
    walks at once than there are contexts for, more segments than there is room for. All frames pass, both ways, and nothing is a violation.
    """
    rng = random.Random(f"chains {wanted} {latency}")
    simulation, _, driver = start(device, wanted, pairs=PAIRS, queue_size=128, link=LinkConfig(latency=latency))
    for round_ in range(3):
        frames = {}
        for number in range(PAIRS):
            pair = driver.pair(number)
            while len(pair.rx.outstanding) < 6:
                go(pair.post(cut(rng, 300, rng.randint(2, 5)), publish=False))
            go(pair.rx.publish())
            frames[number] = [bytes([number, round_]) + rng.randbytes(rng.choice((58, 98))) for _ in range(16)]
            for place, frame in enumerate(frames[number]):
                total = len(frame) + driver.header_size
                table = 0 if place % 2 else None
                pieces = rng.choice((12, 17, 30)) if table == 0 or pair.tx.free_slots > 60 else 2
                go(pair.transmit(frame, lengths=cut(rng, total, pieces), indirect_from=table, publish=False))
        for number in range(PAIRS):
            go(driver.pair(number).tx.publish())
        found = leave(simulation, 16 * PAIRS, 600_000)
        for number, sent in frames.items():
            assert [frame for frame in found if frame[0] == number] == sent
            assert go(driver.pair(number).wait_transmitted(16)) == 16
        for _ in range(4):
            frame = rng.randbytes(500)                   # in two or three buffers
            simulation.send_frame(frame)
            simulation.run(20 * latency + 4000)
            got = [some for number in range(PAIRS) for some in go(driver.pair(number).collect())]
            assert got == [frame]
            for number in range(PAIRS):
                while len(driver.pair(number).rx.outstanding) < 6:
                    go(driver.pair(number).post(cut(rng, 300, rng.randint(2, 5))))
            simulation.run(10 * latency + 2000)


def commands(driver, count):
    """Make commands available, each in a table; return the buffers of their answers."""
    made = []
    for _ in range(count):
        request = ScatterBuffer(driver.host, [4], writable=False, rng=driver.rng)
        answer = ScatterBuffer(driver.host, [1], writable=True, rng=driver.rng)
        go(request.store(CTRL_HEADER.pack(*Ctrl.MQ_VQ_PAIRS_SET) + PAIRS.to_bytes(2, "little")))
        go(answer.store())
        go(driver.control.queue.add(request.elements() + answer.elements(), indirect_from=0))
        made.append(answer)
    go(driver.control.queue.publish())
    return made


@pytest.mark.parametrize("count", [5, 8, 12])
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_commands_while_all_else_stands_still(device, wanted, count):
    """All queues have more buffers than there is room for, the MAC takes no frame and none comes: commands are answered, for room that was promised
    to them is not given to others.
    """
    simulation, host, driver = start(device, wanted, pairs=PAIRS)
    pairs = [driver.pair(number) for number in range(PAIRS)]
    simulation.mac_stalled = True
    for pair in pairs:
        for _ in range(40):
            go(pair.transmit(bytes(1500), publish=False))
        go(pair.tx.publish())
    go(pairs[0].fill([1600], limit=30))
    # The last queue to ask for room has some buffers already: up to the end of a line of a packed ring, so that it then asks for a whole one.
    go(pairs[3].fill([1600], limit=8 - pairs[3].rx.desc // 16 % 8 if wanted == PACKED else 8))
    simulation.run(20_000)
    for queue in (*(pair.tx for pair in pairs), pairs[0].rx):
        go(queue.notify())
        simulation.run(2000)
    simulation.set_link(LinkConfig(latency=1500, latency_spread=0))
    for pair in pairs[1:3]:
        go(pair.fill([1600], limit=30))
    answers = commands(driver, count)
    # Room was promised to all of these, their buffers are still being read.
    simulation.run(2200)
    simulation.set_link(LinkConfig())
    go(pairs[3].fill([1600], limit=30))
    simulation.run(8000)
    answered = len(go(driver.control.queue.harvest()))
    assert answered == count, f"{answered} commands of {count} are answered"
    assert [go(answer.load(1)) for answer in answers] == [bytes([CtrlAck.OK])] * count


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_groups_come_back(device, wanted):
    """Chains of several descriptors in turn for reception and transmission, more than there are groups for: each side gets back what it holds."""
    simulation, _, driver = start(device, wanted)
    for number in range(200):
        go(driver.post([100, 200, 1300]))
        simulation.run(800)
        frame = bytes([number]) * 300
        simulation.send_frame(frame)
        assert go(driver.receive(1)) == [frame]
        if number % 4 == 3:
            go(driver.transmit(frame, lengths=[12, 100, 200]))
            assert go(driver.wait_transmitted(1)) == 1
            assert leave(simulation, 1) == [frame]


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_many_wait_to_be_used(device, wanted):
    """More packets of one queue than fit into a burst of used elements have left before the first is written: all are used."""
    simulation, _, driver = start(device, wanted, queue_size=128, link=LinkConfig(credits=(2, 32, 32, 32, 64, 1024)))
    for _ in range(2):
        for kind in (0, 1):
            simulation.block_credits(kind)
        for number in range(100):
            go(driver.transmit(bytes([number]) * 60, publish=False))
        go(driver.tx.publish())
        simulation.run(30_000)
        for kind in (0, 1):
            simulation.block_credits(kind, False)
        assert go(driver.wait_transmitted(100)) == 100
        assert len(leave(simulation, 100)) == 100


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("count", [1, 40])
def test_dropped_packets_one_by_one(device, wanted, count):
    """A frame that is too short is used and not sent; however many, those behind them are sent, and their memory is not given back twice."""
    simulation, _, driver = start(device, wanted)
    for _ in range(count):
        go(driver.transmit(bytes(4)))
        assert go(driver.wait_transmitted(1)) == 1
    frames = [bytes([number]) * 1400 for number in range(60)]
    for frame in frames:
        go(driver.transmit(frame, publish=False))
    go(driver.tx.publish())
    assert leave(simulation, len(frames)) == frames
    assert go(driver.wait_transmitted(len(frames))) == len(frames)


@pytest.mark.parametrize("what", ["ring", "data"])
def test_answers_that_contradict_their_requests(small, what):
    """A completion of a wrong byte count fails its read; its tag is used again in the end: after more of them than there are tags, each ended by
    a reset, the device works as before. Covers: DER-ERR-02
    """
    simulation, host = small()
    for _ in range(30 if what == "data" else 12):
        driver = go(NetDriver.find(host))
        go(driver.start(queue_size=16, interrupts="msix"))
        before = host.interrupt_count(0)
        simulation.run(1500)
        go(driver.transmit(bytes(40), publish=False, page_offset=0))
        (chain,) = driver.tx.outstanding.values()
        at, size = (chain.token.base, chain.token.size) if what == "data" else (driver.tx.desc, 16 * 16)
        simulation.mute(at, size)
        simulation.record()
        go(driver.tx.publish())
        simulation.run(600)
        (asked,) = [record for record in simulation.records() if record.kind == Seen.UP_READ and at <= record.address < at + size]
        simulation.expect_errors(True)
        simulation.inject(completion(asked.tag, requester=0, data=[1], count=8))
        simulation.run(2 * TIMEOUT)
        simulation.mute(0, 0)
        # For the host the read with the wrong answer is still out, for ever.
        assert all("is used while it is out" in text for text in simulation.violations)
        simulation.forgive()
        assert go(driver.device.status()) & Status.DEVICE_NEEDS_RESET
        assert host.interrupt_count(0) == before + 1
        go(driver.stop())
        simulation.run(TIMEOUT)
    simulation.expect_errors(False)
    again = go(NetDriver.find(host))
    go(again.start(queue_size=64, interrupts="poll"))
    simulation.take_frames()
    go(Traffic(simulation, host, again, rng=random.Random(1), count=20, sizes=SHORT, outstanding=24, window=12).run())
    assert all("is used while it is out" in text for text in simulation.violations)
    simulation.forgive()


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_doorbells_without_a_gap(device, wanted):
    """While doorbells of all queues come as fast as the link carries them, lists end that the available side waits for, and chains of all queues go
    back, receive buffers as small as there may be: no row is forgotten, and no place is given away twice.
    """
    rng = random.Random(f"doorbells {wanted}")
    simulation, _, driver = start(device, wanted, pairs=PAIRS, queue_size=128)
    pairs = [driver.pair(number) for number in range(PAIRS)]
    queues = [queue for pair in pairs for queue in (pair.tx, pair.rx)]
    for number, pair in enumerate(pairs):
        go(pair.transmit(flow(number, "udp")))
    leave(simulation, PAIRS)
    for round_ in range(40):
        sent = [[bytes([number, round_]) + rng.randbytes(rng.choice((58, 98))) for _ in range(8)] for number in range(PAIRS)]
        incoming = [flow(number, "udp", back=True) for number in range(PAIRS)]
        for pair, frames in zip(pairs, sent):
            go(pair.reap())
            go(pair.fill([pair.header_size], limit=40))
            for frame in frames:
                go(pair.transmit(frame, lengths=cut(rng, len(frame) + pair.header_size, rng.choice((1, 1, 2, 12))), publish=False))
        simulation.run(3000)
        for frame in 2 * incoming:
            simulation.send_frame(frame)
        for pair in pairs:
            go(pair.tx.publish())
        for _ in range(20):                                  # in bursts, for completions come behind them
            burst = rng.choice((6, 40)) * queues
            for queue in burst:
                go(queue.notify())
            simulation.run(len(burst) + rng.randrange(150))
        found = leave(simulation, 8 * PAIRS)
        simulation.run(2000)
        for number, (pair, frames) in enumerate(zip(pairs, sent)):
            assert [frame for frame in found if frame[0] == number] == frames
            assert go(pair.collect()) == 2 * [incoming[number]]
    for pair in pairs:
        go(pair.reap())
        assert not pair.tx.outstanding


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_used_both_ways_at_once(device, wanted):
    """Short frames leave without a pause while others come into the smallest buffers there may be, the last of which gets a few bytes only: used
    elements of both kinds come together, one right behind the other, and each is written.
    """
    rng = random.Random(f"both ways {wanted}")
    simulation, _, driver = start(device, wanted, pairs=PAIRS, queue_size=128)
    pairs = [driver.pair(number) for number in range(PAIRS)]
    dropped = 0
    for round_ in range(150):
        sent = [[bytes([number, round_, place]) + bytes(11) for place in range(16)] for number in range(PAIRS)]
        for pair, frames in zip(pairs, sent):
            go(pair.reap())
            go(pair.fill([pair.header_size], limit=20))
            for frame in frames:
                go(pair.transmit(frame, publish=False))
        simulation.run(2000)
        for pair in pairs:
            go(pair.tx.publish())
        incoming = [rng.randbytes(rng.randint(14, 20)) for _ in range(5)]
        for frame in incoming:
            simulation.run(rng.randrange(150))
            simulation.send_frame(frame)
        found = leave(simulation, 16 * PAIRS)
        simulation.run(1000)
        come = [frame for pair in pairs for frame in go(pair.collect())]
        # A queue may have fetched fewer buffers than it could: then a frame is dropped, and counted.
        dropped += len(incoming) - len(come)
        assert simulation.counters["rx_dropped"] == dropped and set(come) <= set(incoming), "a frame neither came nor was dropped"
        for number, frames in enumerate(sent):
            assert [frame for frame in found if frame[0] == number] == frames
    for pair in pairs:
        go(pair.reap())
        assert not pair.tx.outstanding
    assert dropped < 10


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_many_commands_wait_to_be_used(device, wanted):
    """More commands that want no answer are done with than there is room for before the first is told of: all are used, nothing of them written."""
    simulation, host, driver = start(device, wanted, pairs=2, queue_size=128)
    queue = driver.control.queue
    for _ in range(2):
        request = host.alloc(2, writable=False)
        go(host.write(request, bytes((0x55, 0))))
        for kind in (0, 1):
            simulation.block_credits(kind)
        for _ in range(100):
            go(queue.add([Element(request, 2)]))
        go(queue.publish())
        simulation.run(60_000)
        for kind in (0, 1):
            simulation.block_credits(kind, False)
        simulation.run(20_000)
        assert [used.length for used in go(queue.harvest())] == [0] * 100
