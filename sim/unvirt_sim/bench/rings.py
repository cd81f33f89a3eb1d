# SPDX-License-Identifier: BSD-2-Clause
"""A driver for volume: rings written whole, refilled in large steps while time stands still."""

import struct
from array import array

from ..driver.spec import AVAIL_NO_INTERRUPT, DESCRIPTOR, USED_NO_NOTIFY, DescFlag

__all__ = ["BulkRing", "RingMismatch"]


class RingMismatch(Exception):
    """The device gave back something that it was not given, or not in order."""


class BulkRing:
    """The driver side of a split ring in which buffer n of the table is always head n.

    Set-up is the reference driver's; from then on only ``idx`` of the available ring moves. Each buffer holds a virtio header and
    a frame in one descriptor.

    Parameters
    ----------
    simulation : Simulation
    host : HarnessHost
        For the allocation of buffers.
    queue : SplitQueue
        Fresh from the reference driver; it must not be used afterwards.
    length : int
        Bytes of each buffer.
    writable : bool
        By the device.
    interrupts : bool
        Whether the driver asks for interrupts; otherwise it polls.
    """

    def __init__(self, simulation, host, queue, *, length, writable, interrupts=False):
        self.simulation = simulation
        self.size, self.length, self.writable = queue.size, length, writable
        self.desc, self.avail, self.used = queue.desc, queue.avail, queue.used
        self._notify, self._cookie = queue.notify_at, queue.cookie
        self.stride = -(-length // 64) * 64
        self.base = host.alloc(self.size * self.stride, 4096, writable=writable)
        self.published = self.done = self.doorbells = 0
        flags = DescFlag.WRITE if writable else 0
        simulation.write_memory(self.desc, b"".join(
            DESCRIPTOR.pack(self.base + slot * self.stride, length, int(flags), 0)
            for slot in range(self.size)))
        heads = array("H", range(self.size)).tobytes()
        simulation.write_memory(self.avail, struct.pack(
            "<HH", 0 if interrupts else AVAIL_NO_INTERRUPT, 0) + heads)

    @property
    def span(self):
        """Return (address, bytes) of all buffers."""
        return self.base, self.size * self.stride

    @property
    def backlog(self):
        """Return how many buffers the device has."""
        return self.published - self.done

    def store(self, slot, data):
        """Write the content of a buffer."""
        self.simulation.write_memory(self.base + slot * self.stride, data)

    def load(self, slot, size):
        """Read the content of a buffer."""
        return self.simulation.read_memory(self.base + slot * self.stride, size)

    def publish(self, count):
        """Make ``count`` more buffers available and ring the doorbell if the device wants to hear of it."""
        self.published += count
        self.simulation.write_memory(self.avail + 2, struct.pack("<H", self.published & 0xFFFF))
        flags = int.from_bytes(self.simulation.read_memory(self.used, 2), "little")
        if not flags & USED_NO_NOTIFY:
            self.doorbells += 1
            self.simulation.memory_write(self._notify, self._cookie.to_bytes(2, "little"))

    def reap(self):
        """Take back what the device used; return the slots and written lengths, checked to be in order."""
        index = int.from_bytes(self.simulation.read_memory(self.used + 2, 2), "little")
        count = index - self.done & 0xFFFF
        if count > self.backlog:
            raise RingMismatch(f"The used index went from {self.done & 0xFFFF} to {index} with "
                               f"{self.backlog} buffers made available")
        out = []
        while len(out) < count:
            slot = (self.done + len(out)) % self.size
            part = min(count - len(out), self.size - slot)
            raw = self.simulation.read_memory(self.used + 4 + 8 * slot, 8 * part)
            for place, (head, written) in enumerate(struct.iter_unpack("<II", raw), slot):
                if head != place:
                    raise RingMismatch(f"Used element {place} names head {head}")
                out.append((head, written))
        self.done += count
        return out
