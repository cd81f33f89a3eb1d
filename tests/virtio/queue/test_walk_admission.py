# SPDX-License-Identifier: BSD-2-Clause
"""Who may be walked: the reserve of heads, shares of rows, and chains that gave up."""

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.walk_admission import WalkAdmission

GROUPS, WALKS, LONGEST = 32, 4, 3       # 16 groups of a half, the last three for heads


def ask(*, position=5, head=0, out=0, shortage=(0, 0), sink=False, held=0, others=(), known=True):
    """Return (may begin, may take, (groups, head) of a shortage) for a chain of row 1 with ``out`` groups given out; ``others``: rows of walks."""
    dut = WalkAdmission(rows=4, groups=GROUPS, walks=WALKS, chain_groups=LONGEST)
    answer = []

    async def bench(ctx):
        for number, row in enumerate(others):
            ctx.set(dut.row, row)
            await ctx.tick()
            ctx.set(dut.number, number)
            ctx.set(dut.begins, 1)
            await ctx.tick()
            ctx.set(dut.begins, 0)
        values = {"row": 1, "position": position, "head_position": head, "head_known": known, "sink_row": sink, "held": held,
                  "sink_groups" if sink else "source_groups": out, "sink_groups" if not sink else "source_groups": GROUPS // 2,
                  "shortage": {"groups": shortage[0], "head": shortage[1]}}
        for name, value in values.items():
            ctx.set(getattr(dut, name), value)
        await ctx.tick()
        await ctx.tick()
        answer.extend([ctx.get(dut.may_begin), ctx.get(dut.may_take), (ctx.get(dut.short.groups), ctx.get(dut.short.head))])

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return answer


@pytest.mark.parametrize("sink", [False, True])
def test_the_last_groups_are_for_heads(sink):
    """A half's last groups go to chains at the head of their queue only, to these down to the last one."""
    assert [ask(out=out, sink=sink)[:2] for out in (12, 13)] == [[1, 1], [0, 0]]
    assert [ask(out=out, sink=sink, position=0)[:2] for out in (13, 15, 16)] == [[1, 1], [1, 1], [1, 0]]


def test_shares_of_rows():
    """Half of the walks serve one row, but its head; a walk under way counts for a group."""
    assert ask(others=[1])[0] == 1 and ask(others=[1, 1])[0] == 0 and ask(others=[1, 1], position=0)[0] == 1
    assert ask(others=[2, 2, 3])[0] == 1 and ask(others=[2, 2, 3, 3], position=0)[0] == 0
    assert ask(out=11, others=[2])[0] == 1 and ask(out=12, others=[2])[0] == 0


def test_far_from_the_head():
    """Of a sink row only so many chains are walked that one packet can have them all."""
    assert [ask(position=position, sink=True)[0] for position in (9, 10)] == [1, 0]
    assert ask(position=10)[0] == 1


def test_a_chain_that_gave_up():
    """It is walked again when there are more groups than it found, or when it may have those that are for heads, not before."""
    assert ask(out=9, held=2)[2] == (9, 0) and ask(out=16, held=2, position=0)[2] == (2, 1)
    for head in (0, 1):
        assert [ask(out=out, shortage=(6, head))[0] for out in (9, 10)] == [1, 0]
    assert [ask(out=out, shortage=(6, 0), position=0)[0] for out in (10, 15)] == [1, 1]
    assert [ask(out=out, shortage=(6, 1), position=0)[0] for out in (9, 10)] == [1, 0]


def test_the_head_of_another():
    """As long as the head's position is that of the row that was at hand before, nobody is taken for the head."""
    assert [ask(out=out, position=0, known=False)[1] for out in (12, 13)] == [1, 0]
