# SPDX-License-Identifier: BSD-2-Clause
"""The network driver: frames in and out of the virtqueues [5.1].

Every packet is a 12-byte header followed by the frame without its checksum. Transmit: header and frame lie in device-readable elements,
cut anywhere. Receive: the driver posts empty device-writable buffers; the device writes header and frame into one of them, or,
with MRG_RXBUF, into as many as ``num_buffers`` of the header says.
"""

import copy
import random

from . import checks
from .buffers import ScatterBuffer
from .checks import check
from .control import ControlDriver
from .interrupts import QueueDriver, check_interrupts
from .spec import NET_HEADER, CtrlAck, Feature, LinkStatus, NetConfig, header_size, mask

__all__ = ["COALESCING", "IN_ORDER", "MULTIQUEUE", "PACKED", "SUSPENSION", "WANTED", "NetDriver"]

WANTED = mask(Feature.MAC, Feature.STATUS, Feature.MTU, Feature.SPEED_DUPLEX, Feature.MRG_RXBUF, Feature.VERSION_1,
              Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.INDIRECT_DESC, Feature.EVENT_IDX, Feature.RING_RESET,
              Feature.NOTIF_CONFIG_DATA)
"""Features this driver uses by default, with split virtqueues; offloads and the control queue are not among those it knows."""

PACKED = WANTED | mask(Feature.RING_PACKED)
"""The same with packed virtqueues."""

IN_ORDER = mask(Feature.IN_ORDER, Feature.NOTIFICATION_DATA)
"""What may be added to either: buffers are used in order, and doorbells tell how far the driver is."""

MULTIQUEUE = mask(Feature.CTRL_VQ, Feature.MQ)
"""What may be added to use several queue pairs."""

COALESCING = mask(Feature.CTRL_VQ, Feature.NOTF_COAL, Feature.VQ_NOTF_COAL)
"""What may be added to be told less often; nothing is held back until :class:`~unvirt_sim.driver.control.ControlDriver` says so."""

SUSPENSION = mask(Feature.SUSPEND)
"""What may be added to suspend the device: see :meth:`~unvirt_sim.driver.device.VirtioDevice.suspend`."""

CONFIG_VECTOR, RX_VECTOR, TX_VECTOR = 0, 1, 2


class NetDriver(QueueDriver):
    """Driver of one queue pair.

    Parameters
    ----------
    device : VirtioDevice
    seed : int
        For alignments, table slots and patterns.
    exact : bool
        Whether a receive buffer must be untouched beyond the used length. The text allows a device to write there; a good one
        does not.
    """

    RXQ, TXQ = 0, 1

    def __init__(self, device, *, seed=0, exact=True):
        super().__init__(device, random.Random(f"net {seed}"))
        self.exact = exact
        self.rx = self.tx = None
        self.headers = []             # headers of received packets, newest last, for those who look closer
        self._fragments = []          # used receive buffers of an unfinished packet
        self._posted_shape = None

    async def start(self, *, wanted=WANTED, required=mask(Feature.VERSION_1), queue_size=None, interrupts="msix", order="fifo", pairs=1,
                    choose=True):
        """Bring the device up, without receive buffers yet.

        With MQ negotiated ``pairs`` queue pairs are set up, and with ``choose`` asked for; see :meth:`pair`.

        ``interrupts`` is "msix" (one vector for configuration changes and each queue of each pair), "shared" (one vector for all),
        "intx" or "poll". ``order`` is how descriptor slots are taken; IN_ORDER forces "fifo".
        """
        device = self.device
        check_interrupts(interrupts)
        await device.negotiate(wanted, required)
        vectors = await self.use_interrupts(interrupts, (CONFIG_VECTOR, *range(RX_VECTOR, RX_VECTOR + 2 * pairs)))
        order = "fifo" if device.has(Feature.IN_ORDER) else order
        options = {"size": queue_size, "order": order, "rng": self.rng}
        self.rx = await device.setup_queue(self.RXQ, vector=vectors[RX_VECTOR], **options)
        self.tx = await device.setup_queue(self.TXQ, vector=vectors[TX_VECTOR], **options)
        self._pairs = [self]
        for number in range(1, pairs):
            other = copy.copy(self)
            other.vectors = (vectors[0], *vectors[1 + 2 * number:3 + 2 * number])
            other.rx = await device.setup_queue(2 * number, vector=other.vectors[1], **options)
            other.tx = await device.setup_queue(2 * number + 1, vector=other.vectors[2], **options)
            self._pairs.append(other)
        if device.has(Feature.CTRL_VQ):
            most = await device.config(NetConfig.MAX_VIRTQUEUE_PAIRS, 2) if device.has(Feature.MQ) else 1
            queue = await device.setup_queue(2 * most, size=queue_size)
            self.control = ControlDriver(self.host, queue, self.rng)
        await device.driver_ok()
        self.header_size = header_size(device.features)
        for one in self._pairs:
            if interrupts == "poll":
                await one.rx.disable_interrupts()
                await one.tx.disable_interrupts()
            one.header_size, one.headers, one._fragments = self.header_size, [], []
        if pairs > 1 and choose:
            check(await self.control.set_pairs(pairs) == CtrlAck.OK, f"The device does not take {pairs} queue pairs")
        return self

    def pair(self, number):
        """Return the driver of queue pair ``number``: this one with other queues."""
        return self._pairs[number]

    async def stop(self):
        """Reset the device and take everything back."""
        drivers = [] if self.rx is None else self._pairs
        pending = [c.token for driver in drivers for q in (driver.rx, driver.tx) for c in q.outstanding.values()]
        await self.device.reset()
        for buffer in pending + [used.chain.token for driver in drivers for used in driver._fragments]:
            buffer.free()
        for driver in drivers:
            driver._fragments = []

    async def reset_queue(self, role):
        """Reset the queue that is this driver's ``role``, "rx" or "tx", and take its buffers back; return how many were outstanding [2.6.1]."""
        queue = getattr(self, role)
        # What the device used before goes the usual way; the rest is not used any more when the reset is done.
        pending = [chain.token for chain in queue.outstanding.values()]
        if role == "rx":
            pending += [used.chain.token for used in self._fragments]
            self._fragments = []
        await self.device.reset_queue(queue.index)
        for buffer in pending:
            buffer.free()
        return len(pending)

    async def restart_queue(self, role, *, size=None, order="fifo"):
        """Bring a queue back that was reset, with fresh rings [2.6.1.2]."""
        old = getattr(self, role)
        order = "fifo" if self.device.has(Feature.IN_ORDER) else order
        queue = await self.device.setup_queue(old.index, size=size, vector=old.vector, order=order, rng=self.rng)
        if self.interrupts == "poll":
            await queue.disable_interrupts()
        setattr(self, role, queue)

    async def mac(self):
        """Return the MAC address as bytes."""
        return (await self.device.config(NetConfig.MAC, 6)).to_bytes(6, "little")

    async def link_up(self):
        """Return whether the link is up; without STATUS it counts as up [5.1.5]."""
        if not self.device.has(Feature.STATUS):
            return True
        return bool(await self.device.config(NetConfig.STATUS, 2) & LinkStatus.LINK_UP)

    # Transmit

    async def transmit(self, frame, *, lengths=None, indirect_from=None, shuffle=False, header=None, page_offset=None,
                       publish=True):
        """Hand a frame to the device.

        ``lengths`` cuts header and frame into elements (default: one), ``indirect_from`` and ``shuffle`` are those of
        :meth:`VirtQueue.add`, ``page_offset`` that of :class:`ScatterBuffer`, ``header`` overrides the default of all zeroes,
        ``publish=False`` leaves the frame for a later :meth:`VirtQueue.publish`.
        """
        data = (header if header is not None else bytes(self.header_size)) + frame
        lengths = [len(data)] if lengths is None else list(lengths)
        if sum(lengths) != len(data):
            raise ValueError(f"Lengths must sum to {len(data)}, not {sum(lengths)}")
        buffer = ScatterBuffer(self.host, lengths, writable=False, rng=self.rng, page_offset=page_offset)
        await buffer.store(data)
        await self.tx.add(buffer.elements(), indirect_from=indirect_from, shuffle=shuffle, token=buffer)
        if publish:
            await self.tx.publish()

    async def reap(self):
        """Take back transmitted buffers and return how many there were."""
        used = await self.tx.harvest()
        for entry in used:
            # A transmitted buffer has no device-writable part, so nothing was written [2.7.8].
            check(entry.length == 0, f"Transmitted buffer came back with length {entry.length}")
            await entry.chain.token.check_unchanged()
            entry.chain.token.free()
        return len(used)

    async def wait_transmitted(self, count, *, cycles=200_000):
        """Wait until ``count`` more transmitted buffers have come back."""
        done = 0
        async for used in self._wait(self.tx, self.reap, TX_VECTOR, cycles):
            done += used
            if done >= count:
                return done

    # Receive

    async def post(self, lengths, *, indirect_from=None, shuffle=False, page_offset=None, publish=True):
        """Give the device an empty receive buffer with elements of ``lengths`` bytes."""
        buffer = ScatterBuffer(self.host, lengths, writable=True, rng=self.rng, page_offset=page_offset)
        await buffer.store()
        await self.rx.add(buffer.elements(), indirect_from=indirect_from, shuffle=shuffle, token=buffer)
        if publish:
            await self.rx.publish()

    async def fill(self, lengths, *, indirect_from=None, limit=None):
        """Post buffers of one shape until the queue is full, or ``limit`` are outstanding; return how many are."""
        slots = len(lengths) if indirect_from is None else indirect_from + 1
        while self.rx.free_slots >= slots and (limit is None or len(self.rx.outstanding) < limit):
            await self.post(lengths, indirect_from=indirect_from, publish=False)
        await self.rx.publish()
        return len(self.rx.outstanding)

    async def collect(self):
        """Return the frames received since the last call, checked, oldest first."""
        self._fragments += await self.rx.harvest()
        frames = []
        while self._fragments:
            first = self._fragments[0]
            check(first.length >= self.header_size, f"A packet of {first.length} bytes has no whole header")
            header = await first.chain.token.load(first.length, exact=self.exact)
            count = checks.receive_header(header, self.device.features, counted=getattr(self.host, "counts_buffers", True))
            # All buffers of a packet become visible together [5.1.6.4].
            check(len(self._fragments) >= count, f"num_buffers is {count} but {len(self._fragments)} buffers are used")
            parts, self._fragments = self._fragments[:count], self._fragments[count:]
            checks.merged_fill(parts)
            data = b""
            for used in parts:
                data += await used.chain.token.load(used.length, exact=self.exact)
                used.chain.token.free()
            self.headers.append(NET_HEADER.unpack(data[:NET_HEADER.size]))
            frames.append(data[self.header_size:])
        return frames

    async def receive(self, count, *, refill=None, cycles=200_000):
        """Wait for ``count`` frames and return them; ``refill`` = lengths of buffers to post meanwhile."""
        frames = []
        async for some in self._wait(self.rx, self.collect, RX_VECTOR, cycles):
            frames += some
            if refill is not None:
                await self.fill(refill)
            if len(frames) >= count:
                return frames
