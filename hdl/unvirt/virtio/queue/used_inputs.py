# SPDX-License-Identifier: BSD-2-Clause
"""Used elements that wait to be written, each with those of its row, and whose turn it is.

    elements --> one at a time --> memory: a ring for each row --> the element whose turn it is
                   | rows with something to begin                    ^
                   +------------> scheduler ---> next row -----------+
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.ram import read_settled, settled_memory
from ...stream.ring import round_robin, wrap_sub
from ..contract import row_width
from .contract import UsedElement
from .rows import RowMemory, Sweep, connect_sweep
from .scheduler import Scheduler

__all__ = ["BURST", "MARKS", "UsedInputs", "UsedPortSignature"]

BURST = 32
"""Most elements in one write."""

MARKS = 2
"""Who may want to know when what is here now was published."""

_ENTRIES = 512
"""Elements that can wait, of all rows: what two block RAMs hold. With very many rows it is more."""

_LEAST = 8
"""Elements of a row that can wait, at least: as many as a row of a device of very many rows has chains under way. With fewer, a row whose packets
come back together would hold up all others until its turn has come."""

_FEW = 3
"""Elements of a row beyond which its ring fills up, at least."""


def UsedPortSignature(rows):
    """The elements of the row whose turn it is, as a writer sees them.

    ``waiting``: there is an ``element``; ``take`` removes it. ``begin``: a burst may begin, for a group is complete, or filled its ring.
    ``coming``: there may be one soon; not for more than four cycles. ``pass_on``: it is the next row's turn; not together with ``take``. ``done``:
    nothing that was taken before this cycle is left to be written.
    """
    return wiring.Signature({
        "element": In(UsedElement(rows)),
        "waiting": In(1),
        "coming": In(1),
        "begin": In(1),
        "take": Out(1),
        "pass_on": Out(1),
        "done": Out(1),
    })


class UsedInputs(wiring.Component):
    """Sorts the elements of all inputs by their rows, so that those of one row make a burst however many rows take turns.

    Every row has a ring in one memory, for 32 elements with up to 16 rows, then fewer, at least 8. The turn passes on to the row that has had
    something to begin for longest, or after the burst in which a row has been given ``BURST // 2`` elements. A group of elements that must become
    visible together is not begun before it is complete, so that it holds up no other row, unless it fills its ring.

    **Latency**: three cycles from an element to ``port``. **Throughput**: an element a cycle, in and out. **Ordering**: of a row, that of its input;
    a row has one input. **Back-pressure**: an element waits while the ring of its row is full, and others behind it. **Reset**: forgets everything,
    with a sweep of all rows.

    Members
    -------
    elements : ``In(stream.Signature(UsedElement)).array(inputs)``
    port : ``In(UsedPortSignature)``
    discard : ``In(1)``
        Forget everything, and what comes; all rows are swept before it falls.
    crowded : ``Out(1)``
        The ring of a row is filling up.
    empty : ``Out(1)``
        No row has an element.
    mark : ``In(2)``, passed : ``Out(2)``
        While a bit of ``mark``, that of ``passed``: every element that was here when it rose was written and published. One after the other.
    sweep : ``In(Sweep)``
        Of a row without elements, or while ``discard``.
    """

    def __init__(self, *, rows, inputs):
        self._rows = rows
        self._inputs = inputs
        self._depth = max(_LEAST, min(BURST, _ENTRIES // rows))
        self._pointer = Shape(self._depth.bit_length())      # modulo twice the depth
        super().__init__({
            "elements": In(stream.Signature(UsedElement(rows))).array(inputs),
            "port": In(UsedPortSignature(rows)),
            "discard": In(1),
            "crowded": Out(1),
            "empty": Out(1),
            "mark": In(MARKS),
            "passed": Out(MARKS),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        stored = data.StructLayout({"element": UsedElement(self._rows).size - row_width(self._rows), "epoch": 1})
        m.submodules.cells = cells = settled_memory(stored, self._rows * self._depth)
        m.submodules.scheduler = scheduler = Scheduler(rows=self._rows, kicks=2)
        # Behind the last element of a row, and behind the last of which the group is complete; the first one. Of the row that comes in and the next.
        ends = data.StructLayout({"last": self._pointer, "complete": self._pointer})
        m.submodules.ends = self._ends = RowMemory(ends, rows=self._rows, readers=2)
        m.submodules.begins = self._begins = RowMemory(self._pointer, rows=self._rows, readers=2)
        connect_sweep(m, self.sweep, (self._ends, self._begins))

        # The row whose turn it is, as it was when the cycle began.
        self._turn = turn = Signal(data.StructLayout({"valid": 1, "row": row_width(self._rows), "ends": ends, "first": self._pointer}))
        # The element that comes in: whether it goes to its ring, and something begins with it, and what it makes of the ends of that ring.
        self._put, self._completes, self._ended = Signal(), Signal(), Signal(ends)
        self._listens = Signal()                             # the scheduler does
        self._epoch = Signal()                               # of what comes in: another behind a mark
        read = read_settled(m, cells)
        write = cells.write_port()
        self._entering = Signal(UsedElement(self._rows))
        self._level = Signal(self._pointer)                  # of the ring of its row
        self._elaborate_intake(m, write)
        self._elaborate_turns(m, read, scheduler)
        self._elaborate_counts(m, read.data.epoch)
        m.d.comb += [self.port.element.eq(Cat(turn.row, read.data.element))]
        return m

    def _elaborate_intake(self, m, write):
        """An element goes to the ring of its row."""
        ends, begins, turn, entering, level = self._ends, self._begins, self._turn, self._entering, self._level
        # Each input has one at hand, so that none has to wait for the room of another, and a place behind it, so that nothing ahead of an input waits
        # for what is found in the memories. Of one that will be at hand its row is looked up: it is taken for granted that the one before goes.
        inputs, element = self._inputs, UsedElement(self._rows)
        held = Array(Signal(element, name=f"held{number}") for number in range(inputs))
        # There is one at hand: it is tried, with what was looked up of its row, or waits for that.
        tried, waits = Signal(inputs), Signal(inputs)
        full, candidates, epochs, rests, enters = (Signal(inputs, name=name) for name in ("full", "candidates", "epochs", "rests", "enters"))
        rows = Array(Signal(row_width(self._rows), name=f"row{number}") for number in range(inputs))
        chosen, next_chosen = Signal(range(max(2, inputs))), Signal(range(max(2, inputs)))
        in_vain = Signal()
        for number, port in enumerate(self.elements):
            behind, following = Signal(element, name=f"behind{number}"), Signal(element, name=f"following{number}")
            epoch, following_epoch = Signal(name=f"epoch{number}"), Signal(name=f"following_epoch{number}")
            stays = waits[number] | (tried[number] & ~self._put)
            more = full[number] | port.valid
            m.d.comb += [
                port.ready.eq(~full[number] | self.discard),
                following.eq(Mux(full[number], behind, port.payload)),
                following_epoch.eq(Mux(full[number], epoch, self._epoch)),
                candidates[number].eq(more | waits[number]),
                rows[number].eq(Mux(waits[number], held[number].row, following.row)),
                rests[number].eq(tried[number] & ~self._put),
                enters[number].eq(more & ~stays & (following.row == turn.row)),
            ]
            tries = candidates[number] & (next_chosen == number) & ~in_vain
            m.d.sync += [tried[number].eq(tries), waits[number].eq((more | stays) & ~tries & ~self.discard),
                         full[number].eq(more & stays & ~self.discard)]
            with m.If(~full[number]):
                m.d.sync += [behind.eq(port.payload), epoch.eq(self._epoch)]
            with m.If(~stays):
                m.d.sync += [held[number].eq(following), epochs[number].eq(following_epoch)]
        m.d.comb += [
            next_chosen.eq(round_robin(candidates, chosen)),
            # One that stays was not the one that was looked up.
            in_vain.eq((rests.any() & (next_chosen == chosen)) | self.discard),
            entering.eq(held[chosen]),
        ]
        m.d.sync += chosen.eq(next_chosen)
        # For as long as the others may go before: what has to wait for room may keep nobody.
        follows = Signal(2)
        m.d.sync += follows.eq(Cat(enters.any(), follows))

        before = ends.read_value[0]
        m.d.comb += [
            ends.read_row[0].eq(rows[next_chosen]),
            begins.read_row[0].eq(rows[next_chosen]),
            level.eq(wrap_sub(before.last, begins.read_value[0])),
            self._put.eq(tried.any() & (level != self._depth) & self._listens & ~self.discard),
            # A group that fills its ring begins as it is, for more of it finds no room.
            self._completes.eq(self._put & (~entering.more | ((level == self._depth - 1) & (before.complete == begins.read_value[0])))),
            self._ended.last.eq(before.last + 1),
            self._ended.complete.eq(Mux(self._completes, before.last + 1, before.complete)),
            ends.write_valid.eq(self._put),
            ends.write_row.eq(entering.row),
            ends.write_value.eq(self._ended),
            write.addr.eq(Cat(before.last[:-1], entering.row)),
            write.data.element.eq(entering.as_value()[row_width(self._rows):]),
            write.data.epoch.eq(epochs.bit_select(chosen, 1)),
            write.en.eq(self._put),
            self.port.coming.eq(~self.port.waiting & (follows.any() | (turn.valid & (turn.ends.last != turn.first)))),
        ]

    def _elaborate_turns(self, m, read, scheduler):
        """The first element of the row whose turn it is was read in the cycle before; of the row that is next is known where it lies.

        Behind the last element of a row may come what belongs to it, until the writer is through with the row. An element that makes something begin
        calls its row, unless it is its turn; a row that leaves with something to begin is called again.
        """
        ends, begins, turn, port, entering = self._ends, self._begins, self._turn, self.port, self._entering
        call, again = scheduler.kicks
        next_row, next_valid = Signal.like(turn.row), Signal()
        next_ends, next_first = ends.read_value[1], begins.read_value[1]
        waiting, served = Signal(), Signal(range(BURST + 1))
        begin, calls, leaves, switch, adopts, wanted = Signal(), Signal(), Signal(), Signal(), Signal(), Signal()
        same, to_next = Signal(), Signal()
        row, ended = Signal.like(turn.row), Signal(ends.read_value[1].shape())
        first = Signal(self._pointer)
        m.d.comb += [
            port.waiting.eq(waiting),
            begin.eq(turn.ends.complete != turn.first),
            port.begin.eq(begin),
            same.eq(entering.row == turn.row),
            to_next.eq(self._put & (entering.row == next_row)),
            ended.eq(Mux(self._put & same, self._ended, turn.ends)),
            # A row with bursts of one element gets as many elements as one with long bursts.
            leaves.eq(port.pass_on & turn.valid & ~again.valid & ~(begin & (~next_valid | (served < BURST // 2)))),
            switch.eq(next_valid & (leaves | ~turn.valid)),
            self._listens.eq(call.ready),
            calls.eq(self._completes & ~(turn.valid & same)),
            # With no row waiting it is the turn of that row at once.
            adopts.eq(calls & ~turn.valid & ~next_valid),
            call.valid.eq(calls & ~adopts),
            call.payload.eq(entering.row),
            first.eq(turn.first + port.take),
            begins.write_valid.eq(port.take),
            begins.write_row.eq(turn.row),
            begins.write_value.eq(first),
            read.addr.eq(Mux(switch, Cat(next_first[:-1], next_row), Cat(first[:-1], turn.row))),
            row.eq(Mux(scheduler.visits.ready, scheduler.visits.payload, next_row)),
            ends.read_row[1].eq(row),
            begins.read_row[1].eq(row),
            wanted.eq(~next_valid | switch),
            scheduler.visits.ready.eq(wanted | self.discard),
        ]
        m.d.sync += [
            next_row.eq(row),
            next_valid.eq(Mux(wanted, scheduler.visits.valid, 1) & ~self.discard),
            turn.ends.eq(ended),
            turn.first.eq(first),
            waiting.eq(turn.valid & (turn.ends.last != first)),
        ]
        with m.If(port.take & (served != BURST)):
            m.d.sync += served.eq(served + 1)
        with m.If(leaves):
            m.d.sync += [turn.valid.eq(0), waiting.eq(0), again.valid.eq(ended.complete != turn.first), again.payload.eq(turn.row)]
        with m.If(again.valid & again.ready):
            m.d.sync += again.valid.eq(0)
        with m.If(switch):
            m.d.sync += [turn.valid.eq(1), turn.row.eq(next_row), turn.first.eq(next_first), turn.ends.eq(Mux(to_next, self._ended, next_ends)),
                         waiting.eq(next_ends.last != next_first), served.eq(0)]
        with m.If(adopts):
            m.d.sync += [turn.valid.eq(1), turn.row.eq(entering.row), turn.first.eq(begins.read_value[0]), turn.ends.eq(self._ended), served.eq(0)]
        with m.If(self.discard):
            m.d.sync += [turn.valid.eq(0), waiting.eq(0), again.valid.eq(0)]

    def _elaborate_counts(self, m, epoch_out):
        """How many elements there are, of the epoch before the mark and of this one, and how many rows have many.

        What is ahead of the mark is taken, then its burst ends, then it is written.
        """
        port, turn, epoch, put, take = self.port, self._turn, self._epoch, self._put, self.port.take
        counts = Array(Signal(range(self._rows * self._depth + 2 * self._inputs + 1), name=f"count{number}") for number in range(2))
        accepted = sum(port.valid & port.ready for port in self.elements)
        for number, count in enumerate(counts):
            m.d.sync += count.eq(Mux(self.discard, 0, count + Mux(epoch == number, accepted, 0) - (take & (epoch_out == number))))
        m.d.comb += self.empty.eq((counts[0] == 0) & (counts[1] == 0))

        many = max(_FEW, self._depth // 4)
        crowded, more, fewer = Signal(range(self._rows + 1)), Signal(), Signal()
        m.d.comb += [
            more.eq(put & (self._level == many - 1)),
            fewer.eq(take & (wrap_sub(turn.ends.last, turn.first) == many)),
        ]
        # One that is put to where one is taken changes nothing.
        with m.If(~(put & take & (self._entering.row == turn.row))):
            m.d.sync += crowded.eq(crowded + more - fewer)
        with m.If(self.discard):
            m.d.sync += crowded.eq(0)
        m.d.comb += self.crowded.eq(crowded != 0)

        # Who begins keeps the mark until it falls.
        whose, mark, ahead, entered, gathered, passed = Signal(range(MARKS)), Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [mark.eq(self.mark.bit_select(whose, 1)), self.passed.eq(passed << whose), ahead.eq(counts[~epoch] != 0)]
        with m.If(~mark):
            m.d.sync += whose.eq(~whose)
        with m.If(mark & ~entered & ~ahead):
            m.d.sync += epoch.eq(~epoch)
        m.d.sync += [
            entered.eq(mark & (entered | ~ahead)),
            gathered.eq(mark & entered & (gathered | (port.pass_on & ~ahead))),
            passed.eq(mark & entered & (passed | (gathered & port.done))),
        ]
