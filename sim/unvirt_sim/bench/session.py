# SPDX-License-Identifier: BSD-2-Clause
"""A device brought up by the reference driver and then loaded in a closed loop."""

from dataclasses import dataclass, field

from ..driver.device import VirtioDevice
from ..driver.spec import Feature, mask
from ..harness import Simulation
from ..harness_host import HarnessHost, run_driver
from .link import LINKS
from .rings import BulkRing, RingMismatch

__all__ = ["Load", "Run", "Session", "BenchFailed", "FramesLost", "at_highest_rate", "HEADER",
           "PUBLISHED"]

HEADER = 12
"""Bytes of a virtio header with VERSION_1."""

_WANTED = mask(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.MRG_RXBUF, Feature.MAC,
               Feature.STATUS)

_DEVICE_CONTROL = 0x2000 | 1 << 8 | 1 << 5 | 1 << 4
"""MRRS 512, extended tags, MPS 256, relaxed ordering allowed."""

_STEP = 64
"""Cycles between two looks of the driver at its rings."""

PUBLISHED = 128
"""Buffers that the driver gathers before it publishes them, in rings large enough."""


class BenchFailed(Exception):
    """The device did not do what was measured."""


class FramesLost(BenchFailed):
    """The device dropped received frames: more came than it had buffers for."""


def at_highest_rate(run, beats):
    """Return what ``run(period)`` gives at the highest rate of received frames at which none is lost, to 2 %, and that period.

    Parameters
    ----------
    run : callable
        Takes the cycles between frames at least (0: no pause) and raises :class:`FramesLost` if that is too few.
    beats : float
        Cycles that a frame takes to come in.
    """
    try:
        return run(0.0), 0.0
    except FramesLost:
        pass
    best, lost, period = None, beats, beats + 2.0
    while best is None or period < 0.98 * best[1]:
        try:
            best = run(period), period
        except FramesLost:
            lost = period
        if best is None and lost > 50 * beats + 400:
            raise BenchFailed(f"Frames are lost even at one in {lost:.0f} cycles")
        period = (lost + best[1]) / 2 if best else 1.5 * lost
        if best and best[1] - lost < 0.02 * best[1]:
            break
    return best


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent: ``transmit`` and ``receive`` frames of ``frame`` bytes, the rings kept full."""

    frame: int = 64
    transmit: int = 0
    receive: int = 0
    ring: int = 1024
    interrupts: bool = False
    reach: int = 64               # received frames on their way at most
    period: float = 0.0           # cycles between received frames at least

    @property
    def buffer(self):
        """Return the bytes of a buffer, virtio header included."""
        return HEADER + self.frame


@dataclass
class Run:
    """What was seen of a load: every TLP and frame from the first doorbell to the last used index."""

    load: Load
    width: int
    link: object
    latency: int
    records: list = field(repr=False)
    rings: dict = field(repr=False)     # "tx", "rx" -> BulkRing
    begin: int = 0
    end: int = 0
    counters: dict = field(default_factory=dict)


def _frame(number, size):
    """Return a frame that tells its number."""
    head = b"\x02unvir\x02bench\x88\xb5" + number.to_bytes(4, "little")
    return (head + bytes((number + i) & 0xFF for i in range(size - len(head))))[:size]


class Session:
    """A simulated device with its driver, ready for loads one after the other.

    Parameters
    ----------
    library : Path
        From ``build_library``.
    width : int
        Its data width.
    link : PcieLink, optional
        Other than the usual one of this width.
    latency : int
        Cycles from a read's arrival at the host to its completion.
    seed : int
    """

    def __init__(self, library, *, width, link=None, latency=0, cut="large", seed=1):
        self.width, self.latency = width, latency
        self.link = link or LINKS[width]
        self.simulation = Simulation(library, link=self.link.config(latency=latency, cut=cut), seed=seed)
        self.simulation.run(3000)
        self.host = HarnessHost(self.simulation, low_memory=True)
        self.device = run_driver(VirtioDevice.find(self.host))
        express = run_driver(self._express())
        self.simulation.config_write(express + 8, 2, _DEVICE_CONTROL)

    async def _express(self):
        offset = await self.host.config_read(0, 0x34, 1)
        while await self.host.config_read(0, offset, 1) != 0x10:
            offset = await self.host.config_read(0, offset + 1, 1)
        return offset

    def start(self, load, *, queues=None):
        """Bring the device up and return its rings by name; receive buffers are in place.

        ``queues`` names the virtqueues to use; even ones receive.
        """
        queues = queues or ({"rx": 0} if load.receive else {}) | {"tx": 1}
        numbers = run_driver(self._bring_up(load, queues))
        rings = {}
        for name, queue in numbers.items():
            rings[name] = ring = BulkRing(self.simulation, self.host, queue, length=load.buffer,
                                          writable=queue.index % 2 == 0, interrupts=load.interrupts)
            if ring.writable:
                ring.publish(ring.size)
            else:
                for slot in range(ring.size):
                    ring.store(slot, bytes(HEADER) + _frame(slot, load.frame))
        self.simulation.run(3000 + 4 * self.latency)
        return rings

    async def _bring_up(self, load, queues):
        device = self.device
        await device.negotiate(_WANTED)
        await device.use_msix([0, 1])
        await device.set("config_msix_vector", 0)
        out = {name: await device.setup_queue(number, size=load.ring, vector=1) for name, number in queues.items()}
        await device.driver_ok()
        return out

    def run(self, load, *, progress=lambda part: None):
        """Run a load until each direction has made its number of frames, all kept busy until the last has; return what was seen.

        Raises
        ------
        BenchFailed
            If a frame is missing, wrong or dropped, or a checker complained.
        """
        sim = self.simulation
        rings = self.start(load)
        goals = {name: goal for name, goal in (("tx", load.transmit), ("rx", load.receive)) if goal}
        sim.record()
        begin = sim.cycle
        if load.receive:
            sim.pace_frames(rings["rx"].used + 2, load.reach, load.period)
        if load.transmit:
            rings["tx"].publish(load.ring)
        refill = max(1, min(PUBLISHED, load.ring // 4))
        offered = received = quiet = 0
        while any(rings[name].done < goal for name, goal in goals.items()):
            while load.receive and offered - received < 2 * load.reach + _STEP:
                sim.send_frame(_frame(offered, load.frame))
                offered += 1
            sim.run(_STEP)
            if sim.counters["rx_dropped"]:
                raise FramesLost("A received frame was dropped")
            before = sum(ring.done for ring in rings.values())
            for name in goals:
                ring = rings[name]
                used = self._reap(ring)
                if name == "rx":
                    for slot, written in used:
                        if (written != load.buffer
                                or ring.load(slot, written)[HEADER:] != _frame(received, load.frame)):
                            raise BenchFailed(f"Received frame {received} is not what was sent")
                        received += 1
                if ring.size - ring.backlog >= refill:
                    ring.publish(ring.size - ring.backlog)
            progress(min(rings[name].done / goal for name, goal in goals.items()))
            quiet = 0 if sum(ring.done for ring in rings.values()) != before else quiet + _STEP
            if quiet > 20_000 + 8 * self.latency:
                raise BenchFailed(f"Nothing moved for {quiet} cycles; "
                                  f"{', '.join(f'{name} is at {rings[name].done}' for name in goals)}")
        run = Run(load, self.width, self.link, self.latency, sim.records(), rings, begin, sim.cycle, sim.counters)
        self._check(run)
        return run

    @staticmethod
    def _reap(ring):
        try:
            return ring.reap()
        except RingMismatch as error:
            raise BenchFailed(str(error)) from error

    def _check(self, run):
        load = run.load
        for number, (_, data, aborted) in enumerate(self.simulation.take_frames()):
            if aborted or data != _frame(number % load.ring, load.frame):
                raise BenchFailed(f"Transmitted frame {number} is not what was given")
        if run.counters["rx_dropped"] or run.counters["tx_dropped"]:
            raise BenchFailed(f"{run.counters['rx_dropped']} received and {run.counters['tx_dropped']} transmitted "
                              f"frames were dropped")
        if self.simulation.violations:
            raise BenchFailed(f"A checker complained: {self.simulation.violations[0]}")
