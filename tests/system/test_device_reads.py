# SPDX-License-Identifier: BSD-2-Clause
"""What the device reads, and when: seen on the link, TLP by TLP."""

import pytest

from settings import BY_FLAGS

from unvirt_sim.driver.net import PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import Feature, mask
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen
from unvirt_sim.harness_host import run_driver as go

FRAME = bytes(range(60))
LINK = LinkConfig(tx_stall=0.5, latency=5, latency_spread=5)


def start(small, wanted=WANTED):
    simulation, host = small(link=LINK)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=16, interrupts="msix", wanted=wanted))
    return simulation, driver


@pytest.mark.parametrize("event_idx", [False, True])
def test_suppression_is_read_after_the_index_went_out(small, event_idx):
    """Whether to interrupt is read from memory only when the used index it is about was sent: a value read earlier could be an old one.

    Covers: DER-RACE-02
    """
    simulation, driver = start(small, WANTED if event_idx else BY_FLAGS)
    place = driver.tx.avail + (4 + 2 * driver.tx.size if event_idx else 0)
    simulation.record()
    for _ in range(40):
        go(driver.transmit(FRAME))
        go(driver.wait_transmitted(1))
    simulation.run(2000)
    published = asked = 0
    for record in simulation.records():
        if record.kind == Seen.UP_WRITE and record.address == driver.tx.used + 2:
            published += 1
        if record.kind == Seen.UP_READ and record.address == place and record.bytes == 2:
            asked += 1
            assert asked <= published, "it was read before the index was written"
    assert published == asked == 40


@pytest.mark.parametrize("hint", [False, True])
def test_a_doorbell_that_tells_the_index_spares_its_read(small, hint):
    """With NOTIFICATION_DATA and nothing under way the first read is that of the ring entry, without it that of the index.

    Covers: CORE-NOTIF-03
    """
    simulation, driver = start(small, BY_FLAGS | mask(Feature.NOTIFICATION_DATA) if hint else BY_FLAGS)
    avail = driver.tx.avail
    for number in range(20):
        simulation.run(3000)
        simulation.record()
        go(driver.transmit(FRAME))
        go(driver.wait_transmitted(1))
        places = [record.address - avail for record in simulation.records()
                  if record.kind == Seen.UP_READ and 2 <= record.address - avail < 4 + 2 * driver.tx.size]
        entry = 4 + 2 * (number % driver.tx.size)
        assert places == ([entry] if hint else [2, entry])


@pytest.mark.parametrize("wanted", [WANTED, PACKED], ids=["split", "packed"])
def test_buffers_to_be_written_are_not_read(small, wanted):
    """No read touches a receive buffer, in the ring or in a table. Covers: SPLIT-DESC-02, PACK-DESC-02"""
    simulation, driver = start(small, wanted)
    simulation.record()
    go(driver.fill([1600], limit=2))
    go(driver.fill([100, 1500], limit=4))
    go(driver.fill([100, 1500], indirect_from=0, limit=6))
    places = [chain.token for chain in driver.rx.outstanding.values()]
    simulation.run(4000)
    for _ in range(6):
        simulation.send_frame(FRAME)
    simulation.run(4000)
    reads = [record for record in simulation.records() if record.kind == Seen.UP_READ]
    assert reads and len(places) == 6
    for place in places:
        assert not any(place.base < read.address + read.bytes and read.address < place.base + place.size for read in reads)
    assert len(go(driver.receive(6))) == 6


def test_mac_and_mtu_do_not_change(small):
    """Address and MTU are the same from the beginning, through traffic, resets and changes of the link.

    Covers: NET-CFG-04, DER-RST-04
    """
    simulation, driver = start(small)

    def fields():
        device = driver.device
        return go(device.config(0, 6)).to_bytes(6, "little").hex(":"), go(device.config(10, 2))

    expected = ("02:75:6e:76:69:72", 1500)
    assert fields() == expected
    go(driver.transmit(FRAME))
    go(driver.wait_transmitted(1))
    assert fields() == expected
    for level in (False, True):
        simulation.mac_link_up = level
        simulation.run(500)
        assert fields() == expected
    go(driver.stop())
    generation = go(driver.device.get("config_generation"))
    assert fields() == expected
    go(driver.device.reset())
    assert fields() == expected
    assert go(driver.device.get("config_generation")) == generation, "nothing changed, but the generation moved"
