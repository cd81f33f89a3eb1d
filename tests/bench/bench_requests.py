# SPDX-License-Identifier: BSD-2-Clause
"""cocotb: single requests of cocotbext-pcie's root complex: configuration space, byte enables, zero-length reads, unsupported requests."""

import os
import random

import cocotb
from cocotbext.pcie.core.tlp import CplStatus, Tlp, TlpType
from cocotbext.pcie.core.utils import PcieId

from unvirt.config import preset
from unvirt_sim.driver.pci import CAP_MSIX, CAP_PCIE, CAP_VENDOR, PciFunction
from unvirt_sim.driver.net import NetDriver
from unvirt_sim.driver.scenarios import exchange
from unvirt_sim.hosts.root_complex import RootComplexHost

SEED = int(os.environ["UNVIRT_SEED"])
WIDTH = int(os.environ["UNVIRT_WIDTH"])
CAP_PM, EXT_SERIAL = 0x01, 0x0003
TIMEOUT = 100_000  # ns
NOBODY = PcieId(0, 0, 0)


def bench(coroutine):
    """Make a cocotb test of a coroutine of the host; at the end no checker may have complained."""
    @cocotb.test(name=coroutine.__name__)
    async def test(dut):
        host = await RootComplexHost.open(dut, WIDTH)
        try:
            await coroutine(host)
            assert host.violations == [], host.violations
        finally:
            host.close()
    return test


def memory(kind, address, first_be, last_be=0, data=None):
    """Return a memory request of one or two DWs with any byte enables."""
    tlp = Tlp()
    high = address >> 32
    tlp.fmt_type = {("read", 0): TlpType.MEM_READ, ("read", 1): TlpType.MEM_READ_64, ("write", 0): TlpType.MEM_WRITE,
                    ("write", 1): TlpType.MEM_WRITE_64}[kind, int(bool(high))]
    tlp.requester_id = NOBODY
    tlp.address = address
    tlp.length = 2 if last_be else 1
    tlp.first_be, tlp.last_be = first_be, last_be
    if data is not None:
        tlp.set_data(data)
    return tlp


async def ask(host, tlp):
    """Send a non-posted request and return its only completion."""
    found = await host.rc.perform_nonposted_operation(tlp, TIMEOUT, "ns")
    assert len(found) == 1, f"{len(found)} completions to {tlp!r}"
    return found[0]


def check_completion(tlp, completion):
    """Byte count and lower address of a completion as in [PCIe 2.2.9, 2.3.1.1]."""
    assert completion.status == CplStatus.SC, completion
    assert completion.length == tlp.length, completion
    assert completion.byte_count == max(tlp.get_be_byte_count(), 1), completion
    # cocotbext-pcie has 3 for the offset when no byte is enabled; the table says 0.
    offset = tlp.get_first_be_offset() if tlp.first_be else 0
    assert completion.lower_address == (tlp.address + offset) & 0x7F, completion
    assert completion.completer_id == PcieId(1, 0, 0), completion


@bench
async def configuration_space(host):
    """Every byte of the space, by dwords, words and bytes; the chain, the sizes, and that identity cannot be written."""
    function = await PciFunction(host).enumerate()
    device = PcieId(1, 0, 0)
    image = b"".join([await host.rc.config_read(device, 4 * dw, 4, TIMEOUT, "ns") for dw in range(1024)])
    for offset in range(0, 256, 2):
        word = await host.rc.config_read(device, offset, 2, TIMEOUT, "ns")
        byte = await host.rc.config_read(device, offset + 1, 1, TIMEOUT, "ns")
        assert word == image[offset:offset + 2] and byte == image[offset + 1:offset + 2], f"{offset:#x}: {word.hex()} {byte.hex()}"
    kinds = [cap.identity for cap in function.capabilities]
    assert sorted(kinds) == sorted([CAP_PM, CAP_PCIE, CAP_MSIX] + [CAP_VENDOR] * 5), kinds
    assert [cap.identity for cap in function.extended] == [EXT_SERIAL], function.extended
    serial = image[function.extended[0].offset + 4:][:8]
    assert int.from_bytes(serial, "little") == preset("default").serial_number
    assert function.msix.size == preset("default").msix_vectors
    assert set(function.bars) == {0} and function.bars[0].size == 0x10000 and function.bars[0].is_64
    assert host.function.bar_size[0] in (0xFFFF, 0x10000), host.function.bar_size     # as the root complex sized it
    ends = [cap.offset for cap in function.capabilities] + [function.extended[0].offset + 12]
    assert not any(image[max(ends):]), "Something lies behind the last capability"
    for offset in (0x00, 0x08, 0x2C, 0x34):
        await host.rc.config_write(device, offset, b"\xff\xff\xff\xff", TIMEOUT, "ns")
        assert await host.rc.config_read(device, offset, 4, TIMEOUT, "ns") == image[offset:offset + 4], f"{offset:#x} can be written"


@bench
async def byte_enables(host):
    """Reads and writes of one and two DWs with every pattern of byte enables, on the MSI-X table, which is memory."""
    rng = random.Random(f"byte enables {SEED}")
    function = await PciFunction(host).enumerate()
    entry = function.msix.table + 16
    known = bytearray(rng.randbytes(8))
    known[0] &= 0xFC
    await host.memory_write(entry, known)
    patterns = [(first, 0) for first in range(16)] + [(first, last) for first in (0x8, 0xC, 0xE, 0xF) for last in (0x1, 0x3, 0x7, 0xF)]
    for first, last in patterns:
        data = bytearray(rng.randbytes(8 if last else 4))
        data[0] &= 0xFC                                    # the low address bits of a message are 0
        await host.rc.send(memory("write", entry, first, last, bytes(data)))
        for byte, value in enumerate(data):
            if (first | last << 4) >> byte & 1:
                known[byte] = value
        request = memory("read", entry, first, last)
        completion = await ask(host, request)
        check_completion(request, completion)
        for byte, value in enumerate(completion.get_data()):
            if (first | last << 4) >> byte & 1:
                assert value == known[byte], f"byte {byte} with enables {first:x}/{last:x}: {value:#x}, not {known[byte]:#x}"
        assert await host.memory_read(entry, 8) == bytes(known), f"after a write with enables {first:x}/{last:x}"
    for size in (1, 2, 4, 8):
        for offset in range(0, 8, size):
            assert await host.memory_read(entry + offset, size) == bytes(known[offset:offset + size]), f"{size} bytes at {offset}"


@bench
async def zero_length(host):
    """A read of no bytes completes, and reads nothing: the interrupt status, which a read clears, stays [PCIe 2.2.5]."""
    driver = await NetDriver.find(host, seed=SEED)
    await driver.start(queue_size=16, interrupts="intx")
    await driver.transmit(bytes(range(60)))
    assert await host.wait_interrupt(-1)
    isr = driver.device._base[3]
    request = memory("read", isr, 0)
    check_completion(request, await ask(host, request))
    request = memory("read", isr, 0xE)                     # nor does one of the bytes beside it
    check_completion(request, await ask(host, request))
    assert await driver.device.isr() == 1
    assert await driver.device.isr() == 0
    assert await host.receive_frame() == bytes(range(60))
    await driver.stop()


@bench
async def unsupported(host):
    """What the function does not support is answered so, and the function lives on."""
    driver = await NetDriver.find(host, seed=SEED)
    await driver.start(queue_size=16, interrupts="poll")
    base = driver.device.function.bars[0].address

    async def straight(tlp):
        """Hand a TLP to the device that the root port would not route there, and return the completion."""
        tlp.requester_id, tlp.tag = NOBODY, await host.rc.alloc_tag()
        await host.device.upstream_recv(tlp)
        completion = await host.rc.recv_cpl(tlp.tag, TIMEOUT, "ns")
        host.rc.release_tag(tlp.tag)
        assert completion is not None, f"no completion to {tlp!r}"
        return completion

    outside = memory("read", base + 0x10000, 0xF)
    port = Tlp()
    port.fmt_type, port.length, port.first_be, port.address = TlpType.IO_READ, 1, 0xF, 0x100
    other = Tlp()
    other.fmt_type, other.length, other.first_be, other.completer_id = TlpType.CFG_READ_0, 1, 0xF, PcieId(1, 0, 3)
    locked = Tlp()
    locked.fmt_type, locked.length, locked.first_be, locked.address = TlpType.MEM_READ_LOCKED_64, 1, 0xF, base
    for tlp in (outside, port, other, locked):
        completion = await straight(tlp)
        assert completion.status == CplStatus.UR, f"{tlp!r} was answered {completion!r}"
        assert completion.length == 0 and completion.requester_id == NOBODY
    await host.device.upstream_recv(memory("write", base + 0x10000, 0xF, data=bytes(4)))    # posted: dropped
    await exchange(host, driver, out=[bytes(60)], incoming=[bytes(range(64))])
    await driver.stop()
