# SPDX-License-Identifier: BSD-2-Clause
"""Steering: where frames go, by what was sent, how many pairs there are and which receive queues are enabled."""

import random

import pytest
from amaranth.sim import Simulator
from test_receive import beats

from unvirt.net.steering import Steering

PAIRS = 8
COUNTS_AFTER = 5
"""Cycles from the last beat of a frame sent to that of the first received one for which it counts."""
ROUND = 260
"""Cycles after which a change of pairs or queues counts, if nothing is sent."""


def frame(flow):
    """Return an IPv4 UDP frame of which only the source port tells the flow."""
    return bytes(12) + b"\x08\x00\x45" + bytes(8) + b"\x11" + bytes(11) + bytes([flow]) + bytes(30)


class Rig:
    """Sends frames on pairs, receives others and tells where these go."""

    def __init__(self, width, seed):
        print(f"seed {seed}")
        self.rng, self.lanes = random.Random(seed), width // 8
        self.dut = Steering(data_width=width, pairs=PAIRS)
        self.enabled = [1] * PAIRS
        self.pairs = PAIRS
        self.sent = {}

    async def start(self, ctx):
        ctx.set(self.dut.pairs, PAIRS)
        await ctx.tick().repeat(2 * ROUND)

    async def look(self, ctx):
        """Show the device each pair in turn."""
        number = 0
        while True:
            number = (number + 1) % PAIRS
            ctx.set(self.dut.seen_pair, number)
            ctx.set(self.dut.seen_enabled, self.enabled[number])
            ctx.set(self.dut.seen_valid, self.rng.random() < 0.8)
            await ctx.tick()

    async def transmit(self, ctx, flow, pair):
        dut = self.dut
        for beat in beats(frame(flow), self.lanes):
            ctx.set(dut.tx, beat)
            ctx.set(dut.tx_pair, pair)
            ctx.set(dut.tx_valid, 1)
            await ctx.tick()
        ctx.set(dut.tx_valid, 0)
        ctx.set(dut.tx_pair, self.rng.randrange(PAIRS))
        self.sent[flow] = pair

    async def receive(self, ctx, flow):
        """Return the pair of a frame, two cycles after its last beat."""
        dut = self.dut
        for beat in beats(frame(flow), self.lanes):
            ctx.set(dut.rx, beat)
            ctx.set(dut.rx_valid, 1)
            await ctx.tick()
        ctx.set(dut.rx_valid, 0)
        ctx.set(dut.rx, {"data": self.rng.getrandbits(8 * self.lanes)})
        await ctx.tick()
        return ctx.get(dut.rx_pair)

    def wanted(self, flow):
        """Return where a flow should go if all queues were enabled; None: any."""
        pair = self.sent.get(flow)
        return pair if pair is not None and pair < self.pairs else None

    async def check(self, ctx, flows):
        """Each flow goes where it was sent if it can; all that cannot go to one and the same queue."""
        elsewhere = set()
        usable = {pair for pair in range(self.pairs) if self.enabled[pair]}
        found = {}
        for flow in flows:
            found[flow] = pair = await self.receive(ctx, flow)
            assert pair < self.pairs
            if self.wanted(flow) in usable:
                assert pair == self.wanted(flow)
            elif usable:
                assert pair in usable
                if self.wanted(flow) is not None:
                    elsewhere.add(pair)
        assert len(elsewhere) <= 1
        return found

    def run(self, driver):
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self.look, background=True)
        simulator.add_testbench(driver)
        simulator.run()


@pytest.mark.parametrize("width", [64, 512])
def test_where_frames_go(width):
    """Flows are sent, pairs become more and fewer, queues are reset and enabled. Covers: NET-MQ-02, NET-MQ-03, NET-MQ-06"""
    rig = Rig(width, f"steering {width}")
    rng = rig.rng

    async def driver(ctx):
        await rig.start(ctx)
        for _ in range(25):
            for _ in range(12):
                await rig.transmit(ctx, rng.randrange(256), rng.randrange(PAIRS))
            await ctx.tick().repeat(COUNTS_AFTER)
            flows = rng.sample(range(256), 20) + list(rig.sent)
            await rig.check(ctx, flows)
            rig.enabled = [rng.random() < 0.6 for _ in range(PAIRS)]
            rig.pairs = rng.randint(1, PAIRS)
            ctx.set(rig.dut.pairs, rig.pairs)
            for flow in rng.sample(flows, 10):
                assert await rig.receive(ctx, flow) < rig.pairs
            await ctx.tick().repeat(ROUND)
            await rig.check(ctx, flows)

    rig.run(driver)


@pytest.mark.parametrize("queues", ["enabled", "some"])
def test_a_frame_sent_counts_at_once(queues):
    """The answer may end five cycles after the frame that was sent, though frames of other flows are sent one after the other."""
    rig = Rig(512, f"at once {queues}")
    rig.enabled = [1] * PAIRS if queues == "enabled" else [pair in (1, 4, 6) for pair in range(PAIRS)]

    async def driver(ctx):
        await rig.start(ctx)
        for number in range(300):
            flow = rig.rng.randrange(40)
            await rig.transmit(ctx, flow, rig.rng.randrange(PAIRS))
            for later in range(COUNTS_AFTER - 1):
                await rig.transmit(ctx, 100 + 5 * (number % 9) + later, rig.rng.randrange(PAIRS))
            await rig.check(ctx, [flow])

    rig.run(driver)


def test_frames_of_unknown_flows_are_spread():
    """Flows that were not sent are spread over all pairs, and again after the device's reset. Covers: NET-MQ-07"""
    rig = Rig(512, "spread")

    async def driver(ctx):
        await rig.start(ctx)
        for _ in range(2):
            found = await rig.check(ctx, range(256))
            assert [list(found.values()).count(pair) for pair in range(PAIRS)] == [256 // PAIRS] * PAIRS
            for flow in range(256):
                await rig.transmit(ctx, flow, 3)
            await ctx.tick().repeat(COUNTS_AFTER)
            assert set((await rig.check(ctx, range(256))).values()) == {3}
            ctx.set(rig.dut.drain, 1)
            await ctx.tick()
            ctx.set(rig.dut.drain, 0)
            rig.sent.clear()
            await ctx.tick().repeat(ROUND)

    rig.run(driver)
