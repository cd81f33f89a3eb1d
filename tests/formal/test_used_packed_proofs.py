# SPDX-License-Identifier: BSD-2-Clause
"""Proof: used descriptors of the packed ring lie where the driver looks, with the flags of their lap; the first of a group comes last."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove  # noqa: E402
from streams import assert_steady, moves  # noqa: E402

from unvirt.virtio.queue import used_packed
from unvirt.virtio.queue.contract import UsedElement
from unvirt.virtio.queue.used_packed import PackedUsedWriter

DESC = 0x1000
"""Where the ring is."""

MEANT = UsedElement(2).const({"row": 1, "head": 0xF, "written": 0xF, "ring_slots": 0x3, "more": 1, "full": 1}).as_bits()
"""Bits of an element that the solver chooses."""


def used_descriptor(element, lap):
    """Return the second half of the descriptor that tells of ``element``, as the specification has it [virtio 2.8.13]."""
    return Cat(C(0, 32) | element.written, element.head, C(0, 1), element.written != 0, C(0, 5), ~lap, C(0, 7), ~lap)


class PackedSpec(Elaboratable):
    """The writer of the packed ring with any elements of two rows, one of which is watched; it begins two slots before the end of its ring.

    It is known for each slot what has to be written there and was not yet. Each write is of such a slot and of just what has to be there, so that
    nothing is written twice; the first halves between are zero, and belong to descriptors that are being used. The first of a group is written when
    nothing else of it is left, and the group complete. ``published`` tells of all that was taken, none of which is left.

    With ``in_order`` it is known instead where the driver looks next, and which elements it will take for used in which order: each write is there,
    tells of one of them behind others that are all full, and of a group as a whole.
    """

    def __init__(self, *, size, in_order=False):
        self._size, self._in_order = size, in_order

    def elaborate(self, platform):
        m = Module()
        size = self._size
        dut = PackedUsedWriter(data_width=64, rows=2)
        m.submodules.dut = inner = opened(dut)
        start = size - 2
        opened_inside(inner, "places").submodules.cells.init = [start, start]
        port, element, config = dut.port, dut.port.element, dut.config.config
        row = AnyConst(1)
        asked = Signal()
        m.d.sync += asked.eq(dut.config.row)
        m.d.comb += [
            # After a reset the engine sweeps the rows before anything is used.
            Assume(~ResetSignal()),
            config.size.eq(size), config.desc.eq(Cat(C(DESC, 16), C(0, 47), asked)), config.enabled.eq(1),
            dut.writes.ready.eq(AnySeq(1)), dut.published.ready.eq(AnySeq(1)), dut.in_order.eq(self._in_order), dut.discard.eq(0),
            Value.cast(element).eq(AnySeq(len(Value.cast(element))) & MEANT), port.waiting.eq(AnySeq(1)), port.begin.eq(AnySeq(1)),
        ]

        # Elements stay, and may begin, until they are taken or it is another input's turn; those of a group follow each other; a row has no more
        # used buffers than its ring.
        stays, before, could_begin = Signal(), Signal(len(Value.cast(element))), Signal()
        open_group, group_row = Signal(), Signal()
        ahead, groups = Signal(range(size + 4)), Signal(range(size + 1))          # slots and groups that were taken and not told
        take = port.take & port.waiting
        mine = element.row == row
        m.d.sync += [stays.eq(port.waiting & ~port.take & ~port.pass_on), before.eq(element), could_begin.eq(port.begin)]
        m.d.comb += [
            Assume(~stays | (port.waiting & (element.as_value() == before) & (port.begin | ~could_begin))),
            Assume(~(open_group & port.waiting) | (element.row == group_row)),
            Assume(~port.waiting | (element.ring_slots != 0)),
            Assume(~(port.waiting & mine) | (ahead + element.ring_slots <= size)),
            Assert(~port.take | port.waiting),
        ]

        # Where the element at hand lies; two laps are counted through.
        place = Signal(range(2 * size), init=start)
        slot, lap = self._split(place)
        with m.If(take):
            m.d.sync += [open_group.eq(element.more), group_row.eq(element.row)]
        with m.If(take & mine):
            m.d.sync += place.eq(self._behind(place, element.ring_slots))

        # What the writes do.
        out = dut.writes.payload
        begun, rest, writing, wrote_two = Signal(64), Signal(16), Signal(), Signal()
        address, length = Mux(writing, begun, out.header.address), Mux(writing, rest, out.header.length)
        offset = address[:16] - DESC
        at, half = offset[4:4 + (size - 1).bit_length()], offset[3]
        write = moves(dut.writes) & (address[63] == row)
        with m.If(moves(dut.writes)):
            m.d.sync += [begun.eq(address + 8), rest.eq(length - 8), writing.eq(~out.last)]
            m.d.comb += [
                Assert((out.last == (length == 8)) & (out.empty == 0) & (out.first == ~writing)),
                Assert(writing | ((offset[:4] == 8) & (length[:4] == 8) & (offset + length <= 16 * size) & (address[16:63] == 0))),
            ]
        with m.If(write & half & ~out.last):
            m.d.sync += wrote_two.eq(1)
        is_open = open_group & (group_row == row)
        if self._in_order:
            # A group but for its last element fills its buffers; the driver names each buffer once.
            m.d.comb += Assume(~port.waiting | ~element.more | element.full)
            left = self._add_order(m, element, take & mine, port.waiting & mine, write, at, half, out.data, start)
        else:
            left = self._add_slots(m, element, take & mine, place, is_open, write, at, half, out.data)

        # What is told.
        tells = moves(dut.published) & (dut.published.payload.row == row)
        m.d.sync += [ahead.eq(Mux(tells, 0, ahead) + Mux(take & mine, element.ring_slots, 0)),
                     groups.eq(Mux(tells, 0, groups) + (take & mine & ~element.more))]
        told = dut.published.payload
        laps, both, grouped, other, in_group, merged = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        with m.If(take & mine & element.more):
            m.d.sync += in_group.eq(1)
        with m.If(write & half):
            m.d.sync += merged.eq(ahead > 2)
        with m.If(dut.published.valid & (told.row == row)):
            m.d.comb += [
                Assert((left == 0) & ~is_open),
                Assert((told.place[:15] == slot) & (told.place[15] == ~lap)),
                Assert((told.count == ahead) & (told.packets == groups) & (groups != 0)),
            ]
        with m.If(tells):
            m.d.sync += [laps.eq(laps | lap), grouped.eq(grouped | (in_group & (wrote_two | self._in_order & merged) & (groups == 1))),
                         both.eq(both | wrote_two), in_group.eq(0), wrote_two.eq(0)]
        with m.If(moves(dut.published) & ~tells):
            m.d.sync += other.eq(1)
        m.d.comb += [
            Assert(~dut.idle | ((left == 0) & (ahead == 0))),
            Cover(dut.idle & grouped & laps),
            Cover(dut.idle & both & other),
        ]
        assert_steady(m, dut.writes)
        assert_steady(m, dut.published)
        return m

    def _behind(self, place, count):
        """Return the place ``count`` slots further."""
        further = place + count
        return Mux(further >= 2 * self._size, further - 2 * self._size, further)[:len(place)]

    def _split(self, place):
        """Return the slot and the lap of a place."""
        return Mux(place >= self._size, place - self._size, place)[:(self._size - 1).bit_length()], place >= self._size

    def _add_slots(self, m, element, take, place, is_open, write, at, half, word):
        """Each element has its own descriptor; return the slots that are to be written."""
        size = self._size
        slot, lap = self._split(place)
        content = Array(Signal(64, name=f"content{number}") for number in range(size))
        left, first_slot, in_group = Signal(size), Signal(range(size)), Signal()
        done = Mux(write & half, 1 << at, 0)
        with m.If(take):
            m.d.sync += content[slot].eq(used_descriptor(element, lap))
            m.d.comb += Assert(~left.bit_select(slot, 1))
            with m.If(~is_open):
                m.d.sync += [in_group.eq(element.more), first_slot.eq(slot)]
        with m.If(write):
            m.d.comb += [
                Assert(left.bit_select(at, 1)),
                Assert(word == Mux(half, content[at], 0)),
                # A driver that sees the first of a group sees all of it.
                Assert(~(half & in_group & (at == first_slot)) | ((left == done) & ~is_open)),
            ]
        m.d.sync += left.eq((left | Mux(take, 1 << slot, 0)) & ~done)
        return left

    def _add_order(self, m, element, take, waiting, write, at, half, word, start):
        """One descriptor tells of all before it; return how many elements the driver was not told of."""
        size = self._size
        held = [Signal(UsedElement(2), name=f"held{number}") for number in range(size)]
        left, seen = Signal(range(size + 1)), Signal(range(2 * size), init=start)
        slot, lap = self._split(seen)
        m.d.comb += Assert(~(take & write))
        for number, other in enumerate(held):
            m.d.comb += Assume(~waiting | (number >= left) | (element.head != other.head))
        with m.If(take):
            m.d.sync += left.eq(left + 1)
            with m.Switch(left):
                for number, other in enumerate(held):
                    with m.Case(number):
                        m.d.sync += other.eq(element)
        with m.If(write):
            m.d.comb += [Assert(left != 0), Assert(at == slot), Assert(half | (word == 0))]
        told = Signal(size)
        slots = 0
        for number, other in enumerate(held):
            slots = slots + other.ring_slots
            with m.If(write & half & (number < left) & (word[32:48] == other.head)):
                m.d.comb += [
                    told[number].eq(1),
                    Assert((word == used_descriptor(other, lap)) & ~other.more & Cat(before.full for before in held[:number]).all()),
                ]
                m.d.sync += [left.eq(left - (number + 1)), seen.eq(self._behind(seen, slots))]
                m.d.sync += [kept.eq(later) for kept, later in zip(held, held[number + 1:])]
        m.d.comb += Assert(~(write & half) | told.any())
        return left


@pytest.fixture(autouse=True)
def short_bursts(monkeypatch):
    """Bursts of two descriptors at most: a ring of three or four has their ends and its own."""
    monkeypatch.setattr(used_packed, "BURST", 2)


@pytest.mark.parametrize("in_order", [False, True], ids=["each", "in_order"])
@pytest.mark.parametrize("size", [3, 4])
def test_descriptors_then_the_first_then_word_of_it(size, in_order, tmp_path):
    """Bounded: 13 cycles; over the end of the ring."""
    prove(PackedSpec(size=size, in_order=in_order), tmp_path, mode="bmc", depth=13, map_memories=True)


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [False, True], ids=["each", "in_order"])
@pytest.mark.parametrize("size", [3, 4])
def test_descriptors_then_the_first_then_word_of_it_for_longer(size, in_order, tmp_path):
    """Bounded: 18 cycles."""
    prove(PackedSpec(size=size, in_order=in_order), tmp_path, mode="bmc", depth=18, map_memories=True)


@pytest.mark.parametrize("in_order", [False, True], ids=["each", "in_order"])
def test_groups_and_bursts_are_reached(in_order, tmp_path):
    """The proof speaks of something: a group of three over the end of the ring, a burst of two, and one of the other row."""
    prove(PackedSpec(size=4, in_order=in_order), tmp_path, mode="cover", depth=24, map_memories=True)
