# SPDX-License-Identifier: BSD-2-Clause
"""The packed virtqueue [2.8]: one ring of descriptors that both sides write.

    descriptor ring           16 bytes each: address, length, id, flags     written by the driver, then by the device
    driver event suppression  {slot, wrap counter}, mode                    written by the driver
    device event suppression  {slot, wrap counter}, mode                    written by the device

A buffer is a list of consecutive descriptors. Each side has a wrap counter that flips at the end of the ring; a descriptor is available when its
AVAIL flag equals the driver's wrap counter and USED does not, and used when both equal the device's. The driver sets the flags of the first
descriptor of a list last. The device answers with one descriptor per list, in the slot where it begins if it uses buffers in order.
"""

from collections import deque

from . import checks
from .checks import check
from .spec import EVENT, PACKED_DESCRIPTOR, DescFlag, EventMode, Feature
from .virtqueue import Chain, VirtQueue

__all__ = ["PackedQueue"]

_STATE = DescFlag.AVAIL | DescFlag.USED


class PackedQueue(VirtQueue):
    """Driver side of one packed virtqueue; ``size`` is any number from 1 to 32768, for the rest see :class:`VirtQueue`.

    ``strict``: the WRITE flag of a used descriptor must tell whether anything was written; not every device sets it.
    """

    def __init__(self, host, index, size, features, *, strict=True, **options):
        if not 1 <= size <= 32768:
            raise ValueError(f"Queue size must be between 1 and 32768, not {size!r}")
        super().__init__(host, index, size, features, **options)
        if self.order == "random":
            # An id is any number of 16 bits [2.8.5].
            self._free = deque(self.rng.sample(range(0x10000), size))
        self.strict = strict
        self.desc = host.alloc(16 * size, 16)
        self.driver_event = host.alloc(4, 4, writable=False)
        self.device_event = host.alloc(4, 4)
        self.free_slots = size
        self.next_slot, self.next_wrap = 0, 1        # where the next list goes
        self.used_slot, self.used_wrap = 0, 1        # where the next used descriptor is expected
        self._added = []                             # (slot, flags) of heads not yet available
        self._unseen = 0                             # slots since the last publication

    @property
    def areas(self):
        return self.desc, self.driver_event, self.device_event

    def _step(self, slot, wrap, count):
        """Return (slot, wrap counter) ``count`` slots on."""
        slot += count
        return (slot - self.size, wrap ^ 1) if slot >= self.size else (slot, wrap)

    # Available side

    async def add(self, elements, *, indirect_from=None, shuffle=False, token=None):
        """Put a list in the ring; the device does not see it before :meth:`publish`.

        Parameters
        ----------
        elements : list of Element
            Device-readable ones first; zero-length ones are allowed here, though not by every device.
        indirect_from : int or None
            0: all lie in an indirect table. None: all in the ring. Needs INDIRECT_DESC; there is nothing in between [2.8.7].
        shuffle : bool
            Set bits in the table that mean nothing there.

        Returns
        -------
        Chain
        """
        check(indirect_from in (None, 0), "A packed list is either direct or indirect")
        indirect = indirect_from == 0
        count = 1 if indirect else len(elements)
        self._check_elements(elements, count)
        [identity] = self._take(1)
        table = await self._indirect_table(elements, shuffle) if indirect else None
        pieces = [(table, 16 * len(elements), DescFlag.INDIRECT)] if indirect else \
            [(e.address, e.length, DescFlag.WRITE * e.writable) for e in elements]
        slots, slot, wrap = [], self.next_slot, self.next_wrap
        for number, (address, length, flags) in enumerate(pieces):
            flags |= DescFlag.AVAIL if wrap else DescFlag.USED
            if number + 1 < count:
                flags |= DescFlag.NEXT
            place = self.desc + 16 * slot
            if number == 0:
                # Everything but the flags, which say whose it is.
                await self.host.write(place, PACKED_DESCRIPTOR.pack(address, length, identity, 0)[:14])
                self._added.append((slot, int(flags)))
            else:
                await self.host.write(place, PACKED_DESCRIPTOR.pack(address, length, identity, int(flags)))
            slots.append(slot)
            slot, wrap = self._step(slot, wrap, 1)
        self.next_slot, self.next_wrap = slot, wrap
        self.free_slots -= count
        self._unseen += count
        chain = Chain(list(elements), identity, slots, table, token)
        self.outstanding[identity] = chain
        self._order.append(identity)
        return chain

    async def _indirect_table(self, elements, shuffle):
        check(self.features >> Feature.INDIRECT_DESC & 1, "INDIRECT_DESC was not negotiated")
        table = self.host.alloc(16 * len(elements), 16, writable=False)
        for number, e in enumerate(elements):
            # In a table only WRITE means something [2.8.7].
            noise, identity = (self.rng.getrandbits(16) & ~DescFlag.WRITE, self.rng.getrandbits(16)) if shuffle else (0, 0)
            await self.host.write(table + 16 * number, PACKED_DESCRIPTOR.pack(
                e.address, e.length, identity, int(DescFlag.WRITE * e.writable) | noise))
        return table

    async def publish(self):
        """Make everything added visible, then notify the device if it wants that; return whether it was notified."""
        if not self._added:
            return False
        for slot, flags in self._added:
            await self._write16(self.desc + 16 * slot + 14, flags)
        count, self._added, self._unseen = self._unseen, [], 0
        # A full barrier belongs here on a real machine: the flags must be visible before the suppression state is read.
        if not await self.wants_notification(count):
            self.suppressed += 1
            return False
        await self.notify()
        return True

    async def wants_notification(self, count):
        """Return whether the device asked to hear of the last ``count`` slots [2.8.10]."""
        place, mode = EVENT.unpack(await self.host.read(self.device_event, EVENT.size))
        checks.event_mode(self.index, mode, self.features)
        if mode == EventMode.DESCRIPTOR:
            return self._passed(place, self.next_slot, self.next_wrap, count)
        return mode == EventMode.ENABLE

    def _passed(self, place, slot, wrap, count):
        """Return whether ``place`` is among the ``count`` slots before (slot, wrap)."""
        event = (place & 0x7FFF) - (self.size if place >> 15 != wrap else 0)
        return slot - count <= event < slot

    def notify_position(self):
        return self.next_slot | self.next_wrap << 15

    # Used side

    async def disable_interrupts(self):
        """Ask the device not to interrupt."""
        self.interrupts = False
        await self._write16(self.driver_event + 2, EventMode.DISABLE)

    async def _ask_for_interrupts(self, after):
        if not self.event_idx:
            await self._write16(self.driver_event + 2, EventMode.ENABLE)
            return
        slot, wrap = self.used_slot, self.used_wrap
        for identity in list(self._order)[:after]:
            slot, wrap = self._step(slot, wrap, len(self.outstanding[identity].slots))
        await self._write16(self.driver_event, slot | wrap << 15)
        await self._write16(self.driver_event + 2, EventMode.DESCRIPTOR)

    async def _used(self):
        """Return (id, length, flags) of the next used descriptor, or None."""
        _, length, identity, flags = PACKED_DESCRIPTOR.unpack(await self.host.read(self.desc + 16 * self.used_slot, 16))
        return (identity, length, flags) if flags & _STATE == (_STATE if self.used_wrap else 0) else None

    async def pending(self):
        """Return whether there are used buffers to harvest."""
        return bool(self.outstanding) and await self._used() is not None

    async def harvest(self):
        """Take back every buffer the device has used; return a list of :class:`Used`, checked."""
        harvested = []
        while self.outstanding and (found := await self._used()):
            identity, length, flags = found
            written = length if flags & DescFlag.WRITE or not self.strict else 0
            chain = checks.used_element(self.index, self.used_slot, identity, written, self.outstanding)
            checks.used_flag_bits(self.index, self.used_slot, flags & ~_STATE, length, strict=self.strict)
            # With IN_ORDER one descriptor may stand for a batch: the lists before it count as full.
            while self.in_order and self._order[0] != identity:
                harvested.append(self._take_back(self.outstanding[self._order[0]], None))
            harvested.append(self._take_back(chain, written))
        return harvested

    def _take_back(self, chain, length):
        used = self._retire(chain, length, self.used_slot)
        self.used_slot, self.used_wrap = self._step(self.used_slot, self.used_wrap, len(chain.slots))
        self._free.append(chain.head)
        self.free_slots += len(chain.slots)
        return used
