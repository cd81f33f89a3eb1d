# SPDX-License-Identifier: BSD-2-Clause
"""What both ring formats have in common in the second half of an event: the row goes back to memory.

    first half --task--> plan --> state and `coming` of the row
        ^                             |
        +-------- looked up ----------+
"""

from amaranth.lib import stream
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .contract import RowDrain

__all__ = ["connect_plan", "plan_members", "store_row"]


def plan_members(state, rows, slots):
    """Return the members that a plan has whatever it plans; ``state`` is the shape of a row's state.

    Members
    -------
    busy, row : ``Out``
        A task of ``row`` is at hand: what is stored of this row is old.
    stored : ``Out(1)``, value : ``Out(state)``, coming : ``Out(1)``
        The state of ``row`` is to be stored, and whether there may be more to come of it.
    drain, hold, row_drain, row_clean, again, free_slots, unused, added :
        As in :class:`~unvirt.virtio.queue.avail.AvailController`.
    """
    row = row_width(rows)
    return {
        "busy": Out(1),
        "row": Out(row),
        "stored": Out(1),
        "value": Out(state),
        "coming": Out(1),
        "drain": In(1),
        "hold": In(1),
        "row_drain": In(RowDrain(rows)),
        "row_clean": Out(1),
        "again": Out(stream.Signature(row)),
        "free_slots": In(range(slots + 1)),
        "unused": In(7),
        "added": In(1),
    }


def connect_plan(m, plan, state, coming):
    """Connect a plan to the memories of the rows' states and of what may be coming."""
    for cells, value in ((state, plan.value), (coming, plan.coming)):
        m.d.comb += [cells.write_valid.eq(plan.stored), cells.write_row.eq(plan.row), cells.write_value.eq(value)]


def store_row(m, plan, *, enabled, rests):
    """Have a plan store its row, in a state of its machine; ``rests`` if nothing of the row is under way.

    What is reset and was seen at rest is swept, and not written any more.
    """
    mine = plan.row_drain.fetch & (plan.row == plan.row_drain.row)
    m.d.comb += plan.stored.eq(~(mine & plan.row_clean))
    with m.If(mine & ~enabled & rests):
        m.d.sync += plan.row_clean.eq(1)
