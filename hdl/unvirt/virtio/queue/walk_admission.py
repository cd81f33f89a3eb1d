# SPDX-License-Identifier: BSD-2-Clause
"""Which chain may be walked now, and which walk may have another segment group."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["Shortage", "WalkAdmission"]


class Shortage(data.StructLayout):
    """Why a walk gave up: with so many groups free, its own among them, it was too few. Zero: it did not.

    As the head of its queue a chain may take groups that others may not: what was too few for it before may do then, but not if it was ``head``.
    """

    def __init__(self, groups):
        super().__init__({"groups": range(groups + 1), "head": 1})


class WalkAdmission(wiring.Component):
    """Shares walk contexts among rows, and segment groups among source and sink rows.

    At most half of the contexts serve one row. Segment groups are shared half and half between source and sink rows; the last ``chain_groups`` of a
    half are for chains at the head of their queue, so that chains that wait for an earlier one of their queue can never hold what that one
    needs. In a sink row only the first chains of a queue, as many as there are groups in a half beyond twice ``chain_groups``, are walked: a
    received packet may need all of them at once. A chain whose walk gave up is not walked again before there are more groups: otherwise its
    descriptors would be read over and over while nothing moves.

    Parameters
    ----------
    rows, groups, walks : int
    chain_groups : int
        Groups of the longest chain.

    Members
    -------
    row, position, sink_row : ``In``
        The chain at hand.
    head_position : ``In(16)``
        Of the oldest chain of ``row`` that was not consumed, when the row was at hand in the cycle before.
    head_known : ``In(1)``
        It was: a walk may be told to be the head by it.
    source_groups, sink_groups : ``In``
        Groups given out.
    shortage : ``In(Shortage)``
        Of the chain at hand when it was walked last.
    begins, ends : ``In(1)``
        A walk of ``row`` does, which was there the cycle before; ``number`` is the one.
    number : ``In(range(walks))``
    free : ``Out(range(walks))``
        A number for a walk that begins.
    may_begin : ``Out(1)``
        The chain at hand, which was in the two cycles before, may be walked.
    may_take : ``Out(1)``
        The walk at hand may have a group: by what was known in the cycle before, when it was at hand already. If ``head_known`` it is the last word.
    held : ``In(range(groups + 1))``, short : ``Out(Shortage)``
        Groups of the walk at hand, and what to remember if it gives them back because of ``may_take``.
    idle : ``Out(1)``
        No walk is under way.
    sweep : ``In``
    """

    def __init__(self, *, rows, groups, walks, chain_groups):
        self._rows = rows
        self._groups = groups
        self._walks = walks
        self._chain_groups = chain_groups
        shortage = Shortage(groups)
        super().__init__({
            "row": In(row_width(rows)),
            "position": In(16),
            "sink_row": In(1),
            "head_position": In(16),
            "head_known": In(1),
            "source_groups": In(range(groups + 1)),
            "sink_groups": In(range(groups + 1)),
            "shortage": In(shortage),
            "begins": In(1),
            "ends": In(1),
            "number": In(range(walks)),
            "free": Out(range(walks)),
            "may_begin": Out(1),
            "may_take": Out(1),
            "held": In(range(groups + 1)),
            "short": Out(shortage),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        # Walks of each row. It is the row at hand that gets one more or one less, and that was looked up before.
        m.submodules.of_row = of_row = RowMemory(range(self._walks + 1), rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (of_row,))
        walks = of_row.read_value[0]
        busy = Signal(self._walks)
        one = (1 << self.number)[:self._walks]
        with m.If(self.begins):
            m.d.sync += busy.eq(busy | one)
        with m.If(self.ends):
            m.d.sync += busy.eq(busy & ~one)
        for number in reversed(range(self._walks)):
            with m.If(~busy[number]):
                m.d.comb += self.free.eq(number)

        active = Signal(range(self._walks + 1))
        m.d.sync += active.eq(sum(busy[number] for number in range(self._walks)))
        group_free = Signal(range(self._groups + 1))
        near = max(1, self._groups // 2 - 2 * self._chain_groups)
        at_head = self.head_position == self.position
        # Others than the head of a queue begin only if those under way leave them a group.
        scarce = group_free <= self._chain_groups + active
        # A packet that is received needs the first chains of its queue together: later ones must not hold their groups.
        far = self.sink_row & ((self.position - self.head_position)[:16] >= near)
        crowded = walks >= max(1, self._walks // 2)
        in_vain = (group_free <= self.shortage.groups) & (self.shortage.head | ~at_head)
        m.d.comb += [
            of_row.read_row[0].eq(self.row),
            of_row.write_row.eq(self.row),
            of_row.write_valid.eq(self.begins | self.ends),
            of_row.write_value.eq(Mux(self.ends, walks - 1, walks + 1)),
            group_free.eq(self._groups // 2 - Mux(self.sink_row, self.sink_groups, self.source_groups)),
            self.idle.eq(~busy.any()),
        ]
        # The head's position comes from a memory of another block, and much hangs on the answer.
        m.d.sync += [
            self.may_begin.eq(~busy.all() & (at_head | ~(crowded | scarce | far)) & ~((self.shortage.groups != 0) & in_vain)),
            self.may_take.eq((group_free > self._chain_groups) | (self.head_known & at_head & (group_free != 0))),
            self.short.groups.eq(group_free + self.held),
            self.short.head.eq(at_head),
        ]
        return m
