# SPDX-License-Identifier: BSD-2-Clause
"""A list of the virtqueue rows that want service, each at most once.

    kicks -+-> [queued?] ---> FIFO of row numbers -+-> visits
           |      ^------------- cleared ----------+
           +--> next, if no row waits -------------'
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .rows import RowFlags, RowList

__all__ = ["Scheduler"]


class Scheduler(wiring.Component):
    """Round robin of the rows that were kicked.

    A kick of a row that already waits is merged with the first, one of a row being served queues it again; so a kick is never lost and
    never doubled, and the FIFO, as deep as the rows, never overflows. A kick in the very cycle of the row's visit is merged with that visit:
    whoever serves the visit looks at the state only afterwards. A row that is kicked while none waits is next, without being queued.

    Latency kick to visit: one cycle if no row waits; otherwise two at least, with more than 16 rows three. One visit and one kick per cycle.
    Input 0 of ``kicks`` never waits once ``ready`` is high; the others wait while a lower-numbered one is kicking. Rows kicked during the
    sweep after reset are not accepted.

    Parameters
    ----------
    rows : int
        Number of rows, a power of two.
    kicks : int
        Number of kick inputs.

    Members
    -------
    kicks : ``In(stream.Signature(row)).array(kicks)``
        Rows that want service.
    visits : ``Out(stream.Signature(row))``
        Rows to serve, oldest first.
    """

    def __init__(self, *, rows, kicks):
        self._rows = rows
        self._kicks = kicks
        width = row_width(rows)
        super().__init__({
            "kicks": In(stream.Signature(width)).array(kicks),
            "visits": Out(stream.Signature(width)),
        })

    @property
    def rows(self):
        return self._rows

    def elaborate(self, platform):
        m = Module()
        m.submodules.queued = queued = RowFlags(rows=self._rows, news=True)
        m.submodules.fifo = fifo = RowList(rows=self._rows)

        row = Signal(row_width(self._rows))
        kicked = Signal()
        taken = Const(0)
        for kick in self.kicks:
            m.d.comb += kick.ready.eq(queued.ready & ~taken)
            taken = taken | kick.valid
        # With no kick it is any row: one condition less for every bit of a row number.
        chosen = self.kicks[-1].payload
        for kick in reversed(self.kicks[:-1]):
            chosen = Mux(kick.valid, kick.payload, chosen)
        m.d.comb += row.eq(chosen)
        m.d.comb += kicked.eq(taken & queued.ready)

        next_valid = Signal()
        next_row = Signal(row_width(self._rows), reset_less=True)
        alone = Signal()               # no row waits
        listed = Signal()              # one is on its way to the FIFO, unless it is there
        visited = Signal()
        m.d.comb += alone.eq(~next_valid & ~listed & fifo.empty)
        with m.If(self.visits.ready):
            m.d.sync += next_valid.eq(0)
        with m.If(alone):
            m.d.sync += [next_valid.eq(kicked), next_row.eq(row)]
        m.d.sync += [fifo.i.payload.eq(row), listed.eq(queued.set_valid), visited.eq(fifo.o.valid & fifo.o.ready)]
        m.d.comb += [
            queued.set_valid.eq(kicked & ~alone & ~(next_valid & (row == next_row))),
            queued.set_row.eq(row),
            fifo.i.valid.eq(queued.set_new),
            self.visits.payload.eq(Mux(next_valid, next_row, fifo.o.payload)),
            self.visits.valid.eq(next_valid | fifo.o.valid),
            fifo.o.ready.eq(self.visits.ready & ~next_valid),
            queued.test_row.eq(fifo.o.payload),
            queued.clear.eq(visited),
        ]
        return m
