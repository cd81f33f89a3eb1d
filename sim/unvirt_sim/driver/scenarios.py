# SPDX-License-Identifier: BSD-2-Clause
"""What the reference driver does on every host: short, complete, and the same code everywhere.

A scenario is a coroutine over a :class:`~unvirt_sim.host.Host` just after power-on. It uses nothing but the driver and the far end of
the Ethernet port, and raises where the device does something wrong. :data:`SCENARIOS` lists them by name.
"""

import random

from .buffers import cut
from .checks import DriverTimeout, InterruptWatch, check
from .device import VirtioDevice
from .net import WANTED, NetDriver
from .pci import CAP_MSIX, CAP_PCIE, PciFunction
from .spec import NET_DEVICE_ID, VIRTIO_VENDOR, CfgType, Feature, NetConfig, Status, mask

__all__ = ["SCENARIOS", "NEEDS", "SPLIT_ONLY", "exchange"]

ETHERNET_CLASS = 0x020000
PREFETCH = 1500  # cycles after which buffers that were posted must be ready for frames


async def exchange(host, driver, *, out=(), incoming=(), post=None, **shape):
    """Send frames both ways, each direction checked byte for byte and in order.

    ``post`` is a list of receive buffers, each a list of element lengths or a dictionary of arguments of :meth:`NetDriver.post`;
    ``shape`` are arguments of :meth:`NetDriver.transmit`.
    """
    for buffer in post if post is not None else [[1600]] * len(incoming):
        await driver.post(**(buffer if isinstance(buffer, dict) else {"lengths": buffer}), publish=False)
    await driver.rx.publish()
    for frame in out:
        await driver.transmit(frame, **shape)
    if incoming:
        await host.sleep(PREFETCH)
    for frame in incoming:
        await host.send_frame(frame)
    if incoming:
        found = await driver.receive(len(incoming))
        check(found == list(incoming), f"{_difference(found, incoming)} received")
    if out:
        await driver.wait_transmitted(len(out))
        found = [await host.receive_frame() for _ in out]
        check(found == list(out), f"{_difference(found, out)} transmitted")


def _difference(found, wanted):
    for number, (a, b) in enumerate(zip(found, wanted, strict=False)):
        if a != b:
            return f"frame {number} of {len(b)} bytes came as {'nothing' if a is None else f'{len(a)} other bytes'} when"
    return f"{len(found)} of {len(wanted)} frames were"


async def _started(host, seed, wanted, **options):
    driver = await NetDriver.find(host, seed=seed)
    return await driver.start(wanted=wanted, **options)


def _frames(rng, *sizes):
    return [rng.randbytes(size) for size in sizes]


async def enumeration(host, seed, wanted=WANTED):
    """Configuration space, capabilities and BARs say what they must; the PCI_CFG window leads to the same registers."""
    function = await PciFunction(host).enumerate()
    check((function.vendor, function.device) == (VIRTIO_VENDOR, NET_DEVICE_ID), f"The device is {function.vendor:04x}:{function.device:04x}")
    check(function.class_code == ETHERNET_CLASS, f"The class is {function.class_code:06x}")
    check(function.revision >= 1, f"The revision of a modern device is {function.revision}")
    for kind in (CfgType.COMMON, CfgType.NOTIFY, CfgType.ISR, CfgType.DEVICE):
        check(function.find(kind) is not None, f"There is no {kind.name} capability")
    check(any(cap.cfg_type == CfgType.PCI_CFG for cap in function.virtio), "There is no PCI_CFG capability")
    for identity in (CAP_MSIX, CAP_PCIE):
        check(function.has_capability(identity) is not None, f"There is no capability {identity:#x}")
    device = VirtioDevice(function)
    await device.reset()
    await device.add_status(Status.ACKNOWLEDGE | Status.DRIVER)
    common = device.caps[CfgType.COMMON]
    window = await function.window_read(common.bar, common.offset + 0x14, 1)
    check(window == Status.ACKNOWLEDGE | Status.DRIVER, f"The status is {window:#x} through the PCI_CFG window")
    await function.window_write(common.bar, common.offset + 0x14, 1, 0)
    check(await device.status() == 0, "A reset through the PCI_CFG window has no effect")
    check(await device.get("num_queues") >= 2, "There are fewer than two queues")


async def negotiation(host, seed, wanted=WANTED):
    """Features, the status handshake and the device configuration."""
    device = await VirtioDevice.find(host)
    await device.start_negotiation()
    offered = await device.offered()
    check(offered >> Feature.VERSION_1 & 1, "VERSION_1 is not offered")
    await device.accept(offered & mask(Feature.VERSION_1, Feature.MAC))
    check(await device.accepted() == offered & mask(Feature.VERSION_1, Feature.MAC), "The driver's features do not read back")
    driver = await _started(host, seed, wanted, interrupts="poll")
    device = driver.device
    check(device.has(Feature.MAC) and not (await driver.mac())[0] & 1, "The MAC address is missing or a group address")
    check(await driver.link_up(), "The link is down")
    if device.has(Feature.MTU):
        check(await device.config(NetConfig.MTU, 2) >= 1280, "The MTU is below 1280")
    check(await device.status() & Status.DRIVER_OK, "The device is not running")
    await driver.stop()
    check(await device.status() == 0, "The status is not 0 after reset")


async def header_split(host, seed, wanted=WANTED):
    """The packet header and the frame are cut at every byte around their border, both ways."""
    rng = random.Random(f"header split {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll")
    positions = range(1, driver.header_size + 2)
    for position in positions:
        (frame,) = _frames(rng, 60 + position)
        await exchange(host, driver, out=[frame], lengths=cut(driver.header_size + len(frame), position))
    frames = _frames(rng, *(60 + position for position in positions))
    await exchange(host, driver, incoming=frames, post=[[position, 200 - position] for position in positions])
    await driver.stop()


async def chains(host, seed, wanted=WANTED):
    """Chains of up to 20 descriptors in any slots, and indirect tables in any order."""
    rng = random.Random(f"chains {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll", order="random")
    for pieces, table in ((2, None), (14, None), (20, None), (3, 0), (14, 0), (20, 0)):
        (frame,) = _frames(rng, rng.choice((60, 301)))
        total = driver.header_size + len(frame)
        lengths = cut(total, *rng.sample(range(1, total), pieces - 1))
        await exchange(host, driver, out=[frame], lengths=lengths, indirect_from=table, shuffle=bool(pieces % 2))
    post = [{"lengths": [40] * 14}, {"lengths": [20] * 18, "indirect_from": 0, "shuffle": True}]
    await exchange(host, driver, incoming=_frames(rng, 400, 300), post=post)
    await driver.stop()


async def late_indirect(host, seed, wanted=WANTED):
    """Direct descriptors that end in an indirect table [2.7.5.3.1]."""
    rng = random.Random(f"late indirect {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll")
    for pieces, table in ((2, 1), (14, 7), (16, 15)):
        (frame,) = _frames(rng, 200)
        total = driver.header_size + len(frame)
        lengths = cut(total, *rng.sample(range(1, total), pieces - 1))
        await exchange(host, driver, out=[frame], lengths=lengths, indirect_from=table)
    await exchange(host, driver, incoming=_frames(rng, 250), post=[{"lengths": [100] * 4, "indirect_from": 2}])
    await driver.stop()


async def zero_length(host, seed, wanted=WANTED):
    """Elements of no bytes lie first, last and between the others."""
    rng = random.Random(f"zero length {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll")
    for lengths in ([0, 112], [112, 0], [12, 0, 100], [0, 5, 0, 0, 107, 0]):
        await exchange(host, driver, out=_frames(rng, 100), lengths=lengths)
        await exchange(host, driver, out=_frames(rng, 100), lengths=lengths, indirect_from=0)
    await exchange(host, driver, incoming=_frames(rng, 100, 120), post=[[0, 12, 0, 200], [200, 0]])
    await driver.stop()


async def pages(host, seed, wanted=WANTED):
    """Buffers cross pages at every kind of alignment, both ways."""
    rng = random.Random(f"pages {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll")
    before = (1, 2, 3, 4, 5, 12, 13, 63, 64, 65, 127)
    for distance in before:
        (frame,) = _frames(rng, 150)
        await exchange(host, driver, out=[frame], page_offset=4096 - distance)
    post = [{"lengths": [300], "page_offset": 4096 - distance} for distance in before]
    await exchange(host, driver, incoming=_frames(rng, *(150 for _ in before)), post=post)
    await exchange(host, driver, out=_frames(rng, 1514), incoming=_frames(rng, 1514),
                   post=[{"lengths": [1526], "page_offset": 4095}], page_offset=4093)
    await driver.stop()


async def mergeable(host, seed, wanted=WANTED):
    """A frame lies in as many buffers as it needs, and num_buffers says so."""
    rng = random.Random(f"mergeable {seed}")
    driver = await _started(host, seed, wanted, queue_size=64, interrupts="poll")
    check(driver.device.has(Feature.MRG_RXBUF), "MRG_RXBUF is not offered")
    frames = _frames(rng, 60, 88, 89, 300, 1514)
    await exchange(host, driver, incoming=frames[:1], post=[[100]] * 2 + [[60, 40]] * 30)
    for frame in frames[1:]:       # one at a time: a device may drop what comes faster than it learns of buffers
        await exchange(host, driver, incoming=[frame], post=[])
    counts = [header[-1] for header in driver.headers]
    check(counts == [-(-(len(frame) + driver.header_size) // 100) for frame in frames], f"num_buffers are {counts}")
    await driver.stop()


async def unmerged(host, seed, wanted=WANTED):
    """Without MRG_RXBUF every frame lies in one buffer and num_buffers is 1."""
    rng = random.Random(f"unmerged {seed}")
    driver = await _started(host, seed, wanted & mask(Feature.MAC, Feature.ACCESS_PLATFORM, Feature.RING_PACKED), queue_size=64, interrupts="poll")
    check(not driver.device.has(Feature.MRG_RXBUF), "MRG_RXBUF was negotiated")
    await exchange(host, driver, incoming=_frames(rng, 60, 1514), post=[[12, 1514]] * 2)
    await driver.stop()


def _by_interrupt(mode):
    async def scenario(host, seed, wanted=WANTED):
        rng = random.Random(f"{mode} {seed}")
        driver = await _started(host, seed, wanted, queue_size=16, interrupts=mode)
        for _ in range(3):
            await exchange(host, driver, out=_frames(rng, 60), incoming=_frames(rng, 64))
            await exchange(host, driver, out=_frames(rng, 60, 61, 62), incoming=_frames(rng, 70, 80, 90))
        await driver.stop()
        if mode in ("msix", "shared"):
            watch = InterruptWatch(host, set(driver.vectors))
            await host.sleep(1000)
            watch.quiet("after the reset")
    scenario.__doc__ = f"Frames both ways, waiting by {mode}."
    return scenario


async def wrap(host, seed, wanted=WANTED):
    """A small ring is filled and wrapped several times."""
    rng = random.Random(f"wrap {seed}")
    driver = await _started(host, seed, wanted, queue_size=4, interrupts="poll")
    for _ in range(5):
        await exchange(host, driver, out=_frames(rng, 60, 61, 62, 63), incoming=_frames(rng, 64, 65, 66))
    await driver.stop()


async def reset_again(host, seed, wanted=WANTED):
    """Resets with buffers out, then everything again: virtio reset, function-level reset."""
    rng = random.Random(f"reset {seed}")
    driver = await _started(host, seed, wanted, queue_size=16)
    await exchange(host, driver, out=_frames(rng, 60), incoming=_frames(rng, 60))
    await driver.fill([1600])
    await driver.transmit(*_frames(rng, 1000))
    await driver.stop()            # what was given is freed now: any access from here on is one too many
    while await host.receive_frame(3000) is not None:
        pass                       # the frame may or may not have left
    await driver.start(wanted=wanted, queue_size=8, interrupts="poll")
    await exchange(host, driver, out=_frames(rng, 61), incoming=_frames(rng, 62))
    await driver.fill([1600])
    await driver.transmit(*_frames(rng, 1000))
    check(await driver.device.function.flr(), "The function has no function-level reset")
    check(await driver.device.status() == 0, "The status is not 0 after a function-level reset")
    await driver.stop()
    while await host.receive_frame(3000) is not None:
        pass
    await driver.start(wanted=wanted, queue_size=16)
    await exchange(host, driver, out=_frames(rng, 63), incoming=_frames(rng, 64))
    await driver.stop()


async def silence(host, seed, wanted=WANTED):
    """A driver that asks for no interrupt and no notification gets what it asked for; nothing is lost."""
    rng = random.Random(f"silence {seed}")
    driver = await _started(host, seed, wanted, queue_size=64)
    await exchange(host, driver, out=_frames(rng, 60))
    await driver.tx.disable_interrupts()
    await host.sleep(500)          # an interrupt that was decided on may still come
    watch = InterruptWatch(host, [driver.vectors[2]])
    frame, = _frames(rng, 80)
    await driver.transmit(frame)
    check(await host.receive_frame() == frame, "The frame did not leave as given")
    for _ in range(100):
        if await driver.tx.pending():
            break
        await host.sleep(100)
    else:
        raise DriverTimeout("The buffer of a frame that left did not come back")
    await host.sleep(500)
    watch.quiet("although the driver had switched them off")
    await driver.wait_transmitted(1)
    await exchange(host, driver, out=_frames(rng, 60), incoming=_frames(rng, 60))
    await driver.stop()


async def masks(host, seed, wanted=WANTED):
    """MSI-X masks hold messages back, pending bits tell, unmasking sends; a mask read back stays without messages [PCIe 6.1.4]."""
    rng = random.Random(f"masks {seed}")
    driver = await _started(host, seed, wanted, queue_size=16)
    msix, vector = driver.device.function.msix, driver.vectors[2]
    await exchange(host, driver, out=_frames(rng, 60))

    async def held(mask_it, unmask):
        await driver.tx.enable_interrupts()
        await mask_it()
        watch, before = InterruptWatch(host, [vector]), host.interrupt_count(vector)
        check(not await msix.pending(vector), "A vector is pending before there was a reason")
        frame, = _frames(rng, 70)
        await driver.transmit(frame)
        check(await host.receive_frame() == frame, "The frame did not leave as given")
        for _ in range(100):
            if await msix.pending(vector):
                break
            await host.sleep(100)
        else:
            raise DriverTimeout("A masked vector does not become pending")
        watch.quiet("while it was masked")
        await unmask()
        check(await host.wait_interrupt(vector), "Unmasking does not send the pending message")
        check(not await msix.pending(vector), "The vector is still pending after its message")
        await host.sleep(300)
        check(host.interrupt_count(vector) == before + 1, f"{host.interrupt_count(vector) - before} messages for one pending bit")
        await driver.reap()

    await held(lambda: msix.mask(vector, True), lambda: msix.mask(vector, False))
    await held(lambda: msix.control(enable=True, function_mask=True), lambda: msix.control(enable=True))
    for delay in range(1, 700, 45):
        await driver.tx.enable_interrupts()
        frame, = _frames(rng, 60)
        await driver.transmit(frame)
        await host.sleep(delay)
        await msix.mask(vector, True)
        await msix.entry(vector)               # from its completion on nothing may be under way
        await host.sleep(1)
        watch = InterruptWatch(host, [vector])
        check(await host.receive_frame() == frame, "The frame did not leave as given")
        await host.sleep(500)
        watch.quiet(f"after the mask was read back, {delay} cycles behind the doorbell")
        await driver.reap()
        await msix.mask(vector, False)
        await host.sleep(100)
    await driver.stop()


SCENARIOS = {scenario.__name__: scenario for scenario in (
    enumeration, negotiation, header_split, chains, late_indirect, zero_length, pages, mergeable, unmerged, wrap, silence, masks, reset_again)} | {
    mode: _by_interrupt(mode) for mode in ("msix", "shared", "intx", "poll")}
"""Scenarios by name: coroutines of a host, a seed and the features to negotiate, if the device offers them."""

SPLIT_ONLY = ("late_indirect",)
"""Scenarios that a packed virtqueue has nothing like."""

NEEDS = {"late_indirect": "direct descriptors that end in an indirect table [2.7.5.3.1]", "zero_length": "elements of no bytes"}
"""Scenarios that need what the specification gives a driver and QEMU's device (seen: 11.1) does not."""
