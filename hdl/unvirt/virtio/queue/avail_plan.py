# SPDX-License-Identifier: BSD-2-Clause
"""The second half of an event of a split ring: which entries to read next, whether to look at the index, and the state goes back to memory.

    tasks --> limits --> read of a line --> read of the index --> store --> again
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.ring import wrap_sub
from ..contract import QueueConfig, row_width
from .contract import worth_fetching
from .reads import LineRead, SmallRead
from .row_plan import plan_members, store_row
from .slots import SlotBudget

__all__ = ["AvailPlan", "AvailRow", "AvailTask"]

_LINE = 64
"""Entries in a line of 128 bytes."""

_WORTH_A_LINE = 16
"""Entries for which a line is read although others of the row are under way."""


def _least(one, other):
    return Mux(one < other, one, other)


class AvailRow(data.Struct):
    """State of a row on the available side; all zero after a reset."""

    known:         16
    fetched:       16
    index_pending: 1      # an index read is in flight
    lines:         3      # of ring entries that are being fetched or parsed
    stale:         1      # a doorbell came after the last index read was asked for
    silent:        1      # the driver does not notify: it was told so, or avail_event lies behind its index


class AvailTask(data.StructLayout):
    """A row as an event has left it."""

    def __init__(self, rows):
        super().__init__({
            "row": row_width(rows),
            "now": AvailRow,
            "config": QueueConfig,
            "mask": 16,                  # of positions in the ring
            "pending": 16,               # entries known and not yet requested
            "held": 16,                  # positions that the row holds
            "turn": 1,                   # it came because it was its turn
            "fence": 1,                  # the index is read behind the writes before it
        })


class AvailPlan(wiring.Component):
    """Reads what a row may have, then stores its state.

    A task takes four cycles, one more if its row comes back, and what its requests wait. The next one is taken as it is stored. Reads go only where
    a context is free, so that no row waits here for what another holds. A row whose turn it was and that finds no context for its line is *parked*:
    it is called again as soon as there is one, and no other row reads a line before it has had this turn.

    Parameters
    ----------
    rows, slots, window, lines : int

    Members
    -------
    tasks : ``In(stream.Signature(AvailTask))``
    parked, parked_row : ``Out``
        This row is to be called when there is a context for it, and no other before it.
    deciding : ``Out(1)``
        Whether the row at hand will be parked is not known yet: nobody else's turn may come.
    others : ``In(1)``
        Some other row waits for its turn.
    index_reads, index_free, ring_reads, ring_free :
        As in :class:`~unvirt.virtio.queue.avail.AvailController`; for the others see :func:`~unvirt.virtio.queue.row_plan.plan_members`.
    """

    def __init__(self, *, rows, slots, window, lines):
        self._rows = rows
        self._slots = slots
        self._window = window
        self._lines = lines
        self._worth = worth_fetching(window)
        width = row_width(rows)
        super().__init__({
            "tasks": In(stream.Signature(AvailTask(rows))),
            "parked": Out(1),
            "parked_row": Out(width),
            "deciding": Out(1),
            "others": In(1),
            "index_reads": Out(stream.Signature(SmallRead(rows))),
            "index_free": In(1),
            "ring_reads": Out(stream.Signature(LineRead(rows))),
            "ring_free": In(1),
        } | plan_members(AvailRow, rows, slots))

    def elaborate(self, platform):
        m = Module()
        m.submodules.budget = budget = SlotBudget(slots=self._slots)
        row = Signal.like(self.row)
        now = Signal(AvailRow)
        enabled = Signal()
        by_turn = Signal()
        fence = Signal()
        pending = Signal(16)                   # entries known and not yet requested
        room = Signal(range(self._window + 1))
        free = Signal(range(self._slots + 1))
        ring_left = Signal(16)
        line_left = Signal(7)
        driver = Signal(64)
        offset = Signal(17)                    # of the entries in the driver's area
        address = Signal(64)                   # of the entries, behind them that of the index
        following = Signal(64)
        count = Signal(7)
        some = Signal()                        # count is not zero
        soon = Signal()                        # little is known beyond what was asked for
        narrow = Signal()                      # a window so full that a line would bring little
        quiet = Signal()                       # nothing is asked for
        back = Signal()                        # the row goes to the scheduler's tail
        task = self.tasks.payload
        m.d.comb += [
            self.row.eq(row),
            self.value.eq(now),
            self.coming.eq(enabled & ((pending != 0) | (now.lines != 0) | now.index_pending)),
            self.again.payload.eq(row),
            budget.unused.eq(self.unused),
            budget.added.eq(self.added),
            budget.free_slots.eq(self.free_slots),
            budget.held.eq(task.held),
        ]
        self._drive_requests(m, row, now, count, address, fence)

        with m.If(~self.row_drain.fetch):
            m.d.sync += self.row_clean.eq(0)

        def take():
            """Take the next task; what it is limited by is found at once."""
            place = task.now.fetched & task.mask
            area = task.config.driver
            m.d.comb += self.tasks.ready.eq(1)
            m.next = "IDLE"
            with m.If(self.tasks.valid):
                m.d.sync += [
                    row.eq(task.row),
                    now.eq(task.now),
                    enabled.eq(task.config.enabled),
                    by_turn.eq(task.turn),
                    fence.eq(task.fence),
                    pending.eq(task.pending),
                    room.eq(Mux(task.held < self._window, self._window - task.held, 0)),
                    free.eq(budget.spare),
                    ring_left.eq(task.config.size - place),
                    driver.eq(area),
                    offset.eq((place + 2) << 1),
                    # Ring entries are 2-byte aligned; one read stays inside a 128-byte line.
                    line_left.eq(_LINE - (area[1:7] + 2 + place[:6])[:6]),
                    back.eq(0),
                ]
                m.next = "LIMIT"

        with m.FSM(name="plan") as fsm:
            m.d.comb += [
                self.busy.eq(~fsm.ongoing("IDLE")),
                self.deciding.eq(by_turn & (fsm.ongoing("LIMIT") | fsm.ongoing("RING"))),
                following.eq(driver + Mux(fsm.ongoing("RING"), 2, offset)),
            ]
            with m.State("IDLE"):
                take()

            with m.State("LIMIT"):
                limits = (line_left, ring_left, pending, room, free)

                def all_limits(condition):
                    return Cat(condition(limit) for limit in limits).all()

                # Two by two: what is in this line, and what there is.
                wanted = _least(free, _least(_least(ring_left, line_left), _least(room, pending)))
                # Beside others a line must be worth a read: the fewer entries, the more bytes each of them and its descriptor cost. An end of a
                # line or of the ring with much behind it is, unless other rows wait for their turn: who goes without it stands still.
                much = (pending >= _WORTH_A_LINE) & (room >= _WORTH_A_LINE) & (free >= _WORTH_A_LINE)
                worth = (now.lines == 0) | all_limits(lambda limit: limit >= _WORTH_A_LINE) | (much & ~self.others & ~self.parked)
                narrowed = ~by_turn & (room < self._worth) & (room < pending)
                silence = ~enabled | self.drain | self.hold
                asks = ~silence & (now.lines != self._lines) & worth
                m.d.sync += [
                    count.eq(wanted),
                    some.eq(asks & ~narrowed & all_limits(lambda limit: limit != 0)),
                    narrow.eq(asks & narrowed & (pending != 0)),
                    quiet.eq(silence),
                    address.eq(following),
                ]
                m.next = "RING"

            with m.State("RING"):
                # Contexts come back as answers are taken and lines are finished, before this: waiting for one would keep them from it.
                may = self.ring_free & (by_turn | ~self.parked)
                rest = wrap_sub(pending, count)
                m.d.comb += self.ring_reads.valid.eq(some & may)
                m.d.sync += soon.eq(pending == 0)
                with m.If(~(some & may) | self.ring_reads.ready):
                    m.d.sync += address.eq(following)
                    m.next = "INDEX"
                    with m.If(by_turn):
                        m.d.sync += [self.parked.eq(some & ~may), self.parked_row.eq(row)]
                with m.If(~may):
                    m.d.sync += some.eq(0)
                with m.Elif(some & self.ring_reads.ready):
                    m.d.comb += budget.reserve.eq(count)
                    m.d.sync += [now.fetched.eq(now.fetched + count), now.lines.eq(now.lines + 1),
                                 pending.eq(rest), room.eq(room - count), soon.eq(rest <= min(_LINE, self._window))]

            with m.State("INDEX"):
                # With a line read here whose next is the last that is known, a silent driver's index is looked at, so that more follows at once.
                wanted = (now.stale | (now.silent & soon)) & ~now.index_pending & ~quiet
                # With lines under way the end of one brings the row back, with a full window chains that are done with; else it comes by itself.
                another = some & (now.lines != self._lines) & (pending >= _WORTH_A_LINE) & (room >= _WORTH_A_LINE)
                more = (pending != 0) & (room != 0) & ~narrow & ((now.lines == 0) | another)
                parked = self.parked & (self.parked_row == row)
                m.d.comb += self.index_reads.valid.eq(wanted & self.index_free)
                m.d.sync += back.eq((more & ~parked | (wanted & ~self.index_free)) & ~quiet)
                with m.If(~self.index_reads.valid):
                    m.next = "STORE"
                with m.Elif(self.index_reads.ready):
                    m.d.sync += [now.stale.eq(0), now.index_pending.eq(1)]
                    m.next = "STORE"

            with m.State("STORE"):
                store_row(m, self, enabled=enabled, rests=~now.index_pending & (now.lines == 0))
                with m.If(back):
                    m.next = "AGAIN"
                with m.Else():
                    take()

            with m.State("AGAIN"):
                m.d.comb += self.again.valid.eq(1)
                with m.If(self.again.ready | self.drain):
                    m.next = "IDLE"
        return m

    def _drive_requests(self, m, row, now, count, address, fence):
        """Payloads of the requests; valid is driven by the states."""
        m.d.comb += [
            self.index_reads.payload.row.eq(row),
            self.index_reads.payload.address.eq(address),
            self.index_reads.payload.fence.eq(fence),
            self.ring_reads.payload.row.eq(row),
            self.ring_reads.payload.address.eq(address),
            self.ring_reads.payload.length.eq(count << 1),
            self.ring_reads.payload.position.eq(now.fetched),
            self.ring_reads.payload.count.eq(count),
        ]
