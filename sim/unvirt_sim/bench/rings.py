# SPDX-License-Identifier: BSD-2-Clause
"""A driver for volume: rings written whole, refilled in large steps while time stands still."""

import struct
from array import array

from ..driver.packed import PackedQueue
from ..driver.spec import AVAIL_NO_INTERRUPT, DESCRIPTOR, EVENT, PACKED_DESCRIPTOR, USED_NO_NOTIFY, DescFlag, EventMode, Feature, need_event

__all__ = ["BulkRing", "PackedRing", "RingMismatch", "SplitRing", "bulk_ring"]

_STATE = DescFlag.AVAIL | DescFlag.USED
_LOOK = 64
"""Descriptors of a packed ring that are looked at in one step."""


class RingMismatch(Exception):
    """The device gave back something that it was not given, or not in order."""


def bulk_ring(simulation, host, queue, **options):
    """Return the ring of the format that ``queue`` has; for the rest see :class:`BulkRing`."""
    kind = PackedRing if isinstance(queue, PackedQueue) else SplitRing
    return kind(simulation, host, queue, **options)


class BulkRing:
    """The driver side of a ring in which buffer n of the table is always head n.

    Set-up is the reference driver's; from then on only what must change does. Each buffer holds a virtio header and
    a frame in one descriptor.

    Parameters
    ----------
    simulation : Simulation
    host : HarnessHost
        For the allocation of buffers.
    queue : VirtQueue
        Fresh from the reference driver; it must not be used afterwards.
    length : int
        Bytes of each buffer.
    writable : bool
        By the device.
    interrupts : bool
        Whether the driver asks for interrupts; otherwise it polls.
    alignment : random.Random, optional
        Buffers begin at random bytes of a line of 64 instead of its first.
    """

    packed = False
    published_by = ""             # the purpose of the writes that tell the driver of used buffers

    def __init__(self, simulation, host, queue, *, length, writable, interrupts=False, alignment=None):
        self.simulation = simulation
        self.index, self.size, self.length, self.writable, self.interrupts = queue.index, queue.size, length, writable, interrupts
        self.event_idx, self._data = queue.event_idx, queue.features >> Feature.NOTIFICATION_DATA & 1
        self._notify, self._cookie = queue.notify_at, queue.cookie
        self.stride = -(-length // 64) * 64 + (64 if alignment else 0)
        self.base = host.alloc(self.size * self.stride, 4096, writable=writable)
        self._offsets = [alignment.randrange(64) for _ in range(self.size)] if alignment else [0] * self.size
        self.published = self.done = self.doorbells = 0

    @property
    def span(self):
        """Return (address, bytes) of all buffers."""
        return self.base, self.size * self.stride

    @property
    def backlog(self):
        """Return how many buffers the device has."""
        return self.published - self.done

    def areas(self):
        """Return (address, bytes, purpose of reads, purpose of writes) of everything the device may touch."""
        raise NotImplementedError

    def place(self, slot):
        """Return the address of a buffer."""
        return self.base + slot * self.stride + self._offsets[slot]

    def store(self, slot, data):
        """Write the content of a buffer."""
        self.simulation.write_memory(self.place(slot), data)

    def load(self, slot, size):
        """Read the content of a buffer."""
        return self.simulation.read_memory(self.place(slot), size)

    def publish(self, count):
        """Make ``count`` more buffers available and ring the doorbell if the device wants to hear of it."""
        old = self.published
        self.published += count
        self._show(old)
        if self._wants(old):
            self.doorbells += 1
            data = self._cookie.to_bytes(2, "little")
            if self._data:
                data += self._position().to_bytes(2, "little")
            self.simulation.memory_write(self._notify, data)

    def _u16(self, address):
        return int.from_bytes(self.simulation.read_memory(address, 2), "little")


class SplitRing(BulkRing):
    """A split ring: from one publication to the next only ``idx`` of the available ring moves; see :class:`BulkRing`."""

    published_by = "used index"

    def __init__(self, simulation, host, queue, **options):
        super().__init__(simulation, host, queue, **options)
        self.desc, self.avail, self.used = queue.areas
        flags = DescFlag.WRITE if self.writable else 0
        simulation.write_memory(self.desc, b"".join(
            DESCRIPTOR.pack(self.place(slot), self.length, int(flags), 0)
            for slot in range(self.size)))
        heads = array("H", range(self.size)).tobytes()
        simulation.write_memory(self.avail, struct.pack(
            "<HH", 0 if self.interrupts else AVAIL_NO_INTERRUPT, 0) + heads)

    @property
    def watched(self):
        """Return (address, bytes, packed) of what tells how much is used."""
        return self.used, 4, False

    def areas(self):
        size = self.size
        return [(*self.span, "data", "data"), (self.desc, 16 * size, "descriptors", "descriptors"),
                (self.avail, 2, "flags", "flags"), (self.avail + 2, 2, "index", "index"),
                (self.avail + 4, 2 * size, "entries", "entries"), (self.avail + 4 + 2 * size, 2, "flags", "flags"),
                (self.used, 2, "rearm", "rearm"), (self.used + 2, 2, "used index", "used index"),
                (self.used + 4, 8 * size, "used", "used"), (self.used + 4 + 8 * size, 2, "rearm", "rearm")]

    def _show(self, old):
        self.simulation.write_memory(self.avail + 2, struct.pack("<H", self.published & 0xFFFF))

    def _wants(self, old):
        if self.event_idx:
            return need_event(self._u16(self.used + 4 + 8 * self.size), self.published & 0xFFFF, old & 0xFFFF)
        return not self._u16(self.used) & USED_NO_NOTIFY

    def _position(self):
        return self.published & 0xFFFF

    def want_interrupt(self):
        """Ask for an interrupt at the next used buffer [2.7.10]."""
        if self.event_idx:
            self.simulation.write_memory(self.avail + 4 + 2 * self.size, struct.pack("<H", self.done & 0xFFFF))

    def reap(self):
        """Take back what the device used; return the slots and written lengths, checked to be in order."""
        index = self._u16(self.used + 2)
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


class PackedRing(BulkRing):
    """A packed ring: descriptors are written anew each lap; see :class:`BulkRing`."""

    packed = True
    published_by = "used"

    def __init__(self, simulation, host, queue, **options):
        super().__init__(simulation, host, queue, **options)
        self.desc, self.driver_event, self.device_event = queue.areas
        mode = EventMode.ENABLE if self.interrupts else EventMode.DISABLE
        simulation.write_memory(self.driver_event, EVENT.pack(0, mode))

    @property
    def watched(self):
        """Return (address, bytes, packed) of what tells how much is used."""
        return self.desc, 16 * self.size, True

    def areas(self):
        return [(*self.span, "data", "data"), (self.desc, 16 * self.size, "descriptors", "used"),
                (self.driver_event, 4, "flags", "flags"), (self.device_event, 4, "rearm", "rearm")]

    def _wrap(self, number):
        """Return the wrap counter at buffer ``number``."""
        return 1 - number // self.size % 2

    def _show(self, old):
        at = old
        while at < self.published:
            slot, wrap = at % self.size, self._wrap(at)
            part = min(self.published - at, self.size - slot)
            flags = int((DescFlag.WRITE if self.writable else 0) | (DescFlag.AVAIL if wrap else DescFlag.USED))
            self.simulation.write_memory(self.desc + 16 * slot, b"".join(
                PACKED_DESCRIPTOR.pack(self.place(number), self.length, number, flags) for number in range(slot, slot + part)))
            at += part

    def _wants(self, old):
        place, mode = EVENT.unpack(self.simulation.read_memory(self.device_event, EVENT.size))
        if mode == EventMode.DESCRIPTOR:
            slot = self.published % self.size
            event = (place & 0x7FFF) - (self.size if place >> 15 != self._wrap(self.published) else 0)
            return slot - (self.published - old) <= event < slot
        return mode == EventMode.ENABLE

    def _position(self):
        return self.published % self.size | self._wrap(self.published) << 15

    def want_interrupt(self):
        """Ask for an interrupt at the next used buffer [2.8.10]."""
        if self.event_idx:
            place = self.done % self.size | self._wrap(self.done) << 15
            self.simulation.write_memory(self.driver_event, EVENT.pack(place, EventMode.DESCRIPTOR))

    def reap(self):
        """Take back what the device used; return the slots and written lengths, checked to be in order."""
        out = []
        while self.backlog:
            slot = self.done % self.size
            used = int(_STATE) if self._wrap(self.done) else 0
            part = min(_LOOK, self.backlog, self.size - slot)
            raw = self.simulation.read_memory(self.desc + 16 * slot, 16 * part)
            for place, (_, written, identity, flags) in enumerate(PACKED_DESCRIPTOR.iter_unpack(raw), slot):
                if flags & int(_STATE) != used:
                    return out
                if identity != place:
                    raise RingMismatch(f"Used descriptor {place} names buffer {identity}")
                out.append((identity, written))
                self.done += 1
        return out
