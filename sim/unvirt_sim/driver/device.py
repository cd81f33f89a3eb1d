# SPDX-License-Identifier: BSD-2-Clause
"""The virtio registers of a PCI function: status handshake, features, queues, notification, interrupt status.

A driver brings a device up in this order [3.1.1]; :meth:`VirtioDevice.negotiate`, :meth:`setup_queue` and
:meth:`driver_ok` are the three steps:

    reset -> ACKNOWLEDGE -> DRIVER -> read and write features -> FEATURES_OK -> read it back -> queues -> DRIVER_OK
"""

from .checks import DriverTimeout, check
from .pci import PciFunction
from .spec import COMMON, NO_VECTOR, CfgType, Feature, Status, mask, names
from .packed import PackedQueue
from .split import SplitQueue

__all__ = ["FeaturesRefused", "VirtioDevice"]


class FeaturesRefused(Exception):
    """The device did not accept the features: FEATURES_OK stayed clear."""


class VirtioDevice:
    """A virtio device behind an enumerated PCI function.

    Parameters
    ----------
    function : PciFunction
        After :meth:`PciFunction.enumerate`.
    """

    def __init__(self, function):
        self.function = function
        self.host = function.host
        self.features = 0     # negotiated; 0 before FEATURES_OK
        self.queues = {}      # index -> VirtQueue
        self.caps = {}        # CfgType -> VirtioCapability in use
        self._base = {}       # CfgType -> bus address
        for cfg_type in (CfgType.COMMON, CfgType.NOTIFY, CfgType.ISR, CfgType.DEVICE):
            cap = function.find(cfg_type)
            if cap is None and cfg_type == CfgType.DEVICE:
                continue              # a device type without device configuration [4.1.4.6]
            check(cap is not None, f"There is no usable {cfg_type.name} capability")
            bar = function.bars[cap.bar]
            check(cap.offset + cap.length <= bar.size, f"{cfg_type.name} lies outside BAR {cap.bar}")
            self.caps[cfg_type] = cap
            self._base[cfg_type] = bar.address + cap.offset

    @classmethod
    async def find(cls, host, number=0):
        """Enumerate function ``number`` and return the device behind it."""
        return cls(await PciFunction(host, number).enumerate())

    # Common configuration: each field is accessed with its own width, 64-bit ones as two halves [4.1.3.1]

    async def get(self, name):
        """Read a field of the common configuration."""
        offset, size = COMMON[name]
        base = self._base[CfgType.COMMON] + offset
        if size == 8:
            return (int.from_bytes(await self.host.memory_read(base, 4), "little")
                    | int.from_bytes(await self.host.memory_read(base + 4, 4), "little") << 32)
        return int.from_bytes(await self.host.memory_read(base, size), "little")

    async def set(self, name, value):
        """Write a field of the common configuration."""
        offset, size = COMMON[name]
        base = self._base[CfgType.COMMON] + offset
        if size == 8:
            await self.host.memory_write(base, (value & 0xFFFF_FFFF).to_bytes(4, "little"))
            await self.host.memory_write(base + 4, (value >> 32).to_bytes(4, "little"))
        else:
            await self.host.memory_write(base, value.to_bytes(size, "little"))

    async def get_half(self, name, high):
        """Read one half of a 64-bit field."""
        address = self._base[CfgType.COMMON] + COMMON[name][0] + 4 * high
        return int.from_bytes(await self.host.memory_read(address, 4), "little")

    async def set_half(self, name, high, value):
        """Write one half of a 64-bit field."""
        address = self._base[CfgType.COMMON] + COMMON[name][0] + 4 * high
        await self.host.memory_write(address, value.to_bytes(4, "little"))

    # Status [2.1]

    async def status(self):
        """Return the device status."""
        return Status(await self.get("device_status"))

    async def add_status(self, bits):
        """Set bits of the device status; a driver never clears any but by reset."""
        await self.set("device_status", int(await self.status() | bits))

    async def reset(self, *, polls=10_000):
        """Reset the device and wait until it says it is done; afterwards all memory it was given is ours again.

        Returns
        -------
        int
            How often the status was read.
        """
        await self.set("device_status", 0)
        for count in range(polls):    # noqa: B007
            if await self.status() == 0:
                break
            await self.host.sleep(10)
        else:
            raise DriverTimeout(f"The status is not 0 after {polls} reads")
        self.features = 0
        for queue in self.queues.values():
            queue.release()
        self.queues = {}
        return count + 1

    # Features [2.2]: shown and accepted in windows of 32 bits

    async def offered(self, windows=3):
        """Return the feature word the device offers."""
        word = 0
        for window in range(windows):
            await self.set("device_feature_select", window)
            word |= await self.get("device_feature") << 32 * window
        return word

    async def accepted(self, windows=3):
        """Return the feature word the driver has written."""
        word = 0
        for window in range(windows):
            await self.set("driver_feature_select", window)
            word |= await self.get("driver_feature") << 32 * window
        return word

    async def accept(self, word, windows=3):
        """Write the feature word of the driver."""
        for window in range(windows):
            await self.set("driver_feature_select", window)
            await self.set("driver_feature", word >> 32 * window & 0xFFFF_FFFF)

    async def start_negotiation(self):
        """Reset, and say that a driver is here."""
        await self.reset()
        await self.add_status(Status.ACKNOWLEDGE)
        await self.add_status(Status.DRIVER)

    async def finish_negotiation(self, word):
        """Write ``word`` and set FEATURES_OK.

        Raises
        ------
        FeaturesRefused
            If FEATURES_OK reads back clear.
        """
        await self.accept(word)
        await self.add_status(Status.FEATURES_OK)
        if not await self.status() & Status.FEATURES_OK:
            raise FeaturesRefused(f"The device refuses {', '.join(names(word))}")
        self.features = word

    async def negotiate(self, wanted, required=mask(Feature.VERSION_1)):
        """Go from reset to FEATURES_OK with what is both offered and wanted; return the negotiated word."""
        await self.start_negotiation()
        word = await self.offered() & (wanted | required)
        check(word & required == required, f"The device does not offer {', '.join(names(required & ~word))}")
        await self.finish_negotiation(word)
        return word

    def has(self, feature):
        """Return whether ``feature`` was negotiated."""
        return bool(self.features >> feature & 1)

    async def driver_ok(self):
        """Tell the device that it may run."""
        await self.add_status(Status.DRIVER_OK)
        check(await self.status() & Status.DRIVER_OK, "DRIVER_OK does not read back")

    # Suspend and resume: the device and driver keep all they have, nothing of it moves in between

    async def suspend(self, *, polls=10_000):
        """Suspend the device and wait until it is. Needs SUSPEND; the device must be running.

        What was begun is used and told of before this returns; what is made available from now on stays where it is. Until :meth:`resume` the
        device accesses no memory, sends no interrupt, and takes no write to its registers but to the status; doorbells are lost.
        """
        check(self.has(Feature.SUSPEND), "SUSPEND was not negotiated")
        await self.add_status(Status.SUSPEND)
        await self._poll_status(Status.SUSPEND, gone=Status.DRIVER_OK, polls=polls)

    async def resume(self, *, polls=10_000):
        """Let a suspended device run again and wait until it does.

        It looks for buffers in every queue by itself, and tells of a configuration change that fell into the time in which it was suspended.
        """
        await self.add_status(Status.DRIVER_OK)
        await self._poll_status(Status.DRIVER_OK, gone=Status.SUSPEND, polls=polls)

    async def _poll_status(self, reached, *, gone, polls):
        """Read the status until ``reached`` is set; ``gone`` must be clear with it, and the device must not have given up."""
        for _ in range(polls):
            status = await self.status()
            check(not status & Status.DEVICE_NEEDS_RESET, "The device needs a reset")
            if status & reached:
                check(not status & gone, f"The status is {status!r}")
                return
            await self.host.sleep(10)
        raise DriverTimeout(f"The status has no {reached.name} after {polls} reads")

    # Queues [4.1.5.1.3]

    async def setup_queue(self, index, *, size=None, vector=NO_VECTOR, order="fifo", rng=None):
        """Allocate the rings of queue ``index``, hand them to the device and enable it; return the queue.

        ``size`` is at most, and by default, what the device offers. ``order`` says how table slots are taken; see
        :class:`VirtQueue`.
        """
        await self.set("queue_select", index)
        largest = await self.get("queue_size")
        check(largest != 0, f"There is no queue {index}")
        check(await self.get("queue_enable") == 0, f"Queue {index} is already enabled")
        size = min(size or largest, largest)
        await self.set("queue_size", size)
        check(await self.get("queue_size") == size, f"Queue {index} does not take size {size}")
        await self.set("queue_msix_vector", vector)
        if vector != NO_VECTOR:
            check(await self.get("queue_msix_vector") == vector, f"Queue {index} does not take vector {vector}")
        notify_off = await self.get("queue_notify_off")
        cookie = index
        if self.has(Feature.NOTIF_CONFIG_DATA):
            cookie = await self.get("queue_notif_config_data")
        notify = self.notify_address(notify_off)
        options = {"notify": notify, "cookie": cookie, "order": order, "rng": rng}
        if self.has(Feature.RING_PACKED):
            queue = PackedQueue(self.host, index, size, self.features, strict=getattr(self.host, "tells_written", True), **options)
        else:
            queue = SplitQueue(self.host, index, size, self.features, **options)
        for area, address in zip(("desc", "driver", "device"), queue.areas, strict=True):
            await self.set(f"queue_{area}", address)
        await self.set("queue_enable", 1)
        check(await self.get("queue_enable") == 1, f"Queue {index} does not come up")
        queue.vector = vector
        self.queues[index] = queue
        return queue

    async def reset_queue(self, index, *, polls=10_000):
        """Reset one queue and wait until it is done; its memory is ours again [2.6.1.1]. Needs RING_RESET."""
        check(self.has(Feature.RING_RESET), "RING_RESET was not negotiated")
        await self.set("queue_select", index)
        await self.set("queue_reset", 1)
        for _ in range(polls):
            if await self.get("queue_reset") == 0:
                break
            await self.host.sleep(10)
        else:
            raise DriverTimeout(f"Queue {index} is still in reset after {polls} reads")
        check(await self.get("queue_enable") == 0, f"Queue {index} is enabled after its reset")
        self.queues.pop(index).release()

    def notify_address(self, notify_off):
        """Return the bus address of a doorbell [4.1.4.4]."""
        cap = self.caps[CfgType.NOTIFY]
        offset = notify_off * cap.multiplier
        width = 4 if self.has(Feature.NOTIFICATION_DATA) else 2
        check(offset + width <= cap.length, f"The doorbell at {offset} lies beyond the {cap.length} bytes of NOTIFY")
        return self._base[CfgType.NOTIFY] + offset

    # Device configuration [2.5]

    async def config(self, offset, size):
        """Read device configuration of any size, whole: again if the generation changed meanwhile.

        Each field is read with its own width; longer ones bytewise, which the generation makes safe.
        """
        for _ in range(100):
            before = await self.get("config_generation")
            value = await self.config_raw(offset, size)
            if await self.get("config_generation") == before:
                return value
        raise DriverTimeout("The configuration generation never stands still")

    async def config_raw(self, offset, size):
        """Read device configuration without looking at the generation."""
        base = self._base[CfgType.DEVICE] + offset
        if size in (1, 2, 4):
            return int.from_bytes(await self.host.memory_read(base, size), "little")
        data = [await self.host.memory_read(base + i, 1) for i in range(size)]
        return int.from_bytes(b"".join(data), "little")

    async def config_write(self, offset, size, value):
        """Write device configuration."""
        await self.host.memory_write(self._base[CfgType.DEVICE] + offset, value.to_bytes(size, "little"))

    async def isr(self):
        """Read the ISR status, which clears it and lowers INTx [4.1.4.5]."""
        return (await self.host.memory_read(self._base[CfgType.ISR], 1))[0]

    async def use_msix(self, vectors):
        """Program table entries ``vectors`` and switch MSI-X on; the device must be in reset or its vectors unset."""
        msix = self.function.msix
        check(msix is not None, "The function has no MSI-X")
        await msix.control(enable=True, function_mask=True)
        for vector in vectors:
            await msix.program(vector)
        await msix.control(enable=True)
