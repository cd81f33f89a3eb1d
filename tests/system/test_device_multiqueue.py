# SPDX-License-Identifier: BSD-2-Clause
"""The control queue and several queue pairs: commands, steering, traffic on all of them."""

import itertools
import random
from collections import Counter

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from resets import reset
from settings import PAIRS, several_pairs
from test_device_resets import free

from unvirt_sim.driver.net import IN_ORDER, MULTIQUEUE, PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import Ctrl, CtrlAck, Feature, NetConfig, mask
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

RINGS = {"split": WANTED | MULTIQUEUE, "packed": PACKED | MULTIQUEUE | IN_ORDER}


def start(device, pairs=PAIRS, wanted=RINGS["split"], preset="default", **options):
    simulation, host = device(preset, **several_pairs(preset), **options)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted, queue_size=32, interrupts="poll", pairs=pairs))
    return simulation, host, driver


def fill(driver, pairs=PAIRS, limit=16):
    for number in range(pairs):
        go(driver.pair(number).fill([1600], limit=limit))
    driver.host.simulation.run(3000)


def flow(number, kind, *, back=False):
    """Return a frame of a flow, or one of its answers."""
    ends = (10 + number, 1000 + 7 * number), (200, 80)
    (source, sport), (target, dport) = reversed(ends) if back else ends
    layer = {"tcp": TCP, "udp": UDP}[kind[:3]](sport=sport, dport=dport)
    if kind.endswith("6"):
        packet = IPv6(src=f"fe80::{source:x}", dst=f"fe80::1:{target:x}") / layer
        if back:
            packet = IPv6(src=f"fe80::1:{source:x}", dst=f"fe80::{target:x}") / layer
    else:
        packet = IP(src=f"10.0.0.{source}", dst=f"10.0.0.{target}") / layer
    return bytes(Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / packet / bytes(30))


def arrive(simulation, driver, frames, closed=()):
    """Send frames to the device; return {pair: frames} of where they came; pairs ``closed`` are not looked at."""
    for frame in frames:
        simulation.send_frame(frame)
    simulation.run(4000)
    return {number: found for number in range(PAIRS) if number not in closed and (found := go(driver.pair(number).collect()))}


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_commands(device, wanted):
    """VQ_PAIRS_SET takes 1 to the number of pairs and nothing else; what is malformed or unknown is answered by ERR and changes nothing.

    Covers: NET-MQ-05, NET-MQ-08, NET-MQ-10, NET-VQ-02, NET-CFG-01, NET-CTRL-01, NET-CTRL-02, NET-CTRL-03, DER-CTRL-01
    """
    simulation, _, driver = start(device, pairs=1, wanted=wanted)
    assert 1 <= go(driver.device.config(NetConfig.MAX_VIRTQUEUE_PAIRS, 2)) == PAIRS <= 0x8000
    assert driver.control.queue.index == 2 * PAIRS
    control = driver.control
    for count in (1, 4, 2, 3):
        assert go(control.set_pairs(count)) == CtrlAck.OK
    for count in (0, 5, 0x104, 0xFFFF):
        assert go(control.set_pairs(count)) == CtrlAck.ERR
    for data in (b"", b"\1", b"\1\0\0", bytes(200), bytes(300)):
        assert go(control.command(Ctrl.MQ_VQ_PAIRS_SET, data)) == CtrlAck.ERR, data
    for kind in (Ctrl.RX_PROMISC, Ctrl.MAC_ADDR_SET, (4, 1), (255, 255)):
        assert go(control.command(kind, b"\1\0")) == CtrlAck.ERR
    # However it is cut, wherever the answer goes.
    for cut in ([4], [1, 3], [1, 1, 1, 1], [3, 1], [2, 0, 2]):
        assert go(control.command(Ctrl.MQ_VQ_PAIRS_SET, b"\2\0", cut=cut, ack=3)) == CtrlAck.OK
    assert go(control.command(Ctrl.MQ_VQ_PAIRS_SET, b"\2\0", ack=0)) is None
    assert simulation.violations == []


def test_commands_without_multiqueue(device):
    """Without MQ the control queue is number 2, and the number of pairs cannot be chosen. Covers: NET-VQ-02, DER-CTRL-01"""
    _, _, driver = start(device, pairs=1, wanted=WANTED | mask(Feature.CTRL_VQ))
    assert go(driver.control.set_pairs(1)) == CtrlAck.ERR
    go(driver.transmit(bytes(60)))
    assert go(driver.wait_transmitted(1)) == 1


def test_multiqueue_needs_the_control_queue(device):
    """MQ is refused without CTRL_VQ. Covers: NET-FEAT-12"""
    from unvirt_sim.driver.device import FeaturesRefused, VirtioDevice
    _, host = device("default", **several_pairs())
    found = go(VirtioDevice.find(host))
    go(found.start_negotiation())
    with pytest.raises(FeaturesRefused):
        go(found.finish_negotiation(mask(Feature.VERSION_1, Feature.MQ)))


def test_one_pair_at_first(device):
    """Until the number of pairs is chosen, and again after a reset, frames go to the first receive queue. Covers: NET-MQ-01"""
    simulation, _, driver = start(device)
    go(driver.stop())
    go(driver.start(wanted=RINGS["split"], queue_size=32, interrupts="poll", pairs=PAIRS, choose=False))
    fill(driver)
    for number in range(12):
        go(driver.pair(number % PAIRS).transmit(flow(number, "udp")))
    simulation.run(4000)
    assert set(arrive(simulation, driver, [flow(number, "udp", back=True) for number in range(12)])) == {0}


@pytest.mark.parametrize("width", [32, 512])
@pytest.mark.parametrize("kind", ["udp", "tcp", "udp6", "tcp6"])
def test_answers_come_where_their_flow_was_sent(device, kind, width):
    """The answer to a frame arrives on the pair that sent it, also after the flow moved to another. Covers: NET-MQ-06"""
    rng = random.Random(f"{kind} {width}")
    simulation, _, driver = start(device, data_width=width)
    fill(driver)
    for _ in range(3):
        homes = {number: rng.randrange(PAIRS) for number in rng.sample(range(20), 6)}
        used = set()
        for number, home in homes.items():
            go(driver.pair(home).transmit(flow(number, kind)))
        simulation.run(3000)
        for number, home in homes.items():
            answer = flow(number, kind, back=True)
            assert arrive(simulation, driver, [answer]) == {home: [answer]} or _shared(homes, number, kind)
            used.add(home)
        assert len(simulation.take_frames()) == len(homes)
        for pair in range(PAIRS):
            go(driver.pair(pair).reap())
        fill(driver)


def _shared(homes, number, kind):
    """Return whether another flow has the same place in the table of 256: then it may have been sent later."""
    def place(one):
        frame = flow(one, kind)
        start, ports = (22, 54) if kind.endswith("6") else (26, 34)
        halves = [int.from_bytes(frame[at:at + 2], "little") for at in range(start, ports + 4, 2)]
        total = 0
        for half in halves:
            total ^= half
        return total & 0xFF ^ total >> 8
    return any(other != number and place(other) == place(number) for other in homes)


def test_fewer_pairs(device):
    """Once a lower number of pairs is acknowledged no frame goes to a queue beyond it, though its flow was sent there. Covers: NET-MQ-02"""
    simulation, _, driver = start(device)
    fill(driver, limit=30)
    for number in range(20):
        go(driver.pair(number % PAIRS).transmit(flow(number, "udp")))
    simulation.run(4000)
    assert set(arrive(simulation, driver, [flow(number, "udp", back=True) for number in range(20)])) == {0, 1, 2, 3}
    for pairs in (2, 1):
        fill(driver, limit=30)
        for number in range(12):
            simulation.send_frame(flow(number, "udp", back=True))
        assert go(driver.control.set_pairs(pairs)) == CtrlAck.OK
        for number in range(PAIRS):
            go(driver.pair(number).collect())
        frames = [flow(number, "udp", back=True) for number in range(12)]
        found = arrive(simulation, driver, frames)
        assert set(found) <= set(range(pairs)) and sum(map(len, found.values())) == 12


@pytest.mark.parametrize("stall", [0, 0.5, 0.8])
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_nothing_is_used_beyond_the_pairs_behind_the_answer(device, wanted, stall):
    """Frames come while the command does, and the link is slow: what went by the old number is used before the command is.

    Covers: NET-MQ-02, DER-CTRL-02
    """
    simulation, host, driver = start(device, wanted=wanted, link=LinkConfig(tx_stall=stall, latency=300, latency_spread=0))
    sleep, begun = host.sleep, Counter()

    def used(records, queue):
        """Return the numbers of the records that made used buffers of a queue visible."""
        address, size = (queue.desc, 16 * queue.size) if wanted >> Feature.RING_PACKED & 1 else (queue.used + 2, 2)
        return [number for number, record in enumerate(records)
                if record.kind == Seen.UP_WRITE and address <= record.address < address + size]

    for delay in range(150, 900, 75):
        async def sleep_and_send(cycles, delay=delay):
            host.sleep = sleep
            await sleep(delay)
            for number in range(40):
                simulation.send_frame(flow(11 * (number % 12), "udp") + bytes(200))
            await sleep(cycles)

        assert go(driver.control.set_pairs(PAIRS)) == CtrlAck.OK
        fill(driver)
        host.sleep = sleep_and_send
        simulation.record()
        assert go(driver.control.set_pairs(1)) == CtrlAck.OK
        simulation.run(20_000)
        records = simulation.records()
        answer, = used(records, driver.control.queue)
        for number in range(1, PAIRS):
            places = used(records, driver.pair(number).rx)
            begun[number] += len(places)
            assert not [place for place in places if place > answer], f"the command is used, buffers of pair {number} later"
        for number in range(PAIRS):
            go(driver.pair(number).collect())
    assert min(begun.values()) > 5, "no frame went by the old number"


@pytest.mark.parametrize("pairs", range(1, PAIRS + 1))
def test_flows_that_were_not_sent(device, pairs):
    """Frames of flows that the driver sent nothing of are spread over the queues in use, and go to no other. Covers: NET-MQ-07"""
    simulation, _, driver = start(device)
    fill(driver, limit=30)
    assert go(driver.control.set_pairs(pairs)) == CtrlAck.OK
    found = arrive(simulation, driver, [flow(11 * number, kind) for number in range(15) for kind in ("udp", "tcp6")])
    assert set(found) == set(range(pairs)) and sum(map(len, found.values())) == 30


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_some_receive_queues_in_reset(device, wanted):
    """Frames for a queue in reset go to another, those of one flow to the same; back in use it gets its own again. Covers: NET-MQ-03"""
    simulation, _, driver = start(device, wanted=wanted)
    fill(driver, limit=30)
    flows = [flow(number, "udp") for number in range(16)]
    for number in range(16):                                 # as many flows belong to each pair
        go(driver.pair(number % PAIRS).transmit(flow(number, "udp", back=True)))
    simulation.run(4000)
    home = {number: flows[number::PAIRS] for number in range(PAIRS)}
    assert {number: sorted(found) for number, found in arrive(simulation, driver, flows).items()} == {
        number: sorted(found) for number, found in home.items()}
    for closed in ((0,), (2,), (0, 1), (3, 1), (0, 1, 2), (1, 2, 3)):
        for number in closed:
            go(driver.pair(number).reset_queue("rx"))
        simulation.run(100)
        before = simulation.counters["rx_dropped"]
        found = arrive(simulation, driver, flows, closed)
        assert simulation.counters["rx_dropped"] == before, f"frames were dropped with {closed} in reset"
        assert sorted(frame for frames in found.values() for frame in frames) == sorted(flows)
        assert all(set(home[number]) <= set(found[number]) for number in range(PAIRS) if number not in closed)
        for number in closed:
            go(driver.pair(number).restart_queue("rx", size=32))
        fill(driver, limit=30)
        assert set(arrive(simulation, driver, flows)) == set(range(PAIRS))


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_several_receive_queues_in_reset_at_once(device, wanted):
    """Frames avoid every queue in reset while the first of the resets still waits for the host. Covers: NET-MQ-03"""
    simulation, _, driver = start(device, wanted=wanted)
    go(driver.pair(3).fill([1600], limit=30))
    simulation.run(3000)
    registers = driver.device
    simulation.set_link(LinkConfig(latency=3500))            # less than any device waits for a completion
    for number in range(3):                                  # each has reads under way that are answered late
        go(driver.pair(number).fill([1600], limit=30))
        simulation.run(100)
        go(registers.set("queue_select", driver.pair(number).rx.index))
        go(registers.set("queue_reset", 1))
    simulation.run(200)
    frames = [flow(number, "udp") for number in range(16)]
    for frame in frames:
        simulation.send_frame(frame)
    simulation.run(1000)
    for number in range(3):
        go(registers.set("queue_select", driver.pair(number).rx.index))
        assert go(registers.get("queue_reset")) == 1, "the reset does not wait; the test tests nothing"
    simulation.run(20_000)
    assert sorted(go(driver.pair(3).collect())) == sorted(frames) and simulation.counters["rx_dropped"] == 0


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_all_receive_queues_in_reset(device, wanted):
    """Frames that come while every receive queue is in reset are dropped and counted, and never seen again. Covers: NET-MQ-04"""
    simulation, _, driver = start(device, wanted=wanted)
    fill(driver)
    before = simulation.counters["rx_dropped"]
    for number in range(PAIRS):
        assert go(driver.pair(number).reset_queue("rx")) == 16
    simulation.record()
    for number in range(40):
        simulation.send_frame(flow(number, "udp"))
    simulation.run(6000)
    assert simulation.counters["rx_dropped"] == before + 40
    assert not [record for record in simulation.records() if record.kind == Seen.UP_WRITE]
    for number in range(PAIRS):
        go(driver.pair(number).restart_queue("rx", size=32))
    fill(driver)
    frames = [flow(number, "tcp") for number in range(16)]
    found = arrive(simulation, driver, frames)
    assert sorted(frame for some in found.values() for frame in some) == sorted(frames)
    assert simulation.counters["rx_dropped"] == before + 40


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("preset", ["default", "wide"])
def test_all_pairs_send(device, preset, wanted):
    """Frames of all transmit queues leave, those of one queue in their order; after a reset the number of pairs is chosen anew."""
    rng = random.Random(preset)
    for _ in range(2):
        simulation, _, driver = start(device, wanted=wanted, preset=preset)
        sent = {pair: [bytes([pair]) + rng.randbytes(rng.choice((59, 200, 1400))) for _ in range(24)] for pair in range(PAIRS)}
        for round_ in range(24):
            for pair in range(PAIRS):
                go(driver.pair(pair).transmit(sent[pair][round_], publish=round_ % 4 == 3))
        simulation.run(30_000)
        found = [frame for _, frame, _ in simulation.take_frames()]
        for pair, frames in sent.items():
            assert [frame for frame in found if frame[0] == pair] == frames
            assert go(driver.pair(pair).reap()) == 24
        go(driver.stop())
        go(driver.start(wanted=wanted, queue_size=32, interrupts="poll", pairs=2))
        fill(driver, pairs=2)
        frames = list(itertools.islice((flow(number, "udp") for number in itertools.count()), 16))
        assert set(arrive(simulation, driver, frames, closed=range(2, PAIRS))) <= {0, 1}
        go(driver.stop())


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_all_queues_at_once_with_a_slow_host(device, wanted):
    """More queues than reads of an index, or of a ring, that may be under way: none waits for what only itself could give back."""
    simulation, _, driver = start(device, wanted=wanted, link=LinkConfig(latency=2000))
    for _ in range(3):
        for number in range(PAIRS):
            go(driver.pair(number).fill([1600], limit=8))
            go(driver.pair(number).transmit(flow(number, "udp")))
        simulation.run(30_000)
        assert [go(driver.pair(number).reap()) for number in range(PAIRS)] == [1] * PAIRS


@pytest.mark.parametrize("latency", [20, 500])
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_every_queue_interrupts_by_its_own_vector(device, wanted, latency):
    """Of several pairs each queue is waited for by its own interrupt, while the others are used too: none is missing, none comes of another."""
    rng = random.Random(f"vectors {latency}")
    simulation, host = device("default", **several_pairs(), link=LinkConfig(latency=latency))
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted, queue_size=32, interrupts="msix", pairs=PAIRS))
    fill(driver)
    pairs = [driver.pair(number) for number in range(PAIRS)]
    assert len({vector for pair in pairs for vector in pair.vectors[1:]}) == 2 * PAIRS
    flows = {}
    for number in range(40):
        flows.setdefault(number % PAIRS, []).append(number)
        go(pairs[number % PAIRS].transmit(flow(number, "udp")))
        simulation.run(500)
    for pair in pairs:
        assert go(pair.wait_transmitted(10)) == 10
    for alone in range(PAIRS):                               # one at a time: its vectors and no other
        simulation.run(3000 + 20 * latency)
        for pair in pairs:
            go(pair.rx.enable_interrupts())
            go(pair.tx.enable_interrupts())
        before = [host.interrupt_count(vector) for vector in range(2 * PAIRS + 1)]
        go(pairs[alone].transmit(flow(flows[alone][-1], "udp")))
        simulation.send_frame(flow(flows[alone][-1], "udp", back=True))
        simulation.run(3000 + 20 * latency)
        after = [host.interrupt_count(vector) for vector in range(2 * PAIRS + 1)]
        assert [vector for vector in range(2 * PAIRS + 1) if after[vector] != before[vector]] == [1 + 2 * alone, 2 + 2 * alone]
        assert len(go(pairs[alone].receive(1))) == 1
        assert go(pairs[alone].wait_transmitted(1)) == 1
    for _ in range(6):                                       # all at once
        chosen = [rng.choice(flows[number]) for number in range(PAIRS)]
        for number, pair in enumerate(pairs):
            go(pair.transmit(flow(chosen[number], "udp")))
        simulation.run(2000 + 10 * latency)
        for number in chosen:
            simulation.send_frame(flow(number, "udp", back=True))
        for number, pair in enumerate(pairs):
            assert go(pair.receive(1)) == [flow(chosen[number], "udp", back=True)]
            assert go(pair.wait_transmitted(1)) == 1
            go(pair.fill([1600], limit=16))


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_resets_while_all_queues_wait_to_be_used(device, wanted):
    """After a reset that comes while used buffers of all transmit queues wait for their turn to be written, all work at once as before.

    Covers: CORE-RESET-01, DER-RST-01
    """
    rng = random.Random("resets of all queues")
    simulation, host = device("default", **several_pairs(), link=LinkConfig(credits=(10, 32, 32, 32, 64, 1024)))
    for kind in (*4 * ("hot", "link", "power"), None):
        driver = go(NetDriver.find(host))
        go(driver.start(wanted=wanted, queue_size=32, interrupts="poll", pairs=PAIRS))
        pairs = [driver.pair(number) for number in range(PAIRS)]
        for end in (False, True):
            simulation.run(3000)
            for credit in (0, 1):
                simulation.block_credits(credit)
            for pair in rng.sample(pairs, PAIRS):
                for _ in range(16):
                    go(pair.transmit(bytes(60), publish=False))
                go(pair.tx.publish())
            simulation.run(2500)                             # less than any device waits for a completion
            if end and kind:
                reset(simulation, driver, kind)
                free(driver)
            for credit in (0, 1):
                simulation.block_credits(credit, False)
            simulation.run(5000)
            frames = simulation.take_frames()
            if not (end and kind):
                assert len(frames) == 16 * PAIRS, f"{len(frames)} frames have left"
                assert [go(pair.reap()) for pair in pairs] == [16] * PAIRS, "buffers of a queue are not used"
