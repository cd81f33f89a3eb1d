# SPDX-License-Identifier: BSD-2-Clause
"""What both kinds of virtqueue have in common: buffers, their life, and notifications [2.6]."""

from collections import deque
from dataclasses import dataclass, field

from .checks import check
from .spec import Feature

__all__ = ["Element", "Chain", "Used", "VirtQueue"]


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
    head: int                       # what the device calls it: index of its first descriptor, or buffer id
    slots: list                     # places of the table or ring it occupies
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
    position: int                   # used index, or slot of the ring, at which it was found


class VirtQueue:
    """Driver side of a virtqueue; the two formats derive from it.

    Parameters
    ----------
    host : Host
    index : int
        Queue index, for messages.
    size : int
        Entries, as many as the format allows.
    features : int
        Negotiated feature word.
    notify : int
        Bus address of the doorbell.
    cookie : int
        What identifies the queue in a notification: its index, or the device's own number with NOTIF_CONFIG_DATA.
    order : str
        How free descriptors or ids are taken: "fifo" (sequential, as IN_ORDER demands), "lifo" or "random".
    rng : random.Random
        For "random" and for shuffled indirect tables.
    """

    def __init__(self, host, index, size, features, *, notify, cookie, order="fifo", rng=None):
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
            raise ValueError(f"IN_ORDER needs descriptors in fifo order, not {order}")
        self.interrupts = True
        self.notifications = 0      # doorbells rung
        self.suppressed = 0         # doorbells spared because the device asked for it
        self.outstanding = {}       # head -> Chain
        self._order = deque()       # heads in the order in which they were added
        self._free = deque(range(size))

    @property
    def areas(self):
        """Return the bus addresses of the three areas: descriptors, driver, device."""
        raise NotImplementedError

    def release(self):
        """Give rings and tables back to the host; the device must be done with them."""
        for chain in self.outstanding.values():
            if chain.table is not None:
                self.host.free(chain.table)
        for address in self.areas:
            self.host.free(address)
        self.outstanding = {}

    def _take(self, count):
        if self.order == "random":
            self.rng.shuffle(self._free)
        take = self._free.pop if self.order == "lifo" else self._free.popleft
        return [take() for _ in range(count)]

    async def _write16(self, address, value):
        await self.host.write(address, value.to_bytes(2, "little"))

    async def _read16(self, address):
        return int.from_bytes(await self.host.read(address, 2), "little")

    def _check_elements(self, elements, count):
        check([e.writable for e in elements] == sorted(e.writable for e in elements),
              "Device-writable elements must come last")
        check(elements, "A chain needs an element")
        check(count <= self.free_slots, f"Queue {self.index} has {self.free_slots} free descriptors, {count} are needed")

    async def notify(self):
        """Ring the doorbell [4.1.5.2]."""
        self.notifications += 1
        if self.features >> Feature.NOTIFICATION_DATA & 1:
            await self.host.memory_write(self.notify_at, (self.cookie | self.notify_position() << 16).to_bytes(4, "little"))
        else:
            await self.host.memory_write(self.notify_at, self.cookie.to_bytes(2, "little"))

    def notify_position(self):
        """Return next_off and next_wrap, in bits 14 to 0 and 15 [2.9]."""
        raise NotImplementedError

    async def enable_interrupts(self, after=0):
        """Ask for an interrupt when ``after`` more buffers than the next one are used; return whether some already are.

        The caller has to look at the ring again when this is true: no interrupt may come for those.
        """
        self.interrupts = True
        await self._ask_for_interrupts(after)
        return await self.pending()

    def _retire(self, chain, length, position):
        """Forget a chain that came back; ``length`` None: it counts as full."""
        used = Used(chain, chain.writable if length is None else length, position)
        del self.outstanding[chain.head]
        self._order.remove(chain.head)
        if chain.table is not None:
            self.host.free(chain.table)
        return used
