# SPDX-License-Identifier: BSD-2-Clause
"""Drivers and checkers for streams in unit tests."""

from amaranth.back import rtlil
from amaranth.sim import Simulator

__all__ = ["STALLS", "simulate", "send", "receive", "watch"]

STALLS = ((0, 0), (0.5, 0), (0, 0.5), (0.4, 0.4))
"""Probabilities of a stall at the source and at the sink."""


def simulate(dut, *testbenches, background=(), cycles=20000):
    """Run until all testbenches are through; fails after ``cycles``."""
    rtlil.convert(dut)    # finds combinational loops, which would hang the simulator
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)

    async def watchdog(ctx):
        for _ in range(cycles):
            await ctx.tick()
        raise AssertionError(f"Simulation not through within {cycles} cycles")

    for bench in testbenches:
        simulator.add_testbench(bench)
    for bench in (*background, watchdog):
        simulator.add_testbench(bench, background=True)
    simulator.run()


def send(stream, payloads, *, stall=0, random=None):
    """Return a testbench that sends the payloads."""
    async def bench(ctx):
        for payload in payloads:
            while stall and random.random() < stall:
                await ctx.tick()
            ctx.set(stream.payload, payload)
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)
    return bench


def receive(stream, count, result, *, stall=0, random=None):
    """Return a testbench that appends ``count`` payloads to ``result``."""
    async def bench(ctx):
        while len(result) < count:
            while stall and random.random() < stall:
                await ctx.tick()
            ctx.set(stream.ready, 1)
            payload, = await ctx.tick().sample(stream.payload).until(stream.valid)
            ctx.set(stream.ready, 0)
            result.append(payload)
    return bench


def watch(stream):
    """Return a background testbench that checks that a stalled beat is held."""
    async def bench(ctx):
        held = None
        while True:
            _, reset, valid, ready, payload = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload)
            if reset:
                held = None
                continue
            if held is not None:
                assert valid and payload == held, "valid or payload changed while stalled"
            held = payload if valid and not ready else None
    return bench
