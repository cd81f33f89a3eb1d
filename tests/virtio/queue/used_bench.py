# SPDX-License-Identifier: BSD-2-Clause
"""The used writer with rings in Python: what a driver sees of them after every write."""

import struct
from functools import partial

from amaranth import Module, Value
from amaranth.back import rtlil
from amaranth.sim import Simulator
from fake_chains import HostWrites
from fake_host import seeded

from unvirt.virtio.queue.used import UsedWriter
from unvirt.virtio.queue.used_inputs import BURST

ROWS = 4


class Rig:
    """A used writer with queue configurations, sources of elements and a driver that reads split rings.

    Elements are (row, head, written, more) and, for the packed ring, the slots they take.
    """

    PACKED = False

    def __init__(self, width, seed, *, stall=0.0, size=16, rows=ROWS):
        self.rng, self.stall, self.size, self.rows = seeded(seed), stall, size, rows
        self.dut = UsedWriter(data_width=width, rows=rows, inputs=2)
        self.host = HostWrites(self.rng, width // 8)
        self.device = [0x1_0000_1000 * (row + 1) + 4 * row for row in range(rows)]
        self.index = [0] * rows
        self.seen = [[] for _ in range(rows)]
        self.published = []
        self.accepted = [[], []]           # elements in the order of each input
        self.given, self.taken = [0] * rows, [0] * rows      # ring entries of elements that were given, and that came back

    async def config(self, ctx):
        while True:
            _, _, row = await ctx.tick().sample(self.dut.config.row)
            ctx.set(self.dut.config.config, {"device": self.device[row], "size": self.size,
                                             "enabled": 1, "desc": self.rng.getrandbits(64)})

    def offer(self, element):
        """What the driver did when it made this buffer available."""

    async def feed(self, ctx, number, elements):
        port = self.dut.elements[number]
        for element in elements:
            while self.rng.random() < self.stall:
                await ctx.tick()
            # A driver has no more buffers out than the ring has entries.
            slots = element[4] if self.PACKED else 1
            while self.given[element[0]] - self.taken[element[0]] + slots > self.size:
                await ctx.tick()
            self.given[element[0]] += slots
            self.offer(element)
            ctx.set(port.payload, dict(zip(("row", "head", "written", "more", "ring_slots"), (*element, 1))))
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
            self.accepted[number].append(element)
            ctx.set(port.valid, 0)

    async def driver(self, ctx):
        """Look at each index write as a driver would: every element it exposes is already there."""
        checked = 0
        while True:
            await ctx.tick()
            for address, content in self.host.commands[checked:]:
                row = next(r for r in range(self.rows)
                           if self.device[r] <= address < self.device[r] + 4 + 8 * self.size)
                offset = address - self.device[row]
                if offset == 2:
                    assert len(content) == 2
                    new, = struct.unpack("<H", content)
                    while self.index[row] != new:
                        place = self.device[row] + 4 + 8 * (self.index[row] % self.size)
                        assert all(place + i in self.host.bytes for i in range(8)), "the index shows an element that is not written"
                        raw = bytes(self.host.bytes.pop(place + i) for i in range(8))
                        self.seen[row].append(struct.unpack("<II", raw))
                        self.index[row] = (self.index[row] + 1) & 0xFFFF
                        self.taken[row] += 1
                else:
                    assert offset >= 4 and offset % 8 == 4 and len(content) % 8 == 0
                    assert len(content) <= 8 * BURST
                    assert offset + len(content) <= 4 + 8 * self.size, "past the end of the ring"
            checked = len(self.host.commands)

    async def take_published(self, ctx):
        port, last = self.dut.published, [0] * self.rows
        while True:
            ctx.set(port.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, payload = await ctx.tick().sample(port.valid, port.ready,
                                                                  port.payload)
            if valid and ready:
                # The index is with the write engine; old and new join up.
                address, content = self.host.commands[-1]
                assert address == self.device[payload.row] + 2
                assert content == struct.pack("<H", payload.place)
                old = (payload.place - payload.count) & 0xFFFF
                assert old == last[payload.row] != payload.place
                last[payload.row] = payload.place
                self.published.append((payload.row, old, payload.place))

    def run(self, *benches, cycles=40000, serve=True):
        m = Module()
        m.submodules.dut = self.dut
        m.d.comb += self.dut.packed.eq(self.PACKED)
        rtlil.convert(m, ports=[Value.cast(self.dut.idle)])
        simulator = Simulator(m)
        simulator.add_clock(1e-9)

        async def watchdog(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError("not through in time")

        for bench in benches:
            simulator.add_testbench(bench)
        writes = [partial(self.host.serve, port=self.dut.writes, stall=self.stall)] if serve else []
        for bench in (self.config, self.driver, self.take_published, watchdog, *writes):
            simulator.add_testbench(bench, background=True)
        simulator.run()

    def run_in_turn(self, elements):
        """Give ``elements`` as fast as they are taken, while the write engine stalls."""
        async def feed(ctx):
            self.stall = 0          # of writes only
            await self.feed(ctx, 0, elements)
            await self.until_idle(ctx)

        self.run(feed)
        self.check([elements])

    async def until_idle(self, ctx):
        await ctx.tick().repeat(3)
        while not ctx.get(self.dut.idle):
            await ctx.tick()
        await ctx.tick().repeat(3)
        assert not ctx.get(self.dut.urgent), "nothing waits"

    def check(self, inputs):
        """Each row saw its elements in order, and no index inside a group."""
        for row in range(self.rows):
            wanted = [(head, written) for elements in inputs
                      for to, head, written, *_ in elements if to == row]
            assert self.seen[row] == wanted
        for row, _, new in self.published:
            flat = [more for elements in inputs for to, _, _, more, *_ in elements if to == row]
            assert not flat[(new - 1) % (1 << 16)], "published inside a group"


def groups(rng, rows, count, longest):
    """Return elements of groups of 1 to ``longest``, rows changing at random."""
    result, row = [], rng.choice(rows)
    while len(result) < count:
        if rng.random() < 0.3:
            row = rng.choice(rows)
        size = rng.randint(1, longest)
        for number in range(size):
            result.append((row, rng.randrange(1 << 16), rng.randrange(1 << 20), number < size - 1))
    return result


def give_batch(rig, elements):
    """Give eight elements to the first input with IN_ORDER, some of them full; return {slot: (id, written)} of what must be written."""
    full = [1, 1, 1, 0, 0, 1, 1, 1]

    async def nobody(ctx):
        """The driver looks only at the end."""

    async def feed(ctx):
        ctx.set(rig.dut.in_order, 1)
        ctx.set(rig.dut.published.ready, 1)
        port = rig.dut.elements[0]
        for element, whole in zip(elements, full, strict=True):
            ctx.set(port.payload, {**dict(zip(("row", "head", "written", "more", "ring_slots"), (*element, 1))), "full": whole})
            ctx.set(port.valid, 1)
            await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)
        await ctx.tick().repeat(200)

    rig.driver = rig.take_published = nobody
    rig.run(feed)
    # 0 to 3 by the last of them; 4 may not lie next to that, 5 to 7 may be one again.
    return {slot: elements[last][1:3] for slot, last in ((0, 3), (4, 4), (5, 7))}


def cycles_between_publications(rig, elements):
    """Give elements to input 0 as fast as they are taken; return the mean cycles from one publication to the next, but for the first and last few."""
    times = []

    async def feed(ctx):
        await rig.feed(ctx, 0, elements)
        await rig.until_idle(ctx)

    async def clock(ctx):
        cycle = 0
        while len(times) < len(elements):
            _, _, told = await ctx.tick().sample(rig.dut.published.valid & rig.dut.published.ready)
            cycle += 1
            if told:
                times.append(cycle)

    rig.run(feed, clock)
    rig.check([elements])
    steady = times[20:-20]
    return (steady[-1] - steady[0]) / (len(steady) - 1)
