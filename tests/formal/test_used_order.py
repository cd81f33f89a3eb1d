# SPDX-License-Identifier: BSD-2-Clause
"""Proof: used elements are in the ring before the index, the index before it is told, and nothing of a group before its end."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened_inside, prove  # noqa: E402
from streams import assert_steady, moves  # noqa: E402
from used_pair import add_pair  # noqa: E402

from unvirt.virtio.queue import used_split_bursts, used_writes
from unvirt.virtio.queue.contract import UsedElement
from unvirt.virtio.queue.used_split_bursts import SplitUsedBursts

SIZE, USED, START = 4, 0x1000, 0xFFFE
"""Entries of the ring, where it is, and the index to begin with: two before the wrap, of the ring and of the number."""


class SplitSpec(Elaboratable):
    """The writer of the split ring with any elements of two rows, watched by a memory that keeps what the driver would read of one row.

    One element of that row is followed: it lies in the slot after those before it when the index that covers it is written, unchanged until then. The
    index counts elements taken, and never stops behind the one that is followed if more of its group are to come; ``published`` tells the index that
    was written last, and of each element once; when nothing is under way, of all. Elements are taken while a burst of the row is being written.
    """

    def elaborate(self, platform):
        m = Module()
        dut = SplitUsedBursts(rows=2)
        inner, writer = add_pair(m, dut, packed=0)
        opened_inside(inner, "index").submodules.cells.init = [START, START]
        port, element = dut.port, dut.port.element
        row = AnyConst(1)
        config = dut.config.config
        asked = Signal()
        m.d.sync += asked.eq(dut.config.row)
        m.d.comb += [
            # After a reset the engine sweeps the rows before anything is used.
            Assume(~ResetSignal()),
            config.size.eq(SIZE), config.device.eq(Cat(C(USED, 16), C(0, 47), asked)), config.enabled.eq(1),
            writer.writes.ready.eq(AnySeq(1)), writer.published.ready.eq(AnySeq(1)), dut.in_order.eq(0), dut.discard.eq(0),
            Value.cast(element).eq(AnySeq(len(Value.cast(element))) & MEANT), port.waiting.eq(AnySeq(1)), port.begin.eq(AnySeq(1)),
            port.coming.eq(AnySeq(1)),
        ]

        # Elements stay until they are taken or it is another input's turn; a group follows each other; a row has no more used buffers than its ring.
        stays, before, same_row, row_before = Signal(), Signal(len(Value.cast(element))), Signal(), Signal()
        open_group, group_row = Signal(), Signal()
        taken, index, told = (Signal(16, name=name, init=START) for name in ("taken", "index", "told"))
        take = port.take & port.waiting
        mine = element.row == row
        m.d.sync += [stays.eq(port.waiting & ~port.take & ~port.pass_on), before.eq(element), same_row.eq(~port.pass_on), row_before.eq(element.row)]
        m.d.comb += [
            Assume(~stays | (port.waiting & (element.as_value() == before))),
            Assume(~same_row | (element.row == row_before)),
            Assume(~(open_group & port.waiting) | (element.row == group_row)),
            Assume(~(port.waiting & mine) | ((taken - index)[:16] < SIZE)),
            Assert(~port.take | port.waiting),
        ]
        followed, position, content, slot, there, succeeded = Signal(), Signal(16), Signal(64), Signal(64), Signal(), Signal()
        with m.If(take):
            m.d.sync += [open_group.eq(element.more), group_row.eq(element.row)]
        with m.If(take & mine):
            m.d.sync += taken.eq(taken + 1)
            with m.If(~followed & AnySeq(1)):
                m.d.sync += [followed.eq(1), succeeded.eq(element.more)]
                m.d.sync += [position.eq(taken), content.eq(Cat(element.head, C(0, 16), element.written, C(0, 12)))]

        # What the writes do to the memory.
        out = writer.writes.payload
        begun, left = Signal(64), Signal(16)
        address, length = Mux(out.first, out.header.address, begun), Mux(out.first, out.header.length, left)
        ours = address[63] == row
        entry = (address[:16] - (USED + 4))[3:5]
        covered = (index - position)[:16].as_signed() > 0
        is_index = out.first & (out.header.length == 2)
        reached = (out.data[:16] - position)[:16].as_signed() > 0
        with m.If(moves(writer.writes)):
            m.d.sync += [begun.eq(address + 8), left.eq(length - 8)]
            m.d.comb += [Assert(out.last == (length <= 8)), Assert(out.first == (left.as_signed() <= 0)),
                         Assert(is_index | (length[:3] == 0) & (address[:16] >= USED + 4) & (address[:16] + length <= USED + 4 + 8 * SIZE)
                                & ((address[:16] - USED)[:3] == 4))]
            with m.If(ours & is_index):
                m.d.comb += [
                    Assert((address[:63] == USED + 2) & out.last),
                    # Of what was taken, and a group to its end.
                    Assert((out.data[:16] != index) & ((out.data[:16] - index)[:16] <= (taken - index)[:16])),
                    Assert(~(followed & succeeded & (out.data[:16] == (position + 1)[:16]))),
                    Assert(~followed | covered | ~reached | (there & (slot == content))),
                ]
                m.d.sync += index.eq(out.data)
            with m.If(ours & ~is_index & followed & (entry == position[:2]) & ~covered):
                m.d.sync += [there.eq(1), slot.eq(out.data)]
        published = writer.published.payload
        with m.If(moves(writer.published) & (published.row == row)):
            m.d.comb += Assert((published.place == index) & (published.count == (index - told)[:16]) & (index != told))
            m.d.sync += told.eq(index)
        idle, overlapped = dut.idle & writer.idle, Signal()
        with m.If(take & mine & ~writer.idle & (index != taken)):
            m.d.sync += overlapped.eq(1)
        m.d.comb += [
            Assert(~idle | (told == taken)),
            Cover(idle & followed & overlapped & (told == 1) & (position == 0xFFFF) & (group_row != row)),
        ]
        assert_steady(m, writer.writes)
        assert_steady(m, writer.published)
        return m


MEANT = UsedElement(2).const({"row": 1, "head": 0xF, "written": 0xF, "more": 1}).as_bits()


@pytest.fixture(autouse=True)
def short_bursts(monkeypatch):
    """Bursts of four elements at most, for which there is room."""
    for module in (used_split_bursts, used_writes):
        monkeypatch.setattr(module, "BURST", 4)


def test_elements_then_index_then_word_of_it(tmp_path):
    """Bounded: 12 cycles; over the end of the ring."""
    prove(SplitSpec(), tmp_path, mode="bmc", depth=12, map_memories=True, state_bits=True)


def test_bursts_of_both_rows_are_reached(tmp_path):
    """The proof speaks of something: three elements of one row were told, and one of the other."""
    prove(SplitSpec(), tmp_path, mode="cover", depth=24, map_memories=True, state_bits=True)
