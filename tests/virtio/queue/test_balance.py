# SPDX-License-Identifier: BSD-2-Clause
"""The source waits for the sink where both want the link, and nowhere else."""

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.balance import DirectionBalance

FRAME, OTHER = 76, 268


def share(cycles, *, turn, sent=FRAME, received=OTHER, behind=lambda cycle: True, wants=lambda cycle: True):
    """Let a link carry one thing every third cycle, that of a ``turn`` if both may, and return how many bytes the source and the sink moved.

    The source always has packets, the sink has one in cycles for which ``wants`` holds, and is ``behind`` as it says.
    """
    dut = DirectionBalance()
    moved = [0, 0]

    async def bench(ctx):
        for cycle in range(cycles):
            may = [ctx.get(dut.open), wants(cycle)]
            free = cycle % 3 == 0
            takes = next((side for side in turn(cycle) if may[side]), None) if free else None
            ctx.set(dut.begins, takes == 0)
            ctx.set(dut.begun, sent)
            ctx.set(dut.moves, takes == 1)
            ctx.set(dut.moved, received)
            ctx.set(dut.waits, wants(cycle) and takes != 1)
            ctx.set(dut.behind, behind(cycle))
            if takes is not None:
                moved[takes] += (sent, received)[takes]
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return moved


def source_first(cycle):
    """Whatever divides the link prefers packets to send."""
    return 0, 1


@pytest.mark.parametrize("sent,received", [(76, 76), (76, 1512), (9030, 76), (9030, 9030)])
def test_as_many_bytes_each(sent, received):
    """However the link is divided, and whatever the sizes, the source gets no more than the sink does, but for one packet and one that was begun."""
    source, sink = share(6000, turn=source_first, sent=sent, received=received)
    assert sink > 0 and abs(source - sink) <= 2 * max(sent, received)


def test_the_sink_is_not_held():
    """What prefers writes may give the sink more than the source has: the source then waits for nothing."""
    source, sink = share(6000, turn=lambda cycle: (1, 0) if cycle % 9 else (0, 1), sent=FRAME, received=FRAME)
    assert sink > 1.8 * source > 0


def test_a_sink_that_is_not_behind_holds_nobody():
    """Without a backlog, or without a write that waits, all goes to the source if the link gives it."""
    assert share(3000, turn=source_first, behind=lambda cycle: False) == [1000 * FRAME, 0]
    assert share(3000, turn=source_first, wants=lambda cycle: False) == [1000 * FRAME, 0]


def test_a_sink_without_buffers_holds_nobody_for_long():
    """Packets wait, but have had nothing to write for 32 cycles: what the source had too much is forgotten."""
    source, sink = share(3000, turn=source_first, sent=9030, wants=lambda cycle: cycle == 0)
    assert sink == 0 and source > 950 * 9030


def test_little_is_remembered():
    """After the sink alone had the link for long the source may catch up on 16 KB, not on all of it."""
    source, sink = share(9000, turn=lambda cycle: (1,) if cycle < 6000 else (0, 1), sent=FRAME, received=FRAME)
    late = sink - 2000 * FRAME
    assert late > 0 and abs(source - late - (1 << 14)) <= 4 * FRAME
