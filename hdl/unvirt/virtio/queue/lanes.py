# SPDX-License-Identifier: BSD-2-Clause
"""Buffer memory made of byte lanes, and the pool of granules it is handed out in."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import LaneWriteSignature
from ...stream.ram import read_settled, settled_memory

__all__ = ["LaneMemory", "GranulePool", "GranuleChain"]


class LaneMemory(wiring.Component):
    """Byte lanes of block RAM with one write port of two word addresses and one read port.

    A rotated beat may straddle two words: each lane writes at the low or the high address. Reads are
    synchronous: ``read_word`` of one cycle gives ``read_data`` in the next, undefined where a lane is written meanwhile.

    Parameters
    ----------
    data_width : int
        Bits of a word, eight per lane.
    size : int
        Bytes, a power of two.
    """

    def __init__(self, *, data_width, size):
        self._data_width = data_width
        self._size = size
        lanes = data_width // 8
        buffer_width = (size - 1).bit_length()
        super().__init__({
            "write": In(LaneWriteSignature(data_width, buffer_width)),
            "read_word": In(buffer_width - (lanes - 1).bit_length()),
            "read_data": Out(data_width),
        })

    def elaborate(self, platform):
        m = Module()
        for lane in range(self._data_width // 8):
            m.submodules[f"lane{lane}"] = cells = settled_memory(8, self._size * 8 // self._data_width)
            write, read = cells.write_port(), read_settled(m, cells)
            m.d.comb += [
                write.addr.eq(Mux(self.write.high[lane],
                                  self.write.address_high, self.write.address_low)),
                write.data.eq(self.write.data.word_select(lane, 8)),
                write.en.eq(self.write.enable[lane]),
                read.addr.eq(self.read_word),
                self.read_data.word_select(lane, 8).eq(read.data),
            ]
        return m


class GranuleChain(data.StructLayout):
    """A linked run of granules going back to the pool."""

    def __init__(self, granules):
        super().__init__({
            "first": range(granules), "last": range(granules), "count": range(granules + 1),
        })


class GranulePool(wiring.Component):
    """Free granules of a buffer as one linked list.

    Granules taken one after the other by one packet are linked to each other already: the list they form is
    followed through ``next_of``. Taking costs one cycle a granule, giving a whole chain back one cycle.
    A packet must find ``count`` at least what it needs before it takes its first granule.

    Members
    -------
    head : ``Out``
        The granule that ``take`` removes.
    take : ``In(1)``
        Remove ``head``; only with ``count`` not zero.
    count : ``Out``
        Granules in the pool; zero until the sweep after reset has linked them.
    free : ``In(stream.Signature(GranuleChain))``
        Always ready after the sweep.
    next_of, next : ``In``/``Out`` arrays
        Combinational look-ups of a successor.
    """

    def __init__(self, *, granules, lookups):
        self._granules = granules
        self._lookups = lookups
        index = range(granules)
        super().__init__({
            "head": Out(index),
            "take": In(1),
            "count": Out(range(granules + 1)),
            "free": In(stream.Signature(GranuleChain(granules))),
            "next_of": In(index).array(lookups),
            "next": Out(index).array(lookups),
            "at_rest": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.links = links = memory.Memory(shape=range(self._granules),
                                                   depth=self._granules, init=[])
        write = links.write_port()
        follow = links.read_port(domain="comb")
        for of, successor in zip(self.next_of, self.next):
            read = links.read_port(domain="comb")
            m.d.comb += [read.addr.eq(of), successor.eq(read.data)]

        tail = Signal(range(self._granules))
        swept = Signal(range(self._granules + 1))
        ready = Signal()
        freeing = Signal()
        free = self.free.payload
        m.d.comb += [
            ready.eq(swept == self._granules),
            self.free.ready.eq(ready),
            freeing.eq(self.free.valid & ready),
            follow.addr.eq(self.head),
            write.addr.eq(Mux(ready, tail, swept)),
            write.data.eq(Mux(ready, free.first, swept + 1)),
            write.en.eq(freeing | ~ready),
            self.at_rest.eq(self.count == self._granules),
        ]
        with m.If(~ready):
            m.d.sync += [
                swept.eq(swept + 1),
                tail.eq(self._granules - 1),
                self.head.eq(0),
                self.count.eq(Mux(swept == self._granules - 1, self._granules, 0)),
            ]
        with m.Else():
            m.d.sync += self.count.eq(self.count + Mux(freeing, free.count, 0) - self.take)
            with m.If(self.take):
                m.d.sync += self.head.eq(follow.data)
            with m.If(freeing):
                m.d.sync += tail.eq(free.last)
                # The list has run out: its last link points nowhere, the chain becomes the list.
                with m.If(self.count == self.take):
                    m.d.sync += self.head.eq(free.first)
        return m


