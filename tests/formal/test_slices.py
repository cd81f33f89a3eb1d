# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the register slices keep every word, once and in order."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register  # noqa: E402
from streams import WatchedWord, assert_steady, drive, moves  # noqa: E402

from unvirt.stream.buffer import HalfBuffer, SkidBuffer


class SliceSpec(Elaboratable):
    """Order, steadiness, a word shown in the next cycle, ``ready`` as promised; then what induction needs to know of the inside."""

    def __init__(self, kind):
        self._kind = kind

    def elaborate(self, platform):
        m = Module()
        dut = self._kind(2)
        m.submodules.dut = inner = opened(dut)
        m.d.comb += dut.o.ready.eq(AnySeq(1))
        drive(m, dut.i)
        most = 2 if self._kind is SkidBuffer else 1
        word = WatchedWord(m, dut.i, dut.o, most)
        assert_steady(m, dut.o)
        room = word.held != most
        m.d.comb += [
            Assert(dut.o.valid == (word.held != 0)),
            Assert(dut.i.ready == (room if self._kind is SkidBuffer else room | dut.o.ready)),
            Assert(~word.inside | (word.ahead != 0) | (dut.o.payload == word.value)),
            Cover(word.inside & (word.ahead == most - 1) & (word.held == most) & moves(dut.o)),
        ]
        if self._kind is SkidBuffer:
            m.d.comb += Assert(~word.inside | (word.ahead != 1) | (register(inner, "spill") == word.value))
        return m


@pytest.mark.parametrize("kind", [HalfBuffer, SkidBuffer])
def test_every_word_comes_out_once_and_in_order(kind, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(SliceSpec(kind), tmp_path, mode="prove", depth=3)


def test_a_full_slice_is_reached(tmp_path):
    """The proof speaks of something: the watched word waits behind another one."""
    prove(SliceSpec(SkidBuffer), tmp_path, mode="cover", depth=6)
