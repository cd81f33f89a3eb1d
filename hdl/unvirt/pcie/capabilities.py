# SPDX-License-Identifier: BSD-2-Clause
"""Configuration space as data: header and capabilities, chained by one function.

A structure is a list of DWs, each with its value after reset and the mask of bits that software may write. What lies behind the bits is the
business of :mod:`unvirt.pcie.config_space`.
"""

from dataclasses import dataclass

from .bus import BAR0_SIZE, Region

__all__ = ["Capability", "ConfigImage", "build_image", "virtio_capabilities"]

EXTENDED = 0x100
"""Where extended configuration space begins."""


@dataclass(frozen=True)
class Capability:
    """A capability structure: ``dwords`` are (value, writable) pairs; id and next pointer of the first are filled in."""

    name: str
    id: int
    dwords: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ConfigImage:
    """Configuration space after reset.

    ``values`` and ``writable`` map DW numbers to 32-bit words (absent: 0), ``offsets`` names of structures to byte offsets.
    """

    values: dict
    writable: dict
    offsets: dict


def power_management():
    """PCI Power Management [PCIe 7.5.2]: D0 and D3hot, no PME."""
    return Capability("power_management", 0x01, ((0x0003_0000, 0), (0x0000_0008, 0x0000_0003)))


def pci_express(*, max_payload_size):
    """PCI Express capability, version 2, endpoint [PCIe 7.5.3]; reset by FLR, extended tags."""
    device_capabilities = max_payload_size | 1 << 5 | 1 << 15 | 1 << 28
    link = 0x0000_0011
    dwords = [(0x0002_0000, 0), (device_capabilities, 0), (0x0000_2010, 0x0000_FFFF),
              (link, 0), (0x0011_0000, 0x0000_00FB)]
    dwords += [(0, 0)] * 4
    dwords += [(0x0000_0010, 0), (0, 0x0000_001F), (0x0000_0002, 0), (0x0000_0001, 0x0000_000F),
               (0, 0), (0, 0)]
    return Capability("pci_express", 0x10, tuple(dwords))


def msix(*, vectors):
    """MSI-X [PCIe 7.7.2]: table and pending bits in BAR 0."""
    return Capability("msix", 0x11, (((vectors - 1) << 16, 0xC000_0000),
                                     (Region.MSIX_TABLE, 0), (Region.MSIX_PBA, 0)))


def virtio_capabilities(*, notify_length, device_length):
    """The five structures of a modern virtio device [virtio 4.1.4]."""
    def structure(name, kind, offset, length, extra=()):
        cap_len = 16 + 4 * len(extra)
        return Capability(name, 0x09, ((cap_len << 16 | kind << 24, 0), (0, 0), (offset, 0),
                                       (length, 0), *extra))
    return (
        structure("virtio_common", 1, Region.COMMON, 64),
        structure("virtio_notify", 2, Region.NOTIFY, notify_length, ((4, 0),)),
        structure("virtio_isr", 3, Region.ISR, 4),
        structure("virtio_device", 4, Region.DEVICE, device_length),
        structure("virtio_pci_cfg", 5, 0, 0, ((0, 0),)),
    )


def build_image(config, *, vendor_id, device_id, class_code, virtio):
    """Assemble the configuration space of one function.

    Capabilities follow each other from 0x40, the device serial number opens the extended space.
    """
    values, writable, offsets = {}, {}, {"header": 0}
    header = {
        0: (device_id << 16 | vendor_id, 0),
        1: (0x0010_0000, 0x0000_0546),          # capability list; IO off, memory, master, parity, SERR, INTx
        2: (class_code << 8 | 0x01, 0),
        3: (0, 0x0000_00FF),
        4: (0x0000_0004, 0xFFFF_FFFF & ~(BAR0_SIZE - 1)),
        5: (0, 0xFFFF_FFFF),
        11: (max(device_id - 0x1000, 0x40) << 16 | vendor_id, 0),
        15: (0x0000_0100, 0x0000_00FF),         # INTA
    }
    for number, (value, mask) in header.items():
        values[number], writable[number] = value, mask

    capabilities = (power_management(), pci_express(max_payload_size=2),
                    msix(vectors=config.msix_vectors), *virtio)
    offset = 0x40
    values[13] = offset
    for index, capability in enumerate(capabilities):
        offsets[capability.name] = offset
        following = offset + 4 * len(capability.dwords)
        if following > EXTENDED:
            raise ValueError(f"Capabilities must end at 0x100, not at {following:#x} "
                             f"({capability.name})")
        for number, (value, mask) in enumerate(capability.dwords):
            if number == 0:
                last = index == len(capabilities) - 1
                value |= capability.id | (0 if last else following) << 8
            values[offset // 4 + number], writable[offset // 4 + number] = value, mask
        offset = following

    offsets["serial_number"] = EXTENDED
    values[EXTENDED // 4] = 0x0001_0003          # id 3, version 1, last
    values[EXTENDED // 4 + 1] = config.serial_number & 0xFFFF_FFFF
    values[EXTENDED // 4 + 2] = config.serial_number >> 32
    return ConfigImage(values, {number: mask for number, mask in writable.items() if mask}, offsets)
