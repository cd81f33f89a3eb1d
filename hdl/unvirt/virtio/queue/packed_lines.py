# SPDX-License-Identifier: BSD-2-Clause
"""Lines of packed rings that have arrived, found again by row and number."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .reads import LineAnswer
from .rows import RowFlags

__all__ = ["ArrivedLine", "LineTable", "lines_of"]


def lines_of(contexts):
    """Return how many numbers of lines a row has, of which one less may be under way: as many as may be read for one row, at least 16."""
    return max(16, contexts // 4)


class ArrivedLine(data.StructLayout):
    """Where the bytes of a line wait."""

    def __init__(self, contexts):
        super().__init__({"context": range(contexts), "count": 4, "error": 1})


class LineTable(wiring.Component):
    """Gives lines their order back: they are read ahead, and arrive as the completions do.

    An answer is entered under its row and number (the low bits of its ``position``), and its row is kicked. Whoever serves the row asks for the
    number that is next: a line that is late holds up its own row only. One answer and one look-up per cycle; a look-up presented in the cycle
    after an answer sees it.

    Parameters
    ----------
    rows, contexts : int

    Members
    -------
    answers : ``In(stream.Signature(LineAnswer))``
    kicks : ``Out(stream.Signature(row))``
        One per answer, in the same cycle.
    row, number : ``In``
        Line to look for.
    here, line : ``Out(1)``, ``Out(ArrivedLine)``
        Whether it has arrived, and it, one cycle later.
    take : ``In(1)``
        The line shown is taken.
    """

    def __init__(self, *, rows, contexts):
        self._rows = rows
        self._contexts = contexts
        width = row_width(rows)
        super().__init__({
            "answers": In(stream.Signature(LineAnswer(rows, contexts))),
            "kicks": Out(stream.Signature(width)),
            "row": In(width),
            "number": In(range(lines_of(contexts))),
            "here": Out(1),
            "line": Out(ArrivedLine(contexts)),
            "take": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        places = self._rows * lines_of(self._contexts)
        m.submodules.arrived = arrived = RowFlags(rows=places)
        m.submodules.table = table = memory.Memory(shape=ArrivedLine(self._contexts).size, depth=places, init=[], attrs={"ram_style": "block"})
        write = table.write_port()
        read = table.read_port()
        answer = self.answers.payload
        m.d.comb += [
            self.answers.ready.eq(self.kicks.ready & arrived.ready),
            self.kicks.valid.eq(self.answers.valid & arrived.ready),
            self.kicks.payload.eq(answer.row),
            write.addr.eq(Cat(answer.position[:len(self.number)], answer.row)),
            write.data.eq(Cat(answer.context, answer.count[:4], answer.error)),
            write.en.eq(self.answers.valid & self.answers.ready),
            arrived.set_valid.eq(write.en),
            arrived.set_row.eq(write.addr),
            read.addr.eq(Cat(self.number, self.row)),
            self.line.as_value().eq(read.data),
            arrived.test_row.eq(read.addr),
            self.here.eq(arrived.test_value),
            arrived.clear.eq(self.take),
        ]
        return m
