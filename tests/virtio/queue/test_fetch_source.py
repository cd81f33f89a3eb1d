# SPDX-License-Identifier: BSD-2-Clause
"""Fetch side and source service together, against a driver and read engine in Python."""

import pytest
from amaranth import *
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from fake_host import FakeMemory, FakeQueue, PostedWrites, seeded, serve_reads
from unvirt.config import DeviceConfig
from unvirt.net.spec import NET_HEADER_SIZE
from unvirt.net.transmit import Transmit, packet_start
from unvirt.virtio.queue.fetch import FetchSide
from unvirt.virtio.queue.source_service import SourceService

NEXT, WRITE, INDIRECT = 1, 2, 4


def further(seeds, count):
    """Return the seeds with all but the first ``count`` of them slow."""
    return [seed if number < count else pytest.param(seed, marks=pytest.mark.slow) for number, seed in enumerate(seeds)]


class Bench(Elaboratable):
    """Odd rows are sources, even rows sinks, as in a network device."""

    def __init__(self, config):
        self.config = config
        self.fetch = FetchSide(config, is_sink=lambda row: ~row[0])
        self.source = SourceService(config, is_source=lambda row: row[0],
                                    start_offset=packet_start(config.data_width),
                                    header_size=NET_HEADER_SIZE)
        self.transmit = Transmit(data_width=config.data_width, rows=config.rows, size=config.tx_buffer_size)
        self.drain = Signal()

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch = fetch = self.fetch
        m.submodules.source = source = self.source
        m.submodules.transmit = transmit = self.transmit
        connect(m, source.issue, fetch.issue)
        connect(m, source.retire, fetch.retire)
        connect(m, fetch.ready_rows, source.ready_rows)
        connect(m, source.packets, transmit.packets)
        connect(m, transmit.free, source.free)
        m.d.comb += [
            source.read_word.eq(transmit.read_word), transmit.read_data.eq(source.read_data),
            source.next_of.eq(transmit.next_of), transmit.next.eq(source.next),
            fetch.drain.eq(self.drain), source.drain.eq(self.drain),
            transmit.drain.eq(self.drain),
            source.retired_row.eq(fetch.retired_row), fetch.retired.eq(source.retired),
            source.issued_row.eq(fetch.head_row), fetch.head.eq(source.issued),
            fetch.indirect_enabled.eq(1),
            source.max_read_request_size.eq(2),
            source.extended_tags.eq(1),
        ]
        return m


def make_packet(rng, queue, memory, number, shape):
    """Lay a packet out in memory as ``shape`` says; return (head, frame, descriptors used)."""
    frame = rng.randbytes(rng.choice([14, 15, 60, 64, 127, 128, 200, 1000]))
    whole = bytes(NET_HEADER_SIZE) + frame
    cuts = sorted(rng.sample(range(1, len(whole)), shape["parts"] - 1))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)])]
    if shape.get("empty"):
        parts.insert(rng.randrange(len(parts) + 1), b"")
    base = 0x100_0000 + number * 0x4000 + rng.randrange(64)
    places = []
    for part in parts:
        memory.write(base, part + b"!")
        places.append((base, len(part)))
        base += len(part) + rng.randrange(1, 99)
    table = shape.get("table", "direct")
    direct = len(places) if table == "direct" else (1 if table == "mixed" else 0)
    slots = [queue.free.pop(0) for _ in range(direct + (table != "direct"))]
    for index, (address, length) in enumerate(places[:direct]):
        more = index + 1 < len(slots)
        queue.set_descriptor(slots[index], address, length, NEXT if more else 0,
                             slots[index + 1] if more else 0)
    if table != "direct":
        rest = places[direct:]
        where = base + rng.randrange(1, 40)
        order = list(range(1, len(rest)))
        if shape.get("shuffled"):
            rng.shuffle(order)
        order = [0, *order]
        for index, (address, length) in enumerate(rest):
            more = index + 1 < len(rest)
            queue.set_descriptor(order[index], address, length, NEXT if more else 0,
                                 order[index + 1] if more else 0, table=where)
        queue.set_descriptor(slots[-1], where, 16 * len(rest), INDIRECT)
    return slots[0], frame, slots


SHAPES = {
    "single": [{"parts": 1}],
    "chains": [{"parts": 2}, {"parts": 3, "empty": True}, {"parts": 14}],
    "indirect": [{"parts": 2, "table": "indirect"}, {"parts": 17, "table": "indirect"},
                 {"parts": 9, "table": "indirect", "shuffled": True}],
    "mixed": [{"parts": 1}, {"parts": 4, "table": "mixed"}, {"parts": 1},
              {"parts": 20, "table": "mixed", "shuffled": True}, {"parts": 5}],
}


def run(config, rng, *, queues, count, shapes, latency, stalls=0.0, size=64, polite=False):
    """Send ``count`` packets on each queue; return (frames out, expected by row, rows not notified).

    A ``polite`` driver notifies only while the used flags it sees allow it [virtio 2.7.10].
    """
    bench = Bench(config)
    memory = FakeMemory()
    drivers = {row: FakeQueue(memory, 0x10_0000 * (row + 1), size) for row in queues}
    expected = {row: [] for row in queues}
    got, pieces, used = [], [], {row: [] for row in queues}
    number = 0
    posted = PostedWrites(memory, rng, (1, 80))
    silenced = []
    for driver in drivers.values():
        driver.free = list(range(size))
    finished = []

    async def configs(ctx):
        while True:
            rows = [ctx.get(port.row) for port in bench.fetch.configs]
            await ctx.tick()
            for port, row in zip(bench.fetch.configs, rows):
                driver = drivers.get(row)
                if driver:
                    ctx.set(port.config, {"desc": driver.desc, "driver": driver.driver,
                                          "device": driver.device, "size": driver.size,
                                          "vector": 0, "enabled": 1})

    async def drive(ctx):
        nonlocal number
        await ctx.tick().repeat(300)
        left = {row: count for row in queues}
        outstanding = {}
        rounds = 0
        probing = False
        while any(left.values()) or outstanding:
            rounds += 1
            assert rounds < 1500, f"{len(outstanding)} packets were never used"
            for row, driver in drivers.items():
                heads = []
                burst = rng.randrange(probing, 3) if polite else 16
                while left[row] and len(driver.free) > 24 and len(heads) < burst:
                    shape = rng.choice(shapes)
                    head, frame, taken = make_packet(rng, driver, memory, number, shape)
                    number += 1
                    expected[row].append(frame)
                    outstanding[row, head] = taken
                    heads.append(head)
                    left[row] -= 1
                if heads:
                    driver.publish(heads)
                    if polite and memory.read(driver.device, 2) != bytes(2):
                        silenced.append(row)
                        continue
                    ctx.set(bench.fetch.notifications.payload.row, row)
                    ctx.set(bench.fetch.notifications.valid, 1)
                    await ctx.tick().until(bench.fetch.notifications.ready)
                    ctx.set(bench.fetch.notifications.valid, 0)
            await ctx.tick().repeat(rng.randrange(1, 24 if polite else 40))
            for row in queues:
                while used[row]:
                    head = used[row].pop(0)
                    drivers[row].free += outstanding.pop((row, head))
            # A polite driver that waits for its buffers to come back shows a missed one as a hang. It does so behind one that it publishes at about
            # the time at which notifications come on again: within some round trips after it has published others.
            if polite and not probing and rng.random() < 0.15:
                probing = True
                await ctx.tick().repeat(rng.randrange(1, 400))
            elif probing:
                probing = False
                for _ in range(5000):
                    if not outstanding:
                        break
                    await ctx.tick()
                    for row in queues:
                        while used[row]:
                            drivers[row].free += outstanding.pop((row, used[row].pop(0)))
                assert not outstanding, f"{len(outstanding)} buffers were missed"
                await ctx.tick().repeat(rng.randrange(1, 200))
        for _ in range(3000):
            if len(got) == sum(len(frames) for frames in expected.values()):
                break
            await ctx.tick()
        finished.append(True)

    async def take_used(ctx):
        ctx.set(bench.source.used.ready, 1)
        async for _, _, valid, element in ctx.tick().sample(bench.source.used.valid,
                                                            bench.source.used.payload):
            if valid:
                used[element["row"]].append(element["head"])

    async def take_flags(ctx):
        ctx.set(bench.fetch.flags.ready, 1)
        cycle = 0
        async for _, _, valid, beat in ctx.tick().sample(bench.fetch.flags.valid,
                                                         bench.fetch.flags.payload):
            cycle += 1
            posted.settle(cycle)
            if valid:
                assert beat["header"]["length"] == 2
                posted.post(cycle, beat["header"]["address"],
                            (beat["data"] & 0xFFFF).to_bytes(2, "little"))

    async def take_frames(ctx):
        lanes = config.data_width // 8
        mac, frame = bench.transmit.mac, b""
        while True:
            ctx.set(mac.ready, rng.random() >= stalls)
            _, _, valid, ready, beat = await ctx.tick().sample(mac.valid, mac.ready, mac.payload)
            if valid and ready:
                word = int(beat["data"]).to_bytes(lanes, "little")
                frame += word[:lanes - beat["empty"]]
                if beat["last"]:
                    got.append(frame)
                    frame = b""

    async def watch(ctx):
        async for _, _, violation in ctx.tick().sample(bench.fetch.violation
                                                       | bench.source.violation):
            assert not violation, "a correct driver was called a violator"

    simulator = Simulator(bench)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    for process in (configs, take_used, take_flags, take_frames, watch):
        simulator.add_testbench(process, background=True)
    for client in (bench.fetch.client, bench.source.client):
        def serve(client):
            async def process(ctx):
                await serve_reads(ctx, client, memory, data_width=config.data_width, rng=rng,
                                  latency=latency, pieces=pieces, posted=posted)
            return process
        simulator.add_testbench(serve(client), background=True)
    simulator.run()
    assert finished, "packets were not all used"
    return got, expected, silenced


@pytest.mark.parametrize("width", [pytest.param(32, marks=pytest.mark.slow), 64, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shapes", SHAPES)
def test_packets_arrive_in_queue_order(width, shapes):
    """Frames of each queue leave whole, unchanged and in order. Covers: SPLIT-FRAME-01, SPLIT-IND-02"""
    rng = seeded(f"{width} {shapes}")
    config = DeviceConfig(data_width=width, rows=4, queue_pairs=2)
    got, expected, _ = run(config, rng, queues=(1, 3), count=24, shapes=SHAPES[shapes],
                           latency=(5, 60), stalls=0.2)
    for frames in expected.values():
        mine = [frame for frame in got if frame in frames]
        assert mine == frames
    assert len(got) == sum(len(frames) for frames in expected.values())


@pytest.mark.parametrize("seed", further(range(5), 2))
def test_no_buffer_is_missed_when_notifications_come_back(seed):
    """Buffers made available while notifications are off, or just as they come on again, are all used.

    Covers: DER-RACE-01, SPLIT-ASUP-01, SPLIT-ASUP-02
    """
    rng = seeded(f"polite {seed}")
    config = DeviceConfig(data_width=64, rows=4, queue_pairs=2)
    got, expected, silenced = run(config, rng, queues=(1, 3), count=140, shapes=SHAPES["single"], latency=(5, 120), polite=True)
    assert sorted(got) == sorted(frame for frames in expected.values() for frame in frames)
    assert len(silenced) > 4, "drivers were hardly ever told to be quiet: nothing was tested"


@pytest.mark.parametrize("seed", further(range(6), 3))
@pytest.mark.parametrize("mac_alive", [True, False])
def test_everything_comes_home_when_drained(seed, mac_alive):
    """Drained at a random moment, with the MAC dead or not, every slot, group, granule and context is back.

    Covers: DER-RST-01
    """
    rng = seeded(f"drain {seed} {mac_alive}")
    config = DeviceConfig(data_width=64, rows=4, queue_pairs=2)
    bench = Bench(config)
    memory = FakeMemory()
    drivers = {row: FakeQueue(memory, 0x10_0000 * (row + 1), 64) for row in (0, 1, 3)}
    pieces = []

    async def configs(ctx):
        while True:
            rows = [ctx.get(port.row) for port in bench.fetch.configs]
            await ctx.tick()
            for port, row in zip(bench.fetch.configs, rows):
                driver = drivers.get(row)
                if driver:
                    ctx.set(port.config, {"desc": driver.desc, "driver": driver.driver,
                                          "device": driver.device, "size": driver.size,
                                          "vector": 0, "enabled": 1})

    async def drive(ctx):
        ctx.set(bench.source.used.ready, 1)
        ctx.set(bench.fetch.flags.ready, 1)
        ctx.set(bench.transmit.mac.ready, mac_alive)
        await ctx.tick().repeat(300)
        for row, driver in drivers.items():
            driver.free = list(range(64))
            if row == 0:
                # A sink row: buffers of one or two descriptors that stay in the store.
                for number in range(0, 40, 2):
                    driver.set_descriptor(number, 0x90_0000, 1500, WRITE | NEXT * (number % 4 == 0),
                                          number + 1)
                    driver.set_descriptor(number + 1, 0x91_0000, 64, WRITE)
                heads = list(range(0, 40, 2))
            else:
                heads = [make_packet(rng, driver, memory, number + row * 40,
                                     rng.choice(SHAPES["mixed"] + SHAPES["single"] * 4))[0]
                         for number in range(4)]
            driver.publish(heads)
            ctx.set(bench.fetch.notifications.payload.row, row)
            ctx.set(bench.fetch.notifications.valid, 1)
            await ctx.tick().until(bench.fetch.notifications.ready)
            ctx.set(bench.fetch.notifications.valid, 0)
        await ctx.tick().repeat(rng.randrange(1, 500))
        ctx.set(bench.drain, 1)
        # Sink chains are the sink's to give back; this bench plays it.
        sink = bench.fetch.sink
        position = 0
        for _ in range(3000):
            ctx.set(sink.parsed_row, 0)
            ctx.set(sink.order_row, 0)
            ctx.set(sink.order_position, position)
            await ctx.tick()
            parsed, slot = ctx.get(sink.parsed), ctx.get(sink.slot)
            if position != parsed:
                ctx.set(sink.chain_slot, slot)
                ctx.set(sink.walked_slot, slot)
                await ctx.tick()
                chain, walked = ctx.get(sink.chain), ctx.get(sink.walked)
                groups = chain["groups"] if walked and not chain["single"] else 0
                ctx.set(sink.release.payload, {"slot": slot, "group": chain["group"],
                                               "groups": groups})
                ctx.set(sink.release.valid, 1)
                await ctx.tick().until(sink.release.ready)
                ctx.set(sink.release.valid, 0)
                position += 1
            elif ctx.get(bench.fetch.at_rest) and ctx.get(bench.source.at_rest):
                break
        await ctx.tick().repeat(20)
        count = len(pieces)
        await ctx.tick().repeat(200)
        assert ctx.get(bench.fetch.at_rest) and ctx.get(bench.source.at_rest), "something is held"
        assert len(pieces) == count, "a read was issued after the engine had come to rest"

    simulator = Simulator(bench)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.add_testbench(configs, background=True)
    for client in (bench.fetch.client, bench.source.client):
        def serve(client):
            async def process(ctx):
                await serve_reads(ctx, client, memory, data_width=64, rng=rng,
                                  latency=(5, 60), pieces=pieces)
            return process
        simulator.add_testbench(serve(client), background=True)
    simulator.run()
