# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the packet arbiter never mixes packets, changes what it shows, or forgets a port."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import data

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.stream.arbiter import PacketArbiter

BEAT = data.StructLayout({"first": 1, "last": 1, "data": 2})


class ArbiterSpec(Elaboratable):
    """A beat moves at the output just when it moves at the port that is granted, unchanged; a packet is not interrupted; and a port that waits is
    passed over by at most one packet of each of the others. A patient port is passed over without end, but by one packet only while it is urgent;
    its packets do not count for the others, whose turns it does not change.
    """

    def __init__(self, ports, patient=None):
        self._ports = ports
        self._patient = patient

    def elaborate(self, platform):
        m = Module()
        ports = self._ports
        patient = self._patient
        dut = PacketArbiter(BEAT, ports, patient=patient)
        if patient is not None:
            m.d.comb += dut.urgent.eq(AnySeq(1))
        m.submodules.dut = inner = opened(dut)
        m.d.comb += dut.o.ready.eq(AnySeq(1))
        for port in dut.i:
            drive(m, port)
        assert_steady(m, dut.o)

        # No loss, nothing out of nothing.
        for number, port in enumerate(dut.i):
            m.d.comb += Assert(moves(port) == (moves(dut.o) & (dut.grant == number)))
            with m.If(dut.o.valid & (dut.grant == number)):
                m.d.comb += Assert(port.valid & (port.payload.as_value() == dut.o.payload.as_value()))
        m.d.comb += Assert(dut.o.valid == Cat(port.valid for port in dut.i).any()) if ports == 1 else Assert(~dut.o.valid | (dut.grant < ports))

        # A packet goes as a whole.
        within, owner = Signal(), Signal(range(max(2, ports)))
        with m.If(moves(dut.o)):
            m.d.sync += [within.eq(~dut.o.payload.last), owner.eq(dut.grant)]
        m.d.comb += Assert(~within | (dut.grant == owner))

        # Whoever waits is passed over by each other port once. How far away it is in the ring falls with each packet begun.
        locked, held = register(inner, "locked"), register(inner, "held")
        watched = AnyConst(range(max(2, ports)))
        m.d.comb += [Assume(watched < ports), Assert(held < ports), Assert(~within | (locked & (held == owner)))]
        waits = Signal()
        with m.Switch(watched):
            for number, port in enumerate(dut.i):
                with m.Case(number):
                    m.d.comb += waits.eq(port.valid & ~(locked & (held == number)))
        passed = Signal(range(ports + 2))
        with m.If(~waits | (dut.grant == watched)):
            m.d.sync += passed.eq(0)
        with m.Elif(moves(dut.o) & dut.o.payload.last & ((dut.grant != patient) | (watched == patient) if patient is not None else 1)):
            m.d.sync += passed.eq(passed + 1)
        turn, counts, others, is_patient = held, locked, ports, C(0, 1)
        if patient is not None:
            turn, counts, others, is_patient = register(inner, "turn"), locked & (held != patient), ports - 1, watched == patient
            m.d.comb += [Assert(~counts | (turn == held)),
                         Assert(~(is_patient & waits & dut.urgent & ~locked) | (dut.grant == patient))]
        away = Mux(watched > turn, watched - turn, watched + ports - turn)
        m.d.comb += [
            Assert(turn < ports),
            Assert(~waits | dut.o.valid | locked),
            Assert(is_patient | (passed < ports)),
            Assert(is_patient | (passed == 0) | ~waits | (passed + away + counts <= ports)),
            Cover((passed == others - 1) & moves(dut.o) & (dut.grant == watched) & ~is_patient),
        ]
        return m


@pytest.mark.parametrize("ports,patient", [(1, None), (2, None), (3, None), (4, None), (2, 0), (4, 1)])
def test_packets_stay_whole_and_every_port_gets_its_turn(ports, patient, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(ArbiterSpec(ports, patient), tmp_path, mode="prove", depth=3)


@pytest.mark.parametrize("ports,patient", [(3, None), (4, 1)])
def test_the_longest_wait_is_reached(ports, patient, tmp_path):
    """The proof speaks of something: a port of three that take turns waits for two packets."""
    prove(ArbiterSpec(ports, patient), tmp_path, mode="cover", depth=8)
