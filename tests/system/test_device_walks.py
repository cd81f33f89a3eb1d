# SPDX-License-Identifier: BSD-2-Clause
"""Many walks at a time, and those that have to wait for others."""

import random

import pytest
from settings import PAIRS
from test_device_multiqueue import flow
from test_device_shortage import RINGS, leave, start
from traffic import cut

from unvirt_sim.driver.net import MULTIQUEUE
from unvirt_sim.driver.spec import Status
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig

OF_OTHERS = 10
"""Groups of half of the smallest pool, less those that are kept for the oldest chains and two for one chain."""


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_many_tables_at_once(device, wanted):
    """Chains of all queues lie in tables and the host is slow, so that nearly as many tables are read at a time as can be: all frames pass."""
    rng = random.Random(f"tables {wanted}")
    simulation, _, driver = start(device, wanted, pairs=PAIRS, link=LinkConfig(latency=1500, latency_spread=500))
    for round_ in range(3):
        frames = {number: [bytes([number, round_]) + rng.randbytes(98) for _ in range(12)] for number in range(PAIRS)}
        for number, some in frames.items():
            pair = driver.pair(number)
            for frame in some:
                go(pair.transmit(frame, lengths=cut(rng, len(frame) + driver.header_size, 3), indirect_from=0, publish=False))
            go(pair.fill([60, 60], indirect_from=0, limit=8))
            go(pair.tx.publish())
        found = leave(simulation, 12 * PAIRS)
        for number, sent in frames.items():
            assert [frame for frame in found if frame[0] == number] == sent
            assert go(driver.pair(number).wait_transmitted(12)) == 12
        frame = rng.randbytes(100)
        simulation.send_frame(frame)
        simulation.run(10_000)
        assert [some for number in range(PAIRS) for some in go(driver.pair(number).collect())] == [frame]


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_a_table_of_which_half_cannot_be_read(device, wanted):
    """A table lies across the end of a page, its first half where no memory is, among others that are read at the same time: the device asks for
    a reset, whichever walk it is, and does not take what it read for another table before. Covers: DER-ERR-02, DER-ERR-03
    """
    simulation, host, driver = start(device, wanted, link=LinkConfig(latency=200, latency_spread=800))
    for bad in 15 * list(range(6)):
        for _ in range(2):                                   # the same shapes before, whose memory stays where it is
            for number in range(6):
                go(driver.transmit(bytes([number]) * 100, lengths=[14] * 8, indirect_from=0, publish=False))
            chains = list(driver.tx.outstanding.values())[-6:]
            if len(driver.tx.outstanding) == 6:
                go(driver.tx.publish())
                assert leave(simulation, 6) == [bytes([number]) * 100 for number in range(6)]
        at = host.alloc(64, 4096, writable=False)
        go(host.write(at, go(host.read(chains[bad].table + 64, 64))))
        go(host.write(driver.tx.desc + 16 * chains[bad].slots[0], (at - 64).to_bytes(8, "little")))
        simulation.expect_errors(True)
        go(driver.tx.publish())
        end = simulation.cycle + 20_000
        while not go(driver.device.status()) & Status.DEVICE_NEEDS_RESET:
            assert simulation.cycle < end, f"table {bad} was not read in whole, and the device does not ask for a reset"
            simulation.run(100)
        go(driver.stop())
        simulation.expect_errors(False)
        assert bytes([bad]) * 100 not in [frame for _, frame, _ in simulation.take_frames()]
        go(driver.start(wanted=wanted, queue_size=64, interrupts="poll"))


@pytest.mark.parametrize("first", [0, 8200])
@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_a_long_chain_before_short_ones(device, wanted, first):
    """A table of many descriptors in disorder, read one by one, is the oldest chain of its queue; those behind it are walked before it and take the
    groups that they may have: it gets what it needs all the same, also beyond position 8192.
    """
    rng = random.Random(f"long {wanted} {first}")
    simulation, _, driver = start(device, wanted, queue_size=128, link=LinkConfig(latency=200, latency_spread=0))
    while first:
        count = min(first, 100)
        for _ in range(count):
            go(driver.transmit(bytes(4), publish=False))     # too short to be sent
        go(driver.tx.publish())
        assert go(driver.wait_transmitted(count)) == count
        first -= count
    for _ in range(2):
        frames = [bytes([number]) * 60 for number in range(30)]
        for number, frame in enumerate(frames):
            table = 0 if number == 0 else None
            go(driver.transmit(frame, lengths=cut(rng, 60 + driver.header_size, 30 if number == 0 else 2), indirect_from=table, shuffle=True,
                               publish=False))
        go(driver.tx.publish())
        assert leave(simulation, len(frames)) == frames
        assert go(driver.wait_transmitted(len(frames))) == len(frames)


@pytest.mark.parametrize("wanted", RINGS.values(), ids=RINGS)
def test_what_gave_up_for_want_of_groups(device, wanted):
    """Receive buffers of other queues hold so many groups that a chain of the first queue has to do without; not before all are taken but those
    for the oldest chains, and when one of them has gone its frame comes as if that had never been there.
    """
    rng = random.Random(f"gave up {wanted}")
    simulation, _, driver = start(device, wanted, pairs=PAIRS)

    def comes(holders, release):
        """Return whether a frame for two buffers of the first queue comes, with so many held by the others but ``release``."""
        go(driver.stop())
        go(driver.start(wanted=wanted | MULTIQUEUE, queue_size=64, interrupts="poll", pairs=PAIRS))
        for number in range(PAIRS):
            go(driver.pair(number).transmit(flow(number, "udp")))
        for number in range(holders):
            go(driver.pair(1 + number % (PAIRS - 1)).post([100, 100]))
        simulation.run(4000)
        go(driver.post([100]))
        go(driver.post(cut(rng, 400, 12)))
        simulation.run(4000)
        for number in range(release):
            simulation.send_frame(flow(1 + number, "udp", back=True))
            simulation.run(1000)
            assert len(go(driver.pair(1 + number).collect())) == 1
        simulation.run(2000)
        frame = flow(0, "udp", back=True) + bytes(200)
        simulation.send_frame(frame)
        simulation.run(20_000)
        found = go(driver.collect())
        assert found in ([frame], [])
        return bool(found)

    most = next(holders for holders in range(60) if not comes(holders + 1, 0))
    assert most >= OF_OTHERS, f"with groups for {OF_OTHERS} buffers of other queues, {most} are too many"
    for release in (1, 2, 3):
        assert comes(most + release, release), f"{most} buffers leave enough, but not {most + release} of which {release} have gone"
