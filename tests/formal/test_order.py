# SPDX-License-Identifier: BSD-2-Clause
"""Proof: no read or completion leaves before the posted write whose number it carries."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register  # noqa: E402
from streams import assume_steady, moves  # noqa: E402

from unvirt.pcie.attach.order_gate import OrderGate
from unvirt.pcie.attach.raw_transmit import RawTransmit
from unvirt.pcie.wire import Fmt, TlpType


def debt(m, presented, taken, order, sent, sends, name):
    """Return how many posted writes the header on show still has to wait for; counted from the moment it was presented, so that no number of
    later writes makes the answer ambiguous.
    """
    known, left, now = Signal(name=f"{name}_known"), Signal(8, name=f"{name}_left"), Signal(8, name=f"{name}_now")
    ahead = (order - sent)[:8]
    m.d.comb += now.eq(Mux(known, left, Mux(ahead <= 128, ahead, 0)))
    m.d.sync += [known.eq(presented & ~taken), left.eq(Mux(now != 0, now - sends, 0))]
    return now, known


class GateSpec(Elaboratable):
    """The gate opens when the write with the header's number has gone, not before; and stays open for any number of writes."""

    def elaborate(self, platform):
        m = Module()
        dut = OrderGate()
        m.submodules.dut = inner = opened(dut)
        sends = AnySeq(1)
        order, stalled = Signal(8, reset_less=True), Signal()
        m.d.comb += [dut.valid.eq(AnySeq(1)), dut.order.eq(AnySeq(8)), dut.taken.eq(AnySeq(1) & dut.open)]
        m.d.sync += [dut.posted_done.eq(dut.posted_done + sends), order.eq(dut.order), stalled.eq(dut.valid & ~dut.taken)]
        left, known = debt(m, dut.valid, dut.taken, dut.order, dut.posted_done, sends, "header")
        m.d.comb += [
            Assume(~stalled | (dut.valid & (dut.order == order))),
            Assert(dut.open == (dut.valid & (left == 0))),
            Assert(~known | ((left == 0) == (register(inner, "passed") | (order == dut.posted_done)))),
            Assert(~known | (left == 0) | ((left == (order - dut.posted_done)[:8]) & (left <= 128))),
            Cover(known & dut.open & ((dut.posted_done - order)[:8] == 200)),
            Cover(dut.open & known & (order == 5)),
        ]
        return m


class TransmitSpec(Elaboratable):
    """Watches the stream to the link: a posted write counts as gone when its last beat was taken there.

    The device sends writes of one to four DWs, reads, and completions over ``port``; credits come and go as they please.
    """

    def __init__(self, port):
        self._port = port

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = RawTransmit(data_width=64)
        completions, idle = dut.completions, dut.own_completions
        if self._port == "own_completions":
            completions, idle = idle, completions
        m.d.comb += [dut.tx.ready.eq(AnySeq(1)), dut.credits.as_value().eq(AnySeq(len(dut.credits.as_value()))), dut.intx.eq(AnySeq(1)),
                     idle.valid.eq(0)]

        begun = Signal(8)
        for source, most in ((dut.posted, 4), (completions, 3), (dut.nonposted, 0)):
            beat = source.payload
            m.d.comb += [source.valid.eq(AnySeq(1)), Value.cast(beat).eq(AnySeq(len(Value.cast(beat))))]
            assume_steady(m, source)
            # Beats as the length says.
            beats = Signal(3)
            with m.If(moves(source)):
                m.d.sync += beats.eq(Mux(beat.last, 0, beats + 1))
            if most:
                m.d.comb += [Assume(beat.header.length <= most),
                             Assume(beat.last == (2 * (beats + 1) >= beat.header.length))]
                length = Signal(3)
                with m.If(moves(source)):
                    m.d.sync += length.eq(beat.header.length)
                m.d.comb += Assume(beat.first | (beat.header.length == length))
            else:
                m.d.comb += Assume(beat.last)
            m.d.comb += Assume(beat.first == (beats == 0))
        m.d.comb += Assume(dut.posted.payload.header.length != 0)
        with m.If(moves(dut.posted) & dut.posted.payload.first):
            m.d.sync += begun.eq(begun + 1)

        # What the link sees.
        out = dut.tx.payload
        shows = dut.tx.valid & out.first
        kind, form = out.header[:5], out.header[5:8]
        writes = (kind == TlpType.MEMORY) & form.matches(Fmt.SHORT_DATA, Fmt.LONG_DATA)
        of_write, sent, sends = Signal(), Signal(8), Signal()
        with m.If(shows):
            m.d.sync += of_write.eq(writes)
        m.d.comb += sends.eq(moves(dut.tx) & out.last & Mux(out.first, writes, of_write))
        m.d.sync += sent.eq(sent + sends)

        for source in (dut.nonposted, completions):
            name = "read" if source is dut.nonposted else "completion"
            head = source.valid & source.payload.first
            left, known = debt(m, head, moves(source), source.payload.header.order, sent, sends, name)
            # A header carries the number of a write that was begun before.
            m.d.comb += [Assume(~head | known | ((begun - source.payload.header.order)[:8] < 8)),
                         Assert(~(moves(source) & head) | (left == 0))]
            if source is completions:
                # One with data is still on show when its header goes out.
                with m.If(shows & (kind == TlpType.COMPLETION) & (form == Fmt.SHORT_DATA)):
                    m.d.comb += Assert(head & (left == 0))
            m.d.comb += Cover(moves(source) & head & known & (source.payload.header.order == 2))
        m.d.comb += [Assert(dut.posted_done == sent), Cover(sent == 2)]
        stalled, before = Signal(), Signal(2 + len(Value.cast(out)), reset_less=True)
        left, left_now = Signal(10), Signal(10)            # DWs of payload from this beat on
        m.d.comb += left_now.eq(Mux(out.first, Mux(form[1], Cat(out.header[24:32], out.header[16:18]), 0), left))
        with m.If(moves(dut.tx)):
            m.d.sync += left.eq(Mux(left_now > 2, left_now - 2, 0))
        meant = Cat(out.first, out.last, Mux(out.first, out.header, 0), Mux(left_now > 0, out.data[:32], 0), Mux(left_now > 1, out.data[32:], 0))
        m.d.sync += [stalled.eq(dut.tx.valid & ~dut.tx.ready), before.eq(meant)]
        m.d.comb += [Assert(~stalled | (dut.tx.valid & (meant == before))), Assert(~dut.tx.valid | (out.last == (left_now <= 2)))]
        return m


def test_the_gate_opens_in_time_and_never_early(tmp_path):
    """By induction: for any number of cycles and writes, with resets at any time."""
    prove(GateSpec(), tmp_path, mode="prove", depth=3)


@pytest.mark.parametrize("port", ["completions", pytest.param("own_completions", marks=pytest.mark.slow)])
def test_no_header_overtakes_its_write(port, tmp_path):
    """Bounded: 11 cycles, up to three writes."""
    prove(TransmitSpec(port), tmp_path, mode="bmc", depth=11)


def test_headers_wait_and_go(tmp_path):
    """The proof speaks of something: a read, and a completion, that had to wait for the second write go out behind it."""
    prove(TransmitSpec("completions"), tmp_path, mode="cover", depth=14)
