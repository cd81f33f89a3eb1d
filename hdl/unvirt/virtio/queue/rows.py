# SPDX-License-Identifier: BSD-2-Clause
"""Memory with one entry per virtqueue row: state in block RAM, logic shared."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width

__all__ = ["RowMemory", "Sweep"]


class Sweep(wiring.Signature):
    """Rewriting of every row with its reset value, one row per cycle while the engine is at rest."""

    def __init__(self, rows):
        super().__init__({"valid": Out(1), "row": Out(row_width(rows))})


class RowMemory(wiring.Component):
    """One value per row, one writer, several synchronous readers.

    A read shows the value of the cycle in which the row was presented, in the next cycle; a write in
    that same cycle is seen (the memory is transparent). Rows hold zero after a sweep.

    Parameters
    ----------
    shape : shape-like
        Shape of the value.
    rows : int
        Number of rows.
    readers : int
        Number of read ports.

    Members
    -------
    write_valid, write_row, write_value : ``In``
        The writer. Not to be used while ``sweep.valid``.
    read_row : ``In(row).array(readers)``
        Row to read.
    read_value : ``Out(shape).array(readers)``
        Its value one cycle later.
    sweep : ``In(Sweep)``
        Clears a row.
    """

    def __init__(self, shape, *, rows, readers):
        self._shape = shape
        self._rows = rows
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
        m.submodules.cells = cells = memory.Memory(shape=width, depth=max(self._rows, 2), init=[],
                                                   attrs={"ram_style": "block"})
        write = cells.write_port()
        sweeping = self.sweep.valid
        m.d.comb += [
            write.en.eq(self.write_valid | sweeping),
            write.addr.eq(Mux(sweeping, self.sweep.row, self.write_row)),
            write.data.eq(Mux(sweeping, 0, Value.cast(self.write_value))),
        ]
        for row, value in zip(self.read_row, self.read_value):
            read = cells.read_port(transparent_for=(write,))
            m.d.comb += [
                read.addr.eq(row),
                Value.cast(value).eq(read.data),
            ]
        return m
