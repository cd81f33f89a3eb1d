# SPDX-License-Identifier: BSD-2-Clause
"""The control queue by itself: when VQ_PAIRS_SET is answered."""

import pytest
from amaranth.sim import Simulator

from unvirt.config import DeviceConfig
from unvirt.net.control import ControlQueue
from unvirt.net.spec import ACK_OK, CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET

PAIRS, ROWS = 4, 16
OLD_FRAMES, PUBLISHING = 40, 60
"""Cycles until no frame that went by the old number waits for its buffers, and until these are published from when that is asked for."""


@pytest.mark.parametrize("publishing", [0, 1, PUBLISHING])
@pytest.mark.parametrize("old_frames", [0, 1, OLD_FRAMES])
def test_pairs_are_answered_behind_what_went_by_the_old_number(old_frames, publishing):
    """The new number counts at once; the answer waits until frames that went by the old one have buffers, then until these are published.

    Publishing is asked for only when all of them have buffers: sooner would be for those that have.

    Covers: NET-MQ-02, DER-CTRL-02
    """
    dut = ControlQueue(DeviceConfig(queue_pairs=PAIRS, rows=ROWS, msix_vectors=2 * PAIRS + 2))
    times = {}

    async def surroundings(ctx):
        """The frames and the engine: ``settled`` falls with ``changed``, ``flushed`` follows ``flush``."""
        waiting, asked = 0, 0
        for now in range(400):
            if ctx.get(dut.changed):
                times["changed"], waiting = now, old_frames
                assert ctx.get(dut.pairs) == 2
            ctx.set(dut.settled, not ctx.get(dut.changed) and waiting == 0)
            await ctx.delay(0)
            flush = ctx.get(dut.flush)
            if flush and not asked:
                times["flush"] = now
            asked = asked + 1 if flush else 0
            ctx.set(dut.flushed, asked > publishing)
            await ctx.delay(0)
            if ctx.get(dut.flushed):
                times["flushed"] = now
            if ctx.get(dut.responses.valid):
                assert ctx.get(dut.responses.payload) == {"data": ACK_OK, "last": 1}
                times.setdefault("answer", now)
            waiting -= waiting != 0
            await ctx.tick()

    async def driver(ctx):
        ctx.set(dut.multiqueue, 1)
        ctx.set(dut.responses.ready, 1)
        await ctx.tick().repeat(5)
        for number, byte in enumerate((CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET, 2, 0)):
            ctx.set(dut.requests.valid, 1)
            ctx.set(dut.requests.payload, {"data": byte, "there": 1, "last": number == 3})
            await ctx.tick().until(dut.requests.ready)
        ctx.set(dut.requests.valid, 0)

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(surroundings)
    simulator.add_testbench(driver)
    simulator.run_until(600e-9)
    assert list(times) == ["changed", "flush", "flushed", "answer"]
    assert times["flush"] - times["changed"] == max(old_frames, 1)
    assert times["flushed"] - times["flush"] == publishing
    assert times["answer"] == times["flushed"] + 1
