# SPDX-License-Identifier: BSD-2-Clause
"""From the MAC to host memory: receive and sink together."""

import pytest
from amaranth import *
from amaranth.lib.wiring import connect
from sink_bench import Rig, random_lengths
from test_receive import beats

from unvirt.net.receive import Receive


class Path(Elaboratable):
    """Receive in front of a sink."""

    def __init__(self, sink, receive):
        self.sink, self.receive = sink, receive

    def elaborate(self, platform):
        m = Module()
        m.submodules.sink = sink = self.sink
        m.submodules.receive = receive = self.receive
        connect(m, receive.packets, sink.packets)
        m.d.comb += [
            receive.read_word.eq(sink.read_word),
            receive.buffers.eq(sink.buffers),
            sink.read_data.eq(receive.read_data),
        ]
        return m


class PathRig(Rig):
    """Frames are given to the MAC side; ``waiting`` holds those not sent yet."""

    def __init__(self, *args, gap=0.0, **options):
        super().__init__(*args, **options)
        self.gap = gap
        self.receive = Receive(self.config)
        self.top = Path(self.dut, self.receive)

    async def personality(self, ctx):
        receive = self.receive
        ctx.set(self.dut.mergeable, self.mergeable)
        ctx.set(receive.frame_limit, 1514)
        ctx.set(receive.pair, 1)           # every frame goes to row 2
        pending = []
        while True:
            if not pending and self.waiting and self.rng.random() >= self.gap:
                pending = beats(self.waiting.pop(0), self.lanes)
            ctx.set(receive.mac_valid, bool(pending))
            if pending:
                ctx.set(receive.mac, pending.pop(0))
            _, _, taken, dropped, lost = await ctx.tick().sample(
                self.dut.packets.valid & self.dut.packets.ready, self.dut.stat_dropped,
                receive.stat_dropped)
            self.cycle += 1
            self.dropped += dropped
            assert not lost
            if taken:
                self.taken.append((self.cycle, None))


@pytest.mark.parametrize("width,stall,kind", [
    (32, 0, "single"), (64, 0.3, "mixed"), (256, 0, "mixed"), (256, 0.3, "small"), (512, 0, "mixed"),
])
def test_path(width, stall, kind):
    """Frames arrive behind a header that tells the number of buffers, and in order."""
    rig = PathRig(width, f"path {width} {stall} {kind}", stall=stall, gap=0.9)
    rng, sent, count = rig.rng, [], 30

    async def driver(ctx):
        while len(sent) < count or rig.waiting:
            await ctx.tick()
            lengths = random_lengths(rng, kind)
            if rig.swept and rig.chains.can_add(2, len(lengths)) and rng.random() < 0.3:
                rig.add(2, lengths)
            room = sum(chain.writable for chain in rig.chains.owned.values())
            if len(sent) < count and rng.random() < 0.2 and (room > 1600 or rng.random() < 0.1):
                sent.append(rng.randbytes(rng.choice([14, 20, 52, 53, 60, 64, 300, 1514])))
                rig.waiting.append(sent[-1])
        await rig.settle(ctx, 500)

    rig.run(driver)
    got = rig.delivered().get(2, [])
    assert len(got) + rig.dropped == count and len(got) > count // 4
    frames = iter(sent)
    for packet in got:
        assert packet[:12] == bytes(10) + b"##"
        assert any(packet[12:] == frame for frame in frames)


@pytest.mark.parametrize("width,limit", [(64, 10), (256, 3), (512, 2)])
def test_rate(width, limit):
    """64-byte frames back to back are all delivered at the rate of their beats."""
    rig = PathRig(width, f"rate {width}")

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for _ in range(30):
            chain = rig.add(2, [2048])
            rig.chains.free_groups += chain.groups
            chain.groups, chain.single = [], True
        rig.waiting += [rig.rng.randbytes(64) for _ in range(30)]
        await rig.settle(ctx)

    rig.run(driver)
    assert len(rig.delivered()[2]) == 30
    cycles = [cycle for cycle, _ in rig.taken]
    assert cycles[25] - cycles[5] <= 20 * limit


def test_latency():
    """Nine cycles from the last beat of a frame to the first of its write command, two of them for the choice between two queue pairs."""
    rig = PathRig(512, "latency")
    times = {}

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        rig.add(2, [2048])
        await ctx.tick().repeat(5)
        rig.waiting.append(rig.rng.randbytes(60))
        await ctx.tick().until(rig.receive.mac_valid)
        times["in"] = rig.cycle
        await ctx.tick().until(rig.dut.writes.valid)
        times["out"] = rig.cycle
        await ctx.tick().until(rig.dut.used.valid)
        times["used"] = rig.cycle
        await rig.settle(ctx)

    rig.run(driver)
    print(times)
    assert times["out"] - times["in"] <= 9
    assert times["used"] - times["out"] <= 3
