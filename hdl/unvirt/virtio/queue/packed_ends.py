# SPDX-License-Identifier: BSD-2-Clause
"""Where chains of packed rings end, as the walker finds out."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .contract import CHAIN_LENGTH_WIDTH
from .rows import RowFlags, RowMemory, Sweep, connect_sweep

__all__ = ["ChainEnd", "ChainEnds", "RowChainEnd"]


class ChainEnd(data.Struct):
    """The chain at ``position`` was walked; it takes ``length`` slots of the packed ring."""

    position: 16
    length:   CHAIN_LENGTH_WIDTH


class RowChainEnd(data.StructLayout):
    """A :class:`ChainEnd` of a row."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "end": ChainEnd})


class ChainEnds(wiring.Component):
    """Keeps the last end of each row until the available side looks at it.

    Never waits for the available side, which waits itself for what the walker does. One end and one look-up per cycle.

    Members
    -------
    ends : ``In(stream.Signature(RowChainEnd))``
    kicks : ``Out(stream.Signature(row))``
        One per end, in the same cycle.
    row : ``In``
        Row to look up.
    here, end : ``Out(1)``, ``Out(ChainEnd)``
        Whether a chain of it has ended since ``take``, and which, one cycle later.
    take : ``In(1)``
        The end shown was looked at.
    sweep : ``In``
    """

    def __init__(self, *, rows):
        self._rows = rows
        width = row_width(rows)
        super().__init__({
            "ends": In(stream.Signature(RowChainEnd(rows))),
            "kicks": Out(stream.Signature(width)),
            "row": In(width),
            "here": Out(1),
            "end": Out(ChainEnd),
            "take": In(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fresh = fresh = RowFlags(rows=self._rows)
        m.submodules.newest = newest = RowMemory(ChainEnd, rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (newest,))
        found = self.ends.payload
        m.d.comb += [
            self.ends.ready.eq(self.kicks.ready),
            self.kicks.valid.eq(self.ends.valid),
            self.kicks.payload.eq(found.row),
            newest.write_valid.eq(self.ends.valid & self.ends.ready),
            newest.write_row.eq(found.row),
            newest.write_value.eq(found.end),
            newest.read_row[0].eq(self.row),
            self.end.eq(newest.read_value[0]),
            fresh.set_valid.eq(newest.write_valid),
            fresh.set_row.eq(found.row),
            fresh.test_row.eq(self.row),
            self.here.eq(fresh.test_value),
            fresh.clear.eq(self.take),
        ]
        return m
