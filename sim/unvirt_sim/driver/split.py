# SPDX-License-Identifier: BSD-2-Clause
"""The split virtqueue [2.7]: three areas of memory through which driver and device pass buffers.

    descriptor table   16 bytes each: address, length, flags, next          written by the driver
    available ring     flags, idx, heads of chains [size], used_event       written by the driver
    used ring          flags, idx, {head, length} [size], avail_event       written by the device

The driver links free descriptors into a chain, puts the head in the available ring, and only then moves ``idx``: the device may
look at any moment, so what ``idx`` covers must be complete. It notifies the device unless the device asked not to be. The
device puts the head back through the used ring, again index last.
"""

from . import checks
from .checks import check
from .spec import AVAIL_NO_INTERRUPT, DESCRIPTOR, USED_ELEMENT, USED_NO_NOTIFY, DescFlag, Feature, need_event
from .virtqueue import Chain, VirtQueue

__all__ = ["SplitQueue"]


class SplitQueue(VirtQueue):
    """Driver side of one split virtqueue; ``size`` is a power of two from 1 to 32768, for the rest see :class:`VirtQueue`."""

    def __init__(self, host, index, size, features, **options):
        if not 1 <= size <= 32768 or size & (size - 1):
            raise ValueError(f"Queue size must be a power of two between 1 and 32768, not {size!r}")
        super().__init__(host, index, size, features, **options)
        # The alignments are all a device may rely on [2.7]; the host makes them no better on purpose.
        self.desc = host.alloc(16 * size, 16, writable=False)
        self.avail = host.alloc(6 + 2 * size, 2, writable=False)
        self.used = host.alloc(6 + 8 * size, 4)
        self.avail_idx = 0          # what the device was told
        self.next_idx = 0           # what has been added
        self.used_idx = 0           # next used element to look at

    @property
    def areas(self):
        return self.desc, self.avail, self.used

    @property
    def free_slots(self):
        """Return how many descriptors are free."""
        return len(self._free)

    # Available side

    async def add(self, elements, *, indirect_from=None, shuffle=False, token=None):
        """Put a chain in the table and the available ring; the device does not see it before :meth:`publish`.

        Parameters
        ----------
        elements : list of Element
            Device-readable ones first; zero-length ones are allowed here, though not by every device.
        indirect_from : int or None
            From this element on they lie in an indirect table: 0 puts all there, None none. Needs INDIRECT_DESC.
        shuffle : bool
            Link the indirect table in random order (its start is always entry 0); not with IN_ORDER.

        Returns
        -------
        Chain
        """
        direct = elements if indirect_from is None else elements[:indirect_from]
        rest = [] if indirect_from is None else elements[indirect_from:]
        count = len(direct) + (1 if rest else 0)
        self._check_elements(elements, count)
        slots = self._take(count)
        table = await self._indirect_table(rest, shuffle) if rest else None
        for position, slot in enumerate(slots):
            if position < len(direct):
                e = direct[position]
                address, length, flags = e.address, e.length, DescFlag.WRITE * e.writable
            else:
                address, length, flags = table, 16 * len(rest), DescFlag.INDIRECT
            following = (slot + 1) % self.size  # without NEXT the field means nothing; sequential pleases IN_ORDER
            if position + 1 < len(slots):
                flags |= DescFlag.NEXT
                following = slots[position + 1]
            await self.host.write(self.desc + 16 * slot, DESCRIPTOR.pack(address, length, int(flags), following))
        chain = Chain(list(elements), slots[0], slots, table, token)
        self.outstanding[chain.head] = chain
        self._order.append(chain.head)
        await self._write16(self.avail + 4 + 2 * (self.next_idx % self.size), chain.head)
        self.next_idx = self.next_idx + 1 & 0xFFFF
        return chain

    async def _indirect_table(self, elements, shuffle):
        check(self.features >> Feature.INDIRECT_DESC & 1, "INDIRECT_DESC was not negotiated")
        places = list(range(1, len(elements)))
        if shuffle and not self.in_order:
            self.rng.shuffle(places)
        places = [0, *places]
        table = self.host.alloc(16 * len(elements), 16, writable=False)
        for position, e in enumerate(elements):
            flags, following = DescFlag.WRITE * e.writable, 0
            if position + 1 < len(elements):
                flags |= DescFlag.NEXT
                following = places[position + 1]
            await self.host.write(table + 16 * places[position],
                                  DESCRIPTOR.pack(e.address, e.length, int(flags), following))
        return table

    async def publish(self):
        """Make everything added visible, then notify the device if it wants that; return whether it was notified."""
        old, new = self.avail_idx, self.next_idx
        if old == new:
            return False
        await self._write16(self.avail + 2, new)  # after the entries: Host.write keeps the order
        self.avail_idx = new
        # A full barrier belongs here on a real machine: the index must be visible before the suppression state is read,
        # or both sides may decide to sleep [2.7.13.3].
        if not await self.wants_notification(old, new):
            self.suppressed += 1
            return False
        await self.notify()
        return True

    async def wants_notification(self, old, new):
        """Return whether the device asked to hear of the index going from ``old`` to ``new`` [2.7.10]."""
        flags = await self._read16(self.used)
        checks.used_flags(self.index, flags, self.features)
        if self.event_idx:
            return need_event(await self._read16(self.used + 4 + 8 * self.size), new, old)
        return not flags & USED_NO_NOTIFY

    def notify_position(self):
        # next_off is bits 14..0 of the new index and next_wrap its bit 15: together the index.
        return self.avail_idx

    # Used side

    async def disable_interrupts(self):
        """Ask the device not to interrupt; a hint without EVENT_IDX."""
        self.interrupts = False
        if self.event_idx:
            # There is no off switch: an event just behind is the farthest away that can be asked for.
            await self._write16(self.avail + 4 + 2 * self.size, self.used_idx - 1 & 0xFFFF)
        else:
            await self._write16(self.avail, AVAIL_NO_INTERRUPT)

    async def _ask_for_interrupts(self, after):
        if self.event_idx:
            await self._write16(self.avail + 4 + 2 * self.size, self.used_idx + after & 0xFFFF)
        else:
            await self._write16(self.avail, 0)

    async def pending(self):
        """Return whether there are used buffers to harvest."""
        return await self._read16(self.used + 2) != self.used_idx

    async def harvest(self):
        """Take back every buffer the device has used; return a list of :class:`Used`, checked."""
        new = await self._read16(self.used + 2)
        made = len(self.outstanding) - (self.next_idx - self.avail_idx & 0xFFFF)
        checks.used_advance(self.index, new, self.used_idx, made)
        harvested = []
        while self.used_idx != new:
            slot = self.used_idx % self.size
            identity, length = USED_ELEMENT.unpack(await self.host.read(self.used + 4 + 8 * slot, 8))
            chain = checks.used_element(self.index, slot, identity, length, self.outstanding)
            # With IN_ORDER one element may stand for a batch [2.7.9]: the chains before it count as full.
            while self.in_order and self._order[0] != identity:
                harvested.append(self._take_back(self.outstanding[self._order[0]], None))
                check(self.used_idx != new, f"Queue {self.index}: the batch ending with head {identity} is longer than "
                                            f"the step of the used idx")
            harvested.append(self._take_back(chain, length))
        return harvested

    def _take_back(self, chain, length):
        used = self._retire(chain, length, self.used_idx)
        self.used_idx = self.used_idx + 1 & 0xFFFF
        self._free.extend(chain.slots)
        return used
