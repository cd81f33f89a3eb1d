# SPDX-License-Identifier: BSD-2-Clause
"""The notification decision against a driver that changes its mind."""

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.notify_decision import NotifyDecision

ROWS = 8


class Rig:
    """Publishes indices, answers reads from ``flags`` as they are at some time after the read was issued."""

    def __init__(self, seed, *, stall=0.0, places=4, latency=(5, 40)):
        self.rng, self.stall, self.latency = seeded(seed), stall, latency
        self.dut = NotifyDecision(rows=ROWS)
        self.places = places               # reads that fit the reader; given back as answers are taken
        self.flags = [0] * ROWS
        self.errors = set()                # rows whose reads fail
        self.vectors = [row for row in range(ROWS)]
        self.drivers = [0x10_0000_0000 + 0x1002 * row for row in range(ROWS)]
        self.sizes = 256                   # of every ring
        self.cycle = 0
        self.index = [0] * ROWS
        self.publishes, self.reads, self.answers, self.interrupts = [], [], [], []
        self.violations = 0
        self.waiting = []

    async def config(self, ctx):
        while True:
            _, _, row = await ctx.tick().sample(self.dut.config.row)
            ctx.set(self.dut.config.config, {"driver": self.drivers[row], "enabled": 1,
                                             "vector": self.vectors[row], "size": self.sizes})

    async def publish(self, ctx, row, step=1):
        port = self.dut.published
        self.index[row] = (self.index[row] + step) & 0xFFFF
        ctx.set(port.payload, {"row": row, "place": self.index[row], "count": step})
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)
        self.publishes.append((self.cycle, row))

    async def reader(self, ctx):
        reads, answers = self.dut.reads, self.dut.answers
        taken, ready_answers, offered, held = 0, [], None, None
        while True:
            room = taken < self.places
            ctx.set(reads.ready, room and self.rng.random() >= self.stall)
            if offered is None and ready_answers and self.rng.random() >= self.stall:
                offered = ready_answers.pop(0)
                ctx.set(answers.payload, offered)
                ctx.set(answers.valid, 1)
            _, _, valid, ready, request, done, violation = await ctx.tick().sample(
                reads.valid, reads.ready, reads.payload, answers.valid & answers.ready,
                self.dut.violation)
            self.cycle += 1
            self.violations += violation
            if held is not None:
                assert valid and request == held
            held = request if valid and not ready else None
            if valid and ready:
                taken += 1
                assert request.fence and request.address == self.drivers[request.row]
                assert not any(row == request.row for _, row in self.waiting), "two of one row"
                self.reads.append((self.cycle, request.row))
                self.waiting.append((self.cycle + self.rng.randint(*self.latency), request.row))
            for entry in [entry for entry in self.waiting if entry[0] <= self.cycle]:
                self.waiting.remove(entry)
                row = entry[1]
                ready_answers.append({"row": row, "value": self.flags[row] | 0xFFFE & self.rng.getrandbits(16),
                                      "error": row in self.errors})
            if done:
                taken -= 1
                self.answers.append((self.cycle, offered["row"], offered["value"] & 1))
                offered = None
                ctx.set(answers.valid, 0)

    async def take_interrupts(self, ctx):
        port = self.dut.interrupts
        while True:
            ctx.set(port.ready, self.rng.random() >= self.stall)
            _, _, taken, row = await ctx.tick().sample(port.valid & port.ready, port.payload.row)
            if taken:
                self.interrupts.append((self.cycle, row))

    def run(self, bench, cycles=30000):
        rtlil.convert(self.dut)
        simulator = Simulator(self.dut)
        simulator.add_clock(1e-9)

        async def watchdog(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError("not through in time")

        async def main(ctx):
            await self.sweep(ctx)
            await bench(ctx)

        simulator.add_testbench(main)
        for other in (self.config, self.reader, self.take_interrupts, watchdog):
            simulator.add_testbench(other, background=True)
        simulator.run()

    async def sweep(self, ctx):
        for row in range(ROWS):
            ctx.set(self.dut.sweep.row, row)
            ctx.set(self.dut.sweep.valid, 1)
            await ctx.tick()
        ctx.set(self.dut.sweep.valid, 0)

    async def settle(self, ctx):
        quiet = 0
        while quiet < 100:
            await ctx.tick()
            quiet = quiet + 1 if ctx.get(self.dut.idle) and not self.waiting else 0


@pytest.mark.parametrize("stall", [0, 0.3, 0.7])
@pytest.mark.parametrize("places", [1, 2, 4])
def test_no_interrupt_is_missed(stall, places):
    """After the last index of a row its flags are read once more, and what they say is done; places run out meanwhile."""
    rig = Rig(f"random {stall} {places}", stall=stall, places=places)
    rng = rig.rng

    async def bench(ctx):
        for _ in range(120):
            await rig.publish(ctx, rng.randrange(ROWS), rng.randrange(1, 30))
            if rng.random() < 0.3:
                rig.flags[rng.randrange(ROWS)] ^= 1
            if rng.random() < 0.3:
                await ctx.tick().repeat(rng.randrange(1, 60))
        await rig.settle(ctx)

    rig.run(bench)
    assert len(rig.answers) == len(rig.reads) <= 120
    for row in range(ROWS):
        last = max((cycle for cycle, to in rig.publishes if to == row), default=None)
        reads = [cycle for cycle, to in rig.reads if to == row]
        answers = [(cycle, flag) for cycle, to, flag in rig.answers if to == row]
        interrupts = [cycle for cycle, to in rig.interrupts if to == row]
        if last is not None:
            # It was read for after the newest index, or an interrupt was sent after it.
            assert max([*reads[-1:], *interrupts, 0]) >= last, "the newest index was not decided"
        assert len(interrupts) == sum(not flag for _, flag in answers)
        for sent, asked in zip(interrupts, (cycle for cycle, flag in answers if not flag)):
            assert sent >= asked


def test_suppressed_and_vectors():
    """No interrupt with the flag set; no read without a vector while MSI-X is on; one with MSI-X off."""
    rig = Rig("vectors")
    rig.flags[1] = 1
    rig.vectors[2] = 0xFFFF

    async def bench(ctx):
        ctx.set(rig.dut.msix_enable, 1)
        for row in (1, 2, 3):
            await rig.publish(ctx, row)
        await rig.settle(ctx)
        assert sorted(row for _, row in rig.reads) == [1, 3]
        assert [row for _, row in rig.interrupts] == [3]
        ctx.set(rig.dut.msix_enable, 0)
        await rig.publish(ctx, 2)
        await rig.settle(ctx)
        assert [row for _, row in rig.interrupts] == [3, 2]

    rig.run(bench)


@pytest.mark.parametrize("flag", [0, 1])
def test_dirty_row(flag):
    """An interrupt tells of all that was published until then; without one, any number of indices during a read cost one more."""
    rig = Rig(f"dirty {flag}", latency=(200, 200))
    rig.flags[6] = flag

    async def bench(ctx):
        for _ in range(5):
            await rig.publish(ctx, 6)
        await rig.settle(ctx)
        assert (len(rig.reads), len(rig.interrupts)) == ((2, 0) if flag else (1, 1))

    rig.run(bench)


def test_latency():
    """Two cycles from index to read, two from answer to interrupt."""
    rig = Rig("latency", latency=(5, 5))

    async def bench(ctx):
        await rig.publish(ctx, 4)
        await rig.settle(ctx)

    rig.run(bench)
    assert rig.reads[0][0] - rig.publishes[0][0] <= 3
    assert rig.interrupts[0][0] - rig.answers[0][0] <= 3


def test_failed_read():
    """A read in error raises a violation and no interrupt."""
    rig = Rig("failed")
    rig.errors = {5}

    async def bench(ctx):
        await rig.publish(ctx, 5)
        await rig.publish(ctx, 4)
        await rig.settle(ctx)

    rig.run(bench)
    assert rig.violations == 1 and [row for _, row in rig.interrupts] == [4]


@pytest.mark.parametrize("number", range(6))
def test_drain(number):
    """At any moment: no new read, answers without effect, idle; after a sweep nothing is left over."""
    rig = Rig(f"drain {number}", stall=0.3 * (number % 3), places=2, latency=(5, 100))
    rng = rig.rng

    async def bench(ctx):
        for _ in range(rng.randrange(1, 25)):
            await rig.publish(ctx, rng.randrange(ROWS))
        ctx.set(rig.dut.drain, 1)
        await ctx.tick().repeat(12)
        rig.errors = set(range(ROWS))
        while not ctx.get(rig.dut.idle):
            await ctx.tick()
        await ctx.tick()                     # the reader notes what it took in the cycle before
        reads, interrupts = len(rig.reads), len(rig.interrupts)
        for _ in range(5):
            await rig.publish(ctx, rng.randrange(ROWS))
        await rig.settle(ctx)
        assert len(rig.answers) == len(rig.reads) == reads and len(rig.interrupts) == interrupts
        assert not rig.violations
        rig.errors = set()
        await rig.sweep(ctx)
        ctx.set(rig.dut.drain, 0)
        await rig.publish(ctx, 3)
        await rig.settle(ctx)
        assert len(rig.interrupts) == interrupts + 1

    rig.run(bench)


@pytest.mark.parametrize("event_idx", [0, 1])
def test_packed_events(event_idx):
    """Whatever the ring's size, the place and the newly used slots: enabled, disabled, or when that place is among them.

    Covers: PACK-EVT-01, PACK-EVT-02, PACK-EVT-03, PACK-EVT-05
    """
    rig = Rig(f"packed {event_idx}", latency=(5, 5))
    rng, dut = rig.rng, rig.dut
    wanted, sent = [], []

    async def one(ctx, size, slot, wrap, count, event, mode):
        """Publish that ``count`` slots before (slot, wrap) were used, with the event ``event`` slots before that place."""
        place = slot - event, wrap
        if place[0] < 0:
            place = place[0] + size, wrap ^ 1
        elif place[0] >= size:
            place = place[0] - size, wrap ^ 1
        rig.sizes = size
        value = place[0] | place[1] << 15 | mode << 16 | rng.getrandbits(14) << 18
        before = len(rig.interrupts)
        port = dut.published
        ctx.set(port.payload, {"row": 3, "place": slot | wrap << 15, "count": count})
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)
        await ctx.tick().until(dut.reads.valid & dut.reads.ready)
        ctx.set(dut.answers.payload, {"row": 3, "value": value, "error": 0})
        ctx.set(dut.answers.valid, 1)
        await ctx.tick().until(dut.answers.ready)
        ctx.set(dut.answers.valid, 0)
        await ctx.tick().repeat(8)
        wanted.append(mode in (0, 3) or mode == 2 and (not event_idx or 1 <= event <= count))
        sent.append(len(rig.interrupts) - before)

    async def bench(ctx):
        ctx.set(dut.packed, 1)
        ctx.set(dut.event_idx, event_idx)
        for _ in range(300):
            size = rng.choice((1, 2, 3, 7, 255, 256, 1000, 32768))
            count = rng.randint(1, size)
            slot, event = rng.randrange(size), rng.choice((0, 1, count, count + 1, rng.randrange(-size + 1, size)))
            if event <= size - count:      # farther behind it may as well be one lap ahead
                await one(ctx, size, slot, rng.randrange(2), count, event, rng.choice((0, 1, 2, 2, 2, 3)))

    async def reader(ctx):
        ctx.set(dut.reads.ready, 1)
        while True:
            _, _, valid, request = await ctx.tick().sample(dut.reads.valid, dut.reads.payload)
            assert not valid or (request.wide and request.fence and request.address == rig.drivers[3])

    rig.reader = reader
    rig.run(bench)
    assert sent == [int(one) for one in wanted]
    assert 20 < sum(sent) < len(sent) - 20
