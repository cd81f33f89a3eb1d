# SPDX-License-Identifier: BSD-2-Clause
"""Proof: no write crosses 4 KiB or is larger than the host allows, and none of its bytes is lost, doubled or misplaced."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.pcie.dma import WriteBeat, WriteHeader
from unvirt.pcie.dma_write_cut import Arrival, Place, Plan, WriteCutter


def within(most, address, span):
    """Return whether ``span`` bytes from DW ``address`` on may be one TLP; ``most`` is encoded, 6 and 7 are reserved."""
    return (span <= Mux(most >= 5, 4096, (128 << most)[:13])) & (Cat(C(0, 2), address[:10]) + span <= 4096)


class WriteLimitSpec(Elaboratable):
    """Any command of at least a byte, any maximum payload (constant), bus mastering on and off at any time."""

    def elaborate(self, platform):
        m = Module()
        dut = WriteCutter(data_width=64)
        m.submodules.dut = inner = opened(dut)
        most = Signal(3)
        m.d.comb += [most.eq(AnyConst(3)), dut.max_payload_size.eq(most), dut.bus_master_enable.eq(AnySeq(1)), dut.o.ready.eq(AnySeq(1))]
        drive(m, dut.i)
        m.d.comb += Assume(dut.i.payload.header.length != 0)
        out = dut.o.payload

        # DWs of the TLP from the beat on show on, and behind it.
        left, now, behind = Signal(12), Signal(12), Signal(12)
        m.d.comb += [now.eq(Mux(out.first, out.header.length, left)),
                     behind.eq(Mux(dut.o.valid, Mux(out.last, 0, now - 2), left))]
        with m.If(moves(dut.o)):
            m.d.sync += left.eq(Mux(out.last, 0, now - 2))
        starts = dut.o.valid & out.first
        m.d.comb += [
            Assert(~starts | ((out.header.length != 0) & (out.header.address[:2] == 0)
                              & within(most, out.header.address[2:], out.header.length << 2))),
            Assert(~dut.o.valid | ((out.last == (now <= 2)) & (now != 0) & (out.first == (left == 0)))),
            Cover(starts & (out.header.address[2:12] == 1022) & (out.header.length == 2)),
            Cover(starts & (most == 1) & (out.header.length == 64) & (out.header.address[2:8] != 0)),
        ]
        assert_steady(m, dut.o)

        # Inside: what is known of commands is so, what is planned keeps to the limits too, and the beats to come are those of the header.
        limit = Mux(most >= 5, 32, (1 << most)[:6])

        def known(place):
            return (place.total != 0) & (place.room == 1024 - place.address[:10])

        beat_valid = inner.submodules.slice.o.valid
        beats = opened_inside(inner, "slice")
        held, spill = (Arrival(64)(register(beats, name)) for name in ("held", "spill"))
        command, plan = Place()(register(inner, "command")), Plan(3)(register(inner, "plan"))
        names = "planned", "active", "begins", "draining", "count", "tlp_last", "tlp_fits", "source_done"
        planned, active, begins, draining, count, tlp_last, tlp_fits, source_done = (register(inner, name) for name in names)
        goes_on, within_tlp = active & ~draining & (begins | ~tlp_fits), active & ~begins
        whole = (command.total <= command.room) & (command.total <= limit << 5)
        cut = Mux(command.room <= limit << 5, command.room, limit << 5)
        m.d.comb += [
            Assert(~beat_valid | known(held)),
            Assert(~register(beats, "spill_valid") | (known(spill) & beat_valid)),
            Assert(~goes_on | (known(command) & (command.limit == limit))),
            Assert(~(goes_on & planned) | ((plan.fits == whole) & (plan.length == Mux(whole, command.total, cut))
                                           & (plan.single == (plan.length <= 2)) & (plan.double == (plan.length <= 4)))),
            Assert(~draining | (active & begins)),
            Assert(~source_done | active),
            Assert(~within_tlp | ((behind != 0) & (count == behind + 2) & (tlp_last == (behind <= 2)))),
            Assert(within_tlp | (behind == 0)),
        ]
        return m


class WriteBytesSpec(Elaboratable):
    """One command, told from all others by the top bit of its address, and one byte at or near it: it is written once, with the right data, if it
    belongs to the command, and never otherwise. A command is told to be numbered once.
    """

    def __init__(self, *, data_width, longest):
        self._data_width = data_width
        self._longest = longest

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        m.submodules.dut = dut = WriteCutter(data_width=self._data_width)
        m.d.comb += [dut.max_payload_size.eq(0), dut.bus_master_enable.eq(1), dut.o.ready.eq(AnySeq(1))]
        # One bit stands for each byte, and 16 of the address for all of it: enough to tell what goes where.
        layout = WriteBeat(self._data_width)
        header_at = layout["header"].offset
        drive(m, dut.i, layout.const({"first": 1, "last": 1, "data": int("01" * lanes, 16)}).as_bits()
              | WriteHeader.const({"address": 1 << 63 | 0xFFFF, "length": 0xFF}).as_bits() << header_at)
        beat, header = dut.i.payload, dut.i.payload.header

        # Beats as the length says.
        begun, left, now = Signal(), Signal(16), Signal(16)
        m.d.comb += [now.eq(Mux(begun, left, header.length)), Assume(beat.first == ~begun), Assume(beat.last == (now <= lanes)),
                     Assume(begun | ((header.length != 0) & (header.length <= self._longest)))]
        with m.If(moves(dut.i)):
            m.d.sync += [begun.eq(~beat.last), left.eq(now - lanes)]

        # The watched command and byte.
        target, seen, within_it = Signal(16), Signal(), Signal()
        start, length, value, belongs = Signal(16), Signal(16), Signal(8), Signal()
        mine = Mux(begun, within_it, header.address[63])
        offset, place = Signal(16), Signal(16)
        m.d.comb += [
            target.eq(AnyConst(16)),
            offset.eq(target - Mux(begun, start, header.address)),
            place.eq(Mux(begun, length - left, 0)),
            Assume(~(dut.i.valid & ~begun & header.address[63] & seen)),
        ]
        with m.If(moves(dut.i) & mine):
            m.d.sync += [seen.eq(1), within_it.eq(~beat.last)]
            with m.If(~begun):
                m.d.sync += [start.eq(header.address), length.eq(header.length), belongs.eq(offset < header.length)]
            with m.If((offset >= place) & (offset < place + lanes)):
                m.d.sync += value.eq(beat.data.word_select(offset[:(lanes - 1).bit_length()], 8))

        # Is the byte written by this beat?
        out = dut.o.payload
        address, number = Signal(64), Signal(11)          # of the beat's first DW
        here_address, here_number = Mux(out.first, out.header.address, address), Mux(out.first, 0, number)
        tlp = Signal(19)                                  # what the TLP's first beat says of length and byte enables
        kept = Signal(19)
        m.d.comb += tlp.eq(Mux(out.first, Cat(out.header.length, out.header.last_be, out.header.first_be), kept))
        dws, last_be, first_be = tlp[:11], tlp[11:15], tlp[15:]
        distance, dw, enabled, hit, written = Signal(16), Signal(11), Signal(), Signal(), Signal()
        m.d.comb += [distance.eq(target - here_address), dw.eq(here_number + distance[2:(lanes - 1).bit_length()])]
        with m.If(dw == 0):
            m.d.comb += enabled.eq(first_be.bit_select(target[:2], 1))
        with m.Elif(dw == dws - 1):
            m.d.comb += enabled.eq(last_be.bit_select(target[:2], 1))
        with m.Else():
            m.d.comb += enabled.eq(dw < dws)
        m.d.comb += hit.eq(moves(dut.o) & here_address[63] & (distance < lanes) & enabled)
        with m.If(moves(dut.o)):
            m.d.sync += [kept.eq(tlp), address.eq(here_address + lanes), number.eq(here_number + lanes // 4)]
        with m.If(hit):
            m.d.sync += written.eq(1)
            m.d.comb += Assert(seen & belongs & ~written & (value == out.data.word_select(distance[:(lanes - 1).bit_length()], 8)))

        unnumbered = Signal(4)
        m.d.sync += unnumbered.eq(unnumbered + (moves(dut.i) & beat.last) - dut.numbered)
        m.d.comb += [
            Assert(~(dut.idle & seen & ~within_it) | (written == belongs)),
            Assert(~dut.idle | begun | (unnumbered == 0)),
            Assert(~dut.numbered | (unnumbered != 0)),
            Cover(dut.idle & written & (length == self._longest) & (start[:12] > 4096 - self._longest) & (start[:2] != 0) & (target[:12] == 2)),
        ]
        return m


def test_no_write_is_too_large_or_crosses_a_page(tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(WriteLimitSpec(), tmp_path, mode="prove", depth=3)


def test_the_limits_are_reached(tmp_path):
    """The proof speaks of something: a TLP that ends at a page, one as long as it may be."""
    prove(WriteLimitSpec(), tmp_path, mode="cover", depth=8)


def test_every_byte_is_written_once(tmp_path):
    """Bounded: 7 cycles; commands of up to 12 bytes, over a page too."""
    prove(WriteBytesSpec(data_width=64, longest=12), tmp_path, mode="bmc", depth=7)


def test_a_command_over_a_page_is_reached(tmp_path):
    """The proof speaks of something: the watched byte lies behind the page that an unaligned command crosses."""
    prove(WriteBytesSpec(data_width=64, longest=12), tmp_path, mode="cover", depth=6)
