# SPDX-License-Identifier: BSD-2-Clause
"""The available side of packed rings.

    visits -> controller -> reads of lines
      ^         | jobs ^ results
      |         v      |
      |        heads --+--> chains, items <---> descriptor reader, walker
      |         ^ lines in ring order
      +-- line table <- lines as they arrive
      +-- chain ends <- walker
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.fifo import Queue
from ..contract import row_width
from .descriptors import DescriptorItem
from .packed import PackedController
from .packed_ends import ChainEnds, RowChainEnd
from .packed_heads import PackedHeads, PackedJob, PackedResult
from .packed_lines import LineTable
from .reads import LineAnswer
from .ring_side import RingSideSignature
from .rows import connect_sweep

__all__ = ["PackedSide"]

_JOBS = 4
"""Lines that wait to be looked at, beside the one at hand."""


class PackedSide(wiring.Component):
    """From doorbells to chains [virtio 2.8].

    Members
    -------
    side : ``Out(RingSideSignature)``
    context_free, contexts_free : ``In(1)``
        A read would be taken at once; and some others after it.
    kicks : ``Out(stream.Signature(row)).array(2)``
        Rows to visit: a line arrived, a chain ended.
    answers : ``In(stream.Signature(LineAnswer))``
        Lines as they arrive.
    lines : ``Out(stream.Signature(LineAnswer))``
        To the descriptor reader.
    found, skip_found, items, skip :
        From the descriptor reader to the walker, see :class:`~unvirt.virtio.queue.packed_heads.PackedHeads`.
    ends : ``In(stream.Signature(RowChainEnd))``
        From the walker.
    """

    def __init__(self, *, data_width, rows, contexts, slots, window):
        self._data_width = data_width
        self._rows = rows
        self._contexts = contexts
        self._slots = slots
        self._window = window
        item = stream.Signature(DescriptorItem(rows, contexts))
        line = stream.Signature(LineAnswer(rows, contexts))
        super().__init__({
            "side": Out(RingSideSignature(data_width, rows, slots)),
            "context_free": In(1),
            "contexts_free": In(1),
            "kicks": Out(stream.Signature(row_width(rows))).array(2),
            "answers": In(line),
            "lines": Out(line),
            "found": In(item),
            "skip_found": Out(1),
            "items": Out(item),
            "skip": In(1),
            "ends": In(stream.Signature(RowChainEnd(rows))),
        })

    def elaborate(self, platform):
        m = Module()
        rows, contexts = self._rows, self._contexts
        m.submodules.controller = controller = PackedController(
            data_width=self._data_width, rows=rows, contexts=contexts, slots=self._slots, window=self._window)
        m.submodules.heads = heads = PackedHeads(rows=rows, contexts=contexts)
        m.submodules.table = table = LineTable(rows=rows, contexts=contexts)
        m.submodules.chain_ends = chain_ends = ChainEnds(rows=rows)
        m.submodules.jobs = jobs = Queue(PackedJob(rows, contexts), _JOBS)
        # A place for the result of each job there can be (two of them in `heads`): the controller waits for a place in `jobs`, never the other way
        # round.
        m.submodules.results = results = Queue(PackedResult(rows), _JOBS + 3)
        side = self.side
        connect(m, flipped(side.visits), controller.visits)
        connect(m, controller.again, flipped(side.again))
        connect(m, controller.flags, flipped(side.flags))
        connect(m, controller.config, flipped(side.config))
        connect(m, controller.reads, flipped(side.reads))
        connect_sweep(m, side.sweep, (controller, chain_ends))
        connect(m, controller.jobs, jobs.i)
        connect(m, jobs.o, heads.jobs)
        connect(m, heads.results, results.i)
        connect(m, results.o, controller.results)
        connect(m, heads.chains, flipped(side.chains))
        connect(m, heads.lines, flipped(self.lines))
        connect(m, flipped(self.found), heads.found)
        connect(m, heads.items, flipped(self.items))
        connect(m, flipped(self.answers), table.answers)
        connect(m, table.kicks, flipped(self.kicks[0]))
        connect(m, flipped(self.ends), chain_ends.ends)
        connect(m, chain_ends.kicks, flipped(self.kicks[1]))

        m.d.comb += [
            controller.event_idx.eq(side.event_idx),
            controller.turn.eq(side.turn),
            controller.others.eq(side.others),
            controller.drain.eq(side.drain),
            controller.hold.eq(side.hold),
            heads.drain.eq(side.drain),
            controller.row_drain.eq(side.row_drain),
            heads.row_drain.eq(side.row_drain),
            side.row_clean.eq(controller.row_clean),
            side.rung_row.eq(controller.rung_row),
            controller.rung.eq(side.rung),
            side.rung_clear.eq(controller.rung_clear),
            side.retired_row.eq(controller.retired_row),
            controller.retired.eq(side.retired),
            controller.coming_row.eq(side.coming_row),
            side.coming.eq(controller.coming),
            controller.free_slots.eq(side.free_slots),
            controller.unused.eq(heads.unused),
            controller.added.eq(heads.chains.valid & heads.chains.ready),
            side.room_row.eq(controller.room_row),
            controller.room.eq(side.room),
            controller.context_free.eq(self.context_free),
            controller.contexts_free.eq(self.contexts_free),
            table.row.eq(controller.line_row),
            table.number.eq(controller.line_number),
            controller.line_here.eq(table.here),
            controller.line.eq(table.line),
            table.take.eq(controller.line_take),
            chain_ends.row.eq(controller.line_row),
            controller.end_here.eq(chain_ends.here),
            controller.end.eq(chain_ends.end),
            chain_ends.take.eq(controller.end_take),
            heads.skip.eq(self.skip),
            self.skip_found.eq(heads.skip_found),
            side.violation.eq(heads.violation),
            side.idle.eq(controller.idle & heads.idle & ~jobs.o.valid & ~results.o.valid),
        ]
        return m
