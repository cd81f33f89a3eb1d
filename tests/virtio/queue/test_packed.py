# SPDX-License-Identifier: BSD-2-Clause
"""The available side of the packed ring finds every chain, once and in ring order, whenever lines arrive and the ends of chains are told."""

import pytest
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.packed_side import PackedSide

ROWS, SIZE, WINDOW, SLOTS, CONTEXTS = 2, 23, 16, 64, 64
BURSTS, LONGEST, QUIET = 150, 12, 300
NEXT, AVAIL, USED = 1, 1 << 7, 1 << 15


class Ring:
    """The driver's side of a packed ring, and what the device made of it."""

    def __init__(self):
        self.slots = [(0, 0)] * SIZE           # (address, flags)
        self.at, self.lap = 0, 1
        self.chains = []                       # (slot, address, length) of every chain so far
        self.found = 0                         # of them by the device
        self.walked = set()                    # positions
        self.retired = 0                       # all before were walked

    def room(self):
        return SIZE - sum(length for *_, length in self.chains[self.retired:])

    def publish(self, length):
        """Make a chain available, its head last."""
        self.chains.append((self.at, 0x1000 * len(self.chains), length))
        written = []
        for left in reversed(range(length)):
            written.append((self.at, 0x1000 * (len(self.chains) - 1) + length - 1 - left, (AVAIL if self.lap else USED) | (NEXT if left else 0)))
            self.at += 1
            if self.at == SIZE:
                self.at, self.lap = 0, 1 - self.lap
        for slot, *descriptor in reversed(written):
            self.slots[slot] = tuple(descriptor)

    def walk(self, position):
        self.walked.add(position)
        while self.retired in self.walked:
            self.retired += 1


class Surroundings:
    """All that is around a :class:`PackedSide`: driver, scheduler, reads, descriptor reader, walker, each as slow as ``rng`` says.

    There is one doorbell behind a burst, most often when all was quiet: nothing but the side itself can find what it overlooked.
    """

    def __init__(self, rng, *, reads, walks):
        self.rng, self.reads, self.walks = rng, reads, walks
        self.dut = PackedSide(data_width=64, rows=ROWS, contexts=CONTEXTS, slots=SLOTS, window=WINDOW)
        self.rings = [Ring() for _ in range(ROWS)]
        self.now, self.quiet, self.bursts = 0, 0, 0
        self.visits, self.rung = set(), set()
        self.free, self.flight, self.lines = list(range(CONTEXTS)), [], {}
        self.items, self.items_from = [], 0    # of the line at hand, and the cycle from which they are there
        self.under_way = []                    # walks as (cycle of their end, row, position)
        self.visit = self.answer = self.end = None
        self.looked_up = dict.fromkeys(("rung", "config", "retired"), 0)

    def drive(self):
        """Publish now and then, for a row at rest only when all of it was found: a doorbell would help with what was overlooked."""
        for row, ring in enumerate(self.rings):
            often = 0 if ring.found != len(ring.chains) else 0.05
            if self.bursts < BURSTS and self.rng.random() < (often if self.quiet > 60 else 0.001):
                before = len(ring.chains)
                for _ in range(self.rng.choice((1, 1, 2, 5))):
                    length = self.rng.choice((1, 1, 2, 3, 7, LONGEST))
                    if length <= ring.room():
                        ring.publish(length)
                if len(ring.chains) != before:
                    self.rung.add(row)
                    self.visits.add(row)
                    self.bursts += 1

    def choose(self):
        """Choose what is shown to the side next, where nothing is."""
        due = [read for read in self.flight if read[0] <= self.now]
        if self.answer is None and due:
            read = self.rng.choice(due)
            self.flight.remove(read)
            self.answer = read[1]
            row, first = self.answer["row"], (self.answer["address"] & 0xFFFF) // 16
            self.lines[self.answer["context"]] = self.rings[row].slots[first:first + self.answer["count"]]
        if self.end is None and self.under_way and min(self.under_way)[0] <= self.now:
            self.end = min(self.under_way)
            self.under_way.remove(self.end)
        if self.visit is None and self.visits:
            self.visit = self.rng.choice(sorted(self.visits))

    def show(self, ctx):
        dut, side = self.dut, self.dut.side

        def offer(port, payload):
            ctx.set(port.valid, payload is not None)
            if payload is not None:
                ctx.set(port.payload, payload)

        offer(side.visits, self.visit)
        offer(dut.answers, self.answer and {name: self.answer[name] for name in ("context", "row", "position", "count")})
        offer(dut.found, self.items[0] if self.items and self.items_from <= self.now else None)
        offer(dut.ends, self.told())
        ctx.set(side.turn, 1)
        ctx.set(side.room, 1)
        ctx.set(side.others, len(self.visits) > 1)
        ctx.set(side.rung, self.looked_up["rung"] in self.rung)
        ctx.set(side.retired, self.rings[self.looked_up["retired"]].retired)
        ctx.set(side.free_slots, SLOTS - sum(ring.found - ring.retired for ring in self.rings))
        ctx.set(side.config.config, {"enabled": 1, "size": SIZE, "desc": self.looked_up["config"] << 16, "device": 0x8_0000})
        ctx.set(dut.context_free, bool(self.free))
        ctx.set(dut.contexts_free, len(self.free) > ROWS)
        ctx.set(dut.lines.ready, not self.items)
        ctx.set(dut.items.ready, self.rng.random() < 0.7)
        for port in (*dut.kicks, side.again, side.flags, side.chains, side.reads):
            ctx.set(port.ready, 1)

    def told(self):
        """What is said of the walk that has ended: nothing of a chain that is not the newest."""
        if self.end is None or self.end[2] + 1 != self.rings[self.end[1]].found:
            return None
        _, row, position = self.end
        return {"row": row, "end": {"position": position, "length": self.rings[row].chains[position][2]}}

    def take(self, ctx):
        """Take what the side offers, judge it, and note what it has taken."""
        dut, side = self.dut, self.dut.side
        told = self.told()
        assert not ctx.get(side.violation)
        if ctx.get(side.chains.valid):
            ring = self.rings[ctx.get(side.chains.payload.row)]
            assert ctx.get(side.chains.payload.position) == ring.found
            ring.found += 1
            self.quiet = 0
        if ctx.get(dut.items.valid & dut.items.ready):
            head = dut.items.payload
            row, position = ctx.get(head.row), ctx.get(head.position)
            slot, address, length = self.rings[row].chains[position]
            assert ctx.get(head.descriptor.address) == address
            if length == 1:
                self.rings[row].walk(position)
            else:
                assert ctx.get(head.descriptor.next) == (slot + 1) % SIZE
                self.under_way.append((self.now + self.rng.randint(*self.walks), row, position))
        if ctx.get(dut.found.valid & dut.found.ready):
            self.items = [] if ctx.get(dut.skip_found) else self.items[1:]
        if ctx.get(dut.lines.valid & dut.lines.ready):
            self.read_line(ctx)
        if self.answer is not None and ctx.get(dut.answers.ready):
            self.answer = None
        if ctx.get(side.reads.valid):
            read = {name: ctx.get(getattr(side.reads.payload, name)) for name in ("row", "address", "position", "count")}
            self.flight.append((self.now + self.rng.randint(*self.reads), read | {"context": self.free.pop()}))
        if self.visit is not None and ctx.get(side.visits.ready):
            self.visits.discard(self.visit)
            self.visit = None
        self.visits |= {ctx.get(port.payload) for port in (*dut.kicks, side.again) if ctx.get(port.valid)}
        if ctx.get(side.rung_clear):
            self.rung.discard(ctx.get(side.rung_row))
        if self.end is not None and (told is None or ctx.get(dut.ends.ready)):
            self.rings[self.end[1]].walk(self.end[2])
            self.end = None
        self.looked_up = {"rung": ctx.get(side.rung_row), "config": ctx.get(side.config.row), "retired": ctx.get(side.retired_row)}

    def read_line(self, ctx):
        """Make the items of a line that is wanted, or the one of a line that goes back unread."""
        line = self.dut.lines.payload
        row, context = ctx.get(line.row), ctx.get(line.context)
        descriptors = self.lines.pop(context)
        self.free.append(context)
        self.items_from = self.now + self.rng.randint(1, 20)
        self.items = [{"row": row, "last": place == len(descriptors) - 1, "descriptor": {
            "address": address, "flags": {"next": flags & NEXT, "avail": bool(flags & AVAIL), "used": bool(flags & USED)}}}
            for place, (address, flags) in enumerate(descriptors)]
        if ctx.get(line.error):
            self.items = [{"row": row, "last": 1, "error": 1}]

    def run(self):
        async def bench(ctx):
            while self.quiet < QUIET:
                self.drive()
                self.choose()
                self.show(ctx)
                await ctx.delay(0)
                self.quiet += 1
                self.take(ctx)
                self.now += 1
                await ctx.tick()

        simulator = Simulator(self.dut)
        simulator.add_clock(1e-9)
        simulator.add_testbench(bench)
        simulator.run()


@pytest.mark.parametrize("walks", [(1, 20), (5, 80)], ids=["soon", "late"])
@pytest.mark.parametrize("reads", [(2, 4), (2, 60)], ids=["in order", "in any order"])
def test_every_chain_is_found(reads, walks):
    """Chains of one slot to half the ring, across lines and the ring's end, are found in their order, the last of them too."""
    surroundings = Surroundings(seeded(f"packed {reads} {walks}"), reads=reads, walks=walks)
    surroundings.run()
    assert surroundings.bursts == BURSTS
    for ring in surroundings.rings:
        assert ring.found == ring.retired == len(ring.chains) > BURSTS // 2
