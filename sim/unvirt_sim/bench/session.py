# SPDX-License-Identifier: BSD-2-Clause
"""A device brought up by the reference driver and then loaded in a closed loop."""

import random

from ..driver.control import ControlDriver
from ..driver.device import VirtioDevice
from ..driver.spec import CtrlAck, NetConfig
from ..harness import Simulation
from ..harness_host import HarnessHost, run_driver
from .link import LINKS
from .load import HEADER, Run, flow_frame, plain_frame
from .rings import RingMismatch, bulk_ring

__all__ = ["BenchFailed", "FramesLost", "Session", "at_highest_rate"]

_DEVICE_CONTROL = 0x2000 | 1 << 8 | 1 << 5 | 1 << 4
"""MRRS 512, extended tags, MPS 256, relaxed ordering allowed."""

_STEP = 64
"""Cycles between two looks of the driver at its rings."""


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
    cut : str
        Where the host cuts completions: "large" (at the largest payload) or "rcb" (at every 64 bytes).
    seed : int
    """

    def __init__(self, library, *, width, link=None, latency=0, cut="large", seed=1):
        link = link or LINKS[width]
        simulation = Simulation(library, link=link.config(latency=latency, cut=cut), seed=seed)
        simulation.run(3000)
        self._attach(simulation, HarnessHost(simulation, low_memory=True), width=width, link=link, latency=latency, cut=cut, seed=seed)

    def _attach(self, simulation, host, *, width, link, latency, cut, seed):
        """Bring up what is on ``simulation``, a :class:`Simulation` or what behaves like one."""
        self.width, self.link, self.latency, self.cut, self._seed = width, link, latency, cut, seed
        self.simulation, self.host = simulation, host
        self.device = self._drive(VirtioDevice.find(host))
        express = self._drive(self._express())
        self._drive(host.config_write(0, express + 8, 2, _DEVICE_CONTROL))

    def _drive(self, coroutine):
        """Run a coroutine of the reference driver to its end."""
        return run_driver(coroutine)

    async def _express(self):
        offset = await self.host.config_read(0, 0x34, 1)
        while await self.host.config_read(0, offset, 1) != 0x10:
            offset = await self.host.config_read(0, offset + 1, 1)
        return offset

    def start(self, load, *, queues=None, length=None):
        """Bring the device up and return its rings by direction; receive buffers are in place.

        ``queues`` names the virtqueues to use by name of their rings instead; even ones receive. ``length`` gives the bytes of the transmit
        buffers of a queue, instead of the load's.
        """
        numbers = self._drive(self._bring_up(load, queues or load.queue_numbers()))
        rings = {}
        for name, several in numbers.items():
            rings[name] = []
            for queue in several:
                writable = queue.index % 2 == 0
                alignment = random.Random(f"{self._seed} {queue.index}") if load.unaligned else None
                ring = bulk_ring(self.simulation, self.host, queue, writable=writable, interrupts=load.interrupts, alignment=alignment,
                                 length=load.buffer if writable or length is None else length(queue))
                if writable:
                    ring.publish(ring.size)
                else:
                    for slot in range(ring.size):
                        ring.store(slot, bytes(HEADER) + self.transmitted(load, ring, slot, ring.length - HEADER))
                rings[name].append(ring)
        self.simulation.run(3000 + 4 * self.latency)
        if load.queues > 1:
            self._settle()
        return rings

    def _settle(self):
        """Let the device take in the buffers of many queues: until it reads nothing any more.

        Raises
        ------
        BenchFailed
            If it still does after a million cycles.
        """
        sim, asked = self.simulation, None
        end = sim.cycle + 1_000_000
        while asked != sim.counters["read_requests"]:
            if sim.cycle > end:
                raise BenchFailed("The device does not come to rest with the buffers that it was given")
            asked = sim.counters["read_requests"]
            sim.run(1000 + 4 * self.latency)

    async def _bring_up(self, load, queues):
        device = self.device
        await device.negotiate(load.features)
        await device.use_msix([0, 1])
        await device.set("config_msix_vector", 0)
        out = {name: [await device.setup_queue(number, size=load.ring, vector=1) for number in numbers]
               for name, numbers in queues.items()}
        control = None
        if load.queues > 1:
            control = await device.setup_queue(2 * await device.config(NetConfig.MAX_VIRTQUEUE_PAIRS, 2), size=16)
        await device.driver_ok()
        if control:
            answer = await ControlDriver(self.host, control, random.Random(self._seed)).set_pairs(load.queues)
            if answer != CtrlAck.OK:
                raise BenchFailed(f"The device does not take {load.queues} queue pairs")
        return out

    @staticmethod
    def transmitted(load, ring, number, size):
        """Return the frame in buffer ``number`` of a transmit ring."""
        if load.queues == 1:
            return plain_frame(number, size)
        return flow_frame(ring.index // 2, load.queues, number, size)

    @staticmethod
    def received(load, number):
        """Return the frame that is given to the device as number ``number`` of all: queue pairs take turns."""
        if load.queues == 1:
            return plain_frame(number, load.frame)
        return flow_frame(number % load.queues, load.queues, number, load.frame)

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
        done = dict.fromkeys(goals, 0)
        sim.record()
        begin = sim.cycle
        if load.receive:
            sim.pace_frames([ring.watched for ring in rings["rx"]], load.reach, load.period)
        if load.transmit:
            for ring in rings["tx"]:
                ring.publish(load.burst or load.ring)
        offered = quiet = 0
        while any(done[name] < goal for name, goal in goals.items()):
            while load.receive and offered - done["rx"] < 2 * load.reach + _STEP:
                sim.send_frame(self.received(load, offered))
                offered += 1
            sim.run(_STEP)
            if sim.counters["rx_dropped"]:
                raise FramesLost("A received frame was dropped")
            before = sum(done.values())
            for name in goals:
                done[name] += sum(self._turn(load, ring, load.burst if name == "tx" else 0) for ring in rings[name])
            progress(min(done[name] / goal for name, goal in goals.items()))
            quiet = 0 if sum(done.values()) != before else quiet + _STEP
            if quiet > 20_000 + 8 * self.latency:
                raise BenchFailed(f"Nothing moved for {quiet} cycles; "
                                  f"{', '.join(f'{name} is at {done[name]}' for name in goals)}")
        run = Run(load, self.width, self.link, self.latency, sim.records(), rings, begin, sim.cycle, sim.counters, self.cut)
        self._check(run)
        return run

    def _turn(self, load, ring, burst):
        """Take back what is used of a ring, give it to the device again, and return how much it was."""
        first = ring.done
        used = self.reap(ring)
        if ring.writable:
            for number, (slot, written) in enumerate(used, first):
                wanted = self.received(load, number * load.queues + ring.index // 2)
                if written != load.buffer or ring.load(slot, written)[HEADER:] != wanted:
                    raise BenchFailed(f"Received frame {number} of queue {ring.index} is not what was sent")
        if burst:
            if not ring.backlog:
                ring.publish(burst)
        elif ring.size - ring.backlog >= load.refill:
            ring.publish(ring.size - ring.backlog)
        return len(used)

    @staticmethod
    def reap(ring):
        """Take back what is used of a ring."""
        try:
            return ring.reap()
        except RingMismatch as error:
            raise BenchFailed(str(error)) from error

    def _check(self, run):
        load, next_of = run.load, {}
        rings = {ring.index // 2: ring for ring in run.rings["tx"]}
        for _, data, aborted in self.simulation.take_frames():
            pair = 0 if load.queues == 1 else int.from_bytes(data[38:40], "little")
            number = next_of[pair] = next_of.get(pair, -1) + 1
            if aborted or pair not in rings or data != self.transmitted(load, rings[pair], number % load.ring, load.frame):
                raise BenchFailed(f"Transmitted frame {number} of queue pair {pair} is not what was given")
        if run.counters["rx_dropped"] or run.counters["tx_dropped"]:
            raise BenchFailed(f"{run.counters['rx_dropped']} received and {run.counters['tx_dropped']} transmitted "
                              f"frames were dropped")
        if self.simulation.violations:
            raise BenchFailed(f"A checker complained: {self.simulation.violations[0]}")
