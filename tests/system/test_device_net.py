# SPDX-License-Identifier: BSD-2-Clause
"""The network side: link status, lengths, drops and their counters, receive buffers with and without merging."""

import pytest

from settings import ANY_LENGTH

from unvirt_sim.driver.net import CONFIG_VECTOR, WANTED, NetDriver
from unvirt_sim.driver.spec import Feature, Status, mask
from unvirt_sim.harness_host import run_driver as go

HEADER = 12


def start(small, *, wanted=WANTED, buffers=(2048,), limit=8, interrupts="poll"):
    simulation, host = small()
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=32, interrupts=interrupts, wanted=wanted))
    if limit:
        go(driver.fill(list(buffers), limit=limit))
    simulation.run(3000)
    return simulation, host, driver


def dropped(simulation, which="rx_dropped"):
    return simulation.counters[which]


def test_link_follows_the_mac(small):
    """The status bit follows the MAC side, each change with a configuration interrupt. Covers: NET-CFG-19, CORE-CFG-06, CORE-CFG-03"""
    simulation, host, driver = start(small, interrupts="msix")
    assert go(driver.link_up())
    for number, level in enumerate((False, True, False, True), 1):
        simulation.mac_link_up = level
        assert go(host.wait_interrupt(CONFIG_VECTOR, 2000))
        assert go(driver.link_up()) == level
        assert host.interrupt_count(CONFIG_VECTOR) == number


def test_a_minimal_driver(small):
    """MAC and VERSION_1 are enough for traffic both ways.

    Covers: NET-CFG-23, NET-CFG-22, NET-RXBUF-02, NET-RX-01, CORE-RSVD-11, CORE-RSVD-17, CORE-FEAT-08
    """
    simulation, _, driver = start(small, wanted=mask(Feature.MAC, Feature.VERSION_1))
    assert go(driver.mac()).hex(":") == "02:75:6e:76:69:72"
    for size in (14, 60, 1514):
        simulation.send_frame(bytes([size & 0xFF]) * size)
        assert go(driver.receive(1)) == [bytes([size & 0xFF]) * size]
        go(driver.transmit(bytes([size & 0xFF]) * size))
        go(driver.wait_transmitted(1))
        simulation.run(500)
        assert [frame for _, frame, _ in simulation.take_frames()] == [bytes([size & 0xFF]) * size]


@pytest.mark.parametrize("size, passes", [(1, False), (13, False), (14, True), (1518, True), (1519, False), (2000, False),
                                          (9018, False), (12000, False)])
def test_received_lengths(small, size, passes):
    """With MTU negotiated, 14 bytes to MTU and 18 more pass; others are dropped and counted, and no buffer is used.

    Covers: NET-CFG-05, NET-CFG-06, NET-CFG-07
    """
    simulation, _, driver = start(small, limit=12)
    frame = bytes(index & 0xFF for index in range(size))
    simulation.send_frame(frame)
    simulation.send_frame(b"\xaa" * 64)
    simulation.run(6000)
    assert go(driver.collect()) == ([frame] if passes else []) + [b"\xaa" * 64]
    assert dropped(simulation) == int(not passes)


def test_bad_frames_are_dropped(small):
    """A frame that the MAC marks bad is dropped and counted; its neighbours pass."""
    simulation, _, driver = start(small)
    simulation.send_frame(b"\1" * 100)
    simulation.send_frame(b"\2" * 1500, bad=True)
    simulation.send_frame(b"\3" * 100)
    simulation.run(6000)
    assert go(driver.collect()) == [b"\1" * 100, b"\3" * 100]
    assert dropped(simulation) == 1


def test_overrun(small):
    """Frames without buffers are dropped and counted, those that had one come whole; later ones are not harmed."""
    simulation, _, driver = start(small, limit=4)
    frames = [bytes([number]) * 500 for number in range(20)]
    for frame in frames:
        simulation.send_frame(frame)
    simulation.run(10_000)
    assert go(driver.collect()) == frames[:4]
    assert dropped(simulation) == 16
    go(driver.fill([2048], limit=8))
    simulation.run(3000)
    simulation.send_frame(frames[7])
    assert go(driver.receive(1)) == [frames[7]]
    assert dropped(simulation) == 16


def test_frames_before_the_driver(small):
    """Frames that come before DRIVER_OK are never seen by the driver. Covers: CORE-STATUS-01"""
    simulation, host = small()
    for number in range(40):
        simulation.send_frame(bytes([number]) * 1000)
    simulation.run(8000)
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=32, interrupts="poll"))
    go(driver.fill([2048], limit=8))
    simulation.run(3000)
    simulation.send_frame(b"\x77" * 80)
    simulation.run(3000)
    assert b"\x77" * 80 in go(driver.collect())[-1:]


@pytest.mark.parametrize("buffer, frame", [(1000, 988), (1000, 989), (1000, 1988), (1000, 1989), (100, 1514), (12, 14), (13, 60),
                                           (526, 1052 - 12)])
def test_num_buffers(small, buffer, frame):
    """A packet takes just as many buffers as it needs, all but the last full; the header counts them.

    Covers: NET-RXBUF-01, NET-RXBUF-03, NET-RX-02, NET-RX-03, NET-RX-04, CORE-VQ-02
    """
    simulation, _, driver = start(small, wanted=WANTED & ANY_LENGTH, buffers=(buffer,), limit=16)
    data = bytes(index * 7 & 0xFF for index in range(frame))
    simulation.send_frame(data)
    assert go(driver.receive(1)) == [data]
    needed = -(-(frame + HEADER) // buffer)
    assert driver.headers[-1][-1] == needed
    assert len(driver.rx.outstanding) == 16 - needed


def test_without_merging_a_small_buffer_drops(small):
    """Without MRG_RXBUF a packet too large for its buffer is dropped, the buffer stays; num_buffers is 1.

    Covers: NET-RXBUF-02, NET-RXBUF-04, NET-RX-01
    """
    simulation, _, driver = start(small, wanted=WANTED & ~mask(Feature.MRG_RXBUF), buffers=(12, 500))
    simulation.send_frame(b"\1" * 600)
    simulation.send_frame(b"\2" * 500)
    simulation.run(5000)
    assert go(driver.collect()) == [b"\2" * 500]
    assert dropped(simulation) == 1 and len(driver.rx.outstanding) == 7
    assert driver.headers[-1][-1] == 1


def test_transmit_header_is_not_trusted(small):
    """Flags and fields of the header that no negotiated feature gives a meaning are ignored.

    Covers: NET-TX-01, NET-TX-02, NET-TX-14, NET-TX-21
    """
    simulation, _, driver = start(small)
    for header in (b"\xff" * 12, b"\x00\x00\x34\x12\xff\xff\xff\xff\xff\xff\x09\x00", b"\xf8" + bytes(11)):
        go(driver.transmit(bytes(range(100)), header=header, lengths=[5, 7, 100]))
    go(driver.wait_transmitted(3))
    simulation.run(1000)
    assert [frame for _, frame, aborted in simulation.take_frames() if not aborted] == [bytes(range(100))] * 3
    assert dropped(simulation, "tx_dropped") == 0


@pytest.mark.parametrize("size", [0, 1, 13, 9019, 20000])
def test_transmitted_lengths(small, size):
    """A packet too short for an Ethernet header or too long is dropped and counted, its buffer used with length 0. Covers: DER-ERR-04, DER-TX-02"""
    simulation, _, driver = start(small)
    go(driver.transmit(bytes(size)))
    go(driver.transmit(b"\x55" * 60))
    go(driver.wait_transmitted(2))
    simulation.run(1000)
    assert [frame for _, frame, aborted in simulation.take_frames() if not aborted] == [b"\x55" * 60]
    assert dropped(simulation, "tx_dropped") == 1
    assert not go(driver.device.status()) & Status.DEVICE_NEEDS_RESET


def test_used_length_of_receive(small):
    """The used length is what was written, header included; nothing behind it is touched.

    Covers: CORE-VQ-02, SPLIT-USED-02, SPLIT-USED-07
    """
    simulation, _, driver = start(small)
    for size in (14, 15, 100, 1514):
        simulation.send_frame(bytes(size))
        simulation.run(2000)
        used, = go(driver.rx.harvest())
        assert used.length == size + HEADER
        go(used.chain.token.load(used.length, exact=True))
        used.chain.token.free()


def test_receive_buffers_of_many_pieces(small):
    """A receive buffer may be cut anywhere, header included, and hold empty pieces. Covers: NET-RXBUF-05, SPLIT-FRAME-01"""
    simulation, _, driver = start(small, limit=0)
    for lengths in ([1] * 12 + [600], [5, 7, 0, 600], [0, 12, 1, 600], [13, 600], [3, 500, 0, 100]):
        go(driver.post(lengths))
        simulation.run(2000)
        simulation.send_frame(bytes(range(200)))
        assert go(driver.receive(1)) == [bytes(range(200))], lengths


def test_packets_after_dropped_ones(small):
    """What a dropped packet leaves behind is not taken for the one that has its place next."""
    simulation, _, driver = start(small)
    for _ in range(64):                                     # every place at least once
        go(driver.transmit(b"", publish=False))
        if driver.tx.free_slots == 0:
            go(driver.tx.publish())
            go(driver.wait_transmitted(32))
    frames = [bytes([number]) * 60 for number in range(40)]
    for frame in frames:
        if not driver.tx.free_slots:
            go(driver.wait_transmitted(1))
        go(driver.transmit(frame, lengths=[4] * 18, indirect_from=0))
        simulation.run(37)
    simulation.run(20_000)
    assert [frame for _, frame, _ in simulation.take_frames()] == frames


def test_received_header(small):
    """Every field of the header of a received packet is zero but for num_buffers; VLAN tags are passed on like anything.

    Covers: NET-HDR-01, NET-HDR-03, NET-RX-05, NET-RX-07, NET-RX-08, NET-RX-09, NET-RX-10, NET-RX-11, NET-RX-12, NET-RX-16, NET-RX-25,
    NET-RX-30, NET-RX-06, NET-RX-13, NET-CTRL-VLAN-01
    """
    simulation, _, driver = start(small)
    plain = b"\xff" * 6 + b"\2" * 6 + b"\x08\x00" + bytes(range(100))
    tagged = plain[:12] + b"\x81\x00\x0f\xa0" + plain[12:]
    for frame in (plain, tagged):
        simulation.send_frame(frame)
        assert go(driver.receive(1)) == [frame]
        assert driver.headers[-1] == (0, 0, 0, 0, 0, 0, 1)


@pytest.mark.parametrize("payload", [0, 1, 2])
@pytest.mark.parametrize("request_size", [0, 2, 5])
def test_payload_and_request_sizes(small, payload, request_size):
    """Whatever sizes of TLPs the host allows, frames come to buffers, and from them, at any distance from the end of a page as a whole."""
    simulation, host, driver = start(small, limit=0)
    express = driver.device.function.has_capability(0x10).offset
    go(host.config_write(0, express + 8, 2, request_size << 12 | 1 << 8 | payload << 5 | 1 << 4))
    for offset in (*range(3568, 3604, 4), 3583, 3585, 3839, 3840, 3841, 3967, 3968, 3969, 4095, 0, 1):
        go(driver.post([1600], page_offset=offset))
        go(driver.transmit(bytes(range(200)) * 5, page_offset=offset))
        simulation.run(1500)
        frame = bytes(range(offset % 50, 250)) * 7
        simulation.send_frame(frame[:1500])
        assert go(driver.receive(1)) == [frame[:1500]], offset
        assert go(driver.wait_transmitted(1)) == 1
        assert [data for _, data, _ in simulation.take_frames()] == [bytes(range(200)) * 5]
