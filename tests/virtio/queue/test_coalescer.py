# SPDX-License-Identifier: BSD-2-Clause
"""The coalescer: against a model of every row, with random publications, settings and stalls."""

import pytest
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.coalescer import Coalescer

ROWS, MICROSECOND = 8, 20
LATE = MICROSECOND + 4 * ROWS       # a tick and a sweep, in which half of the cycles may go to publications
MOST = 200_000
"""Cycles that no test takes."""


class Rig:
    """Publishes, sets, and notes what comes out in which cycle."""

    def __init__(self, seed, *, stall=0.0):
        self.rng, self.stall = seeded(seed), stall
        self.dut = Coalescer(rows=ROWS, cycles_per_microsecond=MICROSECOND)
        self.cycle = 0
        self.out = []               # (cycle, row, packets, count, place)
        self.answers = []

    async def watch(self, ctx):
        due, port = self.dut.due, self.dut.port
        offered = None
        while True:
            ctx.set(due.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, event, answer_valid, answer = await ctx.tick().sample(
                due.valid, due.ready, due.payload, port.answer_valid, port.answer)
            assert offered is None or (valid and event == offered), "an offer was changed or taken back"
            offered = event if valid and not ready else None
            if valid and ready:
                self.out.append((self.cycle, event.row, event.packets, event.count, event.place))
            if answer_valid:
                self.answers.append((answer.packets, answer.microseconds))
            self.cycle += 1
            assert self.cycle < MOST, "not through in time"

    async def publish(self, ctx, row, *, packets=1, count=1, place=0):
        port = self.dut.published
        ctx.set(port.payload, {"row": row, "place": place, "count": count, "packets": packets})
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)

    async def set(self, ctx, row, packets, microseconds):
        port = self.dut.port
        ctx.set(port.set_row, row)
        ctx.set(port.setting, {"packets": packets, "microseconds": microseconds})
        ctx.set(port.set_valid, 1)
        await ctx.tick()
        ctx.set(port.set_valid, 0)
        # The first setting counts for publications from two cycles later on.
        await ctx.tick().repeat(2)

    def run(self, bench):
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.watch, background=True)
        simulator.add_testbench(bench)
        simulator.run()


def test_without_settings_everything_passes_at_once():
    """Until something is set a publication goes through in its own cycle."""
    rig = Rig(1)

    async def bench(ctx):
        for row in range(ROWS):
            before = rig.cycle
            await rig.publish(ctx, row, place=row + 7, count=2)
            assert rig.out[-1] == (before, row, 1, 2, row + 7)
    rig.run(bench)
    assert len(rig.out) == ROWS


def test_packets_count():
    """The fourth packet tells of all four, with the entries of all of them and the newest place. Covers: NET-COAL-11"""
    rig = Rig(2)

    async def bench(ctx):
        await rig.set(ctx, 3, 4, 1000)
        for number in range(8):
            await rig.publish(ctx, 3, place=10 * number, count=number)
            await ctx.tick().repeat(3)
    rig.run(bench)
    assert [event[1:] for event in rig.out] == [(3, 4, 0 + 1 + 2 + 3, 30), (3, 4, 4 + 5 + 6 + 7, 70)]


@pytest.mark.parametrize("microseconds", [1, 2, 7])
def test_time_is_up(microseconds):
    """A lone packet is told of no earlier than asked for, and no later than a microsecond and a sweep after. Covers: NET-COAL-11"""
    rig = Rig(3)

    async def bench(ctx):
        await rig.set(ctx, 5, 100, microseconds)
        for number in range(20):
            await ctx.tick().repeat(rig.rng.randrange(1, 40))
            before, told = rig.cycle, len(rig.out)
            await rig.publish(ctx, 5, place=number)
            # Later packets do not start the time anew.
            await rig.publish(ctx, 5, place=number + 1)
            while len(rig.out) == told:
                await ctx.tick()
            assert microseconds * MICROSECOND <= rig.out[-1][0] - before <= microseconds * MICROSECOND + LATE
            assert rig.out[-1][2] == 2
    rig.run(bench)


@pytest.mark.parametrize("setting", [(0, 500), (500, 0), (0, 0)])
def test_either_zero_is_off(setting):
    """With packets or microseconds at zero every packet is told of. Covers: NET-COAL-12"""
    rig = Rig(4)

    async def bench(ctx):
        await rig.set(ctx, 0, 9, 900)          # somebody coalesces
        await rig.set(ctx, 1, *setting)
        for number in range(5):
            await rig.publish(ctx, 1, place=number)
            await ctx.tick().repeat(4)
    rig.run(bench)
    assert [event[4] for event in rig.out] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("setting", [(3, 5000), (0, 5000), (100, 0), (100, 1)])
def test_new_settings_count_at_once(setting):
    """What already waits is told of when new settings make it due. Covers: NET-COAL-13"""
    rig = Rig(5)

    async def bench(ctx):
        await rig.set(ctx, 2, 100, 5000)
        for number in range(3):
            await rig.publish(ctx, 2, place=number)
        await ctx.tick().repeat(3 * MICROSECOND)
        assert rig.out == []
        await rig.set(ctx, 2, *setting)
        await ctx.tick().repeat(LATE)
        assert [event[1:] for event in rig.out] == [(2, 3, 3, 2)]
    rig.run(bench)


def test_settings_read_back():
    """``ask`` gives the setting of the row, also while publications come."""
    rig = Rig(6)

    async def bench(ctx):
        for row in range(ROWS):
            await rig.set(ctx, row, 10 + row, 1000 + row)
        for row in reversed(range(ROWS)):
            ctx.set(rig.dut.port.ask.payload, row)
            ctx.set(rig.dut.port.ask.valid, 1)
            await ctx.tick().until(rig.dut.port.ask.ready)
            ctx.set(rig.dut.port.ask.valid, 0)
            await rig.publish(ctx, row)
        await ctx.tick().repeat(2)
    rig.run(bench)
    assert rig.answers == [(10 + row, 1000 + row) for row in reversed(range(ROWS))]


@pytest.mark.parametrize("stall", [0, 0.7])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_nothing_is_lost(seed, stall):
    """Random publications, settings and stalls: in the end every packet and entry of every row was told of, in order, none twice."""
    rig = Rig(seed, stall=stall)
    sent = {row: [] for row in range(ROWS)}

    async def bench(ctx):
        rng = rig.rng
        for number in range(1500):
            row = rng.randrange(ROWS)
            if rng.random() < 0.05:
                await rig.set(ctx, row, rng.choice([0, 1, 2, 5, 60]), rng.choice([0, 1, 3, 30]))
            packets = rng.randrange(1, 4)
            count = packets + rng.randrange(5)
            sent[row].append((packets, count, number))
            await rig.publish(ctx, row, packets=packets, count=count, place=number)
            await ctx.tick().repeat(rng.choice([1, 1, 1, 2, 30]))
        for row in range(ROWS):
            await rig.set(ctx, row, 0, 0)
        await ctx.tick().repeat(20 * LATE)
    rig.run(bench)
    coalesced = 0
    for row in range(ROWS):
        told = [event for event in rig.out if event[1] == row]
        ends = [place for _, _, place in sent[row]]
        start = 0
        for _, _, packets, count, place in told:
            end = ends.index(place) + 1
            assert packets == sum(item[0] for item in sent[row][start:end])
            assert count == sum(item[1] for item in sent[row][start:end])
            coalesced += end - start > 1
            start = end
        assert start == len(ends), f"row {row} was not told of its last packets"
    assert coalesced > 50


def test_drain_forgets():
    """What waits when the engine drains is never told of, and after the sweep nothing is coalesced. Covers: NET-COAL-09"""
    rig = Rig(7)

    async def bench(ctx):
        dut = rig.dut
        await rig.set(ctx, 4, 3, 5)
        await rig.publish(ctx, 4)
        ctx.set(dut.drain, 1)
        await rig.publish(ctx, 4)
        await ctx.tick()
        assert ctx.get(dut.idle)
        for row in range(ROWS):
            ctx.set(dut.sweep.valid, 1)
            ctx.set(dut.sweep.row, row)
            await ctx.tick()
        ctx.set(dut.sweep.valid, 0)
        ctx.set(dut.drain, 0)
        await ctx.tick().repeat(20 * MICROSECOND)
        assert rig.out == []
        await rig.publish(ctx, 4, place=9)
        assert rig.out[-1][1:] == (4, 1, 1, 9)
        await rig.set(ctx, 0, 2, 2)
        await rig.publish(ctx, 4, place=10)
        await ctx.tick().repeat(4)
        assert rig.out[-1][1:] == (4, 1, 1, 10)
    rig.run(bench)


def test_hold_tells_of_everything():
    """With ``hold`` all that waits is due, in any row; ``still`` rises when nothing waits any more, and what comes then is due at once.

    Covers: CORE-SUSP-12
    """
    rig = Rig(5, stall=0.7)
    dut = rig.dut

    async def bench(ctx):
        for row in range(ROWS):
            await rig.set(ctx, row, 100, 1000)
        for rows in ([0], [ROWS - 1], [3, 4], range(ROWS), []):
            ctx.set(dut.hold, 0)
            await ctx.tick().repeat(rig.rng.randrange(1, 2 * ROWS))
            for row in rows:
                await rig.publish(ctx, row)
            await ctx.tick().repeat(3 * ROWS)
            rig.out.clear()
            ctx.set(dut.hold, 1)
            await ctx.tick().until(dut.still)
            assert sorted(event[1] for event in rig.out) == list(rows), "still although some wait"
            await rig.publish(ctx, 5)
            assert not ctx.get(dut.still)
            await ctx.tick().until(dut.still)
            assert rig.out[-1][1] == 5
    rig.run(bench)
