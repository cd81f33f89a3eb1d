# SPDX-License-Identifier: BSD-2-Clause
"""From lines of descriptors to descriptors: each in its order, whoever else uses the memory and however they are taken."""

from collections import deque

import pytest
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.descriptors import DescriptorReader

CONTEXTS, GRANULE = 16, 128


def descriptor(context, index):
    """Return the 16 bytes of a descriptor that is known by its address."""
    return (0x1000 * context + index).to_bytes(8, "little") + (64 + index).to_bytes(4, "little") + bytes(2) + context.to_bytes(2, "little")


def read(width, lines, *, rng=None, skip=lambda context, index: False):
    """Pass ``lines`` (context, number of descriptors, walk, error) through a reader; return what came out, the contexts given back, and the cycles.

    With ``rng`` neither the memory nor who takes the descriptors is always ready.
    """
    dut = DescriptorReader(data_width=width, rows=4, contexts=CONTEXTS)
    out, freed, size = [], [], width // 8
    waiting = deque(lines)
    cycles = 0

    async def bench(ctx):
        nonlocal cycles
        data = rng.getrandbits(width) if rng else 0
        while waiting or not ctx.get(dut.idle):
            ctx.set(dut.answers.valid, bool(waiting))
            if waiting:
                context, count, walk, error = waiting[0]
                ctx.set(dut.answers.payload, {"context": context, "row": 1, "position": 100 * context, "count": count, "walk": walk, "error": error})
            ctx.set(dut.port.ready, rng is None or rng.random() < 0.6)
            ctx.set(dut.port.data, data)
            ctx.set(dut.items.ready, rng is None or rng.random() < 0.7)
            item = dut.items.payload
            index = ctx.get(item.position) - 100 * ctx.get(item.context)
            ctx.set(dut.skip, skip(ctx.get(item.context), index))
            if ctx.get(dut.items.valid & dut.items.ready):
                what = (ctx.get(item.descriptor.address), ctx.get(item.descriptor.length)) if not ctx.get(item.error) else None
                out.append((ctx.get(item.context), index, what, ctx.get(item.walk), ctx.get(item.last)))
            if ctx.get(dut.free.valid):
                freed.append(ctx.get(dut.free.context))
            if ctx.get(dut.answers.valid & dut.answers.ready):
                waiting.popleft()
            data = rng.getrandbits(width) if rng else 0
            if ctx.get(dut.port.valid & dut.port.ready):
                context, word = ctx.get(dut.port.context), ctx.get(dut.port.word)
                granule = b"".join(descriptor(context, index) for index in range(GRANULE // 16))
                data = int.from_bytes(granule[size * word:size * (word + 1)], "little")
            await ctx.tick()
            cycles += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return out, freed, cycles


def expected(lines, skip=lambda context, index: False):
    """Return what must come out."""
    out = []
    for context, count, walk, error in lines:
        for index in range(1 if error else count):
            out.append((context, index, None if error else (0x1000 * context + index, 64 + index), walk, error or index + 1 == count))
            if skip(context, index):
                break
    return out


@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
@pytest.mark.parametrize("stalls", [False, True])
def test_every_descriptor_comes_in_order(width, stalls):
    """Lines of one to eight descriptors: some of walks, which keep their contexts, some that failed, of which one item tells, some of which nobody
    wants the rest.
    """
    rng = seeded(f"descriptors {width} {stalls}")
    lines = [(context, rng.randint(1, 8), context % 4 == 1, context % 5 == 4) for context in range(CONTEXTS)]

    def skip(context, index):
        return context % 3 == 2 and index == 2

    out, freed, _ = read(width, lines, rng=rng if stalls else None, skip=skip)
    assert out == expected(lines, skip)
    assert freed == [context for context, _, walk, _ in lines if not walk]


@pytest.mark.parametrize("width, each", [(64, 3), (128, 2), (256, 1), (512, 1)])
def test_a_descriptor_a_cycle(width, each):
    """Where a word holds several, descriptors that are taken at once come one a cycle; a line costs two more."""
    lines = [(context, 8, False, False) for context in range(CONTEXTS)]
    _, _, cycles = read(width, lines)
    print(f"{cycles} cycles for {8 * CONTEXTS} descriptors")
    assert cycles <= CONTEXTS * (8 * each + 2) + 1
