# SPDX-License-Identifier: BSD-2-Clause
"""The common configuration, device configuration, notify and ISR registers of a whole device."""

import functools
import itertools

import pytest

from unvirt.config import preset
from unvirt_sim.conformance.catalogue import offered_features
from unvirt_sim.driver.device import FeaturesRefused, VirtioDevice
from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.spec import COMMON, NO_VECTOR, CfgType, Feature, Status, dependencies_met, mask
from unvirt_sim.harness_host import run_driver as go

EXPECTED = mask(*(Feature[name.removeprefix("VIRTIO_").removeprefix("NET_").removeprefix("F_")]
                  for name in offered_features(preset("minimal"))))
FIELDS = (("queue_desc", 0x1122334455667780), ("queue_driver", 0x99AABBCCDDEEFF10), ("queue_device", 0x0123456789ABCDEC))


@pytest.fixture
def registers(small):
    """Return a device in reset, with every register in reach."""
    simulation, host = small()
    return go(VirtioDevice.find(host))


def base(device, cfg_type=CfgType.COMMON):
    return device._base[cfg_type]


# Features

def test_offered_features_are_exactly_these(registers):
    """The feature words are those of the implemented features and nothing else, in every window.

    Covers: CORE-FEAT-01, CORE-FEAT-04, CORE-FEAT-07, CORE-RSVD-01, CORE-RSVD-03, CORE-RSVD-08, CORE-RSVD-10, CORE-VQ-03, PCI-COMMON-03, NET-FEAT-17
    """
    offered = go(registers.offered(windows=5))
    assert offered == EXPECTED
    assert dependencies_met(offered)
    for window in (3, 4, 127, 0x8000_0000, 0xFFFF_FFFF):
        go(registers.set("device_feature_select", window))
        assert go(registers.get("device_feature_select")) == window
        assert go(registers.get("device_feature")) == 0
    assert not any(cap.identity == 0x10 for cap in registers.function.extended), "SR-IOV appeared"


def test_driver_features_read_back(registers):
    """Each window keeps what the driver wrote until FEATURES_OK, by bytes too. Covers: PCI-COMMON-04"""
    go(registers.start_negotiation())
    word = EXPECTED & ~mask(Feature.INDIRECT_DESC)
    go(registers.accept(word))
    assert go(registers.accepted()) == word
    go(registers.set("driver_feature_select", 1))
    assert go(registers.get("driver_feature")) == word >> 32 & 0xFFFF_FFFF


@pytest.mark.parametrize("word", [
    EXPECTED & ~mask(Feature.VERSION_1), 0, EXPECTED | mask(Feature.CSUM), EXPECTED | mask(Feature.ADMIN_VQ),
    EXPECTED | mask(Feature.RSS_CONTEXT), EXPECTED | 1 << 95, EXPECTED | 1 << 44, mask(Feature.VERSION_1) | 1 << 24])
def test_illegal_features_are_refused(registers, word):
    """FEATURES_OK stays clear for what was not offered, in any window, and for a legacy driver; a legal set may follow.

    Covers: CORE-FEAT-03, CORE-FEAT-09, CORE-RSVD-02, DER-CFG-02, PCI-COMMON-05
    """
    go(registers.start_negotiation())
    with pytest.raises(FeaturesRefused):
        go(registers.finish_negotiation(word))
    assert go(registers.accepted()) == word, "what is refused reads back all the same"
    go(registers.set("device_status", 0x0F))
    assert not go(registers.status()) & (Status.DRIVER_OK | Status.FEATURES_OK)
    go(registers.finish_negotiation(EXPECTED))


def test_every_legal_subset_is_accepted(registers):
    """Any subset with VERSION_1, again after a reset too.

    Covers: CORE-FEAT-02, CORE-FEAT-05, CORE-INIT-01, CORE-RSVD-04, CORE-RSVD-06
    """
    optional = [bit for bit in range(96) if EXPECTED >> bit & 1 and bit != Feature.VERSION_1]
    for chosen in itertools.chain([()], itertools.combinations(optional, 1), itertools.combinations(optional, 2), [optional]):
        go(registers.start_negotiation())
        go(registers.finish_negotiation(mask(Feature.VERSION_1, *chosen)))
        assert go(registers.accepted()) == mask(Feature.VERSION_1, *chosen)


def test_features_freeze(registers):
    """After FEATURES_OK the set does not change; a reset opens it again. Covers: CORE-FEAT-06"""
    go(registers.negotiate(EXPECTED))
    go(registers.accept(mask(Feature.VERSION_1)))
    assert go(registers.accepted()) == EXPECTED
    go(registers.reset())
    assert go(registers.accepted()) == 0


# Status

def test_status_bits_stay(registers):
    """Bits read back, a write that clears some is ignored, bits that are the device's own cannot be set.

    Covers: CORE-STATUS-05, CORE-STATUS-06, DER-INIT-02, DER-INIT-03, CORE-STATUS-07
    """
    assert go(registers.status()) == 0
    go(registers.set("device_status", 1))
    go(registers.set("device_status", 3))
    assert go(registers.status()) == 3
    go(registers.set("device_status", 1))
    assert go(registers.status()) == 3, "a partial reset"
    go(registers.set("device_status", 3 | 0x10 | 0x20 | 0x40))
    assert go(registers.status()) == 3, "SUSPEND, DEVICE_NEEDS_RESET or a reserved bit was set by the driver"
    go(registers.set("device_status", 0x83))
    assert go(registers.status()) == 0x83
    go(registers.negotiate(EXPECTED))
    assert go(registers.status()) == 0x0B


def test_driver_ok_needs_features_ok(registers):
    """DRIVER_OK without FEATURES_OK does not start anything."""
    go(registers.reset())
    go(registers.set("device_status", 7))
    assert not go(registers.status()) & Status.DRIVER_OK


# Queue fields

def test_queues_that_exist(registers):
    """Two queues with their largest size; what lies beyond reads size 0 and takes nothing.

    Covers: CORE-VQ-01, PCI-COMMON-15, PCI-COMMON-16, PCI-COMMON-19, NET-VQ-01
    """
    assert go(registers.get("num_queues")) == 2
    for index in (0, 1):
        go(registers.set("queue_select", index))
        assert go(registers.get("queue_size")) == 256
        assert go(registers.get("queue_notify_off")) == index
    for index in (2, 3, 255, 256, 0x7FFF, 0xFFFF):
        go(registers.set("queue_select", index))
        assert go(registers.get("queue_select")) == index
        assert go(registers.get("queue_size")) == 0
        for name, value in (("queue_size", 16), ("queue_msix_vector", 1), ("queue_enable", 1), *FIELDS):
            go(registers.set(name, value))
        assert go(registers.get("queue_size")) == 0 and go(registers.get("queue_enable")) == 0
        assert go(registers.get("queue_msix_vector")) == NO_VECTOR
        assert go(registers.get("queue_desc")) == 0
    for index in (0, 1):
        go(registers.set("queue_select", index))
        assert go(registers.get("queue_size")) == 256 and go(registers.get("queue_enable")) == 0
        assert go(registers.get("queue_desc")) == 0


def test_each_queue_has_its_own_fields(registers):
    """queue_select chooses; fields keep what was written, with their own widths. Covers: PCI-COMMON-20, PCI-COMMON-21, PCI-ACC-03"""
    for index in (0, 1):
        go(registers.set("queue_select", index))
        go(registers.set("queue_size", 16 << index))
        go(registers.set("queue_msix_vector", 1 + index))
        for name, value in FIELDS:
            go(registers.set(name, value + 0x100 * index))
    for index in (0, 1):
        go(registers.set("queue_select", index))
        assert go(registers.get("queue_size")) == 16 << index
        assert go(registers.get("queue_msix_vector")) == 1 + index
        for name, value in FIELDS:
            assert go(registers.get(name)) == value + 0x100 * index


@pytest.mark.parametrize("first", [0, 1])
def test_halves_of_wide_fields(registers, first):
    """The halves are independent, in either order. Covers: PCI-ACC-01, PCI-ACC-02"""
    for name, value in FIELDS:
        for high in (first, 1 - first):
            go(registers.set_half(name, high, value >> 32 * high & 0xFFFF_FFFF))
            assert go(registers.get_half(name, high)) == value >> 32 * high & 0xFFFF_FFFF
        assert go(registers.get(name)) == value
        go(registers.set_half(name, first, 0))
        assert go(registers.get_half(name, 1 - first)) == value >> 32 * (1 - first) & 0xFFFF_FFFF


def test_queue_size_takes_powers_of_two(registers):
    """From 1 to the largest; anything else is not taken. Covers: PCI-COMMON-29, SPLIT-LAY-01"""
    go(registers.set("queue_select", 1))
    for size in (1, 2, 4, 64, 256):
        go(registers.set("queue_size", size))
        assert go(registers.get("queue_size")) == size
    for size in (0, 3, 100, 255, 512, 32768, 0xFFFF):
        go(registers.set("queue_size", size))
        assert go(registers.get("queue_size")) == 256


def test_enable_latches(registers):
    """After queue_enable the fields hold, and 0 cannot be written to it. Covers: PCI-COMMON-09, PCI-COMMON-25, PCI-COMMON-26"""
    go(registers.negotiate(EXPECTED))
    queue = go(registers.setup_queue(1, size=16))
    for name, value in (("queue_size", 32), ("queue_enable", 0), *FIELDS):
        before = go(registers.get(name))
        go(registers.set(name, value))
        assert go(registers.get(name)) == before, f"{name} changed while the queue is enabled"
    go(registers.set("queue_select", 0))
    assert go(registers.get("queue_enable")) == 0
    go(registers.set("queue_enable", 2))
    assert go(registers.get("queue_enable")) == 0
    assert queue.size == 16


def test_vectors(registers):
    """Any event takes any vector that exists; others read back as none.

    Covers: PCI-MSIX-04, PCI-MSIX-05, PCI-MSIX-06, PCI-MSIX-07, PCI-MSIX-08, PCI-MSIX-09, PCI-MSIX-11
    """
    names = [(0, "config_msix_vector"), (0, "queue_msix_vector"), (1, "queue_msix_vector")]
    for index, name in names:
        go(registers.set("queue_select", index))
        assert go(registers.get(name)) == NO_VECTOR
        for vector in (0, 1, 2, 3, 3, NO_VECTOR, 2):
            go(registers.set(name, vector))
            assert go(registers.get(name)) == vector
        for vector in (4, 5, 0x7FF, 0x800, 0xFFFE):
            go(registers.set(name, 1))
            go(registers.set(name, vector))
            assert go(registers.get(name)) == NO_VECTOR


def test_read_only_fields(registers):
    """Writes to what the driver only reads, and to fields of features not offered, change nothing. Covers: PCI-COMMON-25"""
    for name in ("device_feature", "num_queues", "config_generation", "queue_notify_off", "queue_notif_config_data",
                 "queue_reset", "admin_queue_index", "admin_queue_num"):
        before = go(registers.get(name))
        go(registers.set(name, (1 << 8 * COMMON[name][1]) - 1))
        assert go(registers.get(name)) == before
    for name in ("queue_notif_config_data", "queue_reset", "admin_queue_index", "admin_queue_num"):
        assert go(registers.get(name)) == 0


def test_reset_returns_defaults(registers):
    """Everything the driver wrote is gone after a reset.

    Covers: CORE-RESET-01, DER-RST-03, DER-RST-05, PCI-COMMON-07, PCI-COMMON-09, PCI-MSIX-07
    """
    bar = go(registers.function.read(0x10, 4))
    go(registers.use_msix([0]))
    go(registers.negotiate(EXPECTED))
    go(registers.set("config_msix_vector", 1))
    for index in (0, 1):
        go(registers.setup_queue(index, size=16, vector=2))
    go(registers.driver_ok())
    go(registers.reset())
    for name, value in (("device_feature_select", 0), ("driver_feature_select", 0), ("driver_feature", 0), ("queue_select", 0),
                        ("config_msix_vector", NO_VECTOR), ("device_status", 0)):
        assert go(registers.get(name)) == value, name
    for index in (0, 1):
        go(registers.set("queue_select", index))
        for name, value in (("queue_size", 256), ("queue_msix_vector", NO_VECTOR), ("queue_enable", 0), ("queue_desc", 0),
                            ("queue_driver", 0), ("queue_device", 0)):
            assert go(registers.get(name)) == value, name
    assert go(registers.function.read(0x10, 4)) == bar
    assert go(registers.function.msix.entry(0)) == (*registers.host.message_address(0), 0), "the MSI-X table was reset too"
    assert go(registers.function.read(registers.function.msix.at + 2, 2)) & 0x8000


# Device configuration

def test_device_configuration(registers):
    """MAC, status and MTU at their places before negotiation; writes change nothing; what lies behind reads 0.

    Covers: CORE-CFG-01, CORE-CFG-02, CORE-INIT-02, NET-CFG-02, NET-CFG-03, NET-CFG-16, NET-CFG-17, NET-CFG-18
    """
    def fields():
        return (go(registers.config(0, 6)).to_bytes(6, "little").hex(":"), go(registers.config(6, 2)),
                go(registers.config(10, 2)))

    expected = ("02:75:6e:76:69:72", 1, 1500)
    assert fields() == expected
    for offset in range(0, 64, 4):
        go(registers.config_write(offset, 4, 0xFFFF_FFFF))
    assert fields() == expected
    assert all(go(registers.config_raw(offset, 1)) == 0 for offset in range(12, 64))


def test_generation_counts_changes(registers):
    """The generation moves with every change of the link, and not otherwise.

    Covers: CORE-CFG-03, PCI-COMMON-06, CORE-CFG-05, DER-CFG-04
    """
    simulation = registers.host.simulation
    seen = [go(registers.get("config_generation"))]
    for level in (False, True, False, True):
        simulation.run(500)
        assert go(registers.get("config_generation")) == seen[-1]
        simulation.mac_link_up = level
        simulation.run(50)
        assert go(registers.config_raw(6, 2)) == int(level)
        seen.append(go(registers.get("config_generation")))
    assert all(a != b for a, b in zip(seen, seen[1:], strict=False))


def test_a_new_value_is_never_seen_with_the_old_generation(registers):
    """A read of the generation after one of the status: whenever the value is new, so is the generation. Covers: DER-CFG-03, DER-CFG-04"""
    simulation = registers.host.simulation
    address, generation = base(registers, CfgType.DEVICE) + 6, base(registers) + COMMON["config_generation"][0]
    level = True
    for delay in range(40):
        simulation.run(300)
        before = go(registers.get("config_generation"))
        value, count = simulation._access(False, False, address, 2), simulation._access(False, False, generation, 1)
        simulation.run(delay)
        level = not level
        simulation.mac_link_up = level
        status = simulation._wait(value, "status") & 0xFFFF
        after = simulation._wait(count, "generation") & 0xFF
        assert status != int(level) or after != before, f"new value, old generation with a change after {delay} cycles"


# Notifications

def started(registers, word=EXPECTED & ~mask(Feature.NOTIFICATION_DATA)):
    """Start queue 1 only, with an empty ring; return it."""
    go(registers.negotiate(word))
    queue = go(registers.setup_queue(1, size=16))
    go(registers.driver_ok())
    registers.host.simulation.run(2000)
    return queue


def reads(simulation, action):
    """Return how many read requests the device makes after ``action``."""
    before = simulation.counters["read_requests"]
    action()
    simulation.run(600)
    return simulation.counters["read_requests"] - before


def _ring(simulation, address, data):
    """Return how many read requests the device makes after this write."""
    return reads(simulation, lambda: simulation.memory_write(address, data))


def test_doorbells(registers):
    """A 16-bit write of the queue's index at its place is a notification; no other write is.

    Covers: CORE-NOTIF-01, PCI-NOTIFY-05, PCI-NOTIFY-10, PCI-NOTIFY-11, PCI-NOTIFY-13, PCI-COMMON-22, SPLIT-ASUP-05
    """
    started(registers)
    simulation, notify = registers.host.simulation, base(registers, CfgType.NOTIFY)
    ring = functools.partial(_ring, simulation)
    assert ring(notify + 4, b"\1\0") > 0
    assert ring(notify + 4, b"\1\0") > 0, "the second one"
    assert ring(notify + 0, b"\0\0") == 0, "queue 0 is not enabled"
    assert ring(notify + 4, b"\0\0") == 0, "another index"
    assert ring(notify + 4, b"\1") == 0, "one byte"
    assert ring(notify + 0, b"\1\0") == 0, "another place"
    for beyond in (8, 12, 0x400, 0xFFC):
        assert ring(notify + beyond, (beyond // 4).to_bytes(2, "little")) == 0, "a queue that does not exist"
    assert ring(notify + 4, b"\1\0") > 0, "still"


def test_doorbells_of_32_bits(registers):
    """With NOTIFICATION_DATA a notification is a write of 32 bits, what its upper half says being a hint at best.

    Covers: CORE-NOTIF-02, CORE-NOTIF-03, CORE-NOTIF-04, CORE-NOTIF-05, PCI-NOTIFY-06, PCI-NOTIFY-07, PCI-NOTIFY-08, PCI-NOTIFY-09,
    PCI-NOTIFY-12, PCI-COMMON-23
    """
    cap = registers.caps[CfgType.NOTIFY]
    assert cap.offset % 4 == 0 and cap.multiplier % 4 == 0
    for word in (EXPECTED, EXPECTED & ~mask(Feature.RING_PACKED)):
        started(registers, word)
        simulation, notify = registers.host.simulation, base(registers, CfgType.NOTIFY)
        go(registers.set("queue_select", 1))
        assert go(registers.get("queue_notif_config_data")) == 1
        assert 4 * go(registers.get("queue_notify_off")) + 4 <= cap.length

        ring = functools.partial(_ring, simulation)
        assert ring(notify + 4, b"\1\0") == 0, "16 bits"
        assert ring(notify + 0, b"\1\0\0\0") == 0, "another place"
        for hint in (0, 0, 17, 0x7FFF, 0x8000, 0xFFFF):
            assert ring(notify + 4, (1 | hint << 16).to_bytes(4, "little")) > 0, f"hint {hint:#x}"
        assert not go(registers.status()) & Status.DEVICE_NEEDS_RESET
        go(registers.reset())


def test_no_queue_is_touched_before_driver_ok(registers):
    """A doorbell before DRIVER_OK does nothing; with DRIVER_OK each ring is looked at once unasked.

    Covers: CORE-STATUS-01, CORE-STATUS-02, CORE-INIT-03, DER-INIT-01
    """
    go(registers.negotiate(EXPECTED & ~mask(Feature.NOTIFICATION_DATA)))
    simulation = registers.host.simulation
    go(registers.setup_queue(1, size=16))
    assert reads(simulation, lambda: simulation.memory_write(base(registers, CfgType.NOTIFY) + 4, b"\1\0")) == 0
    assert reads(simulation, lambda: go(registers.driver_ok())) > 0


def test_registers_without_meaning_answer(registers):
    """Reads of notify addresses, holes and the ends of the BAR complete. Covers: DER-PCI-06"""
    bar = registers.function.bars[0].address
    for offset in (0x40, 0xFFC, 0x1004, 0x2040, 0x3000, 0x3FFC, 0x5000, 0x7FFC, 0x8000 + 16 * 4, 0xFFFC):
        assert len(go(registers.host.memory_read(bar + offset, 4))) == 4


def test_initialisation_in_other_orders(registers):
    """Queues may be set up in any order, addresses before or after the size. Covers: PCI-VQCFG-01"""
    driver = NetDriver(registers)
    go(driver.start(queue_size=16, interrupts="poll"))
    go(driver.stop())
    go(registers.negotiate(EXPECTED))
    for index in (1, 0):
        go(registers.set("queue_select", index))
        address = registers.host.alloc(4096)
        for name, _ in reversed(FIELDS):
            go(registers.set(name, address + 1024 * index))
        go(registers.set("queue_size", 8))
        go(registers.set("queue_enable", 1))
        assert go(registers.get("queue_enable")) == 1 and go(registers.get("queue_size")) == 8
