# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the completion of a register read carries a number that covers every write accepted before the register was read."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import prove  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.pcie.completer import Completer


class CompleterSpec(Elaboratable):
    """Reads and writes of up to two registers; write commands are accepted and numbered, and posted numbers given out, as the solver likes."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = Completer(data_width=64, depth=2)
        request = dut.requests.payload
        drive(m, dut.requests)
        m.d.comb += [Assume(request.first & request.last & (request.header.length != 0) & (request.header.length <= 2)),
                     dut.bus.request.ready.eq(AnySeq(1)), dut.bus.response_data.eq(AnySeq(32)), dut.completions.ready.eq(AnySeq(1)),
                     dut.max_payload_size.eq(0)]
        asked = Signal()
        m.d.comb += dut.bus.response_valid.eq(asked & AnySeq(1))
        with m.If(moves(dut.bus.request) & ~dut.bus.request.payload.write):
            m.d.sync += asked.eq(1)
        with m.Elif(dut.bus.response_valid):
            m.d.sync += asked.eq(0)

        # Writes not numbered yet that were accepted before the last answer, and the posted number that covers them.
        numbers = AnySeq(1) & (dut.writes_numbered != dut.writes_accepted)
        owed, covering, now, posted = Signal(8), Signal(8), Signal(8), Signal(8)
        m.d.comb += posted.eq(dut.posted_number + AnySeq(1))
        m.d.sync += [dut.writes_accepted.eq(dut.writes_accepted + AnySeq(1)), dut.writes_numbered.eq(dut.writes_numbered + numbers),
                     dut.posted_number.eq(posted)]
        m.d.comb += now.eq(Mux(dut.bus.response_valid, dut.writes_accepted - dut.writes_numbered, owed))
        m.d.sync += owed.eq(Mux(now != 0, now - numbers, 0))
        with m.If(dut.bus.response_valid | (owed != 0)):
            m.d.sync += covering.eq(posted)
        header = dut.completions.payload.header
        shows = dut.completions.valid & dut.completions.payload.first
        m.d.comb += [
            Assert(~shows | (owed == 0)),
            Assert(~shows | (header.status.as_value() != 0) | ~(header.order - covering)[7]),
            Cover(shows & (header.order == 3) & (dut.writes_accepted == 4) & (header.length == 2)),
        ]
        assert_steady(m, dut.completions)
        return m


def test_a_completion_covers_the_writes_before_its_read(tmp_path):
    """Bounded: 12 cycles; reads of one beat."""
    prove(CompleterSpec(), tmp_path, mode="bmc", depth=12, map_memories=True)


def test_a_read_waits_for_a_write(tmp_path):
    """The proof speaks of something: a read of two registers is completed behind the third posted write."""
    prove(CompleterSpec(), tmp_path, mode="cover", depth=14, map_memories=True)
