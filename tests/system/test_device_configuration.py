# SPDX-License-Identifier: BSD-2-Clause
"""Configuration space: identity, capabilities, BAR, command, power, and the window into the BAR."""

import pytest

from unvirt.config import preset
from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.pci import BAR0, COMMAND, PciFunction
from unvirt_sim.driver.spec import CfgType, Feature, Status
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.host import CompletionFailed

PCIE = 0x10
SRIOV = 0x10             # among the extended ones


@pytest.fixture
def function(small):
    simulation, host = small()
    return go(PciFunction(host).enumerate())


def test_identity(function):
    """A modern Ethernet device of virtio, without the legacy interface.

    Covers: PCI-BUS-01, PCI-ID-01, PCI-ID-02, PCI-ID-04, PCI-ID-05, PCI-ID-06, LEG-FEAT-02
    """
    assert (function.vendor, function.device) == (0x1AF4, 0x1041)
    assert function.revision >= 1
    assert function.subsystem >= 0x40
    assert function.class_code == 0x020000
    assert not any(bar.is_io for bar in function.bars.values())


def test_virtio_capabilities(function):
    """Five structures, laid out as section 1 of the layouts says, inside BAR 0; of each type there is one, so none comes before a better one.

    Covers: PCI-CAP-01, PCI-CAP-03, PCI-CAP-04, PCI-CAP-05, PCI-CAP-07, PCI-CAP-08, PCI-CAP-09, PCI-COMMON-01, PCI-COMMON-02, PCI-NOTIFY-01,
    PCI-NOTIFY-02, PCI-NOTIFY-03, PCI-NOTIFY-04, PCI-SHM-01, PCI-SHM-02, PCI-SHM-03, PCI-VNDR-03, PCI-VNDR-04, PCI-VNDR-05, CORE-SHM-01, CORE-SHM-02,
    PCI-ISR-01, PCI-DEVCFG-01, PCI-DEVCFG-02, PCI-CFGACC-01, DER-CFG-01
    """
    caps = {cap.cfg_type: cap for cap in function.virtio}
    assert sorted(caps) == [1, 2, 3, 4, 5] and len(function.virtio) == 5
    for cap in function.virtio:
        assert cap.cap_len == (20 if cap.cfg_type in (CfgType.NOTIFY, CfgType.PCI_CFG) else 16)
        assert cap.bar == 0 and cap.identity == 0
        assert cap.offset % 4 == 0 and cap.offset + cap.length <= function.bars[0].size
    # Up to queue_reset there is what can be negotiated; behind it are fields of features that are not offered.
    common = caps[CfgType.COMMON]
    assert common.length > 60 and not any(go(function.host.memory_read(function.bars[0].address + common.offset + 60, common.length - 60)))
    notify = caps[CfgType.NOTIFY]
    assert notify.multiplier == 4 and notify.length >= 1 * 4 + 2
    assert caps[CfgType.DEVICE].length >= 12
    ranges = sorted((cap.offset, cap.offset + cap.length) for cap in function.virtio if cap.cfg_type != CfgType.PCI_CFG)
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False)), "structures overlap"


def test_capabilities_are_read_only(function):
    """Writes change nothing but what is writable in PCI_CFG and the registers of PCI itself.

    Covers: PCI-CAP-06
    """
    window = next(cap for cap in function.virtio if cap.cfg_type == CfgType.PCI_CFG)
    for offset in range(0x40, 0x100, 4):
        if window.at <= offset < window.at + 20 or offset == function.msix.at or function_register(function, offset):
            continue
        before = go(function.read(offset, 4))
        go(function.write(offset, 4, before ^ 0xFFFF_FFFF))
        assert go(function.read(offset, 4)) == before, f"the DW at {offset:#x} is writable"
    for offset in (0x00, 0x08, 0x2C, 0x34):
        before = go(function.read(offset, 4))
        go(function.write(offset, 4, before ^ 0xFFFF_FFFF))
        assert go(function.read(offset, 4)) == before, f"the DW at {offset:#x} is writable"


def function_register(function, offset):
    """Return whether the DW is a control register of power management or PCI Express."""
    power, express = (function.has_capability(number).offset for number in (0x01, PCIE))
    return offset in (power + 4, express + 8, express + 16, express + 40, express + 48)


def test_msix_capability(function):
    """Table size is that of the preset; table and pending bits lie in BAR 0 and apart. Covers: PCI-MSIX-01, PCI-MSIX-02, PCI-MSIX-03"""
    msix = function.msix
    assert msix.size == preset("minimal").msix_vectors and 2 <= msix.size <= 0x800
    assert msix.table + 16 * msix.size <= function.bars[0].address + function.bars[0].size
    assert msix.pba + 8 <= msix.table or msix.table + 16 * msix.size <= msix.pba


def test_virtual_functions_are_offered_if_there_are_any(function):
    """SR_IOV is offered just if the extended capability is there. Covers: CORE-RSVD-09, CORE-RSVD-10"""
    device = VirtioDevice(function)
    go(device.start_negotiation())
    assert function.extended, "the extended configuration space is not seen"
    assert any(cap.identity == SRIOV for cap in function.extended) == bool(go(device.offered()) >> Feature.SR_IOV & 1)


def test_bar_is_sized_and_placed(function):
    """BAR 0 has 64 bits and 64 KiB; the others read 0 and cannot be written."""
    assert list(function.bars) == [0]
    bar = function.bars[0]
    assert bar.is_64 and bar.size == 1 << 16
    assert go(function.read(BAR0, 4)) & ~0xF | go(function.read(BAR0 + 4, 4)) << 32 == bar.address
    for index in range(2, 6):
        go(function.write(BAR0 + 4 * index, 4, 0xFFFF_FFFF))
        assert go(function.read(BAR0 + 4 * index, 4)) == 0
    go(function.write(0x30, 4, 0xFFFF_FFFF))
    assert go(function.read(0x30, 4)) == 0, "an expansion ROM appeared"


def test_bar_moves(function):
    """Registers answer where the BAR is, and nowhere else; not at all with memory space off."""
    host, bar = function.host, function.bars[0]
    old, bar.address = bar.address, 0x7_1234_0000
    go(function._write_bars())
    assert go(host.memory_read(bar.address + 0x12, 2)) == (2).to_bytes(2, "little")
    with pytest.raises(CompletionFailed, match="Unsupported Request"):
        go(host.memory_read(old + 0x12, 2))
    go(function.command(memory=False))
    with pytest.raises(CompletionFailed, match="Unsupported Request"):
        go(host.memory_read(bar.address + 0x12, 2))
    go(function.command(memory=True))
    assert go(host.memory_read(bar.address + 0x12, 2)) == (2).to_bytes(2, "little")


def test_bytes_of_configuration_space(function):
    """Accesses of one, two and four bytes see and change just those."""
    for size in (1, 2, 4):
        for at in range(0, 0x10, size):
            whole = go(function.read(at & ~3, 4))
            assert go(function.read(at, size)) == whole >> 8 * (at % 4) & (1 << 8 * size) - 1
    go(function.write(0x3C, 1, 0x5A))                       # interrupt line
    go(function.write(0x3D, 1, 0x77))                       # interrupt pin: read-only
    assert go(function.read(0x3C, 2)) == 0x015A
    assert go(function.read(COMMAND, 2)) == 0x0006


def test_serial_number(function):
    """The extended space begins with the device serial number."""
    assert [(cap.identity, cap.offset) for cap in function.extended] == [(3, 0x100)]
    serial = go(function.read(0x104, 4)) | go(function.read(0x108, 4)) << 32
    assert serial == preset("minimal").serial_number
    assert go(function.read(0x200, 4)) == 0 and go(function.read(0xFFC, 4)) == 0


def test_power_management(function):
    """D0 and D3hot can be written and read back; the reserved states are not taken up as more than the two bits."""
    at = function.has_capability(0x01).offset
    assert go(function.read(at + 2, 2)) & 7 == 3
    for state in (3, 0):
        go(function.write(at + 4, 2, state))
        assert go(function.read(at + 4, 2)) & 3 == state


def test_express_capability(function):
    """An endpoint of version 2 with FLR, extended tags and payloads of up to 512 bytes."""
    at = function.has_capability(PCIE).offset
    assert go(function.read(at + 2, 2)) & 0xFF == 0x02
    capabilities = go(function.read(at + 4, 4))
    assert capabilities & 7 == 2 and capabilities >> 5 & 1 and capabilities >> 28 & 1
    go(function.write(at + 8, 2, 0x2010 | 1 << 5 | 1 << 8))
    assert go(function.read(at + 8, 2)) == 0x2130


def test_other_functions_are_unsupported(function):
    """Configuration requests to functions that do not exist are answered Unsupported Request."""
    for number in (1, 7):
        with pytest.raises(CompletionFailed, match="Unsupported Request"):
            go(function.host.config_read(number, 0, 4))


# The window of PCI_CFG

def test_window_reads_and_writes_the_bar(function):
    """Lengths 1, 2 and 4 at any aligned place, with what direct accesses see.

    Covers: PCI-CFGACC-02, PCI-CFGACC-03, PCI-CFGACC-04
    """
    device = VirtioDevice(function)
    go(function.window_write(0, 0x08, 4, 1))                # driver_feature_select
    assert go(device.get("driver_feature_select")) == 1
    go(function.window_write(0, 0x16, 2, 1))                # queue_select
    go(function.window_write(0, 0x18, 2, 32))
    assert go(device.get("queue_select")) == 1 and go(device.get("queue_size")) == 32
    go(function.window_write(0, 0x14, 1, 3))
    assert go(device.status()) == Status.ACKNOWLEDGE | Status.DRIVER
    for offset, size, value in ((0x12, 2, 2), (0x14, 1, 3), (0x18, 2, 32), (0x18, 4, 0xFFFF_0020), (0x2000, 1, 0x02),
                                (0x2001, 1, 0x75), (0x2003, 1, 0x76), (0x2002, 2, 0x766E)):
        assert go(function.window_read(0, offset, size)) == value, f"{size} bytes at {offset:#x}"


def test_window_has_side_effects(function):
    """A read of the ISR clears it, a doorbell is taken, a status of zero resets.

    Covers: PCI-CFGACC-05
    """
    device, simulation = VirtioDevice(function), function.host.simulation
    go(function.command())
    go(device.negotiate(1 << 32))
    queue = go(device.setup_queue(1))
    go(device.driver_ok())
    simulation.run(2000)
    before = simulation.counters["read_requests"]
    go(function.window_write(0, 0x3004, 2, 1))
    simulation.run(500)
    assert simulation.counters["read_requests"] > before, "the doorbell was not taken"
    simulation.mac_link_up = False
    simulation.run(200)
    go(function.window_write(0, 0x14, 1, 0x8F))             # FAILED: nothing is cleared by it
    assert go(function.window_read(0, 0x1000, 1)) in (0, 2)
    go(function.window_write(0, 0x14, 1, 0))
    for _ in range(100):
        if go(function.window_read(0, 0x14, 1)) == 0:
            break
    assert go(device.status()) == 0
    queue.release()


@pytest.mark.parametrize("bar, offset, size", [(1, 0, 4), (0, 0x10000, 4), (0, 2, 4), (0, 1, 2), (0, 0, 3), (0, 0, 0), (5, 0, 1)])
def test_other_windows_do_nothing(function, bar, offset, size):
    """A window that is not 1, 2 or 4 aligned bytes of the BAR reads 0 and changes nothing. Covers: PCI-CFGACC-06"""
    at = go(function._window(bar, offset, size))
    go(function.write(at + 16, 4, 0xFFFF_FFFF))
    assert go(function.read(at + 16, 4)) == 0
    device = VirtioDevice(function)
    assert go(device.get("device_feature_select")) == 0
