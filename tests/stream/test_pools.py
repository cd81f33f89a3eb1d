# SPDX-License-Identifier: BSD-2-Clause
"""Free list, flag table and the pure helpers."""

import random

import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from stream_bench import simulate

from unvirt.stream.flags import FlagTable
from unvirt.stream.free_list import FreeList
from unvirt.stream.ring import lowest_one, round_robin, wrap_sub
from unvirt.stream.rotate import rotate_left, rotate_right


@pytest.mark.parametrize("depth", [1, 2, 5, 16, 300])
def test_free_list(depth):
    rng, dut = random.Random(depth), FreeList(depth)

    async def bench(ctx):
        out = []
        assert ctx.get(dut.count) == depth
        for cycle in range(600):
            take = rng.random() < (0.9 if cycle % 200 < 100 else 0.3)
            give = bool(out) and rng.random() < 0.5
            ctx.set(dut.alloc.ready, take)
            ctx.set(dut.free.valid, give)
            if give:
                ctx.set(dut.free.payload, out.pop(rng.randrange(len(out))))
            await ctx.delay(0)
            valid, token = ctx.get(dut.alloc.valid), ctx.get(dut.alloc.payload)
            assert ctx.get(dut.free.ready)
            await ctx.tick()
            if take and valid:
                assert token not in out and token < depth
                out.append(token)
            assert ctx.get(dut.count) == depth - len(out)
        while out:
            ctx.set(dut.alloc.ready, 0)
            ctx.set(dut.free.valid, 1)
            ctx.set(dut.free.payload, out.pop())
            await ctx.tick()
        ctx.set(dut.free.valid, 0)
        await ctx.tick().repeat(2)
        assert ctx.get(dut.count) == depth
        ctx.set(dut.alloc.ready, 1)
        tokens = set()
        for _ in range(depth):
            assert ctx.get(dut.alloc.valid)
            tokens.add(ctx.get(dut.alloc.payload))
            await ctx.tick()
        assert tokens == set(range(depth))
        assert not ctx.get(dut.alloc.valid)

    simulate(dut, bench)


@pytest.mark.parametrize("depth", [1, 2, 7, 32])
def test_flags(depth):
    rng, dut = random.Random(depth), FlagTable(depth, 2)
    reset = Signal()

    async def bench(ctx):
        for _ in range(2):
            await ctx.tick().until(dut.ready)
            flags = [0] * depth
            for _ in range(200):
                a, b = rng.randrange(depth), rng.randrange(depth)
                setting = rng.random() < 0.6
                clearing = rng.random() < 0.6 and not (setting and a == b)
                ctx.set(dut.set_index, a)
                ctx.set(dut.clear_index, b)
                ctx.set(dut.set_valid, setting)
                ctx.set(dut.clear_valid, clearing)
                await ctx.tick()
                if setting:
                    flags[a] = 1
                if clearing:
                    flags[b] = 0
                for port in range(2):
                    index = rng.randrange(depth)
                    ctx.set(dut.test_index[port], index)
                    assert ctx.get(dut.test_value[port]) == flags[index]
            ctx.set(dut.set_valid, 0)
            ctx.set(dut.clear_valid, 0)
            ctx.set(reset, 1)       # the memories keep what was in them
            await ctx.tick()
            ctx.set(reset, 0)
            assert not ctx.get(dut.ready)

    simulate(ResetInserter(reset)(dut), bench)


def evaluate(expression, cases, inputs):
    """Return the values of an expression for each tuple of inputs."""
    class Probe(wiring.Component):
        o: Out(64)

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.o.eq(expression)
            dummy = Signal()
            m.d.sync += dummy.eq(~dummy)
            return m

    probe, results = Probe(), []

    async def bench(ctx):
        for case in cases:
            for signal, value in zip(inputs, case, strict=True):
                ctx.set(signal, value)
            results.append(ctx.get(probe.o))

    simulate(probe, bench)
    return results


def test_wrap_sub():
    a, b = Signal(8), Signal(6)
    cases = [(x, y) for x in (0, 1, 5, 200, 255) for y in (0, 1, 63)]
    assert evaluate(wrap_sub(a, b), cases, (a, b)) == [(x - y) & 255 for x, y in cases]
    assert len(wrap_sub(a, b)) == 8


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_round_robin(count):
    requests, last = Signal(count), Signal(range(max(2, count)))
    cases = [(r, n) for r in range(1, 1 << count) for n in range(count)]
    want = [next((n + k) % count for k in range(1, count + 1) if r >> (n + k) % count & 1)
            for r, n in cases]
    assert evaluate(round_robin(requests, last), cases, (requests, last)) == want
    lows = evaluate(lowest_one(requests), cases, (requests, last))
    assert lows == [(r & -r).bit_length() - 1 for r, _ in cases]


class Rotator(wiring.Component):
    def __init__(self, rotate, lanes):
        self.rotate = rotate
        super().__init__({"value": In(8 * lanes), "amount": In((lanes - 1).bit_length()),
                          "o": Out(8 * lanes)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o.eq(self.rotate(m, self.value, self.amount))
        dummy = Signal()
        m.d.sync += dummy.eq(~dummy)
        return m


@pytest.mark.parametrize("rotate, sign", [(rotate_left, 1), (rotate_right, -1)])
@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_rotate(lanes, rotate, sign):
    rng, dut = random.Random(lanes), Rotator(rotate, lanes)

    async def bench(ctx):
        for amount in range(lanes):
            word = rng.randbytes(lanes)
            ctx.set(dut.value, int.from_bytes(word, "little"))
            ctx.set(dut.amount, amount)
            turned = ctx.get(dut.o).to_bytes(lanes, "little")
            assert turned == bytes(word[(k - sign * amount) % lanes] for k in range(lanes))

    simulate(dut, bench)


def test_rotate_message():
    with pytest.raises(ValueError, match="Width of a rotated value must be a power of two of "
                                         "lanes of 8 bits, not 24 bits"):
        rotate_left(Module(), Signal(24), Signal(1))
    with pytest.raises(ValueError, match="amount of at most 2 bits, not 3"):
        rotate_left(Module(), Signal(32), Signal(3))
