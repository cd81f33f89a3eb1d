# SPDX-License-Identifier: BSD-2-Clause
"""Rings and chains that break the rules: each is reported, nothing outside is read, everything comes home."""

import struct

import pytest
from amaranth.sim import Simulator

from fake_host import FakeMemory, FakeQueue, seeded, serve_reads
from test_fetch_source import INDIRECT, NEXT, WRITE, Bench
from unvirt.config import DeviceConfig

TABLE = 0x80_0000
DATA = 0x90_0000


def index_too_far(driver):
    driver.memory.write(driver.driver + 2, struct.pack("<H", driver.size + 1))


def index_backwards(driver):
    driver.memory.write(driver.driver + 2, struct.pack("<H", 0xFFFF))


def head_beyond_table(driver):
    driver.publish([driver.size])


def next_beyond_table(driver):
    driver.set_descriptor(0, DATA, 64, NEXT, driver.size)
    driver.publish([0])


def chain_loops(driver):
    driver.set_descriptor(0, DATA, 64, NEXT, 1)
    driver.set_descriptor(1, DATA, 64, NEXT, 0)
    driver.publish([0])


def chain_loops_on_empty_elements(driver):
    driver.set_descriptor(0, DATA, 0, NEXT, 0)
    driver.publish([0])


def indirect_with_next(driver):
    driver.set_descriptor(0, TABLE, 32, INDIRECT | NEXT, 1)
    driver.publish([0])


def indirect_in_indirect(driver):
    # The inner table is good in itself: only where it stands is wrong.
    driver.set_descriptor(0, TABLE, 32, INDIRECT)
    driver.set_descriptor(0, TABLE + 1024, 16, INDIRECT, table=TABLE)
    driver.set_descriptor(0, DATA, 64, table=TABLE + 1024)
    driver.publish([0])


def table_of_no_length(driver):
    driver.set_descriptor(0, TABLE, 0, INDIRECT)
    driver.publish([0])


def table_with_part_of_an_entry(driver):
    driver.set_descriptor(0, TABLE, 40, INDIRECT)
    driver.publish([0])


def next_beyond_indirect_table(driver):
    driver.set_descriptor(0, TABLE, 32, INDIRECT)
    driver.set_descriptor(0, DATA, 64, NEXT, 2, table=TABLE)
    driver.publish([0])


def readable_after_writable(driver):
    driver.set_descriptor(0, DATA, 64, NEXT | WRITE, 1)
    driver.set_descriptor(1, DATA, 64)
    driver.publish([0])


VIOLATIONS = [index_too_far, index_backwards, head_beyond_table, next_beyond_table, chain_loops,
              chain_loops_on_empty_elements, indirect_with_next, indirect_in_indirect,
              table_of_no_length, table_with_part_of_an_entry, next_beyond_indirect_table,
              readable_after_writable]


def violate(break_rule, *, row=1):
    """Let a driver break a rule; return how often the device complained."""
    config = DeviceConfig(data_width=64, rows=4, queue_pairs=2)
    bench = Bench(config)
    memory = FakeMemory()
    memory.write(TABLE, bytes(4096))
    memory.write(DATA, bytes(4096))
    driver = FakeQueue(memory, 0x10_0000, 16)
    pieces, complaints = [], []

    async def drive(ctx):
        for port in bench.fetch.configs:
            ctx.set(port.config, {"desc": driver.desc, "driver": driver.driver,
                                  "device": driver.device, "size": driver.size,
                                  "vector": 0, "enabled": 1})
        ctx.set(bench.source.used.ready, 1)
        ctx.set(bench.fetch.flags.ready, 1)
        ctx.set(bench.transmit.mac.ready, 1)
        await ctx.tick().repeat(300)
        break_rule(driver)
        ctx.set(bench.fetch.notifications.payload.row, row)
        ctx.set(bench.fetch.notifications.valid, 1)
        await ctx.tick().until(bench.fetch.notifications.ready)
        ctx.set(bench.fetch.notifications.valid, 0)
        for _ in range(4000):
            await ctx.tick()
            if complaints:
                break
        ctx.set(bench.drain, 1)
        await ctx.tick().repeat(1500)
        # Chains of a sink row are the sink's to give back, and this bench has none.
        if row % 2:
            assert ctx.get(bench.fetch.at_rest) and ctx.get(bench.source.at_rest), \
                "something is held"

    async def watch(ctx):
        async for _, _, violation in ctx.tick().sample(bench.fetch.violation
                                                       | bench.source.violation):
            if violation:
                complaints.append(1)

    simulator = Simulator(bench)
    simulator.add_clock(1e-8)
    simulator.add_testbench(drive)
    simulator.add_testbench(watch, background=True)
    for client in (bench.fetch.client, bench.source.client):
        def serve(client):
            async def process(ctx):
                await serve_reads(ctx, client, memory, data_width=64, rng=seeded(1),
                                  latency=(5, 20), pieces=pieces)
            return process
        simulator.add_testbench(serve(client), background=True)
    simulator.run()
    return len(complaints)


@pytest.mark.parametrize("break_rule", VIOLATIONS, ids=lambda rule: rule.__name__)
def test_a_broken_rule_is_reported(break_rule):
    """The device complains, reads nothing it was not given and comes to rest.

    Covers: DER-ERR-01, SPLIT-AVAIL-05, SPLIT-DESC-05, SPLIT-IND-05, SPLIT-FRAME-03
    """
    assert violate(break_rule) > 0


def test_a_readable_buffer_in_a_receive_queue_is_reported():
    """A sink row wants device-writable buffers only. Covers: SPLIT-DESC-01"""
    def readable(driver):
        driver.set_descriptor(0, DATA, 64)
        driver.publish([0])
    assert violate(readable, row=0) > 0


def test_a_good_chain_is_not_reported():
    """The test can tell: a correct chain raises no complaint."""
    def good(driver):
        driver.set_descriptor(0, DATA, 64)
        driver.publish([0])
    assert violate(good) == 0
