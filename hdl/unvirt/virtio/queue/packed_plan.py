# SPDX-License-Identifier: BSD-2-Clause
"""The second half of an event of a packed ring: which lines to read next, and the state goes back to memory.

    tasks --> flags --> plan <--> reads of lines --> store --> again
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ...stream.ring import wrap_sub
from ..contract import QueueConfig, row_width
from ..spec import EventMode
from .reads import LineRead
from .row_plan import plan_members, store_row
from .slots import SlotBudget

__all__ = ["PackedPlan", "PackedRow", "PackedTask"]

_LINE = 8
"""Descriptors in a line of 128 bytes."""


class PackedRow(data.StructLayout):
    """State of a row on the available side, of whose ``lines`` one less may be under way; all zero after a reset."""

    def __init__(self, lines):
        number = range(lines)
        super().__init__({
            "slot": 15,                       # next descriptor to look at
            "lap": 1,                         # complement of the wrap counter there
            "flight": range(_LINE * lines),   # descriptors from `slot` on that were requested
            "position": 16,                   # of the next chain
            "asked": number,                  # lines requested, modulo their number
            "taken": number,                  # of them looked at
            "dropped": number,                # of those under way, the oldest that mean nothing any more
            "ahead": range(lines.bit_length()),  # beside one, 2 ** ahead - 1 lines may be under way
            "going": 1,                       # there may be more to see
            "stale": 1,                       # a doorbell came while lines were under way
            "silent": 1,                      # the driver does not notify: it was told so, or its event lies behind
            "looking": 1,                     # a line is being looked at
            "open": 1,                        # at `slot` lies a chain whose end is not known yet
            "fence": 1,                       # the next read goes behind the writes before it
            "run": 6,                         # descriptors found, one after the other, since there was none
            "usual": 6,                       # so many are expected of a run; 0: unknown, all ones: any number
        })


class PackedTask(data.StructLayout):
    """A row as an event has left it."""

    def __init__(self, rows, lines):
        super().__init__({
            "row": row_width(rows),
            "now": PackedRow(lines),
            "config": QueueConfig,
            "kicked": 1,                 # nothing was under way for it
            "turn": 1,                   # it came because it was its turn
            "write": 1,                  # tell the driver `mode`
            "mode": EventMode,
        })


class PackedPlan(wiring.Component):
    """Reads what a row may have, then stores its state.

    A task takes two cycles, one more if it would read but gives way, each read three more, and what its requests wait. The next one is taken as it is
    stored. Reads go only where a context is free, so that no row waits here for what another holds; and while rows wait in the scheduler, only for
    the row whose turn it is: all others go to its tail.

    Parameters
    ----------
    data_width, rows, lines, slots, window : int
        ``lines`` as of :func:`~unvirt.virtio.queue.packed_lines.lines_of`.

    Members
    -------
    tasks : ``In(stream.Signature(PackedTask))``
    event_idx, others, reads, room_row, room, context_free, contexts_free, flags, retired_row, retired :
        As in :class:`~unvirt.virtio.queue.packed.PackedController`; for the others see :func:`~unvirt.virtio.queue.row_plan.plan_members`.
    """

    def __init__(self, *, data_width, rows, lines, slots, window):
        self._data_width = data_width
        self._rows = rows
        self._lines = lines
        self._slots = slots
        self._window = window
        width = row_width(rows)
        super().__init__({
            "tasks": In(stream.Signature(PackedTask(rows, lines))),
            "event_idx": In(1),
            "others": In(1),
            "reads": Out(stream.Signature(LineRead(rows))),
            "room_row": Out(width),
            "room": In(1),
            "context_free": In(1),
            "contexts_free": In(1),
            "flags": Out(stream.Signature(WriteBeat(data_width))),
            "retired_row": Out(width),
            "retired": In(16),
        } | plan_members(PackedRow(lines), rows, slots))

    def elaborate(self, platform):
        m = Module()
        m.submodules.budget = budget = SlotBudget(slots=self._slots)
        task = Signal(PackedTask(self._rows, self._lines))
        most = self._lines - 1                     # under way
        row, now, config = task.row, task.now, task.config
        held, start = Signal(16), Signal(16)       # start: first descriptor that was not requested
        count = Signal(range(_LINE + 1))
        under_way, ahead = Signal.like(now.asked), Signal.like(now.asked)
        wanted = Signal()
        crowded, gives_way = Signal(), Signal()    # there is more to read than may be read now; for others have their turn
        may_read, some = Signal(), Signal()        # a read may go, and asks for something
        flight_left = Signal(range(_LINE * most + 1))
        run_left = Signal(7)                       # of what is expected
        bound = Signal(range(self._window + 1))

        m.d.comb += [
            self.row.eq(row),
            self.value.eq(now),
            self.coming.eq(config.enabled & (now.going | (now.flight != 0) | now.looking | now.open)),
            self.retired_row.eq(Mux(self.tasks.ready, self.tasks.payload.row, row)),
            self.room_row.eq(row),
            self.again.payload.eq(row),
            budget.unused.eq(self.unused),
            budget.added.eq(self.added),
            budget.free_slots.eq(self.free_slots),
            budget.held.eq(held),
            under_way.eq(now.asked - now.taken),
            # A line that is being looked at counts: its result, which may end the run, asks again.
            ahead.eq(under_way - now.dropped + now.looking),
            wanted.eq(now.going & ~now.open & config.enabled & ~self.drain & ~self.hold & (under_way != most) & (ahead >> now.ahead == 0)),
        ]
        self._drive_requests(m, task, count, start)

        def begin():
            # Whether there is a task comes late: what it is goes without that.
            m.d.comb += self.tasks.ready.eq(1)
            m.d.sync += task.eq(self.tasks.payload)
            m.next = "IDLE"
            with m.If(self.tasks.valid):
                m.d.sync += crowded.eq(0)
                m.next = "PLAN"
                with m.If(self.tasks.payload.write):
                    m.next = "WRITE"

        with m.If(~self.row_drain.fetch):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="packed_plan") as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
            with m.State("IDLE"):
                begin()

            with m.State("WRITE"):
                m.d.comb += self.flags.valid.eq(config.enabled & ~self.drain)
                with m.If(~self.flags.valid | self.flags.ready):
                    m.next = "PLAN"

            with m.State("PLAN"):
                ahead_slot = Signal(17)
                gives_way_now = ~task.turn & self.others
                m.d.comb += ahead_slot.eq(now.slot + now.flight)
                m.d.sync += [
                    start.eq(Mux(ahead_slot >= config.size, ahead_slot - config.size, ahead_slot)),
                    held.eq(wrap_sub(now.position, self.retired) + now.flight),
                    # Not more than once around.
                    flight_left.eq(Mux(config.size < _LINE * most, config.size, _LINE * most) - now.flight),
                    # A row that goes on by itself takes whole lines: one descriptor at a time, as one chain after the other is done with, a few rows
                    # would keep everything here busy. What is left of its window it gets when it is kicked.
                    bound.eq(Mux(task.kicked & (under_way == 0), self._window, self._window - min(_LINE, self._window // 2) + 1)),
                ]
                # Lines that arrived come before rows that wait for their turn, which gives one line each: otherwise a few rows that read on with
                # every line would keep all others out. The result of a line that is being looked at asks again.
                m.d.sync += gives_way.eq(gives_way_now)
                # What is expected, and the descriptor that ends it; one in any case. The look behind a request for doorbells is for one.
                usual_left = now.usual + 1 - (now.run + now.flight)
                with m.If(((now.usual == 0) | now.usual.all()) & ~now.fence):
                    m.d.sync += run_left.eq(_LINE)
                with m.Elif(now.fence | (usual_left <= 0)):
                    m.d.sync += run_left.eq(now.flight == 0)
                with m.Else():
                    m.d.sync += run_left.eq(usual_left)
                m.next = "STORE"
                with m.If(wanted & ~(gives_way_now & now.looking)):
                    m.next = "LIMIT"
            with m.State("LIMIT"):
                line_left, ring_left, room = Signal(4), Signal(16), Signal(range(self._window + 1))
                m.d.comb += [
                    line_left.eq(_LINE - (config.desc[4:7] + start[:3])[:3]),
                    ring_left.eq(config.size - start),
                    room.eq(Mux(held < bound, self._window - held, 0)),
                ]

                def levels(limit):
                    """Return one bit for each of the numbers from one to a line that ``limit`` reaches: the least of several is where all do."""
                    more, low = limit[3:].any(), limit[:3]
                    return Cat(more | (low > number) for number in range(_LINE))

                by_flight, by_room, by_run = levels(flight_left), levels(room), levels(run_left)
                least = Signal(_LINE)
                m.d.comb += least.eq(levels(line_left) & levels(ring_left) & by_flight & by_room & by_run & levels(budget.spare))
                # Each level that is reached and the next not.
                reached = Cat(low & ~high for low, high in zip(least, Cat(least[1:], 0)))
                for bit in range(4):
                    m.d.sync += count[bit].eq(Cat(reached[number - 1] for number in range(1, _LINE + 1) if number >> bit & 1).any())
                # The last contexts are for rows that have none, which would never find one free beside rows that come back with every answer. Nobody
                # else takes any, so that what is free now will be.
                m.d.sync += [some.eq(least[0]), crowded.eq(by_flight[0] & by_room[0] & by_run[0] & (gives_way | ~least[0])),
                             may_read.eq(self.room & Mux(under_way == 0, self.context_free, self.contexts_free))]
                m.next = "READ"
                with m.If(gives_way):
                    m.next = "STORE"
            with m.State("READ"):
                possible = some & may_read
                m.d.comb += self.reads.valid.eq(possible)
                with m.If(some & ~may_read):
                    m.d.sync += crowded.eq(1)
                with m.If(~possible):
                    m.next = "STORE"
                with m.Elif(self.reads.ready):
                    m.d.comb += budget.reserve.eq(count)
                    m.d.sync += [now.flight.eq(now.flight + count), now.asked.eq(now.asked + 1), now.fence.eq(0)]
                    with m.If(now.flight == 0):
                        m.d.sync += now.stale.eq(0)
                    m.d.sync += task.turn.eq(0)
                    m.next = "PLAN"

            with m.State("STORE"):
                store_row(m, self, enabled=config.enabled, rests=(under_way == 0) & ~now.looking)
                with m.If(crowded & ~self.drain):
                    m.next = "AGAIN"
                with m.Else():
                    begin()
            with m.State("AGAIN"):
                m.d.comb += self.again.valid.eq(1)
                with m.If(self.again.ready | self.drain):
                    m.next = "IDLE"
        return m

    def _drive_requests(self, m, task, count, start):
        """Payloads of the requests; valid is driven by the states."""
        now, config = task.now, task.config
        m.d.comb += [
            self.reads.payload.row.eq(task.row),
            self.reads.payload.address.eq(config.desc + (start << 4)),
            self.reads.payload.length.eq(count << 4),
            self.reads.payload.position.eq(now.asked),
            self.reads.payload.count.eq(count),
            self.reads.payload.fence.eq(now.fence),
            self.flags.payload.first.eq(1),
            self.flags.payload.last.eq(1),
            self.flags.payload.empty.eq(self._data_width // 8 - 4),
            # {slot, wrap counter}, mode [virtio 2.8.14].
            self.flags.payload.data.eq(Cat(Mux(self.event_idx, Cat(now.slot, ~now.lap), C(0, 16)), task.mode.as_value())),
            self.flags.payload.header.address.eq(config.device),
            self.flags.payload.header.length.eq(4),
        ]
