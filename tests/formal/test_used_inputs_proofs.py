# SPDX-License-Identifier: BSD-2-Clause
"""Proof: used elements that wait are sorted by their rows, and none is lost, doubled, passed or begun too early."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import prove  # noqa: E402
from streams import drive, moves  # noqa: E402

from unvirt.virtio.queue import used_inputs
from unvirt.virtio.queue.contract import UsedElement
from unvirt.virtio.queue.used_inputs import UsedInputs

DEPTH = 4
MEANT = UsedElement(4).const({"row": 3, "head": 0xF, "more": 1}).as_bits()


class InputsSpec(Elaboratable):
    """Two inputs of two rows each and a maker of bursts that does whatever one may do.

    Of one row, any, elements come out in the order in which they went in, one of them followed with all its bits. Within a burst there are elements
    of one row only, what comes of that row is there four cycles later, and nobody is told for more than four cycles that something comes; one that an
    input has not at hand yet, for which it takes no other, has not come. A group begins when it is complete, or fills its ring. A mark passes
    behind all that was there when it rose, those too.
    """

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = UsedInputs(rows=4, inputs=2)
        port, element = dut.port, dut.port.element
        m.d.comb += Assume(~ResetSignal())

        # A row has one input, and a group follows each other.
        row, put, ends_in, behind = AnyConst(2), Signal(), Signal(), Signal()
        for number, source in enumerate(dut.elements):
            drive(m, source, MEANT)
            open_in, row_in = Signal(name=f"open_in{number}"), Signal(2, name=f"row_in{number}")
            with m.If(moves(source)):
                m.d.sync += [open_in.eq(source.payload.more), row_in.eq(source.payload.row)]
                m.d.comb += Assume(~open_in | (source.payload.row == row_in))
                with m.If(source.payload.row == row):
                    m.d.comb += [put.eq(1), ends_in.eq(~source.payload.more)]
            m.d.comb += Assume(~source.valid | (source.payload.row[0] == number))
            with m.If(~source.ready & (row_in == row)):
                m.d.comb += behind.eq(1)

        # What makes bursts takes what may begin, then more of it, and passes on between groups.
        busy, open_group, burst_row = Signal(), Signal(), Signal(2)
        take, pass_on = AnySeq(1), AnySeq(1)
        m.d.comb += [
            port.take.eq(take), port.pass_on.eq(pass_on), port.done.eq(AnySeq(1)),
            Assume(~take | (port.waiting & (port.begin | open_group))),
            Assume(~pass_on | (~take & ~open_group)),
            # Without anything to begin it passes on.
            Assume(busy | (port.waiting & port.begin) | pass_on),
        ]
        with m.If(take):
            m.d.sync += [busy.eq(1), open_group.eq(element.more), burst_row.eq(element.row)]
        with m.Elif(pass_on):
            m.d.sync += busy.eq(0)
        m.d.comb += Assert(~(busy & port.waiting) | (element.row == burst_row))

        # One element is followed among those of its row.
        got, followed, content = take & (element.row == row), Signal(), Signal(len(Value.cast(element)))
        into, out, place = Signal(5), Signal(5), Signal(5)
        groups, level = Signal(5), Signal(5)
        m.d.sync += [into.eq(into + put), out.eq(out + got), groups.eq(groups + ends_in - (got & ~element.more))]
        m.d.comb += level.eq(into - out)
        for source in dut.elements:
            with m.If(moves(source) & (source.payload.row == row) & ~followed & AnySeq(1)):
                m.d.sync += [followed.eq(1), content.eq(source.payload), place.eq(into)]
        with m.If(got):
            m.d.comb += [
                Assert(level != 0),
                Assert(~followed | (place != out) | (element.as_value() == content)),
                Assert(open_group | (groups != 0) | (level >= DEPTH)),
            ]
        m.d.comb += [Assert(level - behind <= DEPTH + 1), Assert(~dut.empty | (level == 0))]

        # What is shown stays, and what belongs to a burst comes.
        stays, before, comes = Signal(), Signal(len(Value.cast(element))), Signal(3)
        m.d.sync += [stays.eq(port.waiting & ~take & ~pass_on), before.eq(element),
                     comes.eq(Mux((level != behind) & busy & ~take & ~pass_on, Cat(1, comes), 0))]
        with m.If(stays):
            m.d.comb += Assert(port.waiting & (element.as_value() == before))
        with m.If(comes[2] & (burst_row == row)):
            m.d.comb += Assert(port.waiting)

        # Nobody is kept waiting for what does not come.
        announced = Signal(4)
        m.d.sync += announced.eq(Mux(port.coming & busy & ~take & ~pass_on, Cat(1, announced), 0))
        m.d.comb += Assert(~(announced[3] & port.coming))

        # The first of the two who mark.
        here, marks = Signal(5), Signal()
        m.d.comb += [dut.mark.eq(AnySeq(1)), marks.eq(dut.mark[0])]
        m.d.comb += Assert(~dut.passed[1])
        with m.If(~marks):
            m.d.sync += here.eq(into + put)
        with m.If(marks & dut.passed[0]):
            m.d.comb += Assert((out - here)[:5].as_signed() >= 0)

        others = Signal(2)
        with m.If(take & (element.row != row)):
            m.d.sync += others.eq(others + (others != 3))
        m.d.comb += [
            Cover(dut.passed[0] & (here > 0) & (others != 0) & (out > here)),
            Cover(busy & open_group & (burst_row == row) & (level == 0) & (out >= DEPTH)),
        ]
        return m


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Rings of four elements."""
    monkeypatch.setattr(used_inputs, "BURST", DEPTH)
    monkeypatch.setattr(used_inputs, "_LEAST", DEPTH)


def test_rows_keep_their_order(tmp_path):
    """Bounded: 12 cycles."""
    prove(InputsSpec(), tmp_path, mode="bmc", depth=12, map_memories=True)


def test_marks_and_long_groups_are_reached(tmp_path):
    """The proof speaks of something: a mark passes behind elements of two rows, and a group of more elements than a place has goes on."""
    prove(InputsSpec(), tmp_path, mode="cover", depth=18, map_memories=True)
