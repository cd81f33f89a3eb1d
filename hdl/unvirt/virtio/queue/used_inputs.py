# SPDX-License-Identifier: BSD-2-Clause
"""Used elements that wait to be written, and whose turn it is."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.fifo import Queue
from .contract import UsedElement

__all__ = ["BURST", "MARKS", "UsedInputs", "UsedPortSignature"]

BURST = 32
"""Most elements in one write."""

MARKS = 2
"""Who may want to know when what is here now was published."""


def UsedPortSignature(rows):
    """The elements of the input whose turn it is, as a writer sees them.

    ``waiting``: there is an ``element``; ``take`` removes it. ``begin``: a burst may begin, for a group is complete, or fills the queue.
    ``pass_on``: it is the next input's turn. ``done``: nothing that was taken before this cycle is left to be written.
    """
    return wiring.Signature({
        "element": In(UsedElement(rows)),
        "waiting": In(1),
        "begin": In(1),
        "take": Out(1),
        "pass_on": Out(1),
        "done": Out(1),
    })


class UsedInputs(wiring.Component):
    """One queue of ``BURST`` elements per input.

    The turn passes on when an input has nothing to begin with, or after the burst in which it has been given ``BURST // 2`` elements. A group of
    elements that must become visible together is not begun before it is complete, so that it holds up no other input, unless it fills its queue.

    Members
    -------
    elements : ``In(stream.Signature(UsedElement)).array(inputs)``
    port : ``In(UsedPortSignature)``
    crowded : ``Out(1)``
        An input has ``BURST // 4`` elements and more.
    empty : ``Out(1)``
        No input has an element.
    mark : ``In(2)``, passed : ``Out(2)``
        While a bit of ``mark``, that of ``passed``: every element that was here when it rose was written and published. One after the other.
    """

    def __init__(self, *, rows, inputs):
        self._rows = rows
        self._inputs = inputs
        super().__init__({
            "elements": In(stream.Signature(UsedElement(rows))).array(inputs),
            "port": In(UsedPortSignature(rows)),
            "crowded": Out(1),
            "empty": Out(1),
            "mark": In(MARKS),
            "passed": Out(MARKS),
        })

    def elaborate(self, platform):
        m = Module()
        turn = Signal(range(max(2, self._inputs)))
        queues, begins = [], []
        for number, source in enumerate(self.elements):
            m.submodules[f"queue{number}"] = queue = Queue(UsedElement(self._rows), BURST)
            connect(m, flipped(source), queue.i)
            groups = Signal(range(BURST + 1), name=f"groups{number}")
            ends_in = queue.i.valid & queue.i.ready & ~queue.i.payload.more
            ends_out = queue.o.valid & queue.o.ready & ~queue.o.payload.more
            m.d.sync += groups.eq(groups + ends_in - ends_out)
            queues.append(queue)
            begins.append((groups != 0) | (queue.level == BURST))
        with m.Switch(turn):
            for number, queue in enumerate(queues):
                with m.Case(number):
                    m.d.comb += [self.port.element.eq(queue.o.payload), self.port.waiting.eq(queue.o.valid),
                                 self.port.begin.eq(begins[number]), queue.o.ready.eq(self.port.take)]
        m.d.sync += self.crowded.eq(Cat(queue.level >= BURST // 4 for queue in queues).any())
        m.d.comb += self.empty.eq(~Cat(queue.o.valid for queue in queues).any())
        # Who begins keeps the mark until it falls.
        whose, mark, marked, passed = Signal(range(MARKS)), Signal(), Signal(), Signal()
        m.d.comb += [mark.eq(self.mark.bit_select(whose, 1)), self.passed.eq(passed << whose)]
        with m.If(~mark):
            m.d.sync += whose.eq(~whose)
        # What is ahead of the mark is taken, then its burst ends, then it is written.
        m.d.sync += marked.eq(mark)
        before = []
        for number, queue in enumerate(queues):
            ahead = Signal(range(BURST + 1), name=f"ahead{number}")
            get = queue.o.valid & queue.o.ready
            with m.If(~marked):
                m.d.sync += ahead.eq(queue.level + (queue.i.valid & queue.i.ready) - get)
            with m.Elif(get & (ahead != 0)):
                m.d.sync += ahead.eq(ahead - 1)
            before.append(ahead)
        gathered = Signal()
        m.d.sync += [
            gathered.eq(mark & marked & (gathered | (self.port.pass_on & (Cat(before) == 0)))),
            passed.eq(mark & marked & (passed | (gathered & self.port.done))),
        ]
        # An input with bursts of one element gets as many elements as one with long bursts.
        begins_again, served = Signal(), Signal(range(BURST + 1))
        m.d.comb += begins_again.eq(self.port.waiting & self.port.begin & (served < BURST // 2))
        with m.If(self.port.take & (served != BURST)):
            m.d.sync += served.eq(served + 1)
        with m.If(self.port.pass_on & ~begins_again):
            m.d.sync += [turn.eq(Mux(turn == self._inputs - 1, 0, turn + 1)), served.eq(0)]
        return m
