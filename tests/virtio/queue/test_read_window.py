# SPDX-License-Identifier: BSD-2-Clause
"""The window of packet data under way: as much as a host's round trip needs, hardly more, whatever the host is, and never closed for ever."""

from collections import deque

import pytest
from amaranth.sim import Simulator

from unvirt.virtio.queue.read_window import ReadWindow

LEAST, MOST, PIECE = 4096, 65536, 512


class Link:
    """A host that answers after ``latency`` cycles, ``rate`` bytes a cycle, in order; packets for which ``dead`` holds never."""

    def __init__(self, latency, rate, dead=lambda number: False):
        self.latency, self.rate, self.dead = latency, rate, dead
        self.free = 0
        self.coming = deque()                     # (cycle, slot, number of bytes it counts for, whether it is a packet's first piece, begun)

    def ask(self, cycle, number, slot, size):
        """Ask for a packet in pieces that all but the last count for PIECE bytes, though the first is shorter."""
        if self.dead(number):
            return
        pieces = -(-(size + 100) // PIECE)
        for piece in range(pieces):
            self.free = max(self.free, cycle + self.latency) + size / pieces / self.rate
            self.coming.append((self.free, slot, PIECE if piece < pieces - 1 else size - (pieces - 1) * PIECE, piece == 0, cycle))


def run(link, size, cycles, *, period=4):
    """Begin packets as fast as the window lets; return the cycles in which they began, and the round trips of those that came back."""
    dut = ReadWindow(slots=4096, least=LEAST, most=MOST)
    trips, begun = [], []

    async def bench(ctx):
        number, ready, left = 0, 0, 0
        for cycle in range(cycles):
            begins = False
            # As the pool of granules tells it: still in the cycle in which a packet begins.
            ctx.set(dut.clear, left == 0)
            ctx.set(dut.wanted, cycle >= ready)
            if cycle >= ready and ctx.get(dut.open):
                slot = number % 4096
                ctx.set(dut.begun, {"slot": slot, "bytes": size})
                link.ask(cycle, number, slot, size)
                begun.append(cycle)
                left += size
                number, ready, begins = number + 1, cycle + period, True
            ctx.set(dut.begins, begins)
            arrives = bool(link.coming) and link.coming[0][0] <= cycle
            if arrives:
                _, slot, amount, first, since = link.coming.popleft()
                ctx.set(dut.arrived, {"slot": slot, "bytes": amount})
                left -= amount
                if first:
                    trips.append(cycle - since)
            ctx.set(dut.arrives, arrives)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return begun, trips


@pytest.mark.parametrize("size", [76, 1512, 9030])
@pytest.mark.parametrize("latency", [30, 250, 1000, 3000])
def test_the_link_is_full_and_hardly_more(latency, size):
    """At least 90 % of what passes in all is asked for, and a round trip takes, once learnt, not much longer than that of an idle link."""
    rate, cycles = 16 if size > 76 else 12, 40 * max(latency, 250)
    begun, trips = run(Link(latency, rate), size, cycles)
    late = [cycle for cycle in begun if cycle >= cycles // 2]
    assert len(late) * size >= 0.9 * rate * cycles / 2
    steady = sorted(trips[len(trips) // 2:])
    print(f"{len(late) * size / (cycles / 2):.1f} bytes a cycle, round trip {steady[len(steady) // 2]} cycles")
    assert steady[len(steady) // 2] <= max(1.9 * latency, latency + (LEAST + size) / rate + 64)


def test_packets_that_are_never_answered():
    """A quarter of the window is lost for ever, one packet after the other: the rest still fills the link."""
    rate, cycles = 16, 30_000
    begun, _ = run(Link(250, rate, dead=lambda number: number < 400 and number % 40 == 0), 1512, cycles)
    late = [cycle for cycle in begun if cycle >= cycles // 2]
    assert len(late) * 1512 >= 0.9 * rate * cycles / 2


@pytest.mark.parametrize("known", [False, True])
def test_no_answer_at_all(known):
    """When nothing is answered any more, more is asked for after four of the shortest round trips, or, if none was seen, 4,095 cycles."""
    begun, _ = run(Link(250, 16, dead=lambda number: number >= 200 * known), 1512, 40_000)
    gaps = [later - earlier for earlier, later in zip(begun, begun[1:]) if later - earlier > 500]
    print(gaps)
    assert len(gaps) > 5
    assert all(4 * 250 <= gap <= 4 * 350 for gap in gaps) if known else all(4090 <= gap <= 4110 for gap in gaps)


def test_what_begins_at_rest_counts():
    """The first packet after a rest is under way like the others: no more begin than the limit lets, the last one beyond it."""
    begun, _ = run(Link(250, 16, dead=lambda number: True), 1512, 200, period=1)
    assert len(begun) == -(-(MOST // 4) // 1512)


def test_a_host_too_slow_to_be_timed():
    """Round trips beyond 4,095 cycles are not followed: each has what is asked for at the beginning, and as much again when that is forgotten."""
    latency, cycles = 6000, 120_000
    begun, _ = run(Link(latency, 64), 1512, cycles)
    late = [cycle for cycle in begun if cycle >= cycles - 10 * latency]
    print(f"{len(late) * 1512 / 10:.0f} bytes in a round trip")
    assert len(late) * 1512 / 10 >= 2 * MOST / 4
