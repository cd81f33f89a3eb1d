# SPDX-License-Identifier: BSD-2-Clause
"""TLPs of every shape at the device's side of the link: what is executed, what is refused, what is dropped."""

import pytest

import tlps
from tlps import CONFIG1, FETCH_ADD, IO, MEMORY, ask, request

from unvirt.config import preset
from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.spec import CfgType
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import run_driver as go

UNSUPPORTED = 1
DRIVER_FEATURE_SELECT = 0x08


@pytest.fixture(params=["minimal", "wide"])
def registers(request, device, small):
    """Return devices of two widths, in reset."""
    simulation, host = small() if request.param == "minimal" else device("wide")
    found = go(VirtioDevice.find(host))
    found.expected_queues = preset(request.param).queues
    return found


def answers(device):
    """Return whether the device still answers a register read, with the number of queues that it has."""
    return go(device.get("num_queues")) == device.expected_queues


def bar(device):
    return device.function.bars[0].address


@pytest.mark.parametrize("first", range(16))
def test_writes_with_any_byte_enables(registers, first):
    """Each byte enable of a write decides over its byte. Covers: PCI-ACC-03"""
    simulation = registers.host.simulation
    go(registers.set("driver_feature_select", 0xAABBCCDD))
    simulation.inject(request(MEMORY, bar(registers) + DRIVER_FEATURE_SELECT, first=first, data=[0x11223344]))
    mask = sum(0xFF << 8 * byte for byte in range(4) if first >> byte & 1)
    assert go(registers.get("driver_feature_select")) == 0xAABBCCDD & ~mask | 0x11223344 & mask


@pytest.mark.parametrize("first", range(1, 16))
def test_reads_with_any_byte_enables(registers, first):
    """The byte count and lower address of the completion are those of the enabled bytes [PCIe table 2-39]."""
    simulation = registers.host.simulation
    go(registers.set("driver_feature_select", 0xAABBCCDD))
    lowest, highest = (first & -first).bit_length() - 1, first.bit_length() - 1
    (status, count, lower, data), = ask(simulation, request(MEMORY, bar(registers) + DRIVER_FEATURE_SELECT, first=first))
    assert (status, count, lower) == (0, highest - lowest + 1, DRIVER_FEATURE_SELECT + lowest)
    mask = sum(0xFF << 8 * byte for byte in range(4) if first >> byte & 1)
    assert data[0] & mask == 0xAABBCCDD & mask


@pytest.mark.parametrize("first, last", [(0xF, 0xF), (0x8, 0x1), (0xC, 0x7), (0xE, 0xF), (0xF, 0x1)])
def test_two_dword_accesses(registers, first, last):
    """Eight bytes and less over two registers, byte enables at both edges. Covers: PCI-ACC-03"""
    simulation, address = registers.host.simulation, bar(registers) + 0x20            # queue_desc
    go(registers.set("queue_desc", 0xAAAA_AAAA_AAAA_AAAA))
    simulation.inject(request(MEMORY, address, length=2, first=first, last=last, data=[0x44332211, 0x88776655]))
    mask = sum(0xFF << 8 * byte for byte in range(8) if (last << 4 | first) >> byte & 1)
    assert go(registers.get("queue_desc")) == 0xAAAA_AAAA_AAAA_AAAA & ~mask | 0x8877665544332211 & mask
    (status, count, lower, data), = ask(simulation, request(MEMORY, address, length=2, first=first, last=last))
    lowest, highest = (first & -first).bit_length() - 1, last.bit_length() + 3
    assert (status, count, lower) == (0, highest - lowest + 1, 0x20 + lowest)
    assert (data[0] | data[1] << 32) & mask == go(registers.get("queue_desc")) & mask


def test_zero_length_read_has_no_effect(registers):
    """A read with no byte enabled is completed, and does not clear the ISR. Covers: DER-PCI-05"""
    simulation = registers.host.simulation
    isr = registers.caps[CfgType.ISR].offset + bar(registers)
    raise_isr(registers)
    (status, count, _, data), = ask(simulation, request(MEMORY, isr, first=0))
    assert (status, count, len(data)) == (0, 1, 1)
    (status, _, _, _), = ask(simulation, request(MEMORY, isr, first=0xE))
    assert status == 0
    assert go(registers.isr()) == 2, "a read of other bytes cleared the ISR"
    assert go(registers.isr()) == 0


def raise_isr(registers):
    """Make a configuration change pend in the ISR."""
    go(registers.negotiate(1 << 32))
    go(registers.driver_ok())
    registers.host.simulation.mac_link_up = False
    registers.host.simulation.run(200)


@pytest.mark.parametrize("length", [3, 4, 16, 33, 128, 256])
def test_burst_reads(registers, length):
    """A long read gets the registers one after the other, in completions that add up."""
    simulation = registers.host.simulation
    go(registers.set("queue_desc", 0x1122334455667788))
    single = [int.from_bytes(go(registers.host.memory_read(bar(registers) + 4 * dw, 4)), "little") for dw in range(16)]
    parts = ask(simulation, request(MEMORY, bar(registers), length=length))
    data, left = [], 4 * length
    for status, count, lower, part in parts:
        assert status == 0 and count == left and lower == 4 * len(data) & 0x7F
        data += part
        left -= 4 * len(part)
        assert 4 * len(part) <= 128, "longer than the largest payload"
    assert left == 0
    assert data[:16] == single[:length][:16]
    assert all(dw == 0 for dw in data[16:1024])


@pytest.mark.parametrize("what, dws", [
    ("I/O read", request(IO, 0x1000)),
    ("I/O write", request(IO, 0x1000, data=[1])),
    ("configuration of type 1", request(CONFIG1, 0)),
    ("FetchAdd", request(FETCH_ADD, 0x8_0000_0000, data=[1])),
    ("locked read", request(0x01, 0x1000)),
    ("read outside the BAR", request(MEMORY, 0x9_0000_0000)),
    ("read below 4 GiB outside the BAR", request(MEMORY, 0x1000)),
])
def test_unsupported_requests(registers, what, dws):
    """What an endpoint does not support is completed so, and counted."""
    simulation = registers.host.simulation
    before = simulation.counters["unsupported"]
    (status, _, _, data), = ask(simulation, dws)
    assert status == UNSUPPORTED and not data, what
    assert simulation.counters["unsupported"] == before + 1
    assert answers(registers)


def test_poisoned_configuration_write(registers):
    """It is answered Unsupported Request and not carried out."""
    (status, _, _, data), = ask(registers.host.simulation, request(tlps.CONFIG0, 0x3C, data=[0x5A], poisoned=True))
    assert status == UNSUPPORTED and not data
    assert go(registers.function.read(0x3C, 1)) == 0


def test_posted_requests_to_nowhere_are_dropped(registers):
    """Writes outside the BAR, poisoned writes and messages have no effect and hold nothing up."""
    simulation = registers.host.simulation
    for dws in (request(MEMORY, 0x9_0000_0000, data=[1]), request(MEMORY, 0x1000, length=64, data=[7] * 64),
                request(MEMORY, bar(registers) + DRIVER_FEATURE_SELECT, data=[9], poisoned=True),
                [tlps.swapped(0x34 << 24), tlps.swapped(0x7F), 0, 0]):
        simulation.inject(dws)
    assert go(registers.get("driver_feature_select")) == 0
    assert answers(registers)


def test_unexpected_completions_are_dropped(registers):
    """Completions for tags that are not out change nothing, with data or without, poisoned or not."""
    simulation = registers.host.simulation
    for tag in (0, 5, 31, 255):
        simulation.inject(tlps.completion(tag, data=[1, 2, 3, 4]))
        simulation.inject(tlps.completion(tag, data=[1], poisoned=True))
        simulation.inject(tlps.completion(tag, status=1, count=4))
    assert answers(registers)
    go(registers.negotiate(1 << 32))
    queue = go(registers.setup_queue(1, size=4))
    go(registers.driver_ok())
    simulation.run(2000)
    assert not go(registers.status()) & 0x40
    queue.release()


def test_many_reads_wait(device):
    """As many reads as there are credits, with the link stalled: all are answered, in order."""
    simulation, host = device("minimal", link=LinkConfig(tx_stall=0.9), completion_timeout=4000)
    registers = go(VirtioDevice.find(host))
    address = bar(registers)
    numbers = [simulation._access(False, False, address + 0x12, 2) for _ in range(64)]
    assert all(simulation._wait(number, "num_queues") & 0xFFFF == 2 for number in numbers)
