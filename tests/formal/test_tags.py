# SPDX-License-Identifier: BSD-2-Clause
"""Proof: the tag pool never loses or doubles a tag."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import moves  # noqa: E402
from tokens import token_places  # noqa: E402

from unvirt.pcie.tags import TagPool, TagRange


class TagPoolSpec(Elaboratable):
    """Each tag of the range is at just one place: on its way to the host, or once in the pool. No tag is outside the range, none above
    the short ones goes out unless it may, and ``exhausted`` is the truth.
    """

    def __init__(self, tags):
        self._tags = tags

    def elaborate(self, platform):
        m = Module()
        tags = self._tags
        numbers = [*range(tags.low_base, tags.low_base + tags.low_count), *range(tags.high_base, tags.high_base + tags.high_count)]
        dut = TagPool(tags)
        m.submodules.dut = inner = opened(dut)
        pools = [(opened_inside(inner, "low"), tags.low_count)]
        if tags.high_count:
            pools.append((opened_inside(inner, "high"), tags.high_count))

        out = Signal(tags.count)
        taken, freed = Signal(tags.count), Signal(tags.count)
        m.d.comb += [
            dut.alloc.ready.eq(AnySeq(1)), dut.free_valid.eq(AnySeq(1)), dut.free_tag.eq(AnySeq(8)), dut.extended_tags.eq(AnySeq(1)),
            taken.eq(Cat(moves(dut.alloc) & (dut.alloc.payload == number) for number in numbers)),
            freed.eq(Cat(dut.free_valid & (dut.free_tag == number) for number in numbers)),
            # What comes back was out.
            Assume(~dut.free_valid | ((freed & out) != 0)),
        ]
        m.d.sync += out.eq((out | taken) & ~freed)
        usable = Mux(dut.extended_tags, ~out, ~out & ((1 << tags.low_count) - 1))
        m.d.comb += [
            Assert((taken & out) == 0),
            Assert(~moves(dut.alloc) | taken.any()),
            Assert(dut.extended_tags | ~taken[tags.low_count:].any()),
            Assert(dut.exhausted == ~usable.any()),
            Assert(~dut.alloc.valid | ~dut.exhausted),
            Cover(out.all() & freed[0]),
            Cover(out.all() & freed[-1]),
        ]
        places = [place for pool, count in pools for place in token_places(m, pool, count)]
        m.d.comb += [Assert(place + out[number] == 1) for number, place in enumerate(places)]
        # The counters of the pools agree.
        first = 0
        for pool, count in pools:
            m.d.comb += Assert(register(pool, "count") == count - sum(out[first:first + count]))
            first += count
        return m


TAGS = [TagRange(1, 3, 0, 0), TagRange(0, 2, 4, 3)]


@pytest.mark.parametrize("tags", TAGS, ids=["short", "extended"])
def test_every_tag_is_at_one_place(tags, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(TagPoolSpec(tags), tmp_path, mode="prove", depth=3, map_memories=True)


@pytest.mark.parametrize("tags", TAGS, ids=["short", "extended"])
def test_an_empty_pool_is_reached(tags, tmp_path):
    """The proof speaks of something: all tags are out and one comes back."""
    prove(TagPoolSpec(tags), tmp_path, mode="cover", depth=10, map_memories=True)
