# SPDX-License-Identifier: BSD-2-Clause
"""Proof: MSI-X requests become messages, at once or when their vector is unmasked; none is lost, none sent while masked."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, prove, register, state  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.pcie.bus import Region
from unvirt.pcie.msix import MsixTable


class MsixSpec(Elaboratable):
    """One vector is watched; what the driver wrote to its table entry is kept here too, in ``entry`` and ``masked``.

    ``waiting``: a request was accepted while it could not be sent, and no message was sent for it since. ``sending``: a message of this vector is on
    show, there was a request for it.
    """

    def __init__(self, vectors):
        self._vectors = vectors

    def elaborate(self, platform):
        m = Module()
        vectors = self._vectors
        depth = max(2, 1 << (vectors - 1).bit_length())
        bits = (depth - 1).bit_length()
        dut = MsixTable(vectors=vectors, data_width=64)
        m.submodules.dut = inner = opened(dut)
        drive(m, dut.requests)
        drive(m, dut.bus.request)
        m.d.comb += [dut.messages.ready.eq(AnySeq(1)), *(port.eq(AnySeq(1)) for port in (dut.enable, dut.function_mask, dut.clear, dut.forget))]
        watched = Signal(bits)
        m.d.comb += [watched.eq(AnyConst(bits)), Assume(watched < vectors)]

        # What the driver wrote.
        access = dut.bus.request.payload
        writes = moves(dut.bus.request) & access.write & (access.address >= Region.MSIX_TABLE) & (access.address[4:15] == watched)
        entry = [Signal(32, name=f"entry{number}", reset_less=True) for number in range(3)]
        masked = Signal(init=1)
        for number, content in enumerate(entry):
            for lane in range(4):
                with m.If(writes & (access.address[2:4] == number) & access.byte_enables[lane]):
                    m.d.sync += content.word_select(lane, 8).eq(access.data.word_select(lane, 8))
        with m.If(writes & (access.address[2:4] == 3) & access.byte_enables[0]):
            m.d.sync += masked.eq(access.data[0])

        # What was asked for, and what was sent.
        swept = register(inner, "swept")
        in_clear, in_forget = state(inner, "msix", "CLEAR"), state(inner, "msix", "FORGET")
        resting, in_send = state(inner, "msix", "IDLE"), state(inner, "msix", "SEND")
        asked = resting & moves(dut.requests) & dut.enable & (dut.requests.payload.vector == watched)
        blocked = ~dut.enable | dut.function_mask | masked
        waiting, sending, late, chosen, was_blocked = Signal(), Signal(), Signal(), Signal(bits), Signal()
        shows = in_send & (chosen == watched)
        with m.If(resting):
            m.d.sync += [chosen.eq(register(inner, "vector")), sending.eq(0), late.eq(0), was_blocked.eq(blocked)]
        with m.If(asked & blocked):
            m.d.sync += waiting.eq(1)
        with m.Elif(asked):
            m.d.sync += sending.eq(1)
        with m.Elif(waiting & ~blocked & resting & ~dut.clear & ~dut.forget & ~dut.requests.valid & ~register(inner, "asked") & (swept == watched)):
            m.d.sync += [waiting.eq(0), sending.eq(1), late.eq(1)]
        with m.If(in_clear | in_forget):
            m.d.sync += waiting.eq(0)
        with m.If(in_clear):
            m.d.sync += masked.eq(1)

        header = dut.messages.payload.header
        m.d.comb += [
            Assert(dut.messages.valid == in_send),
            # A message of this vector is on show just when one was asked for, and not masked when it was begun or since.
            Assert(~in_send | (shows == sending)),
            Assert(~shows | (~masked & ~was_blocked)),
            Assert(~shows | (Cat(header.address[2:], dut.messages.payload.data[:32]) == Cat(entry[0][2:], entry[1], entry[2]))),
            Assert(~shows | ((header.length == 4) & (header.address[:2] == 0) & dut.messages.payload.first & dut.messages.payload.last)),
            Cover(shows & late & moves(dut.messages) & entry[2].any()),
        ]
        assert_steady(m, dut.messages)

        # Nothing stays: as many cycles with nothing else to do as there are vectors send what may be sent.
        quiet = Signal(range(vectors + 1))
        with m.If(dut.idle & resting & waiting & ~blocked):
            m.d.sync += quiet.eq(quiet + 1)
        with m.Else():
            m.d.sync += quiet.eq(0)
        away = Mux(watched >= swept, watched - swept, watched + vectors - swept)
        m.d.comb += [
            Assert(quiet < vectors),
            Assert((quiet == 0) | ~resting | (quiet + away < vectors)),
            Assert(in_clear | in_forget | (swept < vectors)),
            Assert(~state(inner, "msix", "CLEARED") | (swept == 0)),
            # What the block keeps of an access is what is on show.
            Assert(~(state(inner, "msix", "DECODE", "ACCESS", "WALK") | register(inner, "asked"))
                   | (dut.bus.request.valid & (register(inner, "access") == access.as_value()))),
            Assert(~state(inner, "msix", "ACCESS") | (register(inner, "in_range") == (access.address[4:15] < vectors))),
            Assert(~(state(inner, "msix", "ACCESS") & (access.address >= Region.MSIX_TABLE)) | (register(inner, "place") == access.address[4:15])),
            Assert(~state(inner, "msix", "WALK") | (~access.write & (access.address < Region.MSIX_TABLE))),
        ]

        # What the memories hold; behind the sweep of a reset.
        ports = {name: getattr(inner.submodules, name).read_port(domain="comb")
                 for name in ("address_low", "address_high", "data", "masks", "pending")}
        m.d.comb += [port.addr.eq(watched) for port in ports.values()]
        m.d.comb += [Assert(ports[name].data == content) for name, content in zip(("address_low", "address_high", "data"), entry)]
        m.d.comb += [
            Assert((in_clear & (swept <= watched)) | (ports["masks"].data == masked)),
            Assert(((in_clear | in_forget) & (swept <= watched)) | (ports["pending"].data == waiting)),
        ]
        return m


@pytest.mark.parametrize("vectors", [1, 2, 3])
def test_nothing_is_lost_or_sent_while_masked(vectors, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(MsixSpec(vectors), tmp_path, mode="prove", depth=3)


def test_a_waiting_message_goes(tmp_path):
    """The proof speaks of something: a request waits, its vector is unmasked, a message goes with data that the driver wrote."""
    prove(MsixSpec(2), tmp_path, mode="cover", depth=20)
