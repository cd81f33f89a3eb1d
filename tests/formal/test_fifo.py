# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the FIFOs keep every word, once and in order."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import WatchedWord, assert_steady, drive, moves  # noqa: E402

from unvirt.stream.fifo import MemoryQueue, Queue


class FifoSpec(Elaboratable):
    """Order, level, steadiness, and that a word is offered as soon as ``latency`` says; then what induction needs to know of the inside."""

    def __init__(self, kind, depth):
        self._kind = kind
        self._depth = depth

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        dut = self._kind(2, depth)
        m.submodules.dut = inner = opened(dut)
        m.d.comb += dut.o.ready.eq(AnySeq(1))
        drive(m, dut.i)
        word = WatchedWord(m, dut.i, dut.o, depth)
        assert_steady(m, dut.o)
        m.d.comb += [
            Assert(dut.level == word.held),
            Assert(dut.i.ready == (word.held != depth)),
            Cover((word.held == depth) & word.inside & (word.ahead == depth - 1) & moves(dut.o)),
        ]

        if self._kind is MemoryQueue:
            empty = inner._named_submodules["words"][0].empty
            inner = opened_inside(inner, "words")
            m.d.comb += Assert(empty == (word.held == 0))
        produce, consume = (register(inner, name) if depth > 1 else C(0) for name in ("produce", "consume"))
        cells = inner.submodules.cells
        place = cells.read_port(domain="comb")
        if self._kind is Queue:
            def in_ring(value):
                return Mux(value >= depth, value - depth, value)
            m.d.comb += [
                Assert(dut.o.valid == (word.held != 0)),
                place.addr.eq(in_ring(consume + word.ahead)),
                Assert((consume < depth) & (produce == in_ring(consume + word.held))) if depth > 1 else [],
                Assert(~word.inside | (place.data == word.value)),
            ]
        else:
            # One word lies in the output latch, the others in the memory; none waits there while the latch is free for longer than a cycle.
            waited = Signal()
            m.d.sync += waited.eq((word.held != 0) & ~moves(dut.o))
            m.d.comb += [
                Assert(~waited | dut.o.valid),
                place.addr.eq(consume + word.ahead - dut.o.valid),
                Assert(dut.o.valid | (word.held <= 1)),
                Assert((produce - consume)[:len(produce)] == word.held - dut.o.valid),
                Assert(~word.inside | (Mux(dut.o.valid & (word.ahead == 0), dut.o.payload, place.data) == word.value)),
            ]
        return m


CASES = [(Queue, 1), (Queue, 2), (Queue, 3), (Queue, 4), (MemoryQueue, 2), (MemoryQueue, 3), (MemoryQueue, 4)]


@pytest.mark.parametrize("kind, depth", CASES)
def test_every_word_comes_out_once_and_in_order(kind, depth, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(FifoSpec(kind, depth), tmp_path, mode="prove", depth=3)


@pytest.mark.parametrize("kind, depth", [(Queue, 3), (MemoryQueue, 4)])
def test_a_full_fifo_is_reached(kind, depth, tmp_path):
    """The proof speaks of something: the watched word leaves a full FIFO."""
    prove(FifoSpec(kind, depth), tmp_path, mode="cover", depth=12)
