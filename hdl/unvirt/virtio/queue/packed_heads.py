# SPDX-License-Identifier: BSD-2-Clause
"""Finds the chains in the lines of a packed ring [virtio 2.8].

    jobs --> lines --> descriptor reader --> items --> head? --> walker
                                                        |------> chain store
                                                        v
                                                     results
"""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .chains import ChainAdd
from .contract import RowDrain
from .descriptors import DescriptorItem
from .packed_lines import ArrivedLine
from .reads import LineAnswer

__all__ = ["LineEnd", "PackedHeads", "PackedJob", "PackedResult"]


class LineEnd(enum.Enum, shape=2):
    """Why no more of a line was looked at."""

    DONE = 0          # every descriptor belongs to a chain
    EMPTY = 1         # a descriptor is not available
    OPEN = 2          # where the last chain ends is not known yet
    DROPPED = 3       # it was not wanted


class PackedJob(data.StructLayout):
    """A line to look at, and where in the ring it lies; ``drop``: it only goes back."""

    def __init__(self, rows, contexts):
        super().__init__({
            "row": row_width(rows),
            "line": ArrivedLine(contexts),
            "drop": 1,
            "slot": 15,                  # of the first descriptor
            "lap": 1,                    # complement of the wrap counter there
            "size": 16,                  # of the ring
            "block": 2,                  # number of the ring's first descriptor in its 64-byte block
            "position": 16,              # of the first chain
        })


class PackedResult(data.StructLayout):
    """What was found in a line: ``descriptors`` from its start that belong to whole chains, and ``chains``, an open one among them."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "end": LineEnd, "descriptors": 4, "chains": 4})


class PackedHeads(wiring.Component):
    """Turns available descriptors into chains, in ring order.

    A descriptor is available if its AVAIL flag equals the wrap counter and USED does not [virtio 2.8.1]. Each head becomes a chain of the store,
    then goes to the walker, which reads the rest of a longer chain anew: now that the head was seen, all of it is there. Only the 64-byte block
    that shows the head available is trusted meanwhile, and only to find the next head: if the chain does not end in it, the line ends as ``OPEN``,
    and where the next chain begins is told by the walker. Descriptors of walks pass through.

    **Latency**: a job asks for its line in the same cycle, also while the one before is looked at; one cycle from an item to the walker.
    **Throughput**: one cycle a descriptor, a head as long as the walker takes for the one before. **Ordering**: one line after the other.

    While ``drain``, of a row that is reset and for a job with ``drop``, the line goes back unread. A failed read of a line that was wanted is a
    violation.

    Parameters
    ----------
    rows, contexts : int

    Members
    -------
    jobs : ``In(stream.Signature(PackedJob))``
    results : ``Out(stream.Signature(PackedResult))``
    lines : ``Out(stream.Signature(LineAnswer))``
        To the descriptor reader.
    found, skip_found : ``In``/``Out``
        Items of the descriptor reader and its ``skip``.
    items, skip : ``Out``/``In``
        Items to the walker: ``next`` is the slot of the following descriptor in a head with NEXT, otherwise the buffer id.
    chains : ``Out(stream.Signature(ChainAdd))``
    unused : ``Out(7)``
        Reserved slots given back in this cycle.
    drain : ``In(1)``
    violation, idle : ``Out(1)``
    """

    def __init__(self, *, rows, contexts):
        self._rows = rows
        self._contexts = contexts
        item = DescriptorItem(rows, contexts)
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "jobs": In(stream.Signature(PackedJob(rows, contexts))),
            "results": Out(stream.Signature(PackedResult(rows))),
            "lines": Out(stream.Signature(LineAnswer(rows, contexts))),
            "found": In(stream.Signature(item)),
            "skip_found": Out(1),
            "items": Out(stream.Signature(item)),
            "skip": In(1),
            "chains": Out(stream.Signature(ChainAdd(rows))),
            "unused": Out(7),
            "violation": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        job = Signal(PackedJob(self._rows, self._contexts))
        # The job that is next, its line being read already.
        coming, coming_valid, begins = Signal.like(job), Signal(), Signal()
        seen = Signal(4)                       # descriptors behind us
        whole = Signal(4)                      # of them in chains whose end was seen
        chains = Signal(4)
        within = Signal()                      # the descriptor at hand continues a chain
        end = Signal(LineEnd)

        found, flags = self.found.payload, self.found.payload.descriptor.flags
        slot = Signal(15)
        following = Signal(15)
        leave = Signal()                       # the descriptor at hand ends the line
        m.d.comb += [
            slot.eq(job.slot + seen),
            following.eq(Mux(slot + 1 == job.size, 0, slot + 1)),
            self.lines.valid.eq(self.jobs.valid & (~coming_valid | begins)),
            self.jobs.ready.eq(self.lines.ready & (~coming_valid | begins)),
            self.lines.payload.context.eq(self.jobs.payload.line.context),
            self.lines.payload.row.eq(self.jobs.payload.row),
            self.lines.payload.count.eq(self.jobs.payload.line.count),
            # A line in error gives one item without being read: that is how an unwanted one goes back.
            self.lines.payload.error.eq(self.jobs.payload.line.error | self.jobs.payload.drop),
            self.chains.payload.row.eq(job.row),
            self.chains.payload.position.eq(job.position + chains),
            self.results.payload.row.eq(job.row),
            self.results.payload.end.eq(end),
            self.results.payload.descriptors.eq(whole),
            self.results.payload.chains.eq(chains),
        ]
        # The head that was looked at before, on its way to the walker; descriptors of walks pass when there is none.
        head, head_valid, head_free = Signal.like(found), Signal(), Signal()
        m.d.comb += [
            head_free.eq(~head_valid | self.items.ready),
            self.items.valid.eq(head_valid | (self.found.valid & found.walk)),
            self.items.payload.eq(Mux(head_valid, head, found)),
        ]
        with m.If(self.items.ready):
            m.d.sync += head_valid.eq(0)
        with m.If(found.walk & ~head_valid):
            m.d.comb += [self.found.ready.eq(self.items.ready), self.skip_found.eq(self.skip)]

        def finish(how):
            m.d.sync += end.eq(how)
            m.next = "RESULT"

        def advance(whole_now):
            """The descriptor at hand was looked at."""
            m.d.comb += self.found.ready.eq(1)
            m.d.sync += seen.eq(seen + 1)
            with m.If(whole_now):
                m.d.sync += whole.eq(seen + 1)
            with m.If(found.last):
                m.d.sync += end.eq(Mux(whole_now, LineEnd.DONE, LineEnd.OPEN))
                m.next = "RESULT"
            with m.Else():
                m.next = "LOOK"

        def stop(how):
            """Look at no more of this line, nor at the descriptor at hand."""
            m.d.comb += [self.found.ready.eq(1), leave.eq(1)]
            finish(how)

        with m.If(begins):
            m.d.sync += coming_valid.eq(0)
        with m.If(self.lines.valid & self.lines.ready):
            m.d.sync += [coming.eq(self.jobs.payload), coming_valid.eq(1)]

        def begin():
            m.d.comb += begins.eq(coming_valid)
            m.d.sync += [job.eq(coming), seen.eq(0), whole.eq(0), chains.eq(0), within.eq(0)]
            m.next = "IDLE"
            with m.If(coming_valid):
                m.next = "LOOK"

        with m.FSM(name="packed_heads"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~self.jobs.valid & ~coming_valid)
                begin()
            with m.State("LOOK"):
                with m.If(self.found.valid & ~found.walk):
                    with m.If(self.drain | job.drop | (self.row_drain.fetch & (job.row == self.row_drain.row))):
                        stop(LineEnd.DROPPED)
                    with m.Elif(found.error):
                        m.d.comb += self.violation.eq(1)
                        stop(LineEnd.DROPPED)
                    with m.Elif(within):
                        with m.If((job.block + slot)[:2] == 0):
                            stop(LineEnd.OPEN)
                        with m.Else():
                            m.d.sync += within.eq(flags.next)
                            advance(~flags.next)
                    with m.Elif((flags.avail == job.lap) | (flags.used != job.lap)):
                        stop(LineEnd.EMPTY)
                    with m.Else():
                        m.d.comb += self.chains.valid.eq(head_free)
                        with m.If(self.chains.valid & self.chains.ready):
                            # In the cycle after that of its chain it goes on.
                            m.d.sync += [
                                chains.eq(chains + 1), within.eq(flags.next),
                                head_valid.eq(1), head.eq(found), head.position.eq(self.chains.payload.position),
                                head.descriptor.next.eq(Mux(flags.next, following, found.descriptor.next)),
                            ]
                            advance(~flags.next)
            with m.State("RESULT"):
                m.d.comb += self.results.valid.eq(head_free)
                with m.If(self.results.valid & self.results.ready):
                    m.d.comb += self.unused.eq(job.line.count - chains)
                    begin()
        with m.If(leave):
            m.d.comb += self.skip_found.eq(1)
        return m
