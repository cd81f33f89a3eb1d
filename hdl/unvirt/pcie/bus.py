# SPDX-License-Identifier: BSD-2-Clause
"""The register bus between the completer and the register blocks, and the map of BAR 0."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Region", "RegisterRequest", "RegisterBusSignature", "BAR0_SIZE"]

BAR0_SIZE = 0x1_0000


class Region:
    """Offsets of the virtio structures and of the MSI-X table in BAR 0 (bytes)."""

    COMMON = 0x0000
    ISR = 0x1000
    DEVICE = 0x2000
    NOTIFY = 0x3000
    MSIX_PBA = 0x4000
    MSIX_TABLE = 0x8000


class RegisterRequest(data.Struct):
    """One dword access; ``address`` is in bytes from the start of the BAR and dword aligned."""

    function:     8
    address:      16
    write:        1
    byte_enables: 4
    data:         32


def RegisterBusSignature():
    """Register accesses as the initiator sees them.

    A read is answered by one pulse of ``response_valid``, in order, within a bounded number of cycles
    and without back-pressure; a write is not answered. A read whose byte enables are zero has no side
    effects. ``request.ready`` never depends on anything outside the register block.
    """
    return wiring.Signature({
        "request": Out(stream.Signature(RegisterRequest)),
        "response_valid": In(1),
        "response_data": In(32),
    })
