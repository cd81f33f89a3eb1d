# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the window of packet data never stays closed for ever, keeps its limits, and adds up."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register  # noqa: E402

from unvirt.virtio.queue import read_window
from unvirt.virtio.queue.read_window import PacketBegin, ReadWindow

SLOTS, LEAST, MOST = 2, 1024, 8192

FARTHEST = 1 << 14
"""The least that a last piece may count for is as much below zero."""


def window(m):
    """Add a window with free inputs to ``m``; return it and its inside."""
    dut = ReadWindow(slots=SLOTS, least=LEAST, most=MOST)
    m.submodules.dut = inner = opened(dut)
    m.d.comb += [Value.cast(port).eq(AnySeq(len(Value.cast(port))))
                 for port in (dut.begins, dut.begun, dut.arrives, dut.arrived, dut.wanted, dut.clear)]
    return dut, inner


def add_closed(m, dut, inner):
    """Count the cycles for which the window is closed and nothing arrives, which have an end; return this, and whether it is just reached."""
    closed, run = Signal(), Signal(range(8 << read_window._TIME_WIDTH))
    before = Signal.like(run)
    m.d.comb += [closed.eq(~dut.open & ~dut.arrives), run.eq(Mux(closed, before + 1, 0))]
    m.d.sync += before.eq(run)
    limit, shortest = register(inner, "limit"), register(inner, "shortest")
    m.d.comb += [
        Assert(dut.open | (register(inner, "quiet") == before)),
        Assert(run <= (shortest << 2) + 1),
        Assert(run <= 1 << read_window._TIME_WIDTH),
        *(Assert((value >= LEAST) & (value <= MOST)) for value in (limit, register(inner, "raised"), register(inner, "lowered"))),
    ]
    return run, (before >= shortest << 2) | (before == (1 << read_window._TIME_WIDTH) - 1)


class ClosedSpec(Elaboratable):
    """Whatever begins and arrives, in any numbers: closed and without an arrival the window is for four round trips and a cycle at most, or, if none
    is known, for as many cycles as a time can tell, and one; nothing is timed for longer than that either. The limit stays where it may be."""

    def elaborate(self, platform):
        m = Module()
        dut, inner = window(m)
        longest = (1 << read_window._TIME_WIDTH) - 1
        limit, shortest, timing, time = (register(inner, name) for name in ("limit", "shortest", "timing", "time"))
        run, _ = add_closed(m, dut, inner)
        timed, raised, lowered, forgot = Signal(range(2 * longest + 4)), Signal(), Signal(), Signal()
        m.d.sync += timed.eq(Mux(timing, timed + 1, 0))
        before = Signal.like(limit, init=limit.init)
        m.d.sync += before.eq(limit)
        with m.If(limit > before):
            m.d.sync += raised.eq(1)
        with m.If((limit < before) & raised):
            m.d.sync += lowered.eq(1)
        with m.If(run == (shortest << 2) + 1):
            m.d.sync += forgot.eq(1)
        m.d.comb += [
            Assert(timed <= longest + 1),
            Assert(~timing | (timed == time)),
            Cover(forgot & dut.open & (shortest != longest)),
            Cover(lowered & (limit != LEAST)),
        ]
        return m


class SumSpec(Elaboratable):
    """Packets of two slots, answered in pieces, of which the last counts for what is left, be it less than nothing.

    What is under way is what began and did not arrive; when all has arrived it is nothing. It is so until reads are forgotten, or pieces that
    count for too much make it fall below what it may; and again after a rest.
    """

    def elaborate(self, platform):
        m = Module()
        dut, inner = window(m)
        under_way, began = register(inner, "under_way").as_signed(), register(inner, "began")
        # A packet counts in the cycle after it began.
        coming = Mux(began, PacketBegin(SLOTS)(register(inner, "begun")).bytes, 0)
        there = Signal(SLOTS)
        left = Array(Signal(signed(18), name=f"left{slot}") for slot in range(SLOTS))
        begun, arrived, last = dut.begun, dut.arrived, AnySeq(1)
        m.d.comb += [
            Assume(~dut.begins | (dut.open & ~there.bit_select(begun.slot, 1) & (begun.bytes <= MOST))),
            Assume(~dut.arrives | there.bit_select(arrived.slot, 1)),
            Assume(~dut.arrives | Mux(last, arrived.bytes == left[arrived.slot], (arrived.bytes > 0) & (arrived.bytes <= 512))),
            # What the last piece counts for can be told.
            Assume(~dut.arrives | last | (left[arrived.slot] - arrived.bytes >= -FARTHEST)),
            # Nothing was under way before.
            Assume(~dut.clear | (there == 0)),
        ]
        with m.If(dut.arrives):
            m.d.sync += left[arrived.slot].eq(Mux(last, 0, left[arrived.slot] - arrived.bytes))
        with m.If(dut.begins):
            m.d.sync += left[begun.slot].eq(begun.bytes)
        m.d.sync += there.eq((there | Mux(dut.begins, 1 << begun.slot, 0)) & ~Mux(dut.arrives & last, 1 << arrived.slot, 0))
        _, forgets = add_closed(m, dut, inner)
        total, exact, fell, both, lapsed = Signal(signed(20)), Signal(init=1), Signal(), Signal(), Signal()
        m.d.comb += total.eq(sum(left))
        change = total - Mux(dut.arrives, arrived.bytes, 0)
        with m.If(forgets | (change < -read_window._SLACK)):
            m.d.sync += [exact.eq(0), lapsed.eq(1)]
        with m.Elif(dut.clear & ~dut.begins):
            m.d.sync += exact.eq(1)
        with m.If(there.all()):
            m.d.sync += both.eq(1)
        with m.If(both & (total < 0)):
            m.d.sync += fell.eq(1)
        m.d.comb += [
            Assert(~exact | (under_way + coming == total)),
            Assert(~began | there.any()),
            Assert(~exact | there.any() | (under_way == 0)),
            # Open at rest, closed with as much under way as there may be.
            Assert(~exact | there.any() | dut.open),
            Assert(~exact | (total < MOST) | ~dut.open),
            *(Assert(present | (amount == 0)) for present, amount in zip(there, left)),
            *(Assert((amount >= -FARTHEST) & (amount <= MOST)) for amount in left),
            Cover(exact & fell & ~lapsed & (there == 0) & ~dut.clear),
            Cover(exact & lapsed & there.all() & ~dut.open),
        ]
        return m


@pytest.mark.parametrize("spec", [ClosedSpec, SumSpec], ids=["closed", "sum"])
def test_the_window_opens_again_and_adds_up(spec, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(spec(), tmp_path, mode="prove", depth=3)


@pytest.mark.parametrize("spec", [ClosedSpec, SumSpec], ids=["closed", "sum"])
def test_windows_close_and_change(spec, tmp_path, monkeypatch):
    """The proofs speak of something, with times of four bits: reads are forgotten, the limit goes up and down, pieces count for too much."""
    monkeypatch.setattr(read_window, "_TIME_WIDTH", 4)
    monkeypatch.setattr(read_window, "_ROUNDS", 4)
    prove(spec(), tmp_path, mode="cover", depth=30)
