# SPDX-License-Identifier: BSD-2-Clause
"""A pool of tokens."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .fifo import MemoryQueue, Queue

__all__ = ["FreeList"]


class FreeList(wiring.Component):
    """Hands out the tokens 0 to ``depth - 1`` and takes them back in any order.

    The pool is full right after reset: tokens not yet used come from a counter, returned ones from
    a FIFO, so memory contents at power-up do not matter. One token out and one in per cycle. A
    returned token can be taken one cycle later, from 256 tokens on two cycles later; ``count``
    rises after one, hence ``alloc`` may wait a cycle with ``count`` not zero.

    Parameters
    ----------
    depth : int
        Number of tokens, at least 1.

    Members
    -------
    alloc : ``Out(stream.Signature(range(depth)))``
        A free token.
    free : ``In(stream.Signature(range(depth)))``
        A token going back; always ready. Returning one that is not out breaks the pool.
    count : ``Out(range(depth + 1))``
        Tokens in the pool.
    """

    def __init__(self, depth):
        if not isinstance(depth, int) or isinstance(depth, bool):
            raise TypeError(f"Depth must be an integer, not {depth!r}")
        if depth < 1:
            raise ValueError(f"Depth must be at least 1, not {depth!r}")
        self._depth = depth
        # A one-token pool still has a one-bit token, so that ports are never zero bits wide.
        token = range(max(2, depth))
        super().__init__({
            "alloc": Out(stream.Signature(token)),
            "free": In(stream.Signature(token)),
            "count": Out(range(depth + 1), init=depth),
        })

    @property
    def depth(self):
        return self._depth

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        kind = Queue if depth < 256 else MemoryQueue
        m.submodules.returned = returned = kind(range(max(2, depth)), depth)

        fresh = Signal(range(max(2, depth)))
        fresh_left = Signal(init=1)
        taken, given = Signal(), Signal()
        m.d.comb += [
            self.alloc.valid.eq(fresh_left | returned.o.valid),
            self.alloc.payload.eq(Mux(fresh_left, fresh, returned.o.payload)),
            returned.o.ready.eq(self.alloc.ready & ~fresh_left),
            returned.i.payload.eq(self.free.payload),
            returned.i.valid.eq(self.free.valid),
            self.free.ready.eq(1),
            taken.eq(self.alloc.valid & self.alloc.ready),
            given.eq(self.free.valid),
        ]
        with m.If(fresh_left & self.alloc.ready):
            m.d.sync += fresh.eq(fresh + 1)
            with m.If(fresh == depth - 1):
                m.d.sync += fresh_left.eq(0)
        m.d.sync += self.count.eq(self.count - taken + given)
        return m
