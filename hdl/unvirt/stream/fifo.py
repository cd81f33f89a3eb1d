# SPDX-License-Identifier: BSD-2-Clause
"""Stream FIFOs: ``Queue`` in distributed RAM, ``MemoryQueue`` in block RAM, and ``MemoryList``, which never says no."""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .ram import read_settled, settled_memory

__all__ = ["MemoryList", "MemoryQueue", "Queue"]


def _check_depth(depth, low):
    if not isinstance(depth, int) or isinstance(depth, bool):
        raise TypeError(f"Depth must be an integer, not {depth!r}")
    if depth < low:
        raise ValueError(f"Depth must be at least {low}, not {depth!r}")


def _advance(pointer, depth):
    """Return ``pointer + 1`` in a ring of ``depth`` entries."""
    if depth & (depth - 1) == 0:
        return (pointer + 1)[:len(pointer)]
    return Mux(pointer == depth - 1, 0, pointer + 1)


class _QueueBase(wiring.Component):
    def __init__(self, shape, depth, low):
        Shape.cast(shape)
        _check_depth(depth, low)
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    @property
    def shape(self):
        return self._shape

    @property
    def depth(self):
        return self._depth


class Queue(_QueueBase):
    """First-word-fall-through FIFO in distributed RAM, for small depths.

    Latency one cycle, one beat per cycle even when full or of depth 2; a depth of 1 gives one beat
    in two cycles. No combinational path between ``i`` and ``o``; ``o.payload`` is the output of an
    asynchronous memory read. Reset empties it; memory contents never show.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Entries, at least 1; not necessarily a power of two.

    Members
    -------
    i, o : ``In``/``Out(stream.Signature(shape))``
        Beats in, and the same beats in order.
    level : ``Out(range(depth + 1))``
        Entries held.
    """

    def __init__(self, shape, depth):
        super().__init__(shape, depth, 1)

    def elaborate(self, platform):
        m = Module()
        depth = self._depth
        # A single entry still gets a two-row memory: no zero-width address.
        m.submodules.cells = cells = memory.Memory(shape=self._shape, depth=max(2, depth), init=[],
                                                   attrs={"ram_style": "distributed"})
        write = cells.write_port()
        read = cells.read_port(domain="comb")

        produce = Signal(range(max(2, depth)))
        consume = Signal(range(max(2, depth)))
        put, get = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(self.level != depth),
            self.o.valid.eq(self.level != 0),
            put.eq(self.i.valid & self.i.ready),
            get.eq(self.o.valid & self.o.ready),
            write.addr.eq(produce),
            write.data.eq(self.i.payload),
            write.en.eq(put),
            read.addr.eq(consume),
            self.o.payload.eq(read.data),
        ]
        if depth > 1:
            with m.If(put):
                m.d.sync += produce.eq(_advance(produce, depth))
            with m.If(get):
                m.d.sync += consume.eq(_advance(consume, depth))
        m.d.sync += self.level.eq(self.level + put - get)
        return m


class MemoryList(wiring.Component):
    """First-word-fall-through FIFO in block RAM for what can never be more than its depth: it takes every beat.

    Latency two cycles, one beat per cycle. No combinational path between ``i`` and ``o``;
    ``o.payload`` is the output latch of the memory. Reset empties it.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Most entries that there are at a time, at least 2; not necessarily a power of two.

    Members
    -------
    i, o : ``In``/``Out(stream.Signature(shape))``
        Beats in, never refused, and the same beats in order.
    empty : ``Out(1)``
        There is none.
    """

    def __init__(self, shape, depth):
        Shape.cast(shape)
        _check_depth(depth, 2)
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape, always_ready=True)),
            "o": Out(stream.Signature(shape)),
            "empty": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # A power of two, so that the pointers wrap by themselves. With a word at the output the memory is never full, and without one it holds
        # the word that came in the cycle before at most: the pointers are equal only if there is nothing in it.
        address_bits = (self._depth - 1).bit_length()
        m.submodules.cells = cells = settled_memory(self._shape, 1 << address_bits)
        write = cells.write_port()

        produce = Signal(address_bits)
        consume = Signal(address_bits)
        left = Signal()
        load = Signal()
        m.d.comb += [
            left.eq(produce != consume),
            self.empty.eq(~left & ~self.o.valid),
            load.eq(left & (self.o.ready | ~self.o.valid)),
            write.addr.eq(produce),
            write.data.eq(self.i.payload),
            write.en.eq(self.i.valid),
        ]
        # What is written is never what is being read.
        read = read_settled(m, cells, enable=load)
        m.d.comb += [read.addr.eq(consume), self.o.payload.eq(read.data)]
        m.d.sync += produce.eq(produce + self.i.valid)
        with m.If(load):
            m.d.sync += [consume.eq(consume + 1), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class MemoryQueue(_QueueBase):
    """First-word-fall-through FIFO in block RAM, for large depths: a :class:`MemoryList` that counts.

    Latency two cycles, one beat per cycle. No combinational path between ``i`` and ``o``;
    ``o.payload`` is the output latch of the memory. Reset empties it.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Entries, at least 2; not necessarily a power of two.

    Members
    -------
    i, o : ``In``/``Out(stream.Signature(shape))``
        Beats in, and the same beats in order.
    level : ``Out(range(depth + 1))``
        Entries held, the one at the output included.
    """

    def __init__(self, shape, depth):
        super().__init__(shape, depth, 2)

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = MemoryList(self._shape, self._depth)
        wiring.connect(m, words.o, wiring.flipped(self.o))
        m.d.comb += [
            self.i.ready.eq(self.level != self._depth),
            words.i.payload.eq(self.i.payload),
            words.i.valid.eq(self.i.valid & self.i.ready),
        ]
        m.d.sync += self.level.eq(self.level + words.i.valid - (self.o.valid & self.o.ready))
        return m
