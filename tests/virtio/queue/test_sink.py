# SPDX-License-Identifier: BSD-2-Clause
"""The sink against a chain store, a personality and a host in Python."""

import random
from functools import partial

import pytest
from amaranth.back import rtlil
from amaranth.sim import Simulator
from fake_chains import HostWrites
from fake_host import seeded
from sink_bench import Rig, masked, random_lengths

from unvirt.virtio.queue import sink_scan
from unvirt.virtio.queue.sink_read import ByteReader


@pytest.mark.parametrize("width,stall,kind", [
    (32, 0, "mixed"), (32, 0.4, "small"), (64, 0, "single"), (64, 0.3, "mixed"), (64, 0.6, "segments"),
    (256, 0, "mixed"), (256, 0.4, "mixed"), (256, 0, "segments"), (512, 0.2, "mixed"),
])
def test_random(width, stall, kind, monkeypatch):
    """Every packet is delivered whole to the next chains of its row, or dropped and counted; nothing else is written."""
    monkeypatch.setattr(sink_scan, "PATIENCE", 200)
    rig = Rig(width, f"random {width} {stall} {kind}", stall=stall)
    rng, sent, count = rig.rng, [], 36

    async def driver(ctx):
        pending = []
        while len(sent) < count or rig.waiting:
            await ctx.tick()
            if not rig.swept:
                continue
            for _ in range(2):
                row = rng.choice([0, 2])
                lengths = random_lengths(rng, kind)
                if rig.chains.can_add(row, len(lengths)) and rng.random() < 0.25:
                    pending.append(rig.add(row, lengths, walked=rng.random() < 0.5))
            if pending and rng.random() < 0.4:
                chain = pending.pop(rng.randrange(len(pending)))
                if not chain.walked:
                    rig.chains.walk(chain)
            if len(sent) < count and len(rig.waiting) < 4 and rng.random() < 0.2:
                content = rng.randbytes(rng.choice([26, 27, 72, 76, 76, 200, 1000]))
                sent.append((rng.choice([0, 2]), content))
                rig.offer(*sent[-1], aligned=rng.random() < 0.5)
        await rig.settle(ctx)

    rig.run(driver)
    got = rig.delivered()
    assert sum(map(len, got.values())) + rig.dropped == count
    assert sum(map(len, got.values())) >= count // 5
    for row, packets in got.items():
        wanted = iter(masked(content) for to, content in sent if to == row)
        for packet in packets:
            assert any(packet == content for content in wanted), "not sent, or out of order"
    assert len(rig.chains.released) == len(rig.used), "slots come back one by one with used elements"
    assert [c.slot for c in rig.chains.released] == [c.slot for c, _, _ in rig.used]


CASES = [
    # mergeable, chains (None: a chain not walked), packet size, chains used or None for a drop
    (True, [[100]], 100, 1),
    (True, [[99]], 100, None),
    (True, [[99], [1]], 100, 2),
    (True, [[99], [1], [50]], 100, 2),
    (True, [[50], [], [50]], 100, 3),
    (True, [[], [100]], 100, 2),
    (True, [[12], [12], [12], [12], [52]], 100, 5),
    (True, [[50], None, [50]], 100, 2),
    (True, [None, [100]], 100, 2),
    (True, [], 100, None),
    (True, [[]], 100, None),
    (False, [[99], [1]], 100, None),
    (False, [[99, 1]], 100, 1),
    (False, [[1] * 24, [100]], 100, None),
    (False, [[2000]], 1000, 1),
    (False, [[1 << 20]], 1000, 1),
    (True, [[1] * 24, [1] * 8, [68]], 100, 3),
]


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_cases(width, case):
    """Chosen chains of each case; a drop consumes nothing: the chains serve the next packet once they are enough."""
    mergeable, chains, size, expected = CASES[case]
    rig = Rig(width, f"case {case}", mergeable=mergeable)

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        blocked = []
        for lengths in chains:
            if lengths is None:
                blocked.append(rig.add(2, [50], walked=False))
            else:
                rig.add(2, lengths)
        rig.offer(2, rig.rng.randbytes(size))
        await rig.settle(ctx, 40)
        if blocked:
            assert not rig.dropped and not rig.used and rig.waiting, "what will be walked is waited for"
            for chain in blocked:
                rig.chains.walk(chain)
            await rig.settle(ctx, 40)
        assert rig.dropped == (expected is None)
        assert len(rig.used) == (expected or 0)
        assert len(rig.chains.released) == len(rig.used)
        if expected is None and mergeable:
            rig.add(2, [200])
            rig.offer(2, rig.rng.randbytes(size))
            await rig.settle(ctx, 40)
            assert rig.dropped == 1 and rig.used, "the chains are still there"

    rig.run(driver)
    rig.delivered()


CUTS = [
    # chains, packet size, bytes written to each chain used
    ([[100]], 64, [64]),
    ([[64]], 64, [64]),
    ([[63], [1]], 64, [63]),
    ([[1]], 64, [1]),
    ([[3, 5, 1]], 64, [9]),
    ([[60, 60]], 64, [64]),
    ([[1] * 24], 64, [24]),
    ([[], [], [10]], 64, [0, 0, 10]),
    ([], 64, []),
    ([[]], 64, []),
    ([[1 << 20]], 1, [1]),
]


@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("chains, size, expected", CUTS)
def test_cut(width, chains, size, expected):
    """With ``cut`` a packet goes into the first chain that has room for a byte, cut to it; without any it is dropped. Each is taken once."""
    rig = Rig(width, f"cut {chains}", cut=True)
    content = [rig.rng.randbytes(size) for _ in range(2)]

    def written(chain, count):
        places = (address + offset for address, length in chain.segments for offset in range(length))
        return bytes(rig.host.bytes[next(places)] for _ in range(count))

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for lengths in chains:
            rig.add(2, lengths)
        rig.offer(2, content[0])
        await rig.settle(ctx, 40)
        assert [count for _, count, _ in rig.used] == expected and rig.dropped == (not expected) and not rig.waiting
        rig.add(2, [40, 40])
        rig.offer(2, content[1])
        await rig.settle(ctx, 40)
        assert not rig.waiting and rig.dropped == (not expected)

    rig.run(driver)
    found = [written(chain, count) for chain, count, more in rig.used if not more]
    # The second packet goes to what the first one left.
    given = [content[0], content[1]] if expected else [content[1]]
    assert [masked(data) for data in found] == [masked(data[:len(part)]) for data, part in zip(given, found)]
    assert len(found) == len(given)
    assert len(rig.chains.released) == len(rig.used)


@pytest.mark.parametrize("start", [[], [[60]], [[60], None]])
def test_waits_for_chains_on_their_way(start):
    """A packet waits while its row has chains on their way, others of the row behind it; then they take them."""
    rig = Rig(64, f"coming {start}")

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        rig.coming = {2}
        chains = [rig.add(2, lengths or [50], walked=lengths is not None) for lengths in start]
        rig.offer(2, rig.rng.randbytes(100))
        rig.offer(2, rig.rng.randbytes(100))
        await rig.settle(ctx, 200)
        assert not rig.used and not rig.dropped
        for chain in chains:
            if not chain.walked:
                rig.chains.walk(chain)
        rig.add(2, [100])
        rig.add(2, [100])
        rig.coming = set()
        await rig.settle(ctx, 40)

    rig.run(driver)
    assert {row: len(packets) for row, packets in rig.delivered().items()} == {2: 2} and not rig.dropped


@pytest.mark.parametrize("why", ["crowded", "patience", "nothing comes", "window full", "another row"])
def test_waiting_ends(monkeypatch, why):
    """No packet waits for ever, nor in a memory that runs full, nor for chains that cannot come, nor before one of another row."""
    monkeypatch.setattr(sink_scan, "PATIENCE", 300)
    rig = Rig(64, f"ends {why}")
    waits = 0

    async def driver(ctx):
        nonlocal waits
        await ctx.tick().until(~rig.dut.sweep.valid)
        rig.coming = {2}
        if why == "window full":
            for _ in range(rig.config.queue_window):
                rig.add(2, [1])
        rig.offer(2, rig.rng.randbytes(100))
        while not rig.dropped:
            waits += 1
            await ctx.tick()
            if waits == 150:
                ctx.set(rig.dut.crowded, why == "crowded")
                if why == "nothing comes":
                    rig.coming = set()
                if why == "another row":
                    rig.add(0, [100])
                    rig.offer(0, rig.rng.randbytes(100))
        await rig.settle(ctx)

    rig.run(driver)
    assert rig.dropped == 1 and list(rig.delivered()) == [0] * (why == "another row")
    low, high = {"patience": (300, 330), "window full": (60, 110)}.get(why, (150, 190))
    assert low <= waits <= high


@pytest.mark.parametrize("width,size,limit", [(64, 76, 10), (256, 76, 3), (512, 76, 3), (512, 300, 5),
                                              (512, 12 + 40, 3), (32, 76, 19)])
def test_cost(width, size, limit):
    """Back to back, a packet of one chain of one segment takes its beats, or three cycles."""
    rig = Rig(width, f"cost {width} {size}")

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for _ in range(30):
            chain = rig.add(0, [2048])
            if not chain.single:
                chain.single = True
                rig.chains.free_groups += chain.groups
                chain.groups = []
            rig.offer(0, rig.rng.randbytes(size), aligned=True)
        await rig.settle(ctx)

    rig.run(driver)
    assert len(rig.used) == 30
    cycles = [cycle for cycle, _ in rig.taken]
    assert cycles[25] - cycles[5] <= 20 * limit
    rig.delivered()


def test_empty_row_blocks_nobody():
    """Packets for a row without chains are dropped at once; those of another row pass."""
    rig = Rig(64, "empty row")

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for _ in range(6):
            rig.add(2, [2048])
        for number in range(12):
            rig.offer(2 * (number % 2), rig.rng.randbytes(76))
        await rig.settle(ctx)

    rig.run(driver)
    assert len(rig.delivered()[2]) == 6 and rig.dropped == 6


@pytest.mark.parametrize("width,stall", [(32, 0), (64, 0.5), (256, 0.2), (256, 0), (64, 0.2)])
@pytest.mark.parametrize("round_", range(2))
def test_drain(width, stall, round_):
    """At any moment: what was ordered is completed, every chain comes home, idle stays; after a sweep it all works again."""
    rig = Rig(width, f"drain {width} {stall} {round_}", stall=stall)
    rng, dut = rig.rng, rig.dut

    async def driver(ctx):
        await ctx.tick().until(~dut.sweep.valid)
        for _ in range(2):
            stop = rng.randrange(10, 400)
            for _ in range(stop):
                await ctx.tick()
                row, lengths = rng.choice([0, 2]), random_lengths(rng, "mixed")
                if rig.chains.can_add(row, len(lengths)) and rng.random() < 0.3:
                    rig.add(row, lengths, walked=rng.random() < 0.8)
                if len(rig.waiting) < 4 and rng.random() < 0.1:
                    rig.offer(rng.choice([0, 2]), rng.randbytes(rng.choice([26, 76, 900])))
            ctx.set(dut.drain, 1)
            for _ in range(40):
                # Chains in the parser still arrive, and packets never stop.
                await ctx.tick()
                if rng.random() < 0.1 and rig.chains.can_add(0, 1):
                    rig.add(0, [2048], walked=False)
                if len(rig.waiting) < 4 and rng.random() < 0.1:
                    rig.offer(0, rng.randbytes(76))
            await ctx.tick().until(dut.idle)
            await ctx.tick()
            assert not rig.chains.owned, "a chain is lost"
            quiet = len(rig.host.bytes), len(rig.used)
            for _ in range(50):
                await ctx.tick()
                assert ctx.get(dut.idle)
            assert (len(rig.host.bytes), len(rig.used)) == quiet
            for row in range(rig.config.rows):
                ctx.set(dut.retired_row[0], row)
                ctx.set(dut.retired_row[1], row)
                await ctx.tick()
                for port in range(2):
                    assert ctx.get(dut.retired[port]) == rig.chains.parsed[row] * (row % 2 == 0)
            rig.delivered()
            for row in range(rig.config.rows):
                ctx.set(dut.sweep.row, row)
                ctx.set(dut.sweep.valid, 1)
                rig.chains.parsed[row] = 0
                await ctx.tick()
            ctx.set(dut.sweep.valid, 0)
            rig.added = [[] for _ in range(rig.config.rows)]
            rig.next_used = [0] * rig.config.rows
            ctx.set(dut.drain, 0)
            await ctx.tick()
        rig.add(0, [500])
        before = len(rig.used)
        rig.offer(0, rng.randbytes(100))
        await rig.settle(ctx)
        assert len(rig.used) == before + 1

    rig.run(driver)


def test_odd_rows_are_left_alone():
    """Chains of rows that are no sinks are not swept."""
    rig = Rig(64, "odd rows")

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for row in range(4):
            rig.add(row, [100])
        ctx.set(rig.dut.drain, 1)
        await ctx.tick().until(rig.dut.idle)
        assert sorted(chain.row for chain in rig.chains.owned.values()) == [1, 3]

    rig.run(driver)


@pytest.mark.parametrize("width", [32, 64, 256, 512])
@pytest.mark.parametrize("stall", [0, 0.5])
def test_byte_reader(width, stall):
    """Every alignment and length; one beat per cycle and one cycle for turning."""
    rng = seeded(f"reader {width} {stall}")
    lanes, size = width // 8, 4096
    dut = ByteReader(data_width=width, size=size)
    memory = rng.randbytes(size)
    host = HostWrites(rng, lanes)
    commands = []
    for _ in range(120):
        source = rng.randrange(size)
        length = rng.choice([1, 2, lanes - 1, lanes, lanes + 1, rng.randrange(1, 4 * lanes), 200])
        commands.append((source, max(1, length), rng.randrange(1 << 64), rng.randrange(1 << 16)))
    cycles = 0

    async def feed(ctx):
        for source, length, address, buffers in commands:
            direct = source % lanes == 0 or source % lanes + length <= lanes
            ctx.set(dut.commands.payload, {"source": source, "length": length, "address": address, "short": length <= lanes,
                                           "direct": direct, "buffers": buffers, "ends_chain": 1, "ends_packet": 1})
            ctx.set(dut.commands.valid, 1)
            await ctx.tick().until(dut.commands.ready)
            ctx.set(dut.commands.valid, 0)
        await ctx.tick().until(dut.idle)

    counts = [0, 0]

    async def serve(ctx):
        nonlocal cycles
        while True:
            _, _, word, read, written = await ctx.tick().sample(dut.read_word, dut.packet_read,
                                                                dut.chain_written)
            cycles += 1
            counts[0] += read
            counts[1] += written
            ctx.set(dut.read_data, int.from_bytes(memory[word * lanes:][:lanes], "little"))

    rtlil.convert(dut)
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(feed)
    simulator.add_testbench(serve, background=True)
    simulator.add_testbench(partial(host.serve, port=dut.writes, stall=stall), background=True)
    simulator.run()
    twice = memory + memory
    assert host.commands == [(address, twice[source:source + length])
                             for source, length, address, _ in commands]
    assert counts == [len(commands)] * 2
    if not stall:
        beats = sum(-(-length // lanes) for _, length, _, _ in commands)
        assert cycles <= beats + len(commands) + 8


@pytest.mark.parametrize("width", [32, 64, 512])
def test_flush(width):
    """When the sink is flushed every packet that was taken before has all of its used elements, while others keep coming."""
    rig = Rig(width, f"flush {width}", stall=0.4)
    flushes = late = 0

    def done():
        return sum(not more for _, _, more in rig.used)

    async def driver(ctx):
        await ctx.tick().until(~rig.dut.sweep.valid)
        for _ in range(150):
            content = rig.rng.randbytes(rig.rng.choice((20, 40, 150)))
            room = 0
            while room < len(content):
                while not rig.chains.can_add(0, 1):
                    await ctx.tick()
                chain = rig.add(0, [rig.rng.choice((8, 16, 60))])
                room += chain.writable
            rig.offer(0, content)
            # The memory, and the store, hold so much.
            while len(rig.waiting) > 4:
                await ctx.tick()

    async def flush(ctx):
        nonlocal flushes, late
        rng = random.Random(f"flush {width}")
        await ctx.tick().until(~rig.dut.sweep.valid)
        while len(rig.taken) < 140:
            await ctx.tick().repeat(rng.randrange(1, 30))
            taken = len(rig.taken)
            late += done() < taken
            ctx.set(rig.dut.flush, 1)
            await ctx.tick().until(rig.dut.flushed)
            assert done() >= taken, f"flushed, and {done()} of {taken} packets are used"
            ctx.set(rig.dut.flush, 0)
            flushes += 1

    rig.run(driver, flush)
    assert not rig.dropped
    print(flushes, late)
    assert late > 20
