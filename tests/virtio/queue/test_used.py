# SPDX-License-Identifier: BSD-2-Clause
"""The used writer against rings in Python."""

import random
import struct
from functools import partial

import pytest
from used_bench import ROWS, Rig, cycles_between_publications, give_batch, groups

from unvirt.virtio.queue.used_inputs import BURST


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


@pytest.mark.parametrize("stall", [0, 0.4])
def test_marks(stall):
    """What was here when a mark rose is published when it has passed; two at once come one after the other, also below traffic without end."""
    rig = Rig(64, f"marks {stall}", stall=stall, size=256)
    inputs = [groups(rig.rng, [1, 3], 2000, 3), groups(rig.rng, [0, 2], 2000, 12)]
    left, passed = 2, [0, 0]

    async def feed(ctx, number):
        nonlocal left
        await rig.feed(ctx, number, inputs[number])
        left -= 1

    async def mark(ctx, bit):
        rng = random.Random(f"{stall} {bit}")
        while left:
            await ctx.tick().repeat(rng.randrange(1, 60))
            here = [sum(element[0] == row for accepted in rig.accepted for element in accepted) for row in range(ROWS)]
            ctx.set(rig.dut.mark[bit], 1)
            await ctx.tick().until(rig.dut.passed[bit])
            published = [max((place for number, _, place in rig.published if number == row), default=0) for row in range(ROWS)]
            assert all(done >= count for done, count in zip(published, here)), f"{published} of {here} are published"
            ctx.set(rig.dut.mark[bit], 0)
            passed[bit] += 1

    async def wait(ctx):
        while left:
            await ctx.tick()
        await rig.until_idle(ctx)

    rig.run(partial(feed, number=0), partial(feed, number=1), partial(mark, bit=0), partial(mark, bit=1), wait)
    rig.check(inputs)
    print(passed)
    assert min(passed) > 8


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
    """Six cycles from an element to its write, at once published when nothing waits behind."""
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
    assert first - put == 6
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


def test_group_longer_than_a_ring():
    """The rest of a group that is being written comes in while another row, of another input, has all it can have."""
    rig = Rig(64, "long group", size=256)
    group, others = [(0, number, 60, number < 79) for number in range(80)], [(1, number, 60, 0) for number in range(120)]

    async def begin(ctx):
        await rig.feed(ctx, 1, group[:40])
        await ctx.tick().repeat(150)
        await rig.feed(ctx, 1, group[40:])

    async def flood(ctx):
        await ctx.tick().repeat(100)
        await rig.feed(ctx, 0, others)
        await rig.until_idle(ctx)

    rig.run(begin, flood)
    rig.check([others, group])


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


@pytest.mark.parametrize("width", [64, 256])
def test_bursts_of_one(width):
    """An element of each of many rows is a burst, which takes three cycles while all else is ready."""
    rig = Rig(width, f"ones {width}", size=256, rows=256)
    assert cycles_between_publications(rig, [(number, number, 60, 0) for number in range(180)]) < 3.1


@pytest.mark.parametrize("rows,least", [(2, 12), (16, 12), (64, 6), (256, 3)])
def test_rows_in_turn(rows, least):
    """Elements of rows in turn wait for each other while the write engine is busy."""
    rig = Rig(64, f"turns {rows}", stall=0.6, size=256, rows=rows)
    elements = [(number % rows, number, 60, 0) for number in range(40 * rows)]
    rig.run_in_turn(elements)
    bursts = len(rig.published)
    print(bursts)
    assert len(elements) >= least * bursts


def test_rows_go_round():
    """A row that always has more gives way to the others after the burst in which it was given 16 elements."""
    rig = Rig(64, "round", size=256, rows=16)
    rows = range(2, 16)

    async def others(ctx):
        await ctx.tick().repeat(300)
        for row in rows:
            await rig.feed(ctx, 1, [(row, row, 60, 0)])
        began = len(rig.published)
        while not all(rig.seen[row] for row in rows):
            await ctx.tick()
        ahead = sum((place - old) & 0xFFFF for row, old, place in rig.published[began:] if row == 0)
        assert ahead <= (BURST + BURST // 2) * (len(rows) + 1)
        await rig.until_idle(ctx)

    busy = [(0, number, 60, 0) for number in range(1000)]
    rig.run(partial(rig.feed, number=0, elements=busy), others)
    rig.check([busy, [(row, row, 60, 0) for row in rows]])


def test_patience():
    """A write waits 8192 / width cycles before it is urgent, its index not at all; eight elements of a row that wait are urgent at once."""
    rig = Rig(64, "patience", size=256)
    dut, held = rig.dut, []

    async def hold(ctx):
        ctx.set(dut.writes.ready, 0)
        for number, elements in enumerate(([(1, 7, 60, 0)], [(1, 8, 60, 0)] + [(2 + number % 2, number, 60, 0) for number in range(16)])):
            task, cycles, port = elements[:], 0, dut.elements[0]
            while not ctx.get(dut.urgent):
                if task:
                    ctx.set(port.payload, dict(zip(("row", "head", "written", "more", "ring_slots"), (*task[0], 1))))
                ctx.set(port.valid, bool(task))
                _, _, taken = await ctx.tick().sample(port.valid & port.ready)
                task = task[taken:]
                cycles += ctx.get(dut.writes.valid)
            held.append(cycles)
            if number:
                break
            # What follows an urgent write is as urgent, and then nothing is.
            ctx.set(dut.elements[0].valid, 0)
            ctx.set(dut.writes.ready, 1)
            await ctx.tick()
            ctx.set(dut.writes.ready, 0)
            assert ctx.get(dut.urgent) and ctx.get(dut.writes.payload.header.length) == 2
            await ctx.tick().repeat(20)
            assert ctx.get(dut.urgent)
            ctx.set(dut.writes.ready, 1)
            await ctx.tick()
            ctx.set(dut.writes.ready, 0)
            await ctx.tick().repeat(2)
            assert not ctx.get(dut.urgent)

    async def take(ctx):
        ctx.set(dut.published.ready, 1)

    async def nobody(ctx):
        pass

    rig.take_published, rig.driver = take, nobody
    rig.run(hold, serve=False)
    assert held[0] == 8192 // 64 + 1 and held[1] < 20, held


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


@pytest.mark.parametrize("width", [32, 64, 256])
def test_batches_in_order(width):
    """With IN_ORDER one element, in the slot of the first, stands for all before it that were used completely.

    Covers: SPLIT-INORD-02, SPLIT-INORD-03, SPLIT-INORD-04
    """
    rig = Rig(width, f"in order {width}", size=16)
    wanted = give_batch(rig, [(2, 100 + number, 7 * number, 0) for number in range(8)])
    written = {address: content for address, content in rig.host.commands if address != rig.device[2] + 2}
    ring = {(address - rig.device[2] - 4 + at) // 8: struct.unpack("<II", content[at:at + 8])
            for address, content in written.items() for at in range(0, len(content), 8)}
    assert ring == wanted
    assert [content for address, content in rig.host.commands if address == rig.device[2] + 2][-1] == b"\x08\0"
