# SPDX-License-Identifier: BSD-2-Clause
"""Memory with one entry per virtqueue row: state in block RAM, logic shared."""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from ...stream.fifo import MemoryList, Queue
from ...stream.ram import read_settled, settled_memory
from ..contract import row_width

__all__ = ["RowCount", "RowFlags", "RowList", "RowMemory", "Sweep", "connect_sweep"]


class Sweep(wiring.Signature):
    """Rewriting of rows with their reset value: of every row while the engine is at rest, or of one that is being reset.

    ``row`` is held while ``valid`` until ``done``, at the earliest in the same cycle. Nobody uses that row meanwhile. Another row may follow in the
    next cycle only while nothing is written, as when all rows are swept; otherwise ``valid`` falls first.
    """

    def __init__(self, rows):
        super().__init__({"valid": Out(1), "row": Out(row_width(rows)), "done": In(1)})


def connect_sweep(m, sweep, blocks):
    """Connect ``sweep``, as a component has it (flipped), to the ports of its ``blocks``; it is done when all of them are."""
    for block in blocks:
        m.d.comb += [block.sweep.valid.eq(sweep.valid), block.sweep.row.eq(sweep.row)]
    m.d.comb += sweep.done.eq(Cat(block.sweep.done for block in blocks).all())


class RowMemory(wiring.Component):
    """One value per row, one writer, several synchronous readers.

    A read shows the value of the cycle in which the row was presented, in the next cycle; a write in
    that same cycle is seen (the memory is transparent) unless it is ``settled``. Rows hold zero after a sweep.

    Parameters
    ----------
    shape : shape-like
        Shape of the value.
    rows : int
        Number of rows.
    readers : int
        Number of read ports.
    settled : bool
        Nobody makes use of what is read of a row in the cycle in which it is written, see :func:`~unvirt.stream.ram.read_settled`: that saves all
        logic beside the memory.

    Members
    -------
    write_valid, write_row, write_value : ``In``
        The writer; the sweep waits for it.
    read_row : ``In(row).array(readers)``
        Row to read.
    read_value : ``Out(shape).array(readers)``
        Its value one cycle later.
    sweep : ``In(Sweep)``
        Clears a row.
    """

    def __init__(self, shape, *, rows, readers, settled=False):
        self._shape = shape
        self._rows = rows
        self._settled = settled
        self._readers = readers
        super().__init__({
            "write_valid": In(1),
            "write_row": In(row_width(rows)),
            "write_value": In(shape),
            "read_row": In(row_width(rows)).array(readers),
            "read_value": Out(shape).array(readers),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self._shape).width
        # Block RAM whatever the number of rows: growing from 2 to 512 rows must not move state into logic.
        depth = max(self._rows, 2)
        m.submodules.cells = cells = (settled_memory(width, depth) if self._settled
                                      else memory.Memory(shape=width, depth=depth, init=[], attrs={"ram_style": "block"}))
        write = cells.write_port()
        swept = Signal()
        m.d.sync += swept.eq(self.sweep.valid & (swept | ~self.write_valid))
        m.d.comb += [
            write.en.eq(self.write_valid | self.sweep.valid),
            write.addr.eq(Mux(self.write_valid, self.write_row, self.sweep.row)),
            write.data.eq(Mux(self.write_valid, Value.cast(self.write_value), 0)),
            self.sweep.done.eq(swept),
        ]
        for row, value in zip(self.read_row, self.read_value):
            read = read_settled(m, cells) if self._settled else cells.read_port(transparent_for=(write,))
            m.d.comb += [
                read.addr.eq(row),
                Value.cast(value).eq(read.data),
            ]
        return m


class RowCount(wiring.Component):
    """How many things each row holds, in block RAM: one side counts those taken, another those given back.

    Either side counts one per cycle, of any row. A look-up shows the counts of the cycle in which its row was presented, in the next cycle;
    what is taken or given back in a cycle is seen by look-ups presented in the cycle after.

    Parameters
    ----------
    most : int
        Most that one row may hold.
    rows, lookups : int

    Members
    -------
    taken_valid, taken_row, given_valid, given_row : ``In``
        One more, one less.
    row, count : ``In``, ``Out(range(most + 1))`` arrays
        Rows to look up, and their counts one cycle later.
    sweep : ``In(Sweep)``
        Clears a row while nothing is held.
    """

    def __init__(self, most, *, rows, lookups=1):
        self._rows = rows
        self._lookups = lookups
        self._width = most.bit_length()
        row = row_width(rows)
        super().__init__({
            "taken_valid": In(1),
            "taken_row": In(row),
            "given_valid": In(1),
            "given_row": In(row),
            "row": In(row).array(lookups),
            "count": Out(self._width).array(lookups),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        totals = []
        for name, valid, row in (("taken", self.taken_valid, self.taken_row),
                                 ("given", self.given_valid, self.given_row)):
            m.submodules[name] = total = RowMemory(self._width, rows=self._rows, readers=1 + self._lookups)
            m.d.sync += [total.write_valid.eq(valid), total.write_row.eq(row)]
            m.d.comb += [
                total.read_row[0].eq(row),
                total.write_value.eq(total.read_value[0] + 1),
                *(total.read_row[1 + number].eq(self.row[number]) for number in range(self._lookups)),
            ]
            totals.append(total)
        connect_sweep(m, self.sweep, totals)
        m.d.comb += [self.count[number].eq(totals[0].read_value[1 + number] - totals[1].read_value[1 + number]) for number in range(self._lookups)]
        return m


class RowList(wiring.Component):
    """Rows in the order in which they came, each at most once; so there is always room. Latency one cycle, with more than 16 rows two.

    Members
    -------
    i, o : ``In``/``Out(stream.Signature(row))``
        Rows in, never refused, and out.
    empty : ``Out(1)``
    """

    def __init__(self, *, rows):
        self._rows = rows
        row = row_width(rows)
        super().__init__({
            "i": In(stream.Signature(row, always_ready=True)),
            "o": Out(stream.Signature(row)),
            "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        few = self._rows <= 16
        m.submodules.entries = entries = (Queue if few else MemoryList)(row_width(self._rows), self._rows)
        connect(m, entries.o, flipped(self.o))
        m.d.comb += [
            entries.i.payload.eq(self.i.payload),
            entries.i.valid.eq(self.i.valid),
            self.empty.eq(~entries.o.valid if few else entries.empty),
        ]
        return m


class RowFlags(wiring.Component):
    """One bit per row with two independent writers, in block RAM.

    As in :class:`~unvirt.stream.flags.FlagTable`, a flag is set while its bits in two memories differ, and each memory has one writer; but
    every look-up is synchronous, so that 512 flags cost no logic. Both sides take one row per cycle. Setting is complete in the cycle after
    it was asked for: a look-up presented then, or later, sees it. Clearing and setting of one row do not get in each other's way:

    * a flag that is looked up in the cycle in which it is being set reads as it was before;
    * setting a flag that is set changes nothing, also in the cycle in which it is looked up in order to be cleared: whoever clears a flag
      must look at what it announces only afterwards.

    After reset a sweep of ``rows`` cycles clears all; until ``ready`` nothing may be set.

    Parameters
    ----------
    rows : int
        A power of two.
    news : bool
        Whether there is ``set_new``, which costs a further look-up.

    Members
    -------
    set_valid, set_row : ``In``
        Set a flag.
    set_new : ``Out(1)``
        The flag that was to be set in the cycle before was clear.
    test_row : ``In``
        Row to look up.
    test_value : ``Out(1)``
        Its flag, one cycle later.
    clear : ``In(1)``
        Clear the flag that ``test_value`` shows.
    ready : ``Out(1)``
        The sweep after reset is over.
    """

    def __init__(self, *, rows, news=False):
        self._rows = rows
        self._news = news
        row = row_width(rows)
        super().__init__({
            "set_valid": In(1),
            "set_row": In(row),
            "test_row": In(row),
            "test_value": Out(1),
            "clear": In(1),
            "ready": Out(1),
        } | ({"set_new": Out(1)} if news else {}))

    def elaborate(self, platform):
        m = Module()
        depth = max(self._rows, 2)
        swept = Signal(exact_log2(depth) + 1)
        looked = Signal(exact_log2(depth))
        sweeping = Signal()                 # what was looked up in the cycle before
        m.d.comb += [
            self.ready.eq(swept[-1]),
            # The sweep clears one after the other as the clearing side does.
            looked.eq(Mux(self.ready, self.test_row, swept)),
        ]
        m.d.sync += sweeping.eq(~self.ready)
        with m.If(~self.ready):
            m.d.sync += swept.eq(swept + 1)

        def side(name):
            """Make one of the memories; return its write port and what makes transparent read ports."""
            m.submodules[name] = cells = memory.Memory(shape=1, depth=depth, init=[], attrs={"ram_style": "block"})
            write = cells.write_port()
            return write, lambda: cells.read_port(transparent_for=(write,))

        set_write, read_set = side("set_bits")
        clear_write, read_clear = side("clear_bits")
        set_other = read_set()
        clear_other, clear_mine = read_clear(), read_clear()
        setting = Signal()
        set_row = Signal.like(self.set_row)
        test_row = Signal.like(self.test_row)
        m.d.sync += [setting.eq(self.set_valid), set_row.eq(self.set_row), test_row.eq(looked)]
        m.d.comb += [
            # The setting side makes its own bit differ.
            clear_other.addr.eq(self.set_row),
            set_write.addr.eq(set_row),
            set_write.data.eq(~clear_other.data),
            # The clearing side makes its own bit equal.
            set_other.addr.eq(looked),
            clear_mine.addr.eq(looked),
            self.test_value.eq(~sweeping & (set_other.data != clear_mine.data)),
            clear_write.addr.eq(test_row),
            clear_write.data.eq(set_other.data),
            clear_write.en.eq(self.clear | sweeping),
        ]
        if self._news:
            set_mine = read_set()
            m.d.comb += [set_mine.addr.eq(self.set_row), self.set_new.eq(setting & (set_mine.data == clear_other.data)),
                         set_write.en.eq(self.set_new)]
        else:
            # A bit that differs is written as it is.
            m.d.comb += set_write.en.eq(setting)
        return m
