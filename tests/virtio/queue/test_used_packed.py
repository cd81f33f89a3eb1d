# SPDX-License-Identifier: BSD-2-Clause
"""The writer of packed used descriptors against rings in Python."""

import struct
from functools import partial

import pytest
from used_bench import ROWS, Rig, cycles_between_publications, give_batch, groups

from unvirt.virtio.queue.used_inputs import BURST

AVAIL, USED, WRITE = 1 << 7, 1 << 15, 1 << 1


class PackedRig(Rig):
    """A driver of packed rings: after each write it takes back whatever has become used, in ring order."""

    PACKED = True

    def __init__(self, width, seed, **options):
        super().__init__(width, seed, **options)
        self.desc = [0x2_0000_0010 * (row + 1) & ~0xF for row in range(self.rows)]
        self.place = [[0, 1] for _ in range(self.rows)]            # slot and wrap counter of the next used descriptor
        self.free = [[0, 1] for _ in range(self.rows)]             # where the next buffer is made available
        self.order = [[] for _ in range(self.rows)]                # (slots, more) of what each row will see
        self.flags = {}                                       # address of flags -> what lies there
        self.bursts = []

    async def config(self, ctx):
        while True:
            _, _, row = await ctx.tick().sample(self.dut.config.row)
            ctx.set(self.dut.config.config, {"desc": self.desc[row], "size": self.size, "enabled": 1,
                                             "device": self.rng.getrandbits(64)})

    def offer(self, element):
        row, _, _, more, slots = element
        self.order[row].append((slots, more))
        for _ in range(slots):
            slot, wrap = self.free[row]
            self.flags[self.desc[row] + 16 * slot + 14] = AVAIL if wrap else USED
            self.free[row] = [0, wrap ^ 1] if slot + 1 == self.size else [slot + 1, wrap]

    def look(self, row):
        """Take back what is used."""
        seen = len(self.seen[row])
        while True:
            slot, wrap = self.place[row]
            at = self.desc[row] + 16 * slot
            flags = self.flags.get(at + 14)
            if flags is None or flags & (AVAIL | USED) != (AVAIL | USED) * wrap:
                break
            written, identity = struct.unpack("<IH", bytes(self.host.bytes[at + 8 + i] for i in range(6)))
            assert flags & ~(AVAIL | USED) == (WRITE if written else 0)
            self.seen[row].append((identity, written))
            slots, _ = self.order[row].pop(0)
            self.taken[row] += slots
            slot += slots
            self.place[row] = [slot - self.size, wrap ^ 1] if slot >= self.size else [slot, wrap]
        return len(self.seen[row]) - seen

    async def driver(self, ctx):
        checked = 0
        while True:
            await ctx.tick()
            for address, content in self.host.commands[checked:]:
                row = next(r for r in range(self.rows) if self.desc[r] <= address < self.desc[r] + 16 * self.size)
                offset = address - self.desc[row]
                assert offset % 16 == 8 and len(content) % 16 == 8 and offset + len(content) <= 16 * self.size
                assert len(content) <= 16 * BURST - 8
                self.bursts.append(len(content) // 16 + 1)
                for at in range(0, len(content), 16):
                    self.flags[address + at + 6] = struct.unpack("<H", content[at + 6:at + 8])[0]
                    if at:
                        assert content[at - 8:at] == bytes(8)
                members = self.order[row][:]
                found = self.look(row)
                assert not found or not members[found - 1][1], "a group became visible in part"
            checked = len(self.host.commands)

    async def take_published(self, ctx):
        port, last = self.dut.published, [(0, 1)] * self.rows
        while True:
            ctx.set(port.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, payload = await ctx.tick().sample(port.valid, port.ready, port.payload)
            if valid and ready:
                slot, wrap = last[payload.row]
                slot += payload.count
                last[payload.row] = (slot - self.size, wrap ^ 1) if slot >= self.size else (slot, wrap)
                assert (payload.place & 0x7FFF, payload.place >> 15) == last[payload.row]
                self.published.append(payload.row)

    def check(self, inputs):
        for row in range(self.rows):
            assert self.seen[row] == [(head, written) for elements in inputs for to, head, written, *_ in elements if to == row]


def with_slots(rng, elements, longest):
    """Give each element the number of slots that its chain takes: one for most."""
    return [(*element, rng.choice((1, 1, 1, rng.randint(1, longest)))) for element in elements]


@pytest.mark.parametrize("width,stall,size,longest", [
    (32, 0, 16, 3), (32, 0.4, 5, 4), (64, 0, 256, 1), (64, 0.4, 17, 9), (128, 0, 64, 5), (128, 0.2, 2, 1), (128, 0.2, 1, 1),
    (256, 0, 255, 40), (256, 0.5, 256, 2), (512, 0, 100, 20), (512, 0.3, 7, 3),
])
def test_random(width, stall, size, longest):
    """Both inputs at once, chains of several slots, sizes that are no power of two: nothing lost, groups whole, the first of them last.

    Covers: PACK-WRAP-01, PACK-WRAP-03, PACK-USED-01, PACK-USED-02, PACK-USED-04, PACK-MULTI-01, PACK-LAY-01
    """
    rig = PackedRig(width, f"packed {width} {stall} {size} {longest}", stall=stall, size=size)
    slots = 1 if longest == 1 else max(1, size // longest)
    inputs = [with_slots(rig.rng, groups(rig.rng, [1, 3], 120, 1), min(size, 4)),
              with_slots(rig.rng, groups(rig.rng, [0, 2], 120, longest), min(slots, 4))]
    left = 2

    async def feed(ctx, number):
        nonlocal left
        await rig.feed(ctx, number, inputs[number])
        left -= 1

    async def wait(ctx):
        while left:
            await ctx.tick()
        await rig.until_idle(ctx)

    rig.run(partial(feed, number=0), partial(feed, number=1), wait)
    rig.check(inputs)


@pytest.mark.parametrize("width", [64, 256])
def test_bursts(width):
    """Elements that wait together go out in writes of 32."""
    rig = PackedRig(width, f"bursts {width}", size=256)
    elements = [(1, number, 60, 0, 1) for number in range(192)]

    async def feed(ctx):
        await rig.feed(ctx, 0, elements)
        await rig.until_idle(ctx)

    rig.run(feed)
    rig.check([elements])
    assert rig.bursts.count(BURST) >= 3


@pytest.mark.parametrize("width", [64, 256])
def test_bursts_of_one(width):
    """Bursts of one, of many rows, and behind chains of two slots, take four cycles each while all else is ready."""
    rig = PackedRig(width, f"ones {width}", size=256, rows=256)
    assert cycles_between_publications(rig, [(number, number, 60, 0, 1) for number in range(180)]) < 4.1
    rig = PackedRig(width, f"ones behind two {width}", size=256)
    assert cycles_between_publications(rig, [(number % 2, number, 60, 0, 2) for number in range(120)]) < 4.1


def test_rows_in_turn():
    """Elements of sixteen rows in turn go out in bursts while the write engine is busy."""
    rig = PackedRig(64, "turns", stall=0.6, size=256, rows=16)
    rig.run_in_turn([(number % 16, number, 60, 0, 1) for number in range(640)])
    print(len(rig.bursts))
    assert len(rig.bursts) < 640 / 8


@pytest.mark.parametrize("number", range(4))
def test_discard(number):
    """At any moment: writes end, elements vanish; after a sweep the row begins at slot 0 with wrap counter 1."""
    rig = PackedRig(64, f"discard {number}", stall=0.2, size=256)
    rng, dut = rig.rng, rig.dut
    elements = with_slots(rng, groups(rng, [0, 2], 60, 5), 3)

    async def drain(ctx):
        await ctx.tick().repeat(rng.randrange(5, 150))
        ctx.set(dut.discard, 1)
        while len(rig.accepted[1]) < len(elements):
            await ctx.tick()
        await rig.until_idle(ctx)
        for row in range(ROWS):
            ctx.set(dut.sweep.row, row)
            ctx.set(dut.sweep.valid, 1)
            await ctx.tick()
        ctx.set(dut.sweep.valid, 0)
        ctx.set(dut.discard, 0)
        rig.free = [[0, 1] for _ in range(ROWS)]
        rig.place, rig.seen, rig.order = [[0, 1] for _ in range(ROWS)], [[] for _ in range(ROWS)], [[] for _ in range(ROWS)]
        rig.flags.clear()
        await rig.feed(ctx, 1, [(2, 5, 99, 1, 1), (2, 6, 98, 0, 2)])
        await rig.until_idle(ctx)
        assert rig.seen[2] == [(5, 99), (6, 98)]

    async def take_published(ctx):
        ctx.set(dut.published.ready, 1)

    rig.take_published = take_published
    original = rig.feed

    async def feed(ctx):
        # Nothing comes back while elements vanish.
        rig.size = 1 << 15
        await original(ctx, 1, elements)
        rig.size = 256

    rig.run(feed, drain)


@pytest.mark.parametrize("width", [32, 64, 256])
def test_batches_in_order(width):
    """With IN_ORDER one descriptor, in the slot of the first, stands for all before it that were used completely.

    Covers: PACK-INORD-02, PACK-INORD-03
    """
    rig = PackedRig(width, f"in order {width}", size=16)
    wanted = give_batch(rig, [(2, 100 + number, 7 * number, 0, 1) for number in range(8)])
    ring = {}
    for address, content in rig.host.commands:
        for at in range(0, len(content), 16):
            written, identity, flags = struct.unpack("<IHH", content[at:at + 8])
            ring[(address + at - rig.desc[2]) // 16] = identity, written
            assert flags == AVAIL | USED | WRITE
    assert ring == wanted
