# SPDX-License-Identifier: BSD-2-Clause
"""Enumeration: from configuration space to BARs, virtio structures and interrupts.

A driver knows nothing of a device but its configuration space. From there:

    vendor/device id -> this is ours
    BARs             -> sized by writing ones, then placed
    capability list  -> vendor capabilities say which BAR and offset hold which virtio structure; MSI-X; PCI Express
    command register -> memory space on, then bus mastering on

Clauses of PCI Express are those of the base specification, chapter 7.
"""

from dataclasses import dataclass, field

from ..host import HostError
from .checks import check
from .spec import CfgType

__all__ = ["Bar", "Capability", "VirtioCapability", "Msix", "PciFunction"]

# Type 0 header [PCIe 7.5.1]
VENDOR, DEVICE, COMMAND, STATUS, REVISION, CLASS, HEADER_TYPE = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09, 0x0E
BAR0, SUBSYSTEM_VENDOR, SUBSYSTEM, CAP_POINTER, INTERRUPT_PIN = 0x10, 0x2C, 0x2E, 0x34, 0x3D
COMMAND_MEMORY, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE = 1 << 1, 1 << 2, 1 << 10
STATUS_INTERRUPT, STATUS_CAP_LIST = 1 << 3, 1 << 4
CAP_VENDOR, CAP_PCIE, CAP_MSIX = 0x09, 0x10, 0x11
# PCI Express capability [PCIe 7.5.3]
PCIE_DEVICE_CAP, PCIE_DEVICE_CONTROL, PCIE_DEVICE_STATUS = 4, 8, 10
DEVICE_CAP_FLR, DEVICE_CONTROL_FLR, DEVICE_STATUS_PENDING = 1 << 28, 1 << 15, 1 << 5
# MSI-X [PCIe 7.7.2]
MSIX_ENABLE, MSIX_FUNCTION_MASK = 1 << 15, 1 << 14


@dataclass
class Bar:
    """A base address register (pair)."""

    index: int
    size: int
    is_io: bool
    is_64: bool
    prefetchable: bool
    address: int = 0


@dataclass(frozen=True)
class Capability:
    """An entry of the capability list."""

    identity: int
    offset: int


@dataclass(frozen=True)
class VirtioCapability:
    """A vendor capability of virtio [4.1.4]: where in which BAR a structure lies."""

    at: int               # offset of the capability in configuration space
    cap_len: int
    cfg_type: int
    bar: int
    identity: int
    offset: int
    length: int
    multiplier: int = 0   # notify only


@dataclass
class Msix:
    """MSI-X of one function: ``table`` and ``pba`` are bus addresses."""

    function: "PciFunction"
    at: int
    size: int
    table: int
    pba: int

    async def control(self, *, enable, function_mask=False):
        """Write the message control register."""
        value = (MSIX_ENABLE if enable else 0) | (MSIX_FUNCTION_MASK if function_mask else 0)
        await self.function.write(self.at + 2, 2, value)

    async def program(self, vector, *, masked=False):
        """Point table entry ``vector`` at the host's message address for it, masking it while it changes."""
        host = self.function.host
        address, data = host.message_address(vector)
        entry = self.table + 16 * vector
        await self.mask(vector, True)
        for position, word in enumerate((address & 0xFFFF_FFFF, address >> 32, data)):
            await host.memory_write(entry + 4 * position, word.to_bytes(4, "little"))
        await self.mask(vector, masked)

    async def mask(self, vector, masked):
        """Set or clear the mask bit of table entry ``vector``."""
        await self.function.host.memory_write(self.table + 16 * vector + 12, int(masked).to_bytes(4, "little"))

    async def entry(self, vector):
        """Return table entry ``vector`` as (address, data, vector control)."""
        words = [int.from_bytes(await self.function.host.memory_read(self.table + 16 * vector + 4 * i, 4), "little")
                 for i in range(4)]
        return words[0] | words[1] << 32, words[2], words[3]

    async def pending(self, vector):
        """Return the pending bit of ``vector``."""
        word = await self.function.host.memory_read(self.pba + vector // 32 * 4, 4)
        return int.from_bytes(word, "little") >> vector % 32 & 1


@dataclass
class PciFunction:
    """One function of the device, as its driver knows it after :meth:`enumerate`."""

    host: object
    number: int = 0
    vendor: int = 0
    device: int = 0
    revision: int = 0
    class_code: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0
    interrupt_pin: int = 0
    bars: dict = field(default_factory=dict)           # index -> Bar
    capabilities: list = field(default_factory=list)
    extended: list = field(default_factory=list)
    virtio: list = field(default_factory=list)         # VirtioCapability in list order: best first
    msix: Msix | None = None

    async def read(self, offset, size):
        """Read configuration space."""
        return await self.host.config_read(self.number, offset, size)

    async def write(self, offset, size, value):
        """Write configuration space."""
        await self.host.config_write(self.number, offset, size, value)

    async def enumerate(self, *, bus_master=True):
        """Find out everything about the function, place its BARs and switch it on; return self."""
        self.vendor = await self.read(VENDOR, 2)
        check(self.vendor != 0xFFFF, f"There is no function {self.number}")
        self.device = await self.read(DEVICE, 2)
        self.revision = await self.read(REVISION, 1)
        self.class_code = await self.read(CLASS, 2) | await self.read(CLASS + 2, 1) << 16
        check(await self.read(HEADER_TYPE, 1) & 0x7F == 0, "The header is not of type 0")
        self.subsystem_vendor = await self.read(SUBSYSTEM_VENDOR, 2)
        self.subsystem = await self.read(SUBSYSTEM, 2)
        self.interrupt_pin = await self.read(INTERRUPT_PIN, 1)
        await self.command(memory=False, bus_master=False)
        await self._size_bars()
        self._place_bars()
        await self._write_bars()
        await self._walk()
        await self.command(memory=True, bus_master=bus_master)
        return self

    async def command(self, *, memory=True, bus_master=True, intx_disable=False):
        """Write the command register."""
        await self.write(COMMAND, 2, COMMAND_MEMORY * memory | COMMAND_BUS_MASTER * bus_master
                         | COMMAND_INTX_DISABLE * intx_disable)

    async def interrupt_status(self):
        """Return whether the function asks for INTx, whatever Interrupt Disable says [PCIe 7.5.1.1.4]."""
        return bool(await self.read(STATUS, 2) & STATUS_INTERRUPT)

    # BARs [PCIe 7.5.1.2.1]

    async def _size_bars(self):
        self.bars = {}
        index = 0
        while index < 6:
            offset = BAR0 + 4 * index
            await self.write(offset, 4, 0xFFFF_FFFF)
            low = await self.read(offset, 4)
            if low == 0:
                index += 1
                continue
            if low & 1:
                mask = low & ~0x3 | 0xFFFF_0000  # the upper half of an I/O BAR may be hard-wired to 0
                self.bars[index] = Bar(index, (~mask & 0xFFFF_FFFF) + 1, True, False, False)
                await self.write(offset, 4, 0)
                index += 1
                continue
            is_64 = low >> 1 & 3 == 2
            mask = low & ~0xF | 0xFFFF_FFFF_0000_0000
            if is_64:
                await self.write(offset + 4, 4, 0xFFFF_FFFF)
                mask = low & ~0xF | await self.read(offset + 4, 4) << 32
            size = (~mask & 0xFFFF_FFFF_FFFF_FFFF) + 1
            check(size & (size - 1) == 0, f"BAR {index} has size {size:#x}, not a power of two")
            self.bars[index] = Bar(index, size, False, is_64, bool(low & 8))
            index += 2 if is_64 else 1

    def _place_bars(self):
        """Give each memory BAR an address, largest first so that none is lost to alignment."""
        wide = self.host.bar_window()
        narrow = self.host.bar_window_32() if hasattr(self.host, "bar_window_32") else None
        if narrow is None and wide < 1 << 32:
            narrow = wide + (1 << 29)
        for bar in sorted(self.bars.values(), key=lambda bar: -bar.size):
            if bar.is_io:
                continue  # a virtio driver has no use for it; not placed, not enabled
            if bar.is_64:
                bar.address = -(-wide // bar.size) * bar.size
                wide = bar.address + bar.size
            else:
                if narrow is None:
                    raise HostError(f"BAR {bar.index} has 32 bits and the host has no window below 4 GiB")
                bar.address = -(-narrow // bar.size) * bar.size
                narrow = bar.address + bar.size

    async def _write_bars(self):
        for bar in self.bars.values():
            if bar.is_io:
                continue
            await self.write(BAR0 + 4 * bar.index, 4, bar.address & 0xFFFF_FFFF)
            if bar.is_64:
                await self.write(BAR0 + 4 * bar.index + 4, 4, bar.address >> 32)

    # Capabilities [PCIe 7.5.1.1.11, 7.6]

    async def _walk(self):
        self.capabilities, self.virtio, self.extended, self.msix = [], [], [], None
        check(await self.read(STATUS, 2) & STATUS_CAP_LIST, "The function has no capability list")
        offset = await self.read(CAP_POINTER, 1) & ~3
        while offset:
            check(offset >= 0x40 and len(self.capabilities) < 48, f"The capability list goes astray at {offset:#x}")
            check(offset not in [c.offset for c in self.capabilities], f"The capability list loops at {offset:#x}")
            identity = await self.read(offset, 1)
            self.capabilities.append(Capability(identity, offset))
            if identity == CAP_VENDOR:
                await self._virtio_capability(offset)
            elif identity == CAP_MSIX:
                self.msix = await self._msix_capability(offset)
            offset = await self.read(offset + 1, 1) & ~3
        offset = 0x100
        while offset and len(self.extended) < 64:
            header = await self.read(offset, 4)
            if header in (0, 0xFFFF_FFFF):
                break
            self.extended.append(Capability(header & 0xFFFF, offset))
            offset = header >> 20 & ~3

    async def _virtio_capability(self, at):
        cap_len, cfg_type = await self.read(at + 2, 1), await self.read(at + 3, 1)
        if cfg_type == CfgType.VENDOR:
            return
        bar, identity = await self.read(at + 4, 1), await self.read(at + 5, 1)
        offset, length = await self.read(at + 8, 4), await self.read(at + 12, 4)
        multiplier = await self.read(at + 16, 4) if cfg_type == CfgType.NOTIFY else 0
        self.virtio.append(VirtioCapability(at, cap_len, cfg_type, bar, identity, offset, length, multiplier))

    async def _msix_capability(self, at):
        size = (await self.read(at + 2, 2) & 0x7FF) + 1
        table, pba = await self.read(at + 4, 4), await self.read(at + 8, 4)
        for word in (table, pba):
            check(word & 7 in self.bars, f"MSI-X names BAR {word & 7}, which does not exist")
        return Msix(self, at, size, self.bars[table & 7].address + (table & ~7), self.bars[pba & 7].address + (pba & ~7))

    def find(self, cfg_type):
        """Return the first usable capability of a type: drivers skip what they do not understand [4.1.4.2]."""
        for cap in self.virtio:
            if cap.cfg_type == cfg_type and cap.bar in self.bars and not self.bars[cap.bar].is_io:
                return cap
        return None

    def has_capability(self, identity):
        """Return the first capability with this id, or None."""
        return next((cap for cap in self.capabilities if cap.identity == identity), None)

    # PCI_CFG window [4.1.4.9]: the way to a BAR for those that cannot map it

    async def window_read(self, bar, offset, size):
        """Read ``size`` bytes of a BAR through the PCI_CFG capability."""
        at = await self._window(bar, offset, size)
        return await self.read(at + 16, size)

    async def window_write(self, bar, offset, size, value):
        """Write ``size`` bytes of a BAR through the PCI_CFG capability."""
        at = await self._window(bar, offset, size)
        await self.write(at + 16, size, value)

    async def _window(self, bar, offset, size):
        cap = next((cap for cap in self.virtio if cap.cfg_type == CfgType.PCI_CFG), None)
        check(cap is not None, "There is no PCI_CFG capability")
        await self.write(cap.at + 4, 1, bar)
        await self.write(cap.at + 8, 4, offset)
        await self.write(cap.at + 12, 4, size)
        return cap.at

    # Function-level reset [PCIe 6.6.2]

    async def flr(self):
        """Reset the function and bring its configuration space back; False if the function cannot."""
        pcie = self.has_capability(CAP_PCIE)
        if pcie is None or not await self.read(pcie.offset + PCIE_DEVICE_CAP, 4) & DEVICE_CAP_FLR:
            return False
        await self.command(memory=True, bus_master=False)
        for _ in range(100):
            if not await self.read(pcie.offset + PCIE_DEVICE_STATUS, 2) & DEVICE_STATUS_PENDING:
                break
            await self.host.sleep(100)
        control = await self.read(pcie.offset + PCIE_DEVICE_CONTROL, 2)
        await self.write(pcie.offset + PCIE_DEVICE_CONTROL, 2, control | DEVICE_CONTROL_FLR)
        await self.host.sleep(1000)  # a driver waits 100 ms
        check(await self.read(COMMAND, 2) & (COMMAND_MEMORY | COMMAND_BUS_MASTER) == 0,
              "The command register survived a function-level reset")
        await self._write_bars()
        await self.command()
        return True
