# SPDX-License-Identifier: BSD-2-Clause
"""Rows that always have packets share what is read in bytes, whatever the sizes of their packets."""

import pytest
from amaranth import *
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.scheduler import Scheduler
from unvirt.virtio.queue.source import SourceIssue

HEADER, QUANTUM, GRANULES = 12, 1024, 256
SIZES = (64, 1500, 9000, 64, 576, 1500, 256, 64)


class Bench(Elaboratable):
    """The issue stage and its scheduler; every row has chains without end, of one size each.

    What was read is back at once, unless ``answered``: then so many pieces of each row are as ``done`` says.
    """

    def __init__(self, sizes, *, answered=False):
        self.sizes = sizes
        self.answered = answered
        self.open = Signal(init=1)        # the way to the scheduler's tail
        self.done = Array(Signal(16, name=f"done{row}") for row in range(len(sizes)))
        rows = len(sizes)
        self.issue = SourceIssue(rows=rows, slots=64, groups=16, granules=GRANULES, tags=64, short_tags=64, handle_width=6, buffer_width=15,
                                 start_offset=20, header_size=HEADER, shortest=HEADER + 14, longest=HEADER + 9018, quantum=QUANTUM)
        self.scheduler = Scheduler(rows=rows, kicks=2)

    def elaborate(self, platform):
        m = Module()
        m.submodules.issue = issue = self.issue
        m.submodules.scheduler = scheduler = self.scheduler
        connect(m, scheduler.visits, issue.visits)
        tail = scheduler.kicks[1]
        m.d.comb += [tail.payload.eq(issue.again.payload), tail.valid.eq(issue.again.valid & self.open), issue.again.ready.eq(tail.ready & self.open)]
        chains, row = issue.chains, Signal(range(len(self.sizes)))
        asked = Signal.like(row)
        m.d.sync += [row.eq(chains.order_row), asked.eq(issue.progress_row)]
        # What each row has taken so far.
        granules, pieces = (Array(Signal(16, name=f"{name}{number}") for number in range(len(self.sizes))) for name in ("granules", "pieces"))
        m.d.sync += [granules[issue.count.row].eq(granules[issue.count.row] + issue.pool_take),
                     pieces[issue.count.row].eq(pieces[issue.count.row] + (issue.pieces.valid & issue.pieces.ready))]
        m.d.comb += [
            issue.issued_row[0].eq(issue.progress_row),
            issue.retired.granules.eq(granules[asked]),
            issue.pieces_done.eq((self.done if self.answered else pieces)[asked]),
            chains.parsed.eq(issue.issued[0] + 1000),
            chains.walked.eq(1),
            chains.chain.single.eq(1),
            chains.chain.address.eq(0x1000),
            chains.chain.readable.eq(Array(HEADER + size for size in self.sizes)[row]),
            issue.max_read_request_size.eq(2),
            issue.dropped.ready.eq(1),
            issue.open.eq(1),
        ]
        return m


def run(sizes, cycles, pieces_ready, granules):
    """Let all rows go on for so many cycles; return the bytes of packets that each began, and the most that one began in a visit."""
    dut, began, visit, most = Bench(sizes), [0] * len(sizes), [None, 0], 0

    async def bench(ctx):
        nonlocal most
        for row in range(len(sizes)):
            ctx.set(dut.scheduler.kicks[0].payload, row)
            ctx.set(dut.scheduler.kicks[0].valid, 1)
            await ctx.tick().until(dut.scheduler.kicks[0].ready)
        ctx.set(dut.scheduler.kicks[0].valid, 0)
        issue = dut.issue
        for _ in range(cycles):
            ctx.set(issue.pieces.ready, pieces_ready())
            ctx.set(issue.pool_count, granules())
            ctx.set(dut.open, pieces_ready())
            await ctx.delay(0)
            if ctx.get(issue.info_valid):
                row = ctx.get(issue.count.row)
                size = ctx.get(issue.info.length) - HEADER
                began[row] += size
                visit[:] = (row, size + (visit[1] if visit[0] == row else 0))
                most = max(most, visit[1])
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    return began, most


def test_two_cycles_a_packet():
    """Packets of one piece each begin every two cycles; a visit costs three more, for which it begins as many as its bytes allow."""
    cycles = 4000
    began, _ = run((64,) * 8, cycles, lambda: 1, lambda: GRANULES)
    packets = sum(began) / 64
    print(f"{cycles / packets:.2f} cycles a packet")
    assert packets * (2 + 3.1 * 64 / QUANTUM) >= cycles


@pytest.mark.parametrize("busy", ["free", "stalls", "short of granules"])
def test_rows_share_in_bytes(busy):
    """Within 5 % after 40 rounds at least, with reads, and the way to the scheduler, that wait, and with a buffer in which long packets seldom find
    room.
    """
    rng = seeded(f"shares {busy}")
    ready = (lambda: 1) if busy == "free" else lambda: rng.random() < 0.6
    granules = (lambda: rng.choice((0, 3, 6, 20, 80))) if busy == "short of granules" else lambda: GRANULES
    began, most = run(SIZES, 60_000, ready, granules)
    share = sum(began) / len(began)
    print([round(bytes_ / share, 3) for bytes_ in began], most)
    assert share > 40 * QUANTUM
    assert all(abs(bytes_ - share) < 0.05 * share + max(SIZES) / 2 for bytes_ in began)


def test_a_visit_ends():
    """No visit begins more than two quanta and one packet."""
    began, most = run((64, 1500), 6000, lambda: 1, lambda: GRANULES)
    assert QUANTUM <= most <= 2 * QUANTUM + 1500 and min(began) > 0


def test_tags_of_a_row():
    """A row whose reads are not answered keeps half of the tags, one whose reads come back uses three quarters, of which it needs more here."""
    dut, latency, flight, most = Bench((64, 64), answered=True), 300, [[], []], [0, 0]

    async def bench(ctx):
        issue = dut.issue
        ctx.set(issue.pieces.ready, 1)
        ctx.set(issue.pool_count, GRANULES)
        kick = dut.scheduler.kicks[0]
        for cycle in range(6000):
            # Whatever the rows have had: they are visited over and over.
            ctx.set(kick.valid, cycle % 8 == 0)
            ctx.set(kick.payload, cycle >> 3 & 1)
            await ctx.delay(0)
            if ctx.get(issue.pieces.valid):
                row = ctx.get(issue.count.row)
                flight[row].append(cycle)
                most[row] = max(most[row], len(flight[row]))
            while flight[1] and flight[1][0] < cycle - latency:
                flight[1].pop(0)
                ctx.set(dut.done[1], ctx.get(dut.done[1]) + 1)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    print(most)
    assert most == [32, 48]
