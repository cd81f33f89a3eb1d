# SPDX-License-Identifier: BSD-2-Clause
"""The used writer against rings in Python."""

import struct
from functools import partial

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator
from fake_chains import HostWrites
from fake_host import seeded

from unvirt.virtio.queue.used import BURST, UsedWriter

ROWS = 4


class Rig:
    """A used writer with queue configurations, sources of elements and a driver that reads the rings."""

    def __init__(self, width, seed, *, stall=0.0, size=16):
        self.rng, self.stall, self.size = seeded(seed), stall, size
        self.dut = UsedWriter(data_width=width, rows=ROWS, inputs=2)
        self.host = HostWrites(self.rng, width // 8)
        self.device = [0x1_0000_1000 * (row + 1) + 4 * row for row in range(ROWS)]
        self.index = [0] * ROWS
        self.seen = [[] for _ in range(ROWS)]
        self.published = []
        self.accepted = [[], []]           # elements in the order of each input
        self.given = [0] * ROWS

    async def config(self, ctx):
        while True:
            _, _, row = await ctx.tick().sample(self.dut.config.row)
            ctx.set(self.dut.config.config, {"device": self.device[row], "size": self.size,
                                             "enabled": 1, "desc": self.rng.getrandbits(64)})

    async def feed(self, ctx, number, elements):
        port = self.dut.elements[number]
        for element in elements:
            while self.rng.random() < self.stall:
                await ctx.tick()
            # A driver has no more buffers out than the ring has entries.
            while self.given[element[0]] - len(self.seen[element[0]]) >= self.size:
                await ctx.tick()
            self.given[element[0]] += 1
            ctx.set(port.payload, dict(zip(("row", "head", "written", "more"), element)))
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
                row = next(r for r in range(ROWS)
                           if self.device[r] <= address < self.device[r] + 4 + 8 * self.size)
                offset = address - self.device[row]
                if offset == 2:
                    assert len(content) == 2
                    new, = struct.unpack("<H", content)
                    while self.index[row] != new:
                        place = self.device[row] + 4 + 8 * (self.index[row] % self.size)
                        raw = bytes(self.host.bytes.pop(place + i) for i in range(8))
                        self.seen[row].append(struct.unpack("<II", raw))
                        self.index[row] = (self.index[row] + 1) & 0xFFFF
                else:
                    assert offset >= 4 and offset % 8 == 4 and len(content) % 8 == 0
                    assert len(content) <= 8 * BURST
                    assert offset + len(content) <= 4 + 8 * self.size, "past the end of the ring"
            checked = len(self.host.commands)

    async def take_published(self, ctx):
        port, last = self.dut.published, [0] * ROWS
        while True:
            ctx.set(port.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, payload = await ctx.tick().sample(port.valid, port.ready,
                                                                  port.payload)
            if valid and ready:
                # The index is with the write engine; old and new join up.
                address, content = self.host.commands[-1]
                assert address == self.device[payload.row] + 2
                assert content == struct.pack("<H", payload.new)
                assert payload.old == last[payload.row] != payload.new
                last[payload.row] = payload.new
                self.published.append((payload.row, payload.old, payload.new))

    def run(self, *benches, cycles=40000):
        rtlil.convert(self.dut)
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-9)

        async def watchdog(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError("not through in time")

        for bench in benches:
            simulator.add_testbench(bench)
        for bench in (self.config, self.driver, self.take_published, watchdog,
                      partial(self.host.serve, port=self.dut.writes, stall=self.stall)):
            simulator.add_testbench(bench, background=True)
        simulator.run()

    async def until_idle(self, ctx):
        await ctx.tick().repeat(3)
        while not ctx.get(self.dut.idle):
            await ctx.tick()
        await ctx.tick().repeat(3)

    def check(self, inputs):
        """Each row saw its elements in order, and no index inside a group."""
        for row in range(ROWS):
            wanted = [(head, written) for elements in inputs
                      for to, head, written, _ in elements if to == row]
            assert self.seen[row] == wanted
        for row, _, new in self.published:
            flat = [more for elements in inputs for to, _, _, more in elements if to == row]
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


@pytest.mark.parametrize("width,stall,size,longest", [
    (32, 0, 16, 3), (32, 0.4, 4, 9), (64, 0, 256, 1), (64, 0.4, 16, 50), (128, 0, 64, 5), (128, 0.2, 2, 3),
    (256, 0, 256, 70), (256, 0.5, 256, 2), (512, 0, 128, 40), (512, 0.3, 8, 4),
])
def test_random(width, stall, size, longest):
    """Both inputs at once: nothing lost, nothing doubled, groups whole, elements before their index."""
    rig = Rig(width, f"used {width} {stall} {size} {longest}", stall=stall, size=size)
    # The driver frees an entry as soon as it sees it; groups must fit the ring.
    longest = min(longest, size)
    inputs = [groups(rig.rng, [1, 3], 150, 1), groups(rig.rng, [0, 2], 150, longest)]
    left = 2

    async def feed(ctx, number):
        nonlocal left
        await rig.feed(ctx, number, inputs[number])
        left -= 1

    async def wait(ctx):
        while left:
            await ctx.tick()
        await rig.until_idle(ctx)

    rig.run(partial(feed, number=0), partial(feed, number=1), wait)
    rig.check(inputs)


@pytest.mark.parametrize("width,limit", [(32, 4.5), (64, 2.6), (128, 2), (256, 1.7), (512, 1.5)])
def test_long_burst(width, limit):
    """With elements always waiting, bursts are of 32 and cost no more than two cycles an element from 128 bits on."""
    rig = Rig(width, f"burst {width}", size=256)
    elements = [(1, number, 60, 0) for number in range(192)]
    times = []

    async def feed(ctx):
        await rig.feed(ctx, 0, elements)

    async def clock(ctx):
        cycle = 0
        while len(rig.seen[1]) < 192:
            await ctx.tick()
            cycle += 1
            if rig.published and (not times or times[-1][1] != rig.published[-1]):
                times.append((cycle, rig.published[-1]))

    rig.run(feed, clock)
    rig.check([elements])
    steady = [entry for entry in times if entry[1][2] - entry[1][1] == BURST]
    assert len(steady) >= 3
    assert steady[-1][0] - steady[0][0] <= BURST * limit * (len(steady) - 1)


def test_latency():
    """Four cycles from an element to its write, at once published when nothing waits behind."""
    rig = Rig(64, "latency")
    times = []

    async def feed(ctx):
        await ctx.tick().repeat(4)
        await rig.feed(ctx, 0, [(1, 7, 0, 0)])

    async def clock(ctx):
        cycle = 0
        port = rig.dut.elements[0]
        while True:
            _, _, put, write, published = await ctx.tick().sample(
                port.valid & port.ready, rig.dut.writes.valid, rig.dut.published.valid)
            cycle += 1
            if put or write or published:
                times.append((cycle, put, write, published))
            if published:
                break

    rig.run(feed, clock)
    put, first = times[0][0], times[1][0]
    # One more when it is the other input's turn.
    assert 4 <= first - put <= 5
    assert times[-1][0] - first == 2


def test_open_group_holds_nobody_up():
    """While a group of one input is incomplete the other's elements are published, and none of the group's."""
    rig = Rig(64, "open group")

    async def feed(ctx):
        await rig.feed(ctx, 1, [(0, 1, 100, 1), (0, 2, 100, 1)])
        await ctx.tick().repeat(20)
        await rig.feed(ctx, 0, [(1, 3, 0, 0)])
        await ctx.tick().repeat(20)
        assert rig.seen[1] == [(3, 0)] and not rig.seen[0]
        commands = len(rig.host.commands)
        await rig.feed(ctx, 1, [(0, 4, 50, 0)])
        await ctx.tick().repeat(20)
        assert rig.seen[0] == [(1, 100), (2, 100), (4, 50)]
        assert len(rig.host.commands) == commands + 2, "one write, one index"

    rig.run(feed)


def test_busy_input_starves_nobody():
    """An input that always has elements leaves the other its turn."""
    rig = Rig(64, "busy", size=256)
    elements = [(0, number, 60, 0) for number in range(300)]

    async def busy(ctx):
        await rig.feed(ctx, 1, elements)

    async def feed(ctx):
        await ctx.tick().repeat(100)
        await rig.feed(ctx, 0, [(1, 3, 0, 0)])
        await ctx.tick().repeat(200)
        assert rig.seen[1]

    rig.run(busy, feed)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("width,stall", [(32, 0.3), (64, 0), (256, 0.4)])
def test_discard(width, stall, number):
    """At any moment: writes end, elements vanish, idle comes; after a sweep the row begins at 0 again."""
    rig = Rig(width, f"discard {width} {stall} {number}", stall=stall, size=256)
    rng = rig.rng
    inputs = [groups(rng, [1, 3], 60, 1), groups(rng, [0, 2], 60, 5)]
    dut = rig.dut

    async def drain(ctx):
        await ctx.tick().repeat(rng.randrange(5, 150))
        ctx.set(dut.discard, 1)
        while len(rig.accepted[0]) < len(inputs[0]) or len(rig.accepted[1]) < len(inputs[1]):
            await ctx.tick()
        await rig.until_idle(ctx)
        quiet = len(rig.host.commands), len(rig.published)
        await ctx.tick().repeat(20)
        assert (len(rig.host.commands), len(rig.published)) == quiet
        for row in range(ROWS):
            ctx.set(dut.sweep.row, row)
            ctx.set(dut.sweep.valid, 1)
            await ctx.tick()
        ctx.set(dut.sweep.valid, 0)
        ctx.set(dut.discard, 0)
        rig.index, rig.seen = [0] * ROWS, [[] for _ in range(ROWS)]
        rig.host.bytes.clear()
        await rig.feed(ctx, 1, [(2, 5, 99, 1), (2, 6, 98, 0)])
        for _ in range(100):
            await ctx.tick()
        assert rig.seen[2] == [(5, 99), (6, 98)]

    async def take_published(ctx):
        while True:
            ctx.set(dut.published.ready, rng.random() >= stall)
            _, _, taken = await ctx.tick().sample(dut.published.valid & dut.published.ready)
            if taken:
                rig.published.append(None)

    rig.take_published = take_published
    rig.run(partial(rig.feed, number=0, elements=inputs[0]),
            partial(rig.feed, number=1, elements=inputs[1]), drain)


def test_index_wraps():
    """The index runs freely over 16 bits; bursts end at the end of the ring, groups do not."""
    rig = Rig(512, "wrap", size=32768)
    rig.size = 8
    elements = groups(rig.rng, [2], 90, 7)

    async def feed(ctx):
        await rig.feed(ctx, 0, elements)
        await rig.until_idle(ctx)

    rig.run(feed)
    rig.check([elements])
    assert any(new % 8 not in (0,) and old // 8 != new // 8 for _, old, new in rig.published)
