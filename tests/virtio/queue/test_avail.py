# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the split ring, with more rows than contexts for their lines."""

from collections import deque
from dataclasses import dataclass, field

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.avail import AvailController

ROWS, SIZE, WINDOW, SLOTS, LINES, UNIT = 8, 256, 128, 2048, 2, 16
BASE = 0x1_0000


@dataclass
class Asked:
    """What was asked for: lines of each row, entries altogether, indices, and how often a row came back."""

    lines: list = field(default_factory=lambda: [0] * ROWS)
    entries: int = 0
    indices: int = 0
    again: int = 0


def ask(*, contexts, latency, cycles, every=0, size=SIZE, obeys=False, active=ROWS, window=WINDOW, unit=UNIT, indices=ROWS):
    """Return what is :class:`Asked` for in ``cycles``, when a read takes ``latency`` and rings of ``size`` of ``active`` rows are always full.

    At most ``contexts`` lines and ``indices`` may be under way.

    The chains of a line are given back when it ends, or one of each row ``every`` so many cycles, and the row is called after as many as in the
    engine; the driver makes as many available, and notifies, unless it ``obeys`` and was told that it need not.
    """
    dut = AvailController(data_width=64, rows=ROWS, slots=SLOTS, window=window, lines=LINES)
    asked = Asked()
    retired, fetched, rung, told = [0] * ROWS, [0] * ROWS, [True] * ROWS, [False] * ROWS
    waiting, answers, lines = deque(range(active)), deque(), deque()

    def offer(ctx, port, items, payload, now):
        """Drive ``port`` with the first of ``items``, which are (cycle from which it is there, what is there)."""
        there = bool(items) and items[0][0] <= now
        ctx.set(port.valid, there)
        if there:
            ctx.set(port.payload, payload(items[0][1]))

    async def bench(ctx):
        for name, value in (("enabled", 1), ("size", size), ("driver", BASE), ("device", 2 * BASE)):
            ctx.set(getattr(dut.config.config, name), value)
        ctx.set(dut.free_slots, SLOTS)
        for name in ("index_reads", "ring_reads", "again", "flags"):
            ctx.set(getattr(dut, name).ready, 1)
        position = 0
        for now in range(cycles):
            ctx.set(dut.visits.valid, bool(waiting))
            if waiting:
                ctx.set(dut.visits.payload, waiting[0])
            offer(ctx, dut.finished, lines, lambda line: line[0], now)
            offer(ctx, dut.index_answers, answers, lambda row: {"row": row, "value": (retired[row] + size) & 0xFFFF, "error": 0}, now)
            ctx.set(dut.ring_free, len(lines) < contexts)
            ctx.set(dut.index_free, len(answers) < indices)
            ctx.set(dut.retired, retired[position])
            ctx.set(dut.rung, rung[position])
            if ctx.get(dut.rung_clear):
                rung[position] = False
            position = ctx.get(dut.retired_row)
            if ctx.get(dut.visits.valid & dut.visits.ready):
                waiting.popleft()
            if ctx.get(dut.index_answers.valid & dut.index_answers.ready):
                answers.popleft()
            if ctx.get(dut.finished.valid & dut.finished.ready):
                row, count = lines.popleft()[1]
                fetched[row] += count
            unused = 0
            for row in range(ROWS):
                if fetched[row] != retired[row] and (not every or now % every == row):
                    gone = 1 if every else fetched[row] - retired[row]
                    retired[row] += gone
                    rung[row] |= not (obeys and told[row])
                    unused += gone
                    if row not in waiting and (not every or retired[row] % unit == 0):
                        waiting.append(row)
            ctx.set(dut.unused, unused)
            if ctx.get(dut.flags.valid):
                told[ctx.get(dut.rung_row)] = bool(ctx.get(dut.flags.payload.data))
            if ctx.get(dut.index_reads.valid):
                answers.append((now + latency, ctx.get(dut.index_reads.payload.row)))
                asked.indices += 1
            if ctx.get(dut.ring_reads.valid):
                row = ctx.get(dut.ring_reads.payload.row)
                lines.append((now + latency, (row, ctx.get(dut.ring_reads.payload.count))))
                asked.lines[row] += 1
                asked.entries += ctx.get(dut.ring_reads.payload.count)
            if ctx.get(dut.again.valid):
                asked.again += 1
                if ctx.get(dut.again.payload) not in waiting:
                    waiting.append(ctx.get(dut.again.payload))
            assert not ctx.get(dut.violation)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    print(asked)
    return asked


def check_shares(lines):
    """No row has much less than its share of lines."""
    assert min(lines) >= sum(lines) / ROWS * 0.8


@pytest.mark.parametrize("contexts", [3, 8])
def test_every_row_finds_a_context(contexts):
    """Rows whose line has just ended do not take the context that this gave back, again and again, from rows that wait for their turn."""
    check_shares(ask(contexts=contexts, latency=60, cycles=3000).lines)


def test_nobody_waits_for_a_context_of_an_index():
    """A row that finds none lets those pass whose answers give one back: all rows get on with fewer than there are rows."""
    asked = ask(contexts=8, latency=40, cycles=4000, indices=2)
    assert asked.indices >= 4 * ROWS
    check_shares(asked.lines)


@pytest.mark.parametrize("latency, every", [(20, 40), (30, 24)])
def test_rows_are_served_in_portions(latency, every):
    """A row whose window is nearly full does not read an entry or two whenever something brings it up, but when it is called for there is room, and
    does not come back for as little; and a driver that notifies of every buffer, so that an index is always being read, leaves all rows their turns.
    """
    asked = ask(contexts=8, latency=latency, cycles=5000, every=every)
    assert asked.entries >= UNIT * sum(asked.lines)
    assert asked.again <= sum(asked.lines) / 5
    check_shares(asked.lines)


def test_the_end_of_a_ring_is_read_beside_others():
    """A ring whose last line has two entries has as many lines under way there as elsewhere, when no other row waits for its turn."""
    asked = ask(contexts=8, latency=100, cycles=8000, active=1)
    assert asked.entries >= 8000 / (100 + 15) * LINES * SIZE / 5


def test_an_index_is_not_read_for_want_of_a_context():
    """Rows whose lines wait for a context leave the index alone: it is read with a line behind which little more is known, and when all is read."""
    asked = ask(contexts=1, latency=100, cycles=8000, size=64, obeys=True)
    assert min(asked.lines) > 0
    assert asked.indices <= 2 * sum(asked.lines) + ROWS


def test_an_index_is_not_read_while_enough_is_known():
    """A window smaller than a line is filled many times from what is known before the index is read again."""
    asked = ask(contexts=8, latency=20, cycles=6000, every=24, size=64, obeys=True, window=8, unit=4)
    assert asked.entries >= 6000 * ROWS / 24 / 2
    assert 16 * asked.indices <= asked.entries + 16 * ROWS


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_buffer_beside_the_word_that_notifications_are_wanted(event_idx):
    """A buffer that the driver makes available, without a word, just before it could see that it is to notify again, is found.

    Covers: DER-RACE-01, SPLIT-ASUP-02
    """
    dut = AvailController(data_width=64, rows=ROWS, slots=SLOTS, window=WINDOW, lines=LINES)
    row, available, fetched = 3, 2, 0
    answer = finished = None

    async def bench(ctx):
        nonlocal available, fetched, answer, finished
        for name, value in (("enabled", 1), ("size", SIZE), ("driver", BASE), ("device", 2 * BASE)):
            ctx.set(getattr(dut.config.config, name), value)
        ctx.set(dut.event_idx, event_idx)
        ctx.set(dut.free_slots, SLOTS)
        for name in ("index_reads", "ring_reads", "again", "flags"):
            ctx.set(getattr(dut, name).ready, 1)
        ctx.set(dut.index_free, 1)
        ctx.set(dut.ring_free, 1)
        # It rings as it makes the first buffers available, and once more when the device has begun with them.
        for now in range(600):
            ctx.set(dut.visits.valid, now in (10, 30))
            ctx.set(dut.visits.payload, row)
            ctx.set(dut.rung, 10 <= now <= 50)
            for port, item in ((dut.index_answers, answer), (dut.finished, finished)):
                ctx.set(port.valid, item is not None and item[0] <= now)
                if item:
                    ctx.set(port.payload, item[1])
            if ctx.get(dut.flags.valid) and (event_idx or not ctx.get(dut.flags.payload.data)):
                # It does not see this yet; what the device has read is older than what it does now.
                assert answer is None
                available = 3
            if ctx.get(dut.index_answers.valid & dut.index_answers.ready):
                answer = None
            elif ctx.get(dut.index_reads.valid):
                answer = now + 20, {"row": row, "value": available, "error": 0}
            if ctx.get(dut.finished.valid & dut.finished.ready):
                finished = None
            elif ctx.get(dut.ring_reads.valid):
                assert ctx.get(dut.ring_reads.payload.position) == fetched
                fetched += ctx.get(dut.ring_reads.payload.count)
                finished = now + 20, row
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    assert available == 3, "notifications were never wanted again"
    assert fetched == 3


@pytest.mark.parametrize("there", [("index_answers", "visits"), ("finished", "visits"), ("index_answers", "finished"),
                                   ("index_answers", "finished", "visits")])
def test_each_kind_of_event_is_served(there):
    """Of events of several kinds that never cease each kind is served, every eight cycles at the latest for each kind there is."""
    dut = AvailController(data_width=64, rows=ROWS, slots=SLOTS, window=WINDOW, lines=LINES)
    served = []

    async def bench(ctx):
        ctx.set(dut.config.config, {"enabled": 1, "size": SIZE, "driver": BASE, "device": 2 * BASE})
        for name in ("index_reads", "ring_reads", "again", "flags"):
            ctx.set(getattr(dut, name).ready, 1)
        for name in there:
            ctx.set(getattr(dut, name).valid, 1)
        for now in range(400):
            # No event meets its own row in the plan.
            ctx.set(dut.index_answers.payload.row, now // 4 % ROWS)
            ctx.set(dut.visits.payload, (now // 4 + 3) % ROWS)
            ctx.set(dut.finished.payload, (now // 4 + 5) % ROWS)
            served.extend((now, name) for name in there if ctx.get(getattr(dut, name).ready))
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    for name in there:
        times = [0, *(now for now, kind in served if kind == name), 400]
        assert max(after - before for before, after in zip(times, times[1:])) <= 8 * len(there) + 8, f"{name} had to wait"
