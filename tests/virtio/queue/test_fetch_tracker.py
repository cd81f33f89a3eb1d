# SPDX-License-Identifier: BSD-2-Clause
"""The tracker of pieces: what they count for in the window of packet data."""

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.retire import FetchTracker


@pytest.mark.parametrize("setting", [0, 1, 2])
@pytest.mark.parametrize("size, pieces", [(76, 1), (76, 30), (1512, 12), (1512, 40), (9030, 71), (9030, 200)])
def test_pieces_add_up_to_their_packet(size, pieces, setting):
    """However many pieces a driver makes of a packet they count for its bytes, none for less than nothing or more than a read may ask for."""
    dut = FetchTracker(rows=4, slots=4)
    counted = []

    async def bench(ctx):
        ctx.set(dut.max_read_request_size, setting)
        for _ in range(8):
            await ctx.tick()
        for number in range(pieces + 4):
            # Each is issued, and answered in the cycle after.
            ctx.set(dut.count_valid, number < pieces)
            ctx.set(dut.count_slot, 2)
            ctx.set(dut.count, {"row": 1, "bytes": size, "count": number + 1, "all": number == pieces - 1})
            ctx.set(dut.done_valid, 0 < number <= pieces)
            ctx.set(dut.done_slot, 2)
            await ctx.tick()
            if ctx.get(dut.arrives):
                assert ctx.get(dut.arrived.slot) == 2
                counted.append(ctx.get(dut.arrived.bytes))

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    assert len(counted) == pieces and sum(counted) == size
    assert all(0 <= amount <= 128 << setting for amount in counted)
