# SPDX-License-Identifier: BSD-2-Clause
"""What drivers of every device type do alike: choose how to be interrupted, and wait for used buffers that way."""

from .checks import CheckFailed, DriverTimeout, check
from .device import VirtioDevice
from .spec import NO_VECTOR, Status

__all__ = ["QueueDriver", "check_interrupts"]


def check_interrupts(interrupts):
    """Refuse a way of being interrupted that there is not."""
    if interrupts not in ("msix", "shared", "intx", "poll"):
        raise ValueError(f"Interrupts must be msix, shared, intx or poll, not {interrupts!r}")


class QueueDriver:
    """A driver of a device with queues; what they are for is the business of a subclass.

    Parameters
    ----------
    device : VirtioDevice
    rng : random.Random
        For alignments, table slots and patterns.
    """

    def __init__(self, device, rng):
        self.device, self.host, self.rng = device, device.host, rng
        self.interrupts = "poll"
        self.vectors = ()

    @classmethod
    async def find(cls, host, number=0, **options):
        """Enumerate function ``number`` of ``host`` and return a driver for it."""
        return cls(await VirtioDevice.find(host, number), **options)

    async def use_interrupts(self, interrupts, vectors):
        """Set up the way of being interrupted; return the vectors to use, that of configuration changes first.

        ``interrupts`` is "msix" (``vectors`` as they are), "shared" (vector 0 for all), "intx" or "poll".
        """
        device = self.device
        self.interrupts = interrupts
        self.vectors = {"msix": vectors, "shared": (0,) * len(vectors)}.get(interrupts, (NO_VECTOR,) * len(vectors))
        if interrupts in ("msix", "shared"):
            await device.use_msix(sorted(set(self.vectors)))
            await device.set("config_msix_vector", self.vectors[0])
            check(await device.get("config_msix_vector") == self.vectors[0], "config_msix_vector does not read back")
        elif device.function.msix is not None:
            # Polling keeps MSI-X on with nothing mapped: that is how to have no interrupt at all, INTx included.
            await device.function.msix.control(enable=interrupts == "poll")
        return self.vectors

    async def _wait(self, queue, harvest, role, cycles):
        """Yield what ``harvest`` brings, sleeping in between as the interrupt mode says."""
        vector = -1 if self.interrupts == "intx" else self.vectors[role]
        polls = 0
        while True:
            yield await harvest()
            if self.interrupts == "poll":
                polls += 1
                if polls * 200 > cycles:
                    raise await self._late(queue)
                await self.host.sleep(200)
                continue
            if await queue.enable_interrupts():
                continue
            if not await self.host.wait_interrupt(vector, cycles):
                if await queue.pending():
                    raise CheckFailed(f"Queue {queue.index} used buffers without the interrupt that was asked for")
                raise await self._late(queue)
            if self.interrupts == "intx":
                await self.device.isr()

    async def _late(self, queue):
        status = await self.device.status()
        broken = " and the device needs a reset" if status & Status.DEVICE_NEEDS_RESET else ""
        return DriverTimeout(f"Queue {queue.index} did not move; {len(queue.outstanding)} buffers are outstanding{broken}")
