# SPDX-License-Identifier: BSD-2-Clause
"""Proof: pools hand out each token once, and flag tables do what they are told."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register  # noqa: E402
from streams import assert_steady, moves  # noqa: E402
from tokens import token_places  # noqa: E402

from unvirt.stream import free_list
from unvirt.stream.fifo import MemoryQueue
from unvirt.stream.flags import FlagTable
from unvirt.stream.free_list import FreeList


class PoolSpec(Elaboratable):
    """Each token is at just one place at any time: with its owner, or once in the pool. None is lost, none is there twice."""

    def __init__(self, depth):
        self._depth = depth

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        dut = FreeList(depth)
        m.submodules.dut = inner = opened(dut)
        owned = Signal(depth)
        taken, freed = Signal(depth), Signal(depth)
        m.d.comb += [
            dut.alloc.ready.eq(AnySeq(1)), dut.free.valid.eq(AnySeq(1)), dut.free.payload.eq(AnySeq(len(dut.free.payload))),
            taken.eq(Mux(moves(dut.alloc), 1 << dut.alloc.payload, 0)),
            freed.eq(Mux(dut.free.valid, 1 << dut.free.payload, 0)),
            # Who gives a token back has it.
            Assume(~dut.free.valid | ((freed & owned) != 0)),
        ]
        m.d.sync += owned.eq((owned | taken) & ~freed)
        waited = Signal()
        m.d.sync += waited.eq((dut.count != 0) & ~moves(dut.alloc))
        m.d.comb += [
            Assert((taken & owned) == 0),
            Assert(dut.count == depth - sum(owned)),
            Assert(~dut.alloc.valid | (dut.alloc.payload < depth)),
            Assert(~waited | dut.alloc.valid),
            Cover(owned.all() & freed[0]),
            Cover(~register(inner, "fresh_left") & (dut.count == depth)),
        ]
        assert_steady(m, dut.alloc)
        m.d.comb += [Assert(places + owned[token] == 1) for token, places in enumerate(token_places(m, inner, depth))]
        return m


class FlagSpec(Elaboratable):
    """A watched flag is set and cleared as it is told, and shows so in the next cycle."""

    def __init__(self, depth):
        self._depth = depth

    def elaborate(self, platform):
        m = Module()
        dut = FlagTable(self._depth, 2)
        m.submodules.dut = inner = opened(dut)
        watched = Signal(range(max(2, self._depth)))
        flag = Signal()
        m.d.comb += [
            watched.eq(AnyConst(len(watched))), Assume(watched < self._depth),
            dut.set_valid.eq(AnySeq(1)), dut.set_index.eq(AnySeq(len(watched))), Assume(dut.set_index < self._depth),
            dut.clear_valid.eq(AnySeq(1)), dut.clear_index.eq(AnySeq(len(watched))), Assume(dut.clear_index < self._depth),
            Assume(dut.ready | ~(dut.set_valid | dut.clear_valid)),
            Assume(~(dut.set_valid & dut.clear_valid & (dut.set_index == dut.clear_index))),
            dut.test_index[0].eq(watched), dut.test_index[1].eq(AnySeq(len(watched))),
        ]
        with m.If(dut.set_valid & (dut.set_index == watched)):
            m.d.sync += flag.eq(1)
        with m.If(dut.clear_valid & (dut.clear_index == watched)):
            m.d.sync += flag.eq(0)
        m.d.comb += [
            Assert(dut.test_value[0] == flag),
            Assert((dut.test_index[1] != watched) | (dut.test_value[1] == flag)),
            Cover(dut.ready & flag & (watched == self._depth - 1)),
        ]

        # The sweep has passed the watched flag, or is on its way there.
        swept = register(inner, "swept")
        bits = [getattr(inner.submodules, name).read_port(domain="comb") for name in ("set_bits", "clear_bits")]
        m.d.comb += [
            *(bit.addr.eq(watched) for bit in bits),
            Assert(dut.ready | ~flag),
            Assert(dut.ready | (swept < max(2, self._depth))),
            Assert(~(dut.ready | (swept > watched)) | ((bits[0].data ^ bits[1].data) == flag)),
        ]
        return m


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_token_is_at_one_place(depth, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(PoolSpec(depth), tmp_path, mode="prove", depth=3, map_memories=True)


def test_every_token_of_a_large_pool_is_at_one_place(tmp_path, monkeypatch):
    """The same with the FIFO that pools of 256 tokens and more have."""
    monkeypatch.setattr(free_list, "Queue", MemoryQueue)
    prove(PoolSpec(4), tmp_path, mode="prove", depth=3, map_memories=True)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_flag_is_what_it_was_told_to_be(depth, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(FlagSpec(depth), tmp_path, mode="prove", depth=3, map_memories=True)


@pytest.mark.parametrize("spec", [PoolSpec(3), FlagSpec(3)], ids=["pool", "flags"])
def test_interesting_states_are_reached(spec, tmp_path):
    """The proofs speak of something: an empty pool, one that is full of returned tokens; a flag that is set."""
    prove(spec, tmp_path, mode="cover", depth=12, map_memories=True)
