# SPDX-License-Identifier: BSD-2-Clause
"""The entropy driver: empty buffers out, random bytes back [5.4].

There is one queue, of device-writable buffers. The device places at least one byte into each and says how many.
"""

import random

from .buffers import ScatterBuffer
from .checks import check
from .interrupts import QueueDriver, check_interrupts
from .spec import Feature, mask

__all__ = ["ENTROPY_WANTED", "EntropyDriver"]

ENTROPY_WANTED = mask(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.INDIRECT_DESC, Feature.EVENT_IDX,
                      Feature.NOTIF_CONFIG_DATA)
"""Features this driver uses by default, with split virtqueues; the device type has none of its own."""

CONFIG_VECTOR, REQUEST_VECTOR = 0, 1


class EntropyDriver(QueueDriver):
    """Driver of an entropy device.

    Parameters
    ----------
    device : VirtioDevice
    seed : int
        For alignments, table slots and patterns.
    """

    REQUESTQ = 0

    def __init__(self, device, *, seed=0):
        super().__init__(device, random.Random(f"entropy {seed}"))
        self.queue = None

    async def start(self, *, wanted=ENTROPY_WANTED, required=mask(Feature.VERSION_1), queue_size=None, interrupts="msix", order="fifo"):
        """Bring the device up, without buffers yet; see :meth:`NetDriver.start` for the arguments."""
        device = self.device
        check_interrupts(interrupts)
        await device.negotiate(wanted, required)
        vectors = await self.use_interrupts(interrupts, (CONFIG_VECTOR, REQUEST_VECTOR))
        order = "fifo" if device.has(Feature.IN_ORDER) else order
        self.queue = await device.setup_queue(self.REQUESTQ, size=queue_size, vector=vectors[1], order=order, rng=self.rng)
        await device.driver_ok()
        if interrupts == "poll":
            await self.queue.disable_interrupts()
        return self

    async def stop(self):
        """Reset the device and take everything back."""
        pending = [chain.token for chain in self.queue.outstanding.values()]
        await self.device.reset()
        for buffer in pending:
            buffer.free()

    async def post(self, lengths, *, indirect_from=None, shuffle=False, page_offset=None, publish=True):
        """Give the device an empty buffer with elements of ``lengths`` bytes."""
        buffer = ScatterBuffer(self.host, lengths, writable=True, rng=self.rng, page_offset=page_offset)
        await buffer.store()
        await self.queue.add(buffer.elements(), indirect_from=indirect_from, shuffle=shuffle, token=buffer)
        if publish:
            await self.queue.publish()

    async def collect(self):
        """Return what the buffers used since the last call hold, oldest first: ``(room, bytes)`` of each."""
        out = []
        for used in await self.queue.harvest():
            buffer = used.chain.token
            check(used.length >= 1, f"A buffer of {buffer.total} bytes came back with none [5.4.6.2]")
            out.append((buffer.total, await buffer.load(used.length)))
            buffer.free()
        return out

    async def receive(self, count, *, cycles=200_000):
        """Wait for ``count`` buffers and return them as :meth:`collect` does."""
        found = []
        async for some in self._wait(self.queue, self.collect, 1, cycles):
            found += some
            if len(found) >= count:
                return found
