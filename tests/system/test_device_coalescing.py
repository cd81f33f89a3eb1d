# SPDX-License-Identifier: BSD-2-Clause
"""Notification coalescing on a whole device: the commands, packets and microseconds, and what the driver asked for meanwhile."""

import itertools

import pytest

from unvirt_sim.driver.device import FeaturesRefused, VirtioDevice
from unvirt_sim.driver.net import COALESCING, PACKED, RX_VECTOR, TX_VECTOR, WANTED, NetDriver
from unvirt_sim.driver.spec import Ctrl, CtrlAck, Feature, mask
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

FRAME = bytes(range(60))
MICROSECOND = 125
RINGS = {"split": WANTED | COALESCING, "packed": PACKED | COALESCING}
RX, TX, CONTROL = 0, 1, 2


def start(device, wanted=RINGS["split"], interrupts="msix", **options):
    """Return a driver with receive buffers that wants an interrupt for whatever is used."""
    simulation, host = device("default", **options)
    driver = go(NetDriver.find(host))
    go(driver.start(wanted=wanted, queue_size=64, interrupts=interrupts))
    go(driver.fill([2000], limit=32))
    ask_for_all(driver)
    simulation.run(3000)
    return simulation, host, driver


def ask_for_all(driver):
    """Ask for an interrupt of the next used buffer of both queues."""
    go(driver.rx.enable_interrupts())
    go(driver.tx.enable_interrupts())


def send(simulation, driver, count, gap=800):
    """Transmit frames one by one, as slow as the gap says, and look at nothing."""
    for _ in range(count):
        go(driver.transmit(FRAME))
        simulation.run(gap)


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_commands(device, wanted):
    """What was set for a queue last counts, whoever set it, and reads back; the reserved field means nothing; an answer may be cut anywhere.

    Covers: NET-COAL-01, NET-COAL-10
    """
    simulation, _, driver = start(device, wanted, "poll")
    control = driver.control
    assert go(control.coalescing(RX)) == go(control.coalescing(TX)) == (CtrlAck.OK, (0, 0))
    assert go(control.coalesce(Ctrl.NOTF_COAL_TX_SET, 10, 100)) == CtrlAck.OK
    assert go(control.coalescing(TX)) == (CtrlAck.OK, (10, 100)) and go(control.coalescing(RX)) == (CtrlAck.OK, (0, 0))
    assert go(control.coalesce(Ctrl.NOTF_COAL_RX_SET, 20, 200)) == CtrlAck.OK
    assert go(control.coalesce_queue(TX, 30, 65535, reserved=0xBEEF)) == CtrlAck.OK
    for writable in ([9], [8, 1], [1, 8], [3, 2, 4], [1] * 9, [20]):
        assert go(control.coalescing(TX, writable=writable)) == (CtrlAck.OK, (30, 65535)), writable
    assert go(control.coalescing(RX)) == (CtrlAck.OK, (20, 200))
    assert go(control.coalesce(Ctrl.NOTF_COAL_TX_SET, 65535, 7)) == CtrlAck.OK
    assert go(control.coalescing(TX)) == (CtrlAck.OK, (65535, 7))
    assert simulation.violations == []


def test_what_cannot_be_set_changes_nothing(device):
    """Values beyond 16 bits, queues that are no receive or transmit queue or not enabled, and malformed commands are answered by ERR.

    Covers: NET-COAL-02, NET-COAL-03, NET-COAL-04
    """
    _, _, driver = start(device, interrupts="poll")
    control = driver.control
    for queue in (RX, TX):
        assert go(control.coalesce_queue(queue, 5, 50)) == CtrlAck.OK
    for value in (0x10000, 0x80000000, 0xFFFFFFFF):
        for packets, microseconds in ((value, 1), (1, value)):
            assert go(control.coalesce(Ctrl.NOTF_COAL_TX_SET, packets, microseconds)) == CtrlAck.ERR
            assert go(control.coalesce(Ctrl.NOTF_COAL_RX_SET, packets, microseconds)) == CtrlAck.ERR
            assert go(control.coalesce_queue(TX, packets, microseconds)) == CtrlAck.ERR
    for queue in (CONTROL, 3, 0x100, 0xFFFF):
        assert go(control.coalesce_queue(queue, 1, 1)) == CtrlAck.ERR
        assert go(control.coalescing(queue)) == (CtrlAck.ERR, (0, 0))
    for kind, right in ((Ctrl.NOTF_COAL_TX_SET, 8), (Ctrl.NOTF_COAL_RX_SET, 8), (Ctrl.NOTF_COAL_VQ_SET, 12), (Ctrl.NOTF_COAL_VQ_GET, 4), ((6, 4), 0)):
        for length in (0, 1, right - 1, right + 1, 200):
            if length >= 0:
                assert go(control.command(kind, bytes(length))) == CtrlAck.ERR, (kind, length)
    for queue in (RX, TX):
        assert go(control.coalescing(queue)) == (CtrlAck.OK, (5, 50))


def test_each_feature_has_its_commands(device):
    """Commands of a feature that was not negotiated are answered by ERR; without the control queue the features are refused."""
    for feature, good in ((Feature.NOTF_COAL, Ctrl.NOTF_COAL_TX_SET), (Feature.VQ_NOTF_COAL, Ctrl.NOTF_COAL_VQ_SET)):
        _, host, driver = start(device, WANTED | mask(Feature.CTRL_VQ, feature), "poll")
        for kind, length in ((Ctrl.NOTF_COAL_TX_SET, 8), (Ctrl.NOTF_COAL_RX_SET, 8), (Ctrl.NOTF_COAL_VQ_SET, 12)):
            enabled = (kind == Ctrl.NOTF_COAL_VQ_SET) == (good == Ctrl.NOTF_COAL_VQ_SET)
            assert go(driver.control.command(kind, bytes(length))) == (CtrlAck.OK if enabled else CtrlAck.ERR)
        lonely = go(VirtioDevice.find(host))
        go(lonely.start_negotiation())
        with pytest.raises(FeaturesRefused):
            go(lonely.finish_negotiation(mask(feature, Feature.VERSION_1)))


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_packets(device, wanted):
    """Five frames make one notification, five more the next. Covers: NET-COAL-11"""
    simulation, host, driver = start(device, wanted)
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, 5, 60_000)) == CtrlAck.OK
    for _ in range(3):
        before = host.interrupt_count(TX_VECTOR)
        send(simulation, driver, 4)
        assert host.interrupt_count(TX_VECTOR) == before
        send(simulation, driver, 1)
        assert host.interrupt_count(TX_VECTOR) == before + 1
        assert go(driver.reap()) == 5
        ask_for_all(driver)


@pytest.mark.parametrize("wanted", [word & ~mask(Feature.EVENT_IDX) for word in RINGS.values()], ids=RINGS)
def test_fewer_notifications_than_packets_say(device, wanted):
    """What is used while the driver's flags are on their way is told of with what was before, but told of. Covers: NET-COAL-07"""
    simulation, host, driver = start(device, wanted)
    simulation.set_link(LinkConfig(latency=400, latency_spread=0))
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, 2, 60_000)) == CtrlAck.OK
    for _ in range(4):
        before = host.interrupt_count(TX_VECTOR)
        for _ in range(16):
            go(driver.transmit(FRAME, publish=False))
        go(driver.tx.publish())
        for _ in range(400):
            told = host.interrupt_count(TX_VECTOR) - before
            simulation.run(50)
            if go(driver.reap()) and not driver.tx.outstanding:
                break
        assert not driver.tx.outstanding
        simulation.run(3000)
        assert told < host.interrupt_count(TX_VECTOR) - before < 8, "the last buffers are not told of, or all pairs of them one by one"


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_packets_used_together(device, wanted):
    """Each packet counts, however many are used at once: they are told of when they are as many as asked for, or when their time is up.

    Covers: NET-COAL-11
    """
    simulation, host, driver = start(device, wanted, link=LinkConfig(credits=(2, 32, 32, 32, 64, 1024)))
    for count, by_time in itertools.product((2, 15, 16), (False, True)):
        assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, 0, 0)) == CtrlAck.OK
        # All places before the MAC are taken: what is complete beyond them is not used before it goes on.
        simulation.mac_stalled = True
        while not driver.tx.outstanding:
            send(simulation, driver, 1)
            go(driver.reap())
        for _ in range(count - 1):
            go(driver.transmit(FRAME, publish=False))
        go(driver.tx.publish())
        simulation.run(3000)
        assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, *((500, 40) if by_time else (count, 60_000)))) == CtrlAck.OK
        ask_for_all(driver)
        before = host.interrupt_count(TX_VECTOR)
        # Neither what is received nor that its buffers are used gets out, so that all of the others come to wait behind it.
        for kind in (0, 1):
            simulation.block_credits(kind)
        for _ in range(16):
            simulation.send_frame(FRAME)
        simulation.run(2000)
        simulation.mac_stalled = False
        simulation.run(2000)
        assert not go(driver.tx.pending())
        for kind in (0, 1):
            simulation.block_credits(kind, False)
        simulation.run(60 * MICROSECOND)
        assert host.interrupt_count(TX_VECTOR) == before + 1, f"{count} at once{' by their time' if by_time else ''}"
        assert go(driver.reap()) == count
        assert len(go(driver.collect())) == 16
        go(driver.fill([2000], limit=32))


@pytest.mark.parametrize("wanted", [word & ~mask(Feature.EVENT_IDX) for word in RINGS.values()], ids=RINGS)
def test_more_packets_than_the_ring_has(device, wanted):
    """A driver that takes buffers back by itself is told of a thousand packets just when it asked for that. Covers: NET-COAL-11"""
    simulation, host, driver = start(device, wanted)
    packets = 1000
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, packets, 60_000)) == CtrlAck.OK
    before, left = host.interrupt_count(TX_VECTOR), packets
    while left:
        # The last ones alone: each count near what was asked for is seen, and waited with.
        some = 37 if left > 80 else 1
        assert host.interrupt_count(TX_VECTOR) == before, f"told {left} packets too early"
        for _ in range(some):
            go(driver.transmit(FRAME, publish=False))
        go(driver.tx.publish())
        left -= some
        for _ in range(100):
            simulation.run(200)
            go(driver.reap())
            if not driver.tx.outstanding:
                break
        assert not driver.tx.outstanding
    simulation.run(2000)
    assert host.interrupt_count(TX_VECTOR) == before + 1, "not told of the last packet"


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_microseconds(device, wanted):
    """A received frame is told of when its time is up, and not before. Covers: NET-COAL-11"""
    simulation, host, driver = start(device, wanted)
    assert go(driver.control.coalesce_queue(RX, 100, 40)) == CtrlAck.OK
    simulation.send_frame(FRAME)
    simulation.run(40 * MICROSECOND)
    assert go(driver.rx.pending()) and host.interrupt_count(RX_VECTOR) == 0
    simulation.run(700)
    assert host.interrupt_count(RX_VECTOR) == 1
    assert go(driver.collect()) == [FRAME]


def test_suppression_is_decided_when_the_time_is_up(device):
    """The driver may ask for silence, or for a notification, while one waits; what it asked for last counts. Covers: DER-RACE-04, NET-COAL-08"""
    simulation, host, driver = start(device)
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_RX_SET, 100, 40)) == CtrlAck.OK
    simulation.send_frame(FRAME)
    simulation.run(20 * MICROSECOND)
    go(driver.rx.disable_interrupts())
    simulation.run(40 * MICROSECOND)
    assert host.interrupt_count(RX_VECTOR) == 0
    simulation.send_frame(FRAME)
    simulation.run(20 * MICROSECOND)
    go(driver.rx.enable_interrupts())
    # The driver looks for what it missed, takes it, and asks for what comes next.
    assert go(driver.collect()) == [FRAME, FRAME]
    go(driver.rx.enable_interrupts())
    simulation.send_frame(FRAME)
    simulation.run(90 * MICROSECOND)
    assert host.interrupt_count(RX_VECTOR) == 1


def test_new_settings_count_for_what_waits(device):
    """Settings that make a waiting notification due send it. Covers: NET-COAL-13, NET-COAL-12"""
    for settings in ((3, 60_000), (0, 60_000), (500, 0), (500, 1)):
        simulation, host, driver = start(device)
        assert go(driver.control.coalesce_queue(TX, 500, 60_000)) == CtrlAck.OK
        send(simulation, driver, 3)
        assert host.interrupt_count(TX_VECTOR) == 0
        assert go(driver.control.coalesce_queue(TX, *settings)) == CtrlAck.OK
        simulation.run(1000)
        assert host.interrupt_count(TX_VECTOR) == 1, settings


def test_merged_buffers_are_one_packet(device):
    """A frame over several buffers counts once."""
    simulation, host, driver = start(device)
    simulation.run(100)
    go(driver.stop())
    go(driver.start(wanted=RINGS["split"], queue_size=64))
    go(driver.fill([100], limit=60))
    ask_for_all(driver)
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_RX_SET, 2, 60_000)) == CtrlAck.OK
    for _ in range(2):
        assert host.interrupt_count(RX_VECTOR) == 0
        simulation.send_frame(bytes(1500))
        simulation.run(3000)
    assert host.interrupt_count(RX_VECTOR) == 1
    assert len(go(driver.collect())) == 2


def test_a_reset_ends_coalescing(device):
    """After a reset nothing is coalesced and nothing that waited is told of. Covers: NET-COAL-09, DER-RST-03"""
    simulation, host, driver = start(device)
    assert go(driver.control.coalesce(Ctrl.NOTF_COAL_TX_SET, 500, 40)) == CtrlAck.OK
    send(simulation, driver, 3)
    go(driver.stop())
    simulation.run(60 * MICROSECOND)
    assert host.interrupt_count(TX_VECTOR) == 0
    go(driver.start(wanted=RINGS["split"], queue_size=64))
    assert go(driver.control.coalescing(TX)) == (CtrlAck.OK, (0, 0))
    go(driver.tx.enable_interrupts())
    send(simulation, driver, 1)
    assert host.interrupt_count(TX_VECTOR) == 1
