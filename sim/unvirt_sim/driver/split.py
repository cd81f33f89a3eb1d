# SPDX-License-Identifier: BSD-2-Clause
"""The split virtqueue [2.7]: three areas of memory through which driver and device pass buffers.

    descriptor table   16 bytes each: address, length, flags, next          written by the driver
    available ring     flags, idx, heads of chains [size], used_event       written by the driver
    used ring          flags, idx, {head, length} [size], avail_event       written by the device

The driver links free descriptors into a chain, puts the head in the available ring, and only then moves ``idx``: the device may
look at any moment, so what ``idx`` covers must be complete. It notifies the device unless the device asked not to be. The
device puts the head back through the used ring, again index last.
"""

from collections import deque
from dataclasses import dataclass, field

from . import checks
from .checks import check
from .spec import (AVAIL_NO_INTERRUPT, DESCRIPTOR, USED_ELEMENT, USED_NO_NOTIFY, DescFlag, Feature, need_event)

__all__ = ["Element", "Chain", "Used", "SplitQueue"]


@dataclass(frozen=True)
class Element:
    """One piece of a buffer; ``writable`` means by the device."""

    address: int
    length: int
    writable: bool = False


@dataclass
class Chain:
    """A buffer given to the device, until it comes back."""

    elements: list
    head: int
    slots: list                     # table slots it occupies
    table: int | None = None        # address of its indirect table
    token: object = None            # whatever the caller wants back
    writable: int = field(init=False)

    def __post_init__(self):
        self.writable = sum(e.length for e in self.elements if e.writable)


@dataclass(frozen=True)
class Used:
    """A buffer that came back; ``length`` bytes of it were written."""

    chain: Chain
    length: int
    position: int                   # used index at which it was found


class SplitQueue:
    """Driver side of one split virtqueue.

    Parameters
    ----------
    host : Host
    index : int
        Queue index, for messages.
    size : int
        Entries, a power of two from 1 to 32768.
    features : int
        Negotiated feature word.
    notify : int
        Bus address of the doorbell.
    cookie : int
        What identifies the queue in a notification: its index, or the device's own number with NOTIF_CONFIG_DATA.
    order : str
        How free table slots are taken: "fifo" (sequential, as IN_ORDER demands), "lifo" or "random".
    rng : random.Random
        For "random" and for shuffled indirect tables.
    """

    def __init__(self, host, index, size, features, *, notify, cookie, order="fifo", rng=None):
        if not 1 <= size <= 32768 or size & (size - 1):
            raise ValueError(f"Queue size must be a power of two between 1 and 32768, not {size!r}")
        if order not in ("fifo", "lifo", "random"):
            raise ValueError(f"Order must be fifo, lifo or random, not {order!r}")
        if order == "random" and rng is None:
            raise ValueError("Order random needs an rng")
        self.host, self.index, self.size, self.features = host, index, size, features
        self.notify_at, self.cookie, self.order, self.rng = notify, cookie, order, rng
        self.vector = None
        self.event_idx = bool(features >> Feature.EVENT_IDX & 1)
        self.in_order = bool(features >> Feature.IN_ORDER & 1)
        if self.in_order and order != "fifo":
            raise ValueError(f"IN_ORDER needs slots in fifo order, not {order}")
        # The alignments are all a device may rely on [2.7]; the host makes them no better on purpose.
        self.desc = host.alloc(16 * size, 16, writable=False)
        self.avail = host.alloc(6 + 2 * size, 2, writable=False)
        self.used = host.alloc(6 + 8 * size, 4)
        self.avail_idx = 0          # what the device was told
        self.next_idx = 0           # what has been added
        self.used_idx = 0           # next used element to look at
        self.interrupts = True
        self.notifications = 0      # doorbells rung
        self.suppressed = 0         # doorbells spared because the device asked for it
        self.outstanding = {}       # head -> Chain
        self._order = deque()       # heads in the order in which they were added
        self._free = deque(range(size))

    def release(self):
        """Give the rings and tables back to the host; the device must be done with them."""
        for chain in self.outstanding.values():
            if chain.table is not None:
                self.host.free(chain.table)
        for address in (self.desc, self.avail, self.used):
            self.host.free(address)
        self.outstanding = {}

    @property
    def free_slots(self):
        """Return how many descriptors are free."""
        return len(self._free)

    def _take(self, count):
        if self.order == "random":
            self.rng.shuffle(self._free)
        take = self._free.pop if self.order == "lifo" else self._free.popleft
        return [take() for _ in range(count)]

    async def _write16(self, address, value):
        await self.host.write(address, value.to_bytes(2, "little"))

    async def _read16(self, address):
        return int.from_bytes(await self.host.read(address, 2), "little")

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
        check([e.writable for e in elements] == sorted(e.writable for e in elements),
              "Device-writable elements must come last")
        check(elements, "A chain needs an element")
        direct = elements if indirect_from is None else elements[:indirect_from]
        rest = [] if indirect_from is None else elements[indirect_from:]
        count = len(direct) + (1 if rest else 0)
        check(count <= len(self._free), f"Queue {self.index} has {len(self._free)} free descriptors, {count} are needed")
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

    async def notify(self):
        """Ring the doorbell [4.1.5.2]."""
        self.notifications += 1
        if self.features >> Feature.NOTIFICATION_DATA & 1:
            # next_off is bits 14..0 of the new index and next_wrap its bit 15: together the index [2.9]
            await self.host.memory_write(self.notify_at, (self.cookie | self.avail_idx << 16).to_bytes(4, "little"))
        else:
            await self.host.memory_write(self.notify_at, self.cookie.to_bytes(2, "little"))

    # Used side

    async def disable_interrupts(self):
        """Ask the device not to interrupt; a hint without EVENT_IDX."""
        self.interrupts = False
        if self.event_idx:
            # There is no off switch: an event just behind is the farthest away that can be asked for.
            await self._write16(self.avail + 4 + 2 * self.size, self.used_idx - 1 & 0xFFFF)
        else:
            await self._write16(self.avail, AVAIL_NO_INTERRUPT)

    async def enable_interrupts(self, after=0):
        """Ask for an interrupt when ``after`` more buffers than the next one are used; return whether some already are.

        The caller has to look at the ring again when this is true: no interrupt may come for those.
        """
        self.interrupts = True
        if self.event_idx:
            await self._write16(self.avail + 4 + 2 * self.size, self.used_idx + after & 0xFFFF)
        else:
            await self._write16(self.avail, 0)
        return await self.pending()

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
                harvested.append(self._retire(self.outstanding[self._order[0]], None))
                check(self.used_idx != new, f"Queue {self.index}: the batch ending with head {identity} is longer than "
                                            f"the step of the used idx")
            harvested.append(self._retire(chain, length))
        return harvested

    def _retire(self, chain, length):
        used = Used(chain, chain.writable if length is None else length, self.used_idx)
        self.used_idx = self.used_idx + 1 & 0xFFFF
        del self.outstanding[chain.head]
        self._order.remove(chain.head)
        self._free.extend(chain.slots)
        if chain.table is not None:
            self.host.free(chain.table)
        return used
