# SPDX-License-Identifier: BSD-2-Clause
"""The harness as a :class:`~unvirt_sim.host.Host`: the reference driver on the RTL.

Every ``await`` runs the simulation; there is no event loop, :func:`run_driver` steps the coroutine to its end.
"""

import itertools
from collections import defaultdict

from .harness import Event
from .host import HostError

__all__ = ["HarnessHost", "run_driver"]

_MESSAGES = 0xFEE0_0000
_MEMORY = (0x2A80_0000, 0xD500_0000)
_HIGH_MEMORY = (0x5A5A_5A12_2A80_0000, 0xA5A5_A5ED_D500_0000)
"""Each bit from the 23rd on is 1 in one of them and 0 in the other: a bit that is lost leads elsewhere."""
_BARS = 0x8_0000_0000


def run_driver(coroutine):
    """Run a coroutine of the reference driver to its end and return its result."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as stop:
        return stop.value


class HarnessHost:
    """A host on :class:`~unvirt_sim.harness.Simulation`.

    Allocations alternate between below and above 4 GiB, so that both header forms are used; each between two places.

    Parameters
    ----------
    simulation : Simulation
    low_memory : bool
        Allocate below 4 GiB only.
    """

    def __init__(self, simulation, *, low_memory=False):
        self.simulation = simulation
        simulation.add_message_window(_MESSAGES, 0x1_0000)
        # What lies below 4 GiB has one offset for both places: where it lies in a page does not depend on how many places there are.
        self._next = dict.fromkeys((_MEMORY, *_HIGH_MEMORY), 0)
        low = [(_MEMORY, place) for place in _MEMORY]
        high = [(place, place) for place in _HIGH_MEMORY]
        self._turn = itertools.cycle(low[:1] if low_memory else (high[0], low[0], high[1], low[1]))
        self._sizes = {}
        self._seen = defaultdict(int)
        self._taken = defaultdict(int)
        self._frames = []

    async def config_read(self, function, offset, size):
        return self.simulation.config_read(offset, size, function)

    async def config_write(self, function, offset, size, value):
        self.simulation.config_write(offset, size, value, function)

    async def memory_read(self, address, size):
        return self.simulation.memory_read(address, size)

    async def memory_write(self, address, value):
        self.simulation.memory_write(address, value)

    def bar_window(self):
        return _BARS

    def alloc(self, size, align=64, *, writable=True):
        pool, place = next(self._turn)
        offset = -(-self._next[pool] // align) * align
        # A hole after each allocation catches accesses beyond it.
        self._next[pool] = offset + size + 256
        start = place + offset
        self.simulation.map_memory(start, max(size, 1), writable=writable)
        self._sizes[start] = max(size, 1)
        return start

    def free(self, address):
        self.simulation.unmap_memory(address, self._sizes.pop(address))

    async def read(self, address, size):
        return self.simulation.read_memory(address, size)

    async def write(self, address, value):
        self.simulation.write_memory(address, value)

    def message_address(self, vector):
        return _MESSAGES + 4 * vector, 0x4000 + vector

    def _collect(self):
        for _, address, data in self.simulation.take_messages():
            vector = (address - _MESSAGES) // 4
            if data != 0x4000 + vector:
                raise HostError(f"Message of vector {vector} carries {data:#x}")
            self._seen[vector] += 1

    async def wait_interrupt(self, vector, cycles=100_000):
        end = self.simulation.cycle + cycles
        while True:
            self._collect()
            if vector == -1:
                if self.simulation.intx:
                    return True
            elif self._seen[vector] > self._taken[vector]:
                self._taken[vector] += 1
                return True
            left = end - self.simulation.cycle
            if left <= 0:
                return False
            self.simulation.run(left, Event.MESSAGE | Event.INTX)

    def interrupt_count(self, vector):
        self._collect()
        return self._seen[vector]

    async def sleep(self, cycles):
        self.simulation.run(cycles)

    async def send_frame(self, frame):
        self.simulation.send_frame(frame)

    async def receive_frame(self, cycles=100_000):
        if not self._frames:
            self.simulation.run(cycles, Event.FRAME)
            self._frames += self.simulation.take_frames()
        return self._frames.pop(0)[1] if self._frames else None
