# SPDX-License-Identifier: BSD-2-Clause
"""Proof: a read with a fence leaves behind the writes before it, and none keeps back what has none."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import prove  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.pcie.dma_read_fence import ReadFence

DEPTH = 2


class FenceSpec(Elaboratable):
    """Pieces of any kind beside writes that are accepted and numbered at any time, from any number on; one of the pieces is followed.

    It leaves as it came, once, and in the order of its kind. With a fence it does so only when all writes accepted before it are numbered, unless
    pieces are being refused; without one it is on show at once but while one that is open is.
    """

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = ReadFence(handle_width=2, buffer_width=8, depth=DEPTH)
        layout = dut.i.payload.shape()
        drive(m, dut.i, meant=sum((1 << layout[name].width) - 1 << layout[name].offset for name in ("fence", "handle", "buffer")))
        begun, accepted, numbered = AnyConst(8), Signal(8), Signal(8)
        accepts, numbers = AnySeq(1), AnySeq(1)
        ahead = Signal(8)
        m.d.comb += [
            Assume(~ResetSignal()),
            dut.o.ready.eq(AnySeq(1)), dut.refuse.eq(AnySeq(1)),
            ahead.eq(accepted - numbered),
            Assume((ahead != 127) | ~accepts), Assume((ahead != 0) | ~numbers),
            dut.writes_accepted.eq(begun + accepted), dut.writes_numbered.eq(begun + numbered),
        ]
        m.d.sync += [accepted.eq(accepted + accepts), numbered.eq(numbered + numbers)]

        # The piece that is followed: how many of its kind are before it, how many writes it has to wait for.
        inside = Signal(range(2 * DEPTH))            # with a fence, here
        follows, followed, gone = Signal(), Signal(), Signal()
        before, behind, refused = Signal.like(inside), Signal(8), Signal()
        piece = Signal(dut.i.payload.shape())
        fenced_in = moves(dut.i) & dut.i.payload.fence
        fenced_out = moves(dut.o) & dut.o.payload.fence
        m.d.comb += follows.eq(moves(dut.i) & dut.i.payload.fence & AnySeq(1) & ~followed & ~gone)
        m.d.sync += [inside.eq(inside + fenced_in - fenced_out), behind.eq(Mux(behind != 0, behind - numbers, 0)), refused.eq(refused | dut.refuse)]
        with m.If(follows):
            m.d.sync += [followed.eq(1), before.eq(inside - fenced_out), behind.eq(ahead - numbers), piece.eq(dut.i.payload), refused.eq(0)]
        with m.Elif(followed & fenced_out):
            m.d.sync += before.eq(before - 1)
            with m.If(before == 0):
                m.d.sync += [followed.eq(0), gone.eq(1)]
                m.d.comb += [Assert(dut.o.payload == piece), Assert((behind == 0) | refused)]
        m.d.comb += [
            Assert(inside <= DEPTH),
            Assert(dut.empty == (inside == 0)),
            # What has no fence passes as it is, and what has one goes in while there is a place.
            Assert(~(dut.o.valid & ~dut.o.payload.fence) | (dut.i.valid & (dut.o.payload == dut.i.payload) & (dut.i.ready == dut.o.ready))),
            Assert(~(dut.i.valid & dut.i.payload.fence) | (dut.i.ready == (inside != DEPTH))),
            Assert(~(dut.i.valid & ~dut.i.payload.fence) | dut.o.valid),
            Cover(gone & (numbered > 3)),
            Cover(followed & (behind != 0) & moves(dut.o) & ~dut.o.payload.fence),
        ]
        assert_steady(m, dut.o)
        return m


def test_fenced_reads_wait(tmp_path):
    """Bounded: 14 cycles."""
    prove(FenceSpec(), tmp_path, mode="bmc", depth=14, map_memories=True)


def test_reads_wait_and_pass(tmp_path):
    """The proof speaks of something: a read waited for writes, and others passed it."""
    prove(FenceSpec(), tmp_path, mode="cover", depth=14, map_memories=True)
