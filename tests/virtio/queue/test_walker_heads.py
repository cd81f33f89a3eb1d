# SPDX-License-Identifier: BSD-2-Clause
"""Heads that stand alone go through the walker one a cycle, each to the slot of its own position."""

import pytest
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.walker import Walker

ROWS, SLOTS = 4, 64


def slot_of(row, position):
    """Return the slot in which the test's store keeps the chain of this position."""
    return (17 * row + 5 * position + 3) % SLOTS


def walk(heads, *, rng=None):
    """Pass ``heads`` (row, position, kind) through a walker; return the records it made, the violations, and the cycles it took.

    With ``rng`` neither the heads nor who is told of chains is always there. Row 2 is of a sink. Chains of several descriptors do not begin.
    """
    dut = Walker(rows=ROWS, slots=SLOTS, window=32, groups=32, walks=4, contexts=16, max_chain=16, is_sink=lambda row: row == 2)
    records, told, violations, cycles = [], [], 0, 0
    waiting = list(enumerate(heads))

    async def bench(ctx):
        nonlocal violations, cycles
        ctx.set(dut.hold, 1)
        looked_up = 0
        ended = 0
        while waiting or ended < 4:
            there = bool(waiting) and (rng is None or rng.random() < 0.7)
            ctx.set(dut.items.valid, there)
            if there:
                number, (row, position, kind) = waiting[0]
                flags = {"write": row == 2, "next": kind == "longer"}
                descriptor = {"address": 0x1000 * number, "length": 64 + number, "flags": flags, "next": number}
                ctx.set(dut.items.payload, {"row": row, "position": position, "error": kind == "lost", "last": 1, "descriptor": descriptor})
            ctx.set(dut.store.slot, looked_up)
            ctx.set(dut.ready_rows.ready, rng is None or rng.random() < 0.6)
            if ctx.get(dut.store.chain_valid):
                chain = dut.store.chain
                records.append((ctx.get(dut.store.chain_slot), ctx.get(chain.address), ctx.get(chain.readable), ctx.get(chain.writable)))
            if ctx.get(dut.ready_rows.valid & dut.ready_rows.ready):
                told.append(ctx.get(dut.ready_rows.payload))
            violations += ctx.get(dut.violation)
            looked_up = slot_of(ctx.get(dut.store.order_row), ctx.get(dut.store.order_position))
            if ctx.get(dut.items.valid & dut.items.ready):
                waiting.pop(0)
            ended += not waiting
            await ctx.tick()
            cycles += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    single = [(number, row, position) for number, (row, position, kind) in enumerate(heads) if kind == "single"]
    assert records == [(slot_of(row, position), 0x1000 * number, 0 if row == 2 else 64 + number, 64 + number if row == 2 else 0)
                       for number, row, position in single]
    assert told == [row for _, row, _ in single if row != 2]
    assert violations == sum(kind == "lost" for _, _, kind in heads)
    return cycles


@pytest.mark.parametrize("stalls", [False, True])
def test_each_head_has_its_own_slot(stalls):
    """Single heads, heads of longer chains and heads that could not be read, of several rows, in any order."""
    rng = seeded(f"heads {stalls}")
    heads = [(rng.randrange(ROWS), rng.randrange(1 << 16), rng.choice(["single"] * 6 + ["longer", "lost"])) for _ in range(400)]
    walk(heads, rng=rng if stalls else None)


def test_a_head_a_cycle():
    """Of sources and of sinks."""
    cycles = walk([(number % ROWS, number, "single") for number in range(200)])
    assert cycles <= 200 + 6
