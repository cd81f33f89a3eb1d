# SPDX-License-Identifier: BSD-2-Clause
"""What a driver needs of a host; the reference driver runs unchanged on every implementation.

Implementations: the C++ harness (:mod:`unvirt_sim.harness_host`), which with another clock is also the host in any simulator that
cocotb drives (:mod:`unvirt_sim.hosts.pins`), cocotbext-pcie's root complex (:mod:`unvirt_sim.hosts.root_complex`), and QEMU's qtest
socket, where the device is QEMU's own virtio-net-pci (:mod:`unvirt_sim.hosts.qtest`).
"""

from typing import Protocol

__all__ = ["Host", "HostError", "CompletionFailed"]


class HostError(Exception):
    """The host could not do what was asked."""


class CompletionFailed(HostError):
    """A configuration or memory read ended with a completion status other than success, or timed out."""


class Host(Protocol):
    """A PCIe host with memory, one device, and the far end of its Ethernet port.

    A host whose device has 32-bit BARs also has ``bar_window_32()``, the same below 4 GiB; one whose device does not tell by the WRITE flag of
    used descriptors whether it wrote (QEMU's does not: seen with 11.1) has ``tells_written = False``; one whose device leaves num_buffers alone
    without MRG_RXBUF (QEMU's does) has ``counts_buffers = False``.

    All sizes are bytes; addresses are bus addresses. Posted writes return before they reach the device, in order.
    """

    async def config_read(self, function: int, offset: int, size: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space."""

    async def config_write(self, function: int, offset: int, size: int, value: int) -> None:
        """Write 1, 2 or 4 bytes of configuration space; returns when completed."""

    async def memory_read(self, address: int, size: int) -> bytes:
        """Read ``size`` bytes of MMIO at bus address ``address``."""

    async def memory_write(self, address: int, value: bytes) -> None:
        """Post a write to MMIO."""

    def bar_window(self) -> int:
        """Return the bus address where 64-bit prefetchable BARs may be placed (1 GiB free from it)."""

    def alloc(self, size: int, align: int = 64, *, writable: bool = True) -> int:
        """Allocate zeroed host memory the device may access; with guard bytes where supported."""

    def free(self, address: int) -> None:
        """Free memory from :meth:`alloc`; device accesses to it are violations from now on."""

    async def read(self, address: int, size: int) -> bytes:
        """Read host memory as the CPU sees it."""

    async def write(self, address: int, value: bytes) -> None:
        """Write host memory as the CPU does; ordered before later MMIO writes."""

    def message_address(self, vector: int) -> tuple[int, int]:
        """Return (address, data) to program into MSI-X table entry ``vector``."""

    async def wait_interrupt(self, vector: int, cycles: int = 100_000) -> bool:
        """Wait until message ``vector`` arrives (or INTx with vector -1) and consume it; False on timeout."""

    def interrupt_count(self, vector: int) -> int:
        """Return how many messages of ``vector`` have arrived in all."""

    async def sleep(self, cycles: int) -> None:
        """Let ``cycles`` core cycles (or their equivalent) pass."""

    async def send_frame(self, frame: bytes) -> None:
        """Give a frame to the far end of the Ethernet port to send to the device."""

    async def receive_frame(self, cycles: int = 100_000) -> bytes | None:
        """Wait for the next frame the device transmits; None on timeout."""
