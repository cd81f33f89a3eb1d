# SPDX-License-Identifier: BSD-2-Clause
"""Chains that wait to be walked."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ...stream.fifo import Queue
from ...stream.ram import read_settled, settled_memory
from ..contract import row_width
from .descriptors import Descriptor
from .walk_admission import Shortage

__all__ = ["WaitingChain", "WaitingChains"]


class WaitingChain(data.StructLayout):
    """A chain of which only the head was read."""

    def __init__(self, rows):
        super().__init__({"descriptor": Descriptor, "row": row_width(rows), "position": 16})


class WaitingChains(wiring.Component):
    """Two lists of chains, those of source rows and those of sink rows, taken from in turn.

    What a list holds is slots, and it has a place for every slot: putting one in is never refused. The rest is in a memory by slot.

    Parameters
    ----------
    rows, slots, groups : int

    Members
    -------
    note_valid, note_slot, note : ``In``
        What is known of the chain in a slot.
    put, put_slot, put_sink : ``In``
        To the end of its list.
    gave_up, short : ``In(1)``, ``In(Shortage)``
        With ``put``: its walk did, and why.
    valid : ``Out(1)``
        A chain waits.
    take : ``In(1)``
        Take one. Its ``slot`` is there in the next cycle, ``chain`` and ``shortage``, of when it last gave up, in the one after that, until the next
        is taken.
    """

    def __init__(self, *, rows, slots, groups):
        self._rows = rows
        self._slots = slots
        self._groups = groups
        super().__init__({
            "note_valid": In(1),
            "note_slot": In(range(slots)),
            "note": In(WaitingChain(rows)),
            "put": In(1),
            "put_slot": In(range(slots)),
            "put_sink": In(1),
            "gave_up": In(1),
            "short": In(Shortage(groups)),
            "valid": Out(1),
            "take": In(1),
            "slot": Out(range(slots)),
            "chain": Out(WaitingChain(rows)),
            "shortage": Out(Shortage(groups)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.source = source = Queue(range(self._slots), self._slots)
        m.submodules.sink = sink = Queue(range(self._slots), self._slots)
        # What is read was written before its slot was put into a list.
        m.submodules.notes = notes = settled_memory(WaitingChain(self._rows), self._slots, block=False)
        write, read = notes.write_port(), read_settled(m, notes)
        m.submodules.shortages = shortages = settled_memory(Shortage(self._groups), self._slots, block=False)
        write_short, read_short = shortages.write_port(), read_settled(m, shortages)
        turn, take_sink = Signal(), Signal()
        m.d.comb += [
            self.valid.eq(source.o.valid | sink.o.valid),
            take_sink.eq(sink.o.valid & (turn | ~source.o.valid)),
            sink.o.ready.eq(self.take & take_sink),
            source.o.ready.eq(self.take & ~take_sink),
            write.addr.eq(self.note_slot),
            write.data.eq(self.note),
            write.en.eq(self.note_valid),
            read.addr.eq(self.slot),
            self.chain.eq(read.data),
            # A chain is noted before its first walk, and no other can give up in the same cycle.
            write_short.addr.eq(Mux(self.gave_up, self.put_slot, self.note_slot)),
            write_short.data.eq(Mux(self.gave_up, self.short.as_value(), 0)),
            write_short.en.eq(self.gave_up | self.note_valid),
            read_short.addr.eq(self.slot),
            self.shortage.eq(read_short.data),
        ]
        with m.If(self.take):
            m.d.sync += [self.slot.eq(Mux(take_sink, sink.o.payload, source.o.payload)), turn.eq(~take_sink)]
        for queue, mine in ((source, ~self.put_sink), (sink, self.put_sink)):
            m.d.comb += [queue.i.payload.eq(self.put_slot), queue.i.valid.eq(self.put & mine)]
        return m
