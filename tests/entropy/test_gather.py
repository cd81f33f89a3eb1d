# SPDX-License-Identifier: BSD-2-Clause
"""Gather: pieces in, chunks out through the read port, each byte at most once."""

import random

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator

from unvirt.config import preset
from unvirt.entropy.gather import CHUNK_SIZE, STORE_SIZE, Gather

WIDTHS = (32, 64, 128, 256, 512)


class Rig:
    """A source that hesitates, and a sink that reads what it is offered or finds no buffer for it."""

    def __init__(self, width, seed, *, gap=0.0):
        print(f"seed {seed}")
        self.rng, self.lanes, self.gap = random.Random(seed), width // 8, gap
        self.dut = Gather(preset("entropy").with_options(data_width=width))
        self.given = bytearray()              # bytes that were taken from the source

    async def source(self, ctx):
        entropy = self.dut.entropy
        piece = None
        while True:
            if piece is None and self.rng.random() >= self.gap:
                piece = self.rng.randbytes(4)
                ctx.set(entropy.payload, int.from_bytes(piece, "little"))
            ctx.set(entropy.valid, piece is not None)
            _, _, valid, ready = await ctx.tick().sample(entropy.valid, entropy.ready)
            if valid and ready:
                self.given += piece
                piece = None

    async def watch(self, ctx):
        """An offer stands until it is taken."""
        packets, held = self.dut.packets, None
        while True:
            _, _, valid, ready, payload = await ctx.tick().sample(packets.valid, packets.ready, packets.payload)
            place = (payload.row, payload.address, payload.length)
            assert held is None or (valid and place == held), "the offer changed before it was taken"
            held = place if valid and not ready else None

    async def offered(self, ctx):
        """Wait for a chunk; return its address."""
        packets = self.dut.packets
        while not ctx.get(packets.valid):
            await ctx.tick()
        assert ctx.get(packets.payload.length) == CHUNK_SIZE and ctx.get(packets.payload.row) == 0
        assert not ctx.get(packets.payload.behind[0].valid)
        return ctx.get(packets.payload.address)

    async def take(self, ctx, size):
        """Read ``size`` bytes of the chunk as the sink does: it is taken with the last word, which shows a cycle later."""
        address, data = await self.offered(ctx), b""
        words = -(-size // self.lanes)
        for word in range(words):
            ctx.set(self.dut.read_word, (address // self.lanes + word) % (STORE_SIZE // self.lanes))
            ctx.set(self.dut.packets.ready, word == words - 1)
            await ctx.tick()
            data += ctx.get(self.dut.read_data).to_bytes(self.lanes, "little")
        ctx.set(self.dut.packets.ready, 0)
        return data[:size]

    async def refuse(self, ctx):
        """Find no buffer for the chunk."""
        await self.offered(ctx)
        ctx.set(self.dut.dropped, 1)
        await ctx.tick()
        ctx.set(self.dut.dropped, 0)
        for _ in range(self.rng.randrange(3)):
            await ctx.tick()
        ctx.set(self.dut.packets.ready, 1)
        await ctx.tick()
        ctx.set(self.dut.packets.ready, 0)

    def run(self, bench):
        rtlil.convert(self.dut)
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-9)
        simulator.add_testbench(bench)
        simulator.add_testbench(self.source, background=True)
        simulator.add_testbench(self.watch, background=True)
        simulator.run()


@pytest.mark.parametrize("gap", [0.0, 0.7])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_chunk_once(width, gap):
    """Chunk after chunk, read whole or in part, refused in between at times: the n-th taken is the n-th of the stream."""
    rig, done = Rig(width, f"chunks {width} {gap}", gap=gap), []

    async def bench(ctx):
        for number in range(20):
            for _ in range(rig.rng.choice((0, 0, 1, 5))):
                await rig.refuse(ctx)
            size = rig.rng.choice((1, 3, 8, 63, CHUNK_SIZE, CHUNK_SIZE, rig.rng.randrange(1, CHUNK_SIZE)))
            data = await rig.take(ctx, size)
            assert data == bytes(rig.given[number * CHUNK_SIZE:][:size])
            await ctx.tick().repeat(rig.rng.choice((1, 1, 40)))
        done.append(len(rig.given))

    rig.run(bench)
    assert done and done[0] < 22 * CHUNK_SIZE


@pytest.mark.parametrize("width", WIDTHS)
def test_drain(width):
    """Draining ends with nothing held, whether a chunk is offered or not, and takes nothing; behind it only new bytes come."""
    rig, done = Rig(width, f"drain {width}"), []

    async def bench(ctx):
        for pause in range(1, 40):
            ctx.set(rig.dut.drain, 0)
            await ctx.tick().repeat(pause)
            ctx.set(rig.dut.drain, 1)
            await ctx.tick().repeat(2)
            held = len(rig.given)
            if ctx.get(rig.dut.packets.valid):
                await rig.take(ctx, 8)            # the sink is done with it at some time
            await ctx.tick().repeat(3)
            assert not ctx.get(rig.dut.packets.valid), "something is still offered"
            assert len(rig.given) == held, "bytes were taken while draining"
            ctx.set(rig.dut.drain, 0)
            assert await rig.take(ctx, CHUNK_SIZE) == bytes(rig.given[held:held + CHUNK_SIZE])
            # Begin the next round with nothing held.
            ctx.set(rig.dut.drain, 1)
            await ctx.tick().repeat(3)
            if ctx.get(rig.dut.packets.valid):
                await rig.take(ctx, 8)
                await ctx.tick().repeat(2)
        done.append(True)

    rig.run(bench)
    assert done
