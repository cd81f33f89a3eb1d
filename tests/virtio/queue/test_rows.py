# SPDX-License-Identifier: BSD-2-Clause
"""State of rows in memory."""

from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.rows import RowCount


def test_count():
    """Both sides count every cycle, the same row or others; a look-up shows what was taken and given before its cycle."""
    rows, most = 4, 5
    rng = seeded("row count")
    dut = RowCount(most, rows=rows)

    async def bench(ctx):
        # Rows hold noise at power-up: the sweep clears them.
        for row in range(rows):
            ctx.set(dut.sweep.row, row)
            ctx.set(dut.sweep.valid, 1)
            await ctx.tick()
        ctx.set(dut.sweep.valid, 0)
        held, full = [0] * rows, 0
        for cycle in range(3000):
            favourite = cycle // 50 % rows
            taken, given, looked = (rng.choice((favourite, rng.randrange(rows))) for _ in range(3))
            take = held[taken] < most and rng.random() < (0.9 if cycle % 100 < 50 else 0.3)
            give = held[given] > 0 and rng.random() < 0.6
            ctx.set(dut.taken_valid, take)
            ctx.set(dut.taken_row, taken)
            ctx.set(dut.given_valid, give)
            ctx.set(dut.given_row, given)
            ctx.set(dut.row[0], looked)
            expected = held[looked]
            await ctx.tick()
            assert ctx.get(dut.count[0]) == expected
            held[taken] += take
            held[given] -= give
            full += most in held
        assert full > 100

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
