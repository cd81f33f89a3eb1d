# SPDX-License-Identifier: BSD-2-Clause
"""Drivers and reference models for the tests of the DMA engines.

All of a bench runs in one loop that is called once per cycle: it sees the signals as they are just
before the clock edge, and what it sets takes effect behind the edge.
"""

from amaranth.back import rtlil
from amaranth.sim import Simulator

__all__ = ["run_cycles", "Source", "Sink", "byte_enables"]


def run_cycles(dut, agents, done, *, cycles=20000, after=0):
    """Clock ``dut`` until ``done()``, then ``after`` cycles more; agents are asked in order.

    Returns the number of cycles until ``done()``. Each agent is called with ``(ctx, cycle)`` after
    the edge; agents with a method ``sample`` get it before the edge.
    """
    # Finds combinational loops, which would hang the simulator.
    rtlil.convert(dut, ports=None if hasattr(dut, "signature") else ())
    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    result = []

    async def bench(ctx):
        for agent in agents:
            agent.drive(ctx, 0)
        end = None
        for cycle in range(1, cycles):
            for agent in agents:
                agent.sample(ctx, cycle)
            await ctx.tick()
            for agent in agents:
                agent.drive(ctx, cycle)
            if end is None and done():
                result.append(cycle)
                end = cycle + after
            if end == cycle:
                return
        raise AssertionError(f"Not through within {cycles} cycles")

    simulator.add_testbench(bench)
    simulator.run()
    return result[0]


class Source:
    """Sends what is in ``queue``; payloads are dicts for the layout."""

    def __init__(self, stream, *, rng=None, stall=0, idle=None):
        self.stream, self.rng, self.stall = stream, rng, stall
        self.idle = idle
        self.queue = []
        self.sent = []            # cycles
        self.shown = None
        self.blocked = False

    def sample(self, ctx, cycle):
        if self.shown is not None and ctx.get(self.stream.ready):
            self.sent.append(cycle)
            self.shown = None

    def drive(self, ctx, cycle):
        stalled = self.blocked or (self.stall and self.rng.random() < self.stall)
        if self.shown is None and self.queue and not stalled:
            self.shown = self.queue.pop(0)
            ctx.set(self.stream.payload, self.shown)
        elif self.shown is None and self.idle:
            ctx.set(self.stream.payload, self.idle())    # nobody may look at it
        ctx.set(self.stream.valid, self.shown is not None)


class Sink:
    """Hands each payload taken to ``accept(payload, cycle)``; checks that a stalled one is held."""

    def __init__(self, stream, accept, *, rng=None, stall=0):
        self.stream, self.accept, self.rng, self.stall = stream, accept, rng, stall
        self.held = None
        self.times = []
        self.blocked = False

    def sample(self, ctx, cycle):
        valid, ready = ctx.get(self.stream.valid), ctx.get(self.stream.ready)
        payload = ctx.get(self.stream.payload.as_value()) if valid else None
        if self.held is not None:
            assert valid and payload == self.held, "valid or payload changed while stalled"
        self.held = payload if valid and not ready else None
        if valid and ready:
            self.times.append(cycle)
            self.accept(ctx.get(self.stream.payload), cycle)

    def drive(self, ctx, cycle):
        stalled = self.blocked or (self.stall and self.rng.random() < self.stall)
        ctx.set(self.stream.ready, not stalled)


def byte_enables(address, length):
    """Return DWs, first and last byte enables of an access [PCIe 2.2.5]."""
    first, last = address // 4, (address + length - 1) // 4
    mask = [sum(1 << b for b in range(4) if address <= 4 * dw + b < address + length)
            for dw in (first, last)]
    return last - first + 1, mask[0], mask[1] if last != first else 0
