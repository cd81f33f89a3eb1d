# SPDX-License-Identifier: BSD-2-Clause
"""Receive: frames in from a MAC that never waits, out through the read port."""

import random

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from unvirt.config import DeviceConfig
from unvirt.net.receive import Receive

HEADER = 12


def make(width, size=16384):
    return Receive(DeviceConfig(data_width=width, rows=2, rx_buffer_size=size))


def beats(frame, lanes, error=0):
    """Cut a frame into beats; unused lanes are noise."""
    result = []
    for start in range(0, len(frame), lanes):
        part = frame[start:start + lanes]
        last = start + lanes >= len(frame)
        word = part + bytes([0xA5] * (lanes - len(part)))
        result.append({"data": int.from_bytes(word, "little"), "empty": lanes - len(part),
                       "first": start == 0, "last": last, "error": error and last})
    return result


class Rig:
    """Sends frames, takes packets out again and keeps count of both."""

    def __init__(self, width, seed, *, size=16384, limit=1514):
        print(f"seed {seed}")
        self.rng, self.lanes, self.size = random.Random(seed), width // 8, size
        self.dut = make(width, size)
        self.limit = limit
        self.got, self.dropped, self.cycle = [], 0, 0
        self.seen = {}                     # cycle in which a packet number became visible
        self.frames_sent = 0
        self.most_behind = 0               # packets that were shown behind the oldest

    async def send(self, ctx, frame, *, error=0, gap=0.0):
        dut = self.dut
        ctx.set(dut.frame_limit, self.limit)
        for beat in beats(frame, self.lanes, error):
            while self.rng.random() < gap:
                ctx.set(dut.mac_valid, 0)
                await ctx.tick()
            ctx.set(dut.mac, beat)
            ctx.set(dut.mac_valid, 1)
            await ctx.tick()
        ctx.set(dut.mac_valid, 0)
        ctx.set(dut.mac, {"data": self.rng.getrandbits(8 * self.lanes), "last": 1, "first": 1})

    async def count(self, ctx):
        while True:
            _, _, dropped = await ctx.tick().sample(self.dut.stat_dropped)
            self.cycle += 1
            self.dropped += dropped

    async def take(self, ctx, buffers):
        """Read the oldest packet, the words in order, and let it go with the last."""
        dut, lanes = self.dut, self.lanes
        address = ctx.get(dut.packets.payload.address)
        length = ctx.get(dut.packets.payload.length)
        assert address % lanes == 0 and ctx.get(dut.packets.payload.row) == 0
        content = bytearray()
        words = -(-length // lanes)
        for number in range(words):
            ctx.set(dut.read_word, (address // lanes + number) % (self.size // lanes))
            ctx.set(dut.packets.ready, number == words - 1)
            await ctx.tick()
            # The count comes with the word, one cycle after the packet may have gone.
            ctx.set(dut.buffers, buffers)
            content += ctx.get(dut.read_data).to_bytes(lanes, "little")
            ctx.set(dut.packets.ready, 0)
        self.got.append((buffers, bytes(content[:length])))

    async def take_all(self, ctx, pace=0.0):
        """Take packets at leisure; the look at those behind must come true."""
        seen_behind = []
        while True:
            payload = self.dut.packets.payload
            if not ctx.get(self.dut.packets.valid) or self.rng.random() < max(pace, 0.5):
                await ctx.tick()
                continue
            place = ctx.get(payload.address), ctx.get(payload.length)
            assert seen_behind[:1] in ([], [place])
            behind = []
            for shown in payload.behind:
                if not ctx.get(shown.valid):
                    break
                behind.append((ctx.get(shown.address), ctx.get(shown.length)))
            assert behind[:len(seen_behind[1:])] == seen_behind[1:], "a packet behind is not shown any more, or another one"
            seen_behind = behind
            self.most_behind = max(self.most_behind, len(behind))
            self.seen.setdefault(len(self.got), self.cycle)
            await self.take(ctx, self.rng.randrange(1, 1 << 16))

    def run(self, *benches, background=(), cycles=100000):
        rtlil.convert(self.dut)
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-9)

        async def watchdog(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError("not through in time")

        for bench in benches:
            simulator.add_testbench(bench)
        for bench in (*background, self.count, watchdog):
            simulator.add_testbench(bench, background=True)
        simulator.run()

    def check(self, frames):
        assert len(self.got) == len(frames)
        for (buffers, packet), frame in zip(self.got, frames):
            assert packet[:10] == bytes(10)
            assert int.from_bytes(packet[10:12], "little") == buffers
            assert packet[12:] == frame


@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("gap,pace", [(0, 0), (0.3, 0), (0, 0.9), (0.3, 0.9)])
def test_random(width, gap, pace):
    """Good frames come out whole and in order; bad, short and long ones leave nothing behind."""
    rig = Rig(width, f"{width} {gap} {pace}")
    rng, good, bad = rig.rng, [], 0

    async def feed(ctx):
        nonlocal bad
        await ctx.tick()
        for _ in range(40):
            lanes = rig.lanes
            length = rng.choice([1, 13, 14, 15, lanes, lanes + 1, 60, 64, 2 * lanes - 1, 200, 1514, 1515])
            frame, error = rng.randbytes(length), rng.random() < 0.15
            if error or not 14 <= length <= 1514:
                bad += 1
            else:
                good.append(frame)
            await rig.send(ctx, frame, error=error, gap=gap)
            while rng.random() < 0.3 or len(good) - len(rig.got) > 6:
                await ctx.tick()
        while len(rig.got) < len(good):
            await ctx.tick()

    async def take(ctx):
        await rig.take_all(ctx, pace)

    rig.run(feed, background=[take])
    rig.check(good)
    assert rig.dropped == bad
    assert pace == 0 or rig.most_behind == len(rig.dut.packets.payload.behind)


@pytest.mark.parametrize("width", [64, 256, 512])
def test_overrun(width):
    """With nobody reading, whole frames are kept and the rest is counted; the memory is filled again after."""
    rig = Rig(width, f"overrun {width}", limit=9018)
    rng, sent = rig.rng, []

    async def feed(ctx):
        await ctx.tick()
        for _ in range(2):
            first = len(sent)
            held = 0
            drops = rig.dropped
            for _ in range(14):
                frame = rng.randbytes(rng.choice([2000, 2500, 4000]))
                before = rig.dropped
                await rig.send(ctx, frame)
                await ctx.tick()
                if rig.dropped == before:
                    sent.append(frame)
                    held += len(frame)
            assert rig.dropped - drops >= 5
            # Not a byte of room is lost beyond what one more frame would have needed.
            assert held > 16384 - 4000 - 12 * 14 - 14 * rig.lanes
            while ctx.get(rig.dut.packets.valid):
                await rig.take(ctx, 1)
            assert len(rig.got) == len(sent) > first

    rig.run(feed)
    rig.check(sent)


@pytest.mark.parametrize("width", [64, 512])
def test_many_small(width):
    """A memory full of the shortest frames of a MAC finds a place for each."""
    rig = Rig(width, f"small {width}")
    sent = []

    async def feed(ctx):
        await ctx.tick()
        while not rig.dropped:
            sent.append(rig.rng.randbytes(60))
            await rig.send(ctx, sent[-1])
            await ctx.tick()
        sent.pop()
        while ctx.get(rig.dut.packets.valid):
            await rig.take(ctx, 7)

    rig.run(feed)
    rig.check(sent)
    words = -(-(60 + HEADER) // rig.lanes)
    assert len(sent) >= 16384 // rig.lanes // words - 2


@pytest.mark.parametrize("width", [64, 512])
def test_latency_and_rate(width):
    """Visible one cycle after the last beat; back to back frames without a gap are all kept."""
    rig = Rig(width, f"latency {width}")
    frames = [rig.rng.randbytes(60) for _ in range(8)]

    async def feed(ctx):
        await ctx.tick()
        await rig.send(ctx, frames[0])
        assert ctx.get(rig.dut.packets.valid), "the last beat was in the cycle before"
        for frame in frames[1:]:
            await rig.send(ctx, frame)
        for _ in range(3):
            await ctx.tick()
        while ctx.get(rig.dut.packets.valid):
            await rig.take(ctx, 1)

    rig.run(feed)
    rig.check(frames)


def test_longest():
    """The limit is exact up to the longest frame of the device, and a frame far beyond it does not wrap round."""
    rig = Rig(256, "longest", limit=9018)
    frames = [rig.rng.randbytes(length) for length in (9018, 9019, 60, 40000, 61)]

    async def feed(ctx):
        await ctx.tick()
        for frame in frames:
            await rig.send(ctx, frame)
            await ctx.tick().repeat(2)
            while ctx.get(rig.dut.packets.valid):
                await rig.take(ctx, 3)

    rig.run(feed)
    rig.check([frames[0], frames[2], frames[4]])
    assert rig.dropped == 2


def test_frame_cut_off():
    """A frame whose end never comes, as when the MAC is reset, gives way to the next."""
    rig = Rig(64, "cut off")
    frame = rig.rng.randbytes(100)

    async def feed(ctx):
        await ctx.tick()
        ctx.set(rig.dut.frame_limit, 1514)
        for beat in beats(rig.rng.randbytes(400), 8)[:20]:
            ctx.set(rig.dut.mac, beat)
            ctx.set(rig.dut.mac_valid, 1)
            await ctx.tick()
        await rig.send(ctx, frame)
        await ctx.tick().repeat(3)
        await rig.take(ctx, 1)
        assert not ctx.get(rig.dut.packets.valid)

    rig.run(feed)
    rig.check([frame])
