# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the split ring, with more rows than contexts for their lines."""

from collections import Counter, deque

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.avail import AvailController

ROWS, SIZE, WINDOW, SLOTS, LINES = 8, 256, 128, 1024, 2
BASE = 0x1_0000


def lines_read(*, contexts, latency, cycles):
    """Return how many lines of each row are read in ``cycles`` when a read takes ``latency`` and every ring is full at all times.

    The chains of a line are given back when it ends; the driver makes as many available, and notifies.
    """
    dut = AvailController(data_width=64, rows=ROWS, slots=SLOTS, window=WINDOW, lines=LINES)
    read, retired, rung = Counter(), [0] * ROWS, [True] * ROWS
    waiting, answers, lines = deque(range(ROWS)), deque(), deque()

    def offer(ctx, port, items, payload, now):
        """Drive ``port`` with the first of ``items``, which are (cycle from which it is there, what is there)."""
        there = bool(items) and items[0][0] <= now
        ctx.set(port.valid, there)
        if there:
            ctx.set(port.payload, payload(items[0][1]))

    async def bench(ctx):
        for name, value in (("enabled", 1), ("size", SIZE), ("driver", BASE), ("device", 2 * BASE)):
            ctx.set(getattr(dut.config.config, name), value)
        ctx.set(dut.free_slots, SLOTS)
        for name in ("index_reads", "ring_reads", "again", "flags"):
            ctx.set(getattr(dut, name).ready, 1)
        ctx.set(dut.index_free, 1)
        position = 0
        for now in range(cycles):
            ctx.set(dut.visits.valid, bool(waiting))
            if waiting:
                ctx.set(dut.visits.payload, waiting[0])
            offer(ctx, dut.finished, lines, lambda line: line[0], now)
            offer(ctx, dut.index_answers, answers, lambda row: {"row": row, "value": (retired[row] + SIZE) & 0xFFFF, "error": 0}, now)
            ctx.set(dut.ring_free, len(lines) < contexts)
            ctx.set(dut.retired, retired[position])
            ctx.set(dut.rung, rung[position])
            ctx.set(dut.unused, 0)
            if ctx.get(dut.rung_clear):
                rung[position] = False
            position = ctx.get(dut.retired_row)
            if ctx.get(dut.visits.valid & dut.visits.ready):
                waiting.popleft()
            if ctx.get(dut.index_answers.valid & dut.index_answers.ready):
                answers.popleft()
            if ctx.get(dut.finished.valid & dut.finished.ready):
                row, count = lines.popleft()[1]
                retired[row] += count
                rung[row] = True
                ctx.set(dut.unused, count)
                if row not in waiting:
                    waiting.append(row)
            if ctx.get(dut.index_reads.valid):
                answers.append((now + latency, ctx.get(dut.index_reads.payload.row)))
            if ctx.get(dut.ring_reads.valid):
                row = ctx.get(dut.ring_reads.payload.row)
                lines.append((now + latency, (row, ctx.get(dut.ring_reads.payload.count))))
                read[row] += 1
            if ctx.get(dut.again.valid) and ctx.get(dut.again.payload) not in waiting:
                waiting.append(ctx.get(dut.again.payload))
            assert not ctx.get(dut.violation)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return [read[row] for row in range(ROWS)]


@pytest.mark.parametrize("contexts", [3, 8])
def test_every_row_finds_a_context(contexts):
    """Rows whose line has just ended do not take the context that this gave back, again and again, from rows that wait for their turn."""
    lines = lines_read(contexts=contexts, latency=60, cycles=3000)
    print(lines)
    assert min(lines) >= sum(lines) / ROWS * 0.8
