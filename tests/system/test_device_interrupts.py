# SPDX-License-Identifier: BSD-2-Clause
"""Interrupts of a whole device: MSI-X with its masks and pending bits, INTx, and the ISR status."""

import pytest

from settings import BY_FLAGS

from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import CONFIG_VECTOR, RX_VECTOR, TX_VECTOR, NetDriver
from unvirt_sim.driver.spec import NO_VECTOR, Isr
from unvirt_sim.harness_host import run_driver as go

FRAME = bytes(range(60))


def start(small, interrupts, **options):
    """Return a started driver with receive buffers."""
    simulation, host = small()
    driver = go(NetDriver.find(host))
    go(driver.start(queue_size=16, interrupts=interrupts, **options))
    go(driver.fill([2000], limit=8))
    simulation.run(2000)
    return simulation, host, driver


def counts(host):
    return [host.interrupt_count(vector) for vector in range(4)]


def change_link(simulation, level):
    simulation.mac_link_up = level
    simulation.run(600)


def test_each_event_has_its_vector(small):
    """Transmit, receive and configuration events send the message of their vector and no INTx.

    Covers: PCI-INT-02, PCI-MSIX-04, PCI-MSIX-10, DER-ORD-02, NET-CFG-19, CORE-CFG-06
    """
    simulation, host, driver = start(small, "msix")
    go(driver.transmit(FRAME))
    go(driver.wait_transmitted(1))
    assert counts(host) == [0, 0, 1, 0]
    simulation.send_frame(FRAME)
    assert go(driver.receive(1)) == [FRAME]
    assert counts(host) == [0, 1, 1, 0]
    change_link(simulation, False)
    assert counts(host) == [1, 1, 1, 0]
    assert not go(driver.link_up())
    assert not simulation.intx


def test_one_vector_for_all(small):
    """All events may share a vector. Covers: PCI-MSIX-04, PCI-MSIX-12"""
    simulation, host, driver = start(small, "shared")
    go(driver.transmit(FRAME))
    go(driver.wait_transmitted(1))
    simulation.send_frame(FRAME)
    assert go(driver.receive(1)) == [FRAME]
    change_link(simulation, False)
    assert counts(host) == [3, 0, 0, 0]


def test_no_vector_no_interrupt(small):
    """With MSI-X on, events without a vector make no interrupt of any kind. Covers: PCI-INT-01, PCI-INT-03, PCI-MSIX-05"""
    simulation, host, driver = start(small, "poll")
    go(driver.rx.enable_interrupts())
    go(driver.tx.enable_interrupts())
    go(driver.transmit(FRAME))
    simulation.send_frame(FRAME)
    change_link(simulation, False)
    simulation.run(2000)
    assert len(go(driver.collect())) == 1 and go(driver.reap()) == 1
    assert counts(host) == [0, 0, 0, 0] and not simulation.intx
    assert go(driver.device.isr()) == Isr.CONFIG


def test_suppressed_by_the_driver(small):
    """With the flag in the available ring set no interrupt comes; cleared, it does again. Covers: SPLIT-USUP-01, SPLIT-USUP-02,
    SPLIT-USUP-03
    """
    simulation, host, driver = start(small, "msix", wanted=BY_FLAGS)
    go(driver.tx.disable_interrupts())
    for _ in range(3):
        go(driver.transmit(FRAME))
        simulation.run(1500)
    assert go(driver.reap()) == 3 and counts(host)[TX_VECTOR] == 0
    go(driver.tx.enable_interrupts())
    go(driver.transmit(FRAME))
    simulation.run(1500)
    assert counts(host)[TX_VECTOR] == 1


@pytest.mark.parametrize("first", [0, 2040])
def test_used_event(small, first):
    """With EVENT_IDX an interrupt comes when the used index goes past used_event, in one step or in many, and not otherwise; flags mean nothing.

    Whatever the index is: ``first`` packets go before.

    Covers: CORE-RSVD-14, SPLIT-USUP-04, SPLIT-USUP-05, SPLIT-USUP-06, SPLIT-ASUP-03, DER-RACE-03
    """
    simulation, host, driver = start(small, "msix")
    tx = driver.tx

    def messages(event, frames, together):
        """Return after which of ``frames`` packets a message came, ``event`` being used_event beyond the used index."""
        go(host.write(tx.avail + 4 + 2 * tx.size, (tx.used_idx + event & 0xFFFF).to_bytes(2, "little")))
        came, before = [], counts(host)[TX_VECTOR]
        for number in range(frames):
            go(driver.transmit(FRAME, publish=False))
            if not together or number == frames - 1:
                go(tx.publish())
                simulation.run(2500)
                came += [number] * (counts(host)[TX_VECTOR] - before)
                before = counts(host)[TX_VECTOR]
        assert go(driver.reap()) == frames
        return came

    while tx.used_idx < first:
        assert messages(-1, tx.size // 2, together=True) == []
    go(host.write(tx.avail, b"\1\0"))                       # without EVENT_IDX: no interrupts
    for event in range(4):
        assert messages(event, 4, together=False) == [event]
    assert messages(-1, 4, together=False) == []
    assert messages(4, 4, together=False) == []
    go(host.write(tx.avail, b"\0\0"))
    for event in range(8):
        assert messages(event, 8, together=True) == [7], event
    for event in (-1, 8, 0x8000):
        assert messages(event, 8, together=True) == []


@pytest.mark.parametrize("how", ["vector", "function"])
def test_masked_vectors_pend(small, how):
    """A masked event sets its pending bit, once however often it happens, and fires on unmask. Covers: DER-PCI-02"""
    simulation, host, driver = start(small, "msix")
    msix = driver.device.function.msix

    def mask(on):
        go(msix.mask(TX_VECTOR, on) if how == "vector" else msix.control(enable=True, function_mask=on))

    mask(True)
    go(msix.entry(TX_VECTOR))                                # whatever was under way is here
    before = counts(host)[TX_VECTOR]
    for _ in range(2):
        go(driver.transmit(FRAME))
        simulation.run(1500)
    assert counts(host)[TX_VECTOR] == before and go(msix.pending(TX_VECTOR)) == 1
    assert go(msix.pending(RX_VECTOR)) == 0
    mask(False)
    simulation.run(500)
    assert counts(host)[TX_VECTOR] == before + 1 and go(msix.pending(TX_VECTOR)) == 0
    simulation.run(3000)
    assert counts(host)[TX_VECTOR] == before + 1


def test_message_address_changes_while_masked(small):
    """What the table says on unmask is what is sent."""
    simulation, host, driver = start(small, "msix")
    msix = driver.device.function.msix
    go(msix.mask(TX_VECTOR, True))
    go(driver.transmit(FRAME))
    simulation.run(1500)
    address, data = host.message_address(3)
    for position, word in enumerate((address & 0xFFFF_FFFF, address >> 32, data)):
        go(host.memory_write(msix.table + 16 * TX_VECTOR + 4 * position, word.to_bytes(4, "little")))
    go(msix.mask(TX_VECTOR, False))
    simulation.run(500)
    assert counts(host) == [0, 0, 0, 1]


def test_msix_table_registers(small):
    """Every entry holds what was written, masked after reset; only bit 0 of the control word exists."""
    _, host = small()
    device = go(VirtioDevice.find(host))
    msix = device.function.msix
    for vector in range(msix.size):
        assert go(msix.entry(vector))[2] & 1, "an entry is not masked after reset"
    for vector in range(msix.size):
        for position, word in enumerate((0xFEE00000 + 4 * vector, 0x5A000000 + vector, 0xC0DE0000 + vector, 0xFFFF_FFFE)):
            go(host.memory_write(msix.table + 16 * vector + 4 * position, word.to_bytes(4, "little")))
    for vector in range(msix.size):
        address, data, control = go(msix.entry(vector))
        assert (address, data) == (0xFEE00000 + 4 * vector | (0x5A000000 + vector) << 32, 0xC0DE0000 + vector)
        assert control & 1 == 0
    go(host.memory_write(msix.pba, b"\xff" * 4))
    assert go(msix.pending(0)) == 0, "the pending bits are writable"


def test_reading_a_mask_flushes_messages(small):
    """Once the mask was read back, no message of that vector follows."""
    simulation, host, driver = start(small, "msix")
    msix = driver.device.function.msix
    for delay in range(0, 400, 23):
        go(driver.transmit(FRAME))
        simulation.run(delay)
        go(msix.mask(TX_VECTOR, True))
        assert go(msix.entry(TX_VECTOR))[2] & 1
        before = counts(host)[TX_VECTOR]
        simulation.run(800)
        assert counts(host)[TX_VECTOR] == before, f"a message came after the mask was read, {delay} cycles"
        go(msix.mask(TX_VECTOR, False))
        simulation.run(800)
        go(driver.reap())


def test_intx(small):
    """Without MSI-X events set their ISR bits and raise INTx; reading the ISR lowers it.

    Covers: PCI-INT-02, PCI-INT-04, PCI-ISR-03, PCI-ISR-04, PCI-ISR-05, PCI-ISR-06, PCI-ISR-07, PCI-MSIX-12
    """
    simulation, host, driver = start(small, "intx", wanted=BY_FLAGS)
    function = driver.device.function
    assert not simulation.intx and go(driver.device.isr()) == 0
    go(driver.transmit(FRAME))
    assert go(host.wait_interrupt(-1)) and go(function.interrupt_status())
    assert go(driver.device.isr()) == Isr.QUEUE
    simulation.run(100)
    assert not simulation.intx and not go(function.interrupt_status())
    assert go(driver.device.isr()) == 0
    change_link(simulation, False)
    assert simulation.intx
    go(driver.transmit(FRAME))
    simulation.run(1500)
    assert go(driver.device.isr()) == Isr.QUEUE | Isr.CONFIG
    simulation.run(100)
    assert not simulation.intx and counts(host) == [0, 0, 0, 0]


def test_interrupt_disable(small):
    """Interrupt Disable holds INTx down but not the status bit; enabling MSI-X lowers INTx. Covers: DER-PCI-04, PCI-ISR-04"""
    simulation, _, driver = start(small, "intx")
    function = driver.device.function
    go(function.command(intx_disable=True))
    go(driver.transmit(FRAME))
    simulation.run(1500)
    assert not simulation.intx and go(function.interrupt_status())
    go(function.command())
    simulation.run(100)
    assert simulation.intx
    go(function.command(intx_disable=True))
    simulation.run(100)
    assert not simulation.intx
    go(function.command())
    simulation.run(100)
    assert simulation.intx
    go(function.msix.control(enable=True))
    simulation.run(100)
    assert not simulation.intx


def test_isr_with_msix(small):
    """The ISR may be read at any time; a configuration change sets its bit before the message. Covers: PCI-ISR-02, PCI-ISR-08"""
    simulation, host, driver = start(small, "msix")
    assert go(driver.device.isr()) == 0
    simulation.mac_link_up = False
    assert go(host.wait_interrupt(CONFIG_VECTOR))
    assert go(driver.device.isr()) == Isr.CONFIG
    assert go(driver.device.isr()) == 0


def test_no_bit_is_lost_by_a_read_at_the_same_time(small):
    """A change at any distance from a read of the ISR is seen by that read or the next. Covers: DER-RACE-05"""
    simulation, _, driver = start(small, "intx")
    device, level = driver.device, True
    isr = device._base[3]
    for delay in range(30):
        level = not level
        number = simulation._access(False, False, isr, 1)
        simulation.run(delay)
        simulation.mac_link_up = level
        first = simulation._wait(number, "ISR") & 0xFF
        simulation.run(200)
        assert first | go(device.isr()) == Isr.CONFIG, f"a change {delay} cycles after the read was lost"
        simulation.run(200)
        assert not simulation.intx


def test_nothing_without_bus_mastering(small):
    """With Bus Master Enable clear there is neither DMA nor a message. Covers: DER-PCI-01"""
    simulation, host, driver = start(small, "msix")
    go(driver.device.function.command(bus_master=False))
    simulation.run(2000)
    simulation.expect_quiet(True)
    before = counts(host)
    change_link(simulation, False)
    simulation.run(5000)
    assert counts(host) == before
    simulation.expect_quiet(False)
    go(driver.device.function.command())
    go(driver.device.reset())


def test_vector_of_a_queue_without_msix_capability_use(small):
    """Vectors may be set while MSI-X is off; INTx is used all the same. Covers: PCI-MSIX-12"""
    simulation, _, driver = start(small, "intx")
    go(driver.device.set("config_msix_vector", 1))
    assert go(driver.device.get("config_msix_vector")) == 1
    change_link(simulation, False)
    assert simulation.intx
    go(driver.device.set("config_msix_vector", NO_VECTOR))
