# SPDX-License-Identifier: BSD-2-Clause
"""Register slices, FIFOs, arbiter."""

import random

import pytest
from amaranth.lib import data
from stream_bench import STALLS, receive, send, simulate, watch

from unvirt.stream.arbiter import PacketArbiter
from unvirt.stream.buffer import HalfBuffer, SkidBuffer
from unvirt.stream.fifo import MemoryQueue, Queue

MAKERS = {
    "half": lambda: HalfBuffer(16), "skid": lambda: SkidBuffer(16),
    "queue1": lambda: Queue(16, 1), "queue2": lambda: Queue(16, 2), "queue5": lambda: Queue(16, 5),
    "queue8": lambda: Queue(16, 8),
    "memory2": lambda: MemoryQueue(16, 2), "memory5": lambda: MemoryQueue(16, 5),
    "memory16": lambda: MemoryQueue(16, 16),
}


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("name", MAKERS)
def test_order(name, stalls):
    rng = random.Random(f"{name} {stalls}")
    dut, words, got = MAKERS[name](), [rng.randrange(1 << 16) for _ in range(60)], []
    simulate(dut, send(dut.i, words, stall=stalls[0], random=rng),
             receive(dut.o, len(words), got, stall=stalls[1], random=rng),
             background=[watch(dut.o)])
    assert got == words


@pytest.mark.parametrize("name", MAKERS)
def test_full_rate(name):
    dut, words, got = MAKERS[name](), list(range(50)), []
    cycles = 0

    async def count(ctx):
        nonlocal cycles
        while True:
            await ctx.tick()
            cycles += 1

    simulate(dut, send(dut.i, words), receive(dut.o, len(words), got), background=[count])
    slow = {"queue1": 2, "memory2": 1.5}.get(name, 1)
    assert cycles <= 50 * slow + 4


@pytest.mark.parametrize("kind, depth", [(Queue, 1), (Queue, 3), (Queue, 4), (MemoryQueue, 3),
                                         (MemoryQueue, 4)])
def test_level_and_capacity(kind, depth):
    dut = kind(8, depth)

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        for put in range(depth):
            assert ctx.get(dut.level) == put
            assert ctx.get(dut.i.ready)
            await ctx.tick()
        await ctx.tick().repeat(3)
        assert ctx.get(dut.level) == depth
        assert not ctx.get(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        ctx.set(dut.o.ready, 1)
        await ctx.tick().repeat(depth + 2)
        assert ctx.get(dut.level) == 0
        assert not ctx.get(dut.o.valid)

    simulate(dut, bench)


@pytest.mark.parametrize("depth", [0, -1])
def test_depth_message(depth):
    with pytest.raises(ValueError, match=f"Depth must be at least 1, not {depth}"):
        Queue(8, depth)
    with pytest.raises(TypeError, match="Depth must be an integer, not 'x'"):
        MemoryQueue(8, "x")


BEAT = data.StructLayout({"data": 16, "first": 1, "last": 1})


@pytest.mark.parametrize("ports", [1, 2, 3, 5])
@pytest.mark.parametrize("stalls", STALLS)
def test_arbiter(ports, stalls):
    rng = random.Random(f"{ports} {stalls}")
    dut = PacketArbiter(BEAT, ports)
    sent, benches, got = [], [], []
    for port in range(ports):
        beats = []
        for packet in range(12):
            length = rng.randint(1, 4)
            beats += [{"data": port << 12 | packet << 4 | beat, "first": beat == 0,
                       "last": beat == length - 1} for beat in range(length)]
        sent.append(beats)
        benches.append(send(dut.i[port], beats, stall=stalls[0], random=rng))
    total = sum(map(len, sent))
    simulate(dut, *benches, receive(dut.o, total, got, stall=stalls[1], random=rng),
             background=[watch(dut.o)])
    current = None
    for beat in got:
        port = beat.data >> 12
        assert beat.first == (current is None)
        assert current in (None, port), "packets of two ports are mixed"
        assert beat.data == sent[port].pop(0)["data"]
        current = None if beat.last else port


def test_arbiter_is_fair():
    dut, got = PacketArbiter(BEAT, 3), []
    benches = [send(dut.i[port], [{"data": port, "first": 1, "last": 1}] * 10) for port in range(3)]
    simulate(dut, *benches, receive(dut.o, 30, got))
    assert all(sorted(b.data for b in got[i:i + 3]) == [0, 1, 2] for i in range(0, 27, 3))
