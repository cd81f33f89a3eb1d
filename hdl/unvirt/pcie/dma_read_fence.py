# SPDX-License-Identifier: BSD-2-Clause
"""Reads that wait for writes, aside of those that do not."""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.fifo import Queue
from ..stream.ring import wrap_sub
from .dma import ReadPiece

__all__ = ["ReadFence"]


class ReadFence(wiring.Component):
    """Holds each piece with ``fence`` until the write commands accepted before it are numbered; the others pass it by.

    ::

        i --+--------------------------> o
            +--> queue, marks --> open --+

    Latency none without a fence, two cycles with one that is satisfied already. One piece per cycle. Pieces with a fence leave in their order,
    before what comes then; those without one in theirs. With ``depth`` pieces here the next one with a fence keeps back all that come behind it.
    Combinational paths from ``i`` to ``o``, from ``i.payload.fence`` and ``o.ready`` to ``i.ready``. With ``refuse`` pieces wait for nothing.
    Reset empties it.

    Parameters
    ----------
    handle_width, buffer_width : int
        As in the client's signature.
    depth : int
        Pieces that wait at most, a power of two of at least 2.

    Members
    -------
    i, o : ``In``/``Out(stream.Signature(ReadPiece))``
    writes_accepted, writes_numbered : ``In(8)``
        State of the posted writes, see :class:`~unvirt.pcie.dma_write.DmaWrite`. At most 127 lie between the two.
    refuse : ``In(1)``
    empty : ``Out(1)``
    """

    def __init__(self, *, handle_width, buffer_width, depth):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"Depth must be a power of two of at least 2, not {depth}")
        self._shape = ReadPiece(handle_width, buffer_width)
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(self._shape)),
            "o": Out(stream.Signature(self._shape)),
            "writes_accepted": In(8),
            "writes_numbered": In(8),
            "refuse": In(1),
            "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        m.submodules.queue = queue = Queue(self._shape, depth)
        m.submodules.marks = marks = memory.Memory(shape=8, depth=depth, init=[], attrs={"ram_style": "distributed"})
        write, mark = marks.write_port(), marks.read_port(domain="comb")

        # Marks are compared one by one in the order in which they came, each for as long as it is not reached: as the next one is not less, it
        # is compared before the writes can have gone on by half of the numbers. How long an open piece waits then does not matter.
        closed, opens = Signal(range(depth + 1)), Signal()
        put, get = Signal(), Signal()
        is_open, still_open = Signal(range(depth + 1)), Signal(range(depth + 1))
        shown = Signal()          # an open one is at the output, where nothing changes until it is taken
        fenced = self.i.payload.fence
        m.d.comb += [
            queue.i.valid.eq(self.i.valid & fenced),
            queue.i.payload.eq(self.i.payload),
            queue.o.ready.eq(self.o.ready & shown),
            put.eq(queue.i.valid & queue.i.ready),
            get.eq(queue.o.valid & queue.o.ready),
            write.en.eq(put),
            write.data.eq(self.writes_accepted),
            opens.eq((closed != 0) & (self.refuse | ~wrap_sub(self.writes_numbered, mark.data)[7])),

            still_open.eq(is_open + opens - get),
            self.o.valid.eq(shown | (self.i.valid & ~fenced)),
            self.o.payload.eq(Mux(shown, queue.o.payload, self.i.payload)),
            self.i.ready.eq(Mux(fenced, queue.i.ready, self.o.ready & ~shown)),
            self.empty.eq(~queue.o.valid),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + put),
            mark.addr.eq(mark.addr + opens),
            closed.eq(closed + put - opens),
            is_open.eq(still_open),
        ]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += shown.eq(still_open != 0)
        return m
