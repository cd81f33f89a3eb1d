# SPDX-License-Identifier: BSD-2-Clause
"""The request service: chains whose readable bytes are a request and whose writable ones take the answer."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, WriteBeat
from ..contract import row_width
from .contract import GROUP_SEGMENTS, LENGTH_WIDTH, ChainPortSignature, RowDrain, UsedElement
from .reads import LineClientSignature
from .rows import RowMemory, Sweep, connect_sweep
from .scheduler import Scheduler

__all__ = ["RequestByte", "RequestService", "ResponseByte"]


class RequestByte(data.StructLayout):
    """A byte of a request; ``last`` without ``there`` ends one of no bytes."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "data": 8, "there": 1, "last": 1})


ResponseByte = data.StructLayout({"data": 8, "last": 1})
"""A byte of an answer, which has at least one."""


class RequestService(wiring.Component):
    """Reads requests, one at a time, hands them to the personality byte by byte and writes the bytes it answers.

    Requests of a row are served in their order. A request is read in lines of up to 128 bytes, one after the other. The answer goes to the
    first writable bytes, in writes of up to a bus word; what finds no place is dropped, and a chain without a writable byte is used with nothing
    written. Meant for commands: a byte takes a cycle, a line a round trip.

    **Ordering**: the answer, then the used element. **Reset**: while ``drain`` nothing is read or handed on and all chains in the store are given
    back; the personality forgets what it has. A failed read is a violation.

    Parameters
    ----------
    data_width, rows, slots, groups, contexts : int
    is_request : callable
        Tells from a row (a Value) whether it is served here.

    Members
    -------
    drain : ``In(1)``
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset: what waits is given back, as with ``drain``; none of it is left.
    abandoned : ``Out(1)``
        Pulse: the personality forgets the request at hand, if it has any of it.
    chains_left : ``In(1)``
        Some chain is in the store: while draining, it may be one of a request.
    ready_rows : ``In(stream.Signature(row))``
        Rows with a chain that became usable.
    chains : ``Out(ChainPortSignature)``
    lines : ``Out(LineClientSignature)``
        Reads of the requests' bytes.
    requests : ``Out(stream.Signature(RequestByte))``
    responses : ``In(stream.Signature(ResponseByte))``
        One answer for each request, any time after its last byte.
    writes : ``Out(stream.Signature(WriteBeat))``
    used : ``Out(stream.Signature(UsedElement))``
    retired_row, retired : ``In``/``Out`` arrays
        Position behind the last chain given back (synchronous).
    violation, idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, *, data_width, rows, slots, groups, contexts, is_request):
        self._data_width = data_width
        self._rows = rows
        self._is_request = is_request
        row = row_width(rows)
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "abandoned": Out(1),
            "chains_left": In(1),
            "ready_rows": In(stream.Signature(row)),
            "chains": Out(ChainPortSignature(rows, slots, groups)),
            "lines": Out(LineClientSignature(data_width, rows, contexts)),
            "requests": Out(stream.Signature(RequestByte(rows))),
            "responses": In(stream.Signature(ResponseByte)),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
            "used": Out(stream.Signature(UsedElement(rows))),
            "retired_row": In(row).array(2),
            "retired": Out(16).array(2),
            "violation": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        m.submodules.scheduler = scheduler = Scheduler(rows=self._rows, kicks=2)
        m.submodules.state = state = RowMemory(16, rows=self._rows, readers=3)
        connect_sweep(m, self.sweep, (state,))
        connect(m, flipped(self.ready_rows), scheduler.kicks[0])
        counter, drain_row = Signal(row_width(self._rows)), Signal(row_width(self._rows))
        m.d.sync += counter.eq(counter + 1)

        chains, lines = self.chains, self.lines
        row, position = Signal(row_width(self._rows)), Signal(16)
        slot, head = Signal.like(chains.slot), Signal(16)
        chain = Signal(chains.chain.shape())
        walked = Signal()
        group, index = Signal.like(chain.group), Signal(range(GROUP_SEGMENTS))
        segments_left = Signal.like(chain.segments)       # readable ones, then writable ones
        answering = Signal()                              # the request was handed on
        address, left = Signal(64), Signal(LENGTH_WIDTH)  # of the segment at hand
        length, byte = Signal(8), Signal(8)               # of the line; how many of its bytes were handed on
        word = Signal(self._data_width)
        context = Signal.like(lines.port.context)
        filled = Signal(range(lanes + 1))                 # bytes of the word that are to be written
        answered, written = Signal(), Signal(LENGTH_WIDTH)
        line_left = Signal(8)
        done = Signal()                                   # the chain is given back
        m.d.comb += [
            drain_row.eq(Mux(self.drain, counter, self.row_drain.row)),
            scheduler.kicks[1].valid.eq(Mux(self.drain, self.chains_left, self.row_drain.services) & self._is_request(drain_row)),
            scheduler.kicks[1].payload.eq(drain_row),
            state.read_row[0].eq(scheduler.visits.payload),
            state.write_row.eq(row),
            state.write_value.eq(position + 1),
            chains.parsed_row.eq(Mux(scheduler.visits.ready, scheduler.visits.payload, row)),
            chains.order_row.eq(row),
            chains.order_position.eq(position),
            chains.walked_slot.eq(chains.slot),
            chains.chain_slot.eq(chains.slot),
            chains.segment_group.eq(group),
            chains.segment_index.eq(index),
            chains.next_group_of.eq(group),
            chains.release.payload.row.eq(row),
            chains.release.payload.position.eq(position),
            chains.release.payload.slot.eq(slot),
            chains.release.payload.group.eq(chain.group),
            chains.release.payload.groups.eq(Mux(chain.single | ~walked, 0, chain.groups)),
            line_left.eq(GRANULE_SIZE - address[:7]),
            lines.reads.payload.row.eq(row),
            lines.reads.payload.address.eq(address),
            lines.reads.payload.length.eq(length),
            lines.port.context.eq(context),
            lines.port.word.eq(byte >> (lanes - 1).bit_length()),
            lines.free.context.eq(context),
            lines.free.row.eq(row),
            self.requests.payload.row.eq(row),
            self.requests.payload.data.eq(word.word_select(byte[:(lanes - 1).bit_length()], 8)),
            self.writes.payload.first.eq(1),
            self.writes.payload.last.eq(1),
            self.writes.payload.empty.eq(lanes - filled),
            self.writes.payload.data.eq(word),
            self.writes.payload.header.address.eq(address),
            self.writes.payload.header.length.eq(filled),
            self.used.payload.row.eq(row),
            self.used.payload.head.eq(head),
            self.used.payload.written.eq(written),
            self.used.payload.ring_slots.eq(chain.ring_slots),
        ]
        for number in range(2):
            m.d.comb += [state.read_row[number + 1].eq(self.retired_row[number]),
                         self.retired[number].eq(state.read_value[number + 1])]

        def step():
            """The segment at hand is used up: look at the next one."""
            m.d.sync += index.eq(index + 1)
            with m.If(index == GROUP_SEGMENTS - 1):
                m.d.sync += group.eq(chains.next_group)

        mine = self.row_drain.services & (row == self.row_drain.row)
        drain = Signal()
        m.d.comb += drain.eq(self.drain | mine)
        with m.If(~self.row_drain.services):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="request"):
            with m.State("IDLE"):
                m.d.comb += [scheduler.visits.ready.eq(1), self.idle.eq(~scheduler.visits.valid)]
                m.d.sync += row.eq(scheduler.visits.payload)
                with m.If(scheduler.visits.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                m.d.comb += chains.order_position.eq(state.read_value[0])
                m.d.sync += position.eq(state.read_value[0])
                m.next = "SLOT"
                with m.If((state.read_value[0] == chains.parsed) | (mine & self.row_clean)):
                    with m.If(mine):
                        m.d.sync += self.row_clean.eq(1)
                    m.next = "IDLE"
            with m.State("SLOT"):
                # The record is looked up in this cycle.
                m.d.sync += [slot.eq(chains.slot), walked.eq(chains.walked)]
                m.next = "CHAIN"
                with m.If(~chains.walked & ~drain):
                    m.next = "IDLE"
            with m.State("CHAIN"):
                found = chains.chain
                m.d.sync += [
                    chain.eq(found), head.eq(chains.head), group.eq(found.group), index.eq(0),
                    address.eq(found.address), left.eq(Mux(found.single, found.readable, 0)),
                    segments_left.eq(Mux(found.single, 0, found.readable_segments)),
                    answering.eq(0), answered.eq(0), written.eq(0), filled.eq(0),
                ]
                m.next = "NEXT"
                with m.If(drain):
                    m.next = "RELEASE"

            with m.State("NEXT"):
                # The segment is looked up in this cycle.
                m.next = "SEGMENT"
                with m.If(drain):
                    m.next = "RELEASE"
                with m.Elif(answering & ((left != 0) | (segments_left == 0))):
                    m.next = "RESPONSE"
                with m.Elif(left != 0):
                    m.d.sync += length.eq(Mux(left < line_left, left, line_left))
                    m.next = "READ"
                with m.Elif(segments_left == 0):
                    m.next = "ANSWER"
                    with m.If(chain.readable == 0):
                        m.next = "EMPTY"
            with m.State("SEGMENT"):
                m.d.sync += [address.eq(chains.segment.address), left.eq(chains.segment.length),
                             segments_left.eq(segments_left - 1)]
                step()
                m.next = "NEXT"
            with m.State("READ"):
                m.d.comb += lines.reads.valid.eq(1)
                with m.If(lines.reads.ready):
                    m.d.sync += [left.eq(left - length), address.eq(address + length), byte.eq(0)]
                    m.next = "ARRIVE"
            with m.State("ARRIVE"):
                m.d.comb += lines.answers.ready.eq(1)
                m.d.sync += context.eq(lines.answers.payload.context)
                with m.If(lines.answers.valid):
                    m.next = "ASK_WORD"
                    with m.If(lines.answers.payload.error | drain):
                        m.d.comb += self.violation.eq(lines.answers.payload.error & ~drain)
                        m.next = "FREE"
            with m.State("ASK_WORD"):
                m.d.comb += lines.port.valid.eq(1)
                with m.If(lines.port.ready):
                    m.next = "TAKE_WORD"
            with m.State("TAKE_WORD"):
                m.d.sync += word.eq(lines.port.data)
                m.next = "BYTE"
            with m.State("BYTE"):
                m.d.comb += [
                    self.requests.valid.eq(~drain),
                    self.requests.payload.there.eq(1),
                    self.requests.payload.last.eq((byte + 1 == length) & (left == 0) & (segments_left == 0)),
                ]
                with m.If(self.requests.ready | drain):
                    m.d.sync += byte.eq(byte + 1)
                    with m.If((byte + 1 == length) | drain):
                        m.next = "FREE"
                    with m.Elif(byte[:(lanes - 1).bit_length()] == lanes - 1):
                        m.next = "ASK_WORD"
            with m.State("FREE"):
                m.d.comb += lines.free.valid.eq(1)
                m.next = "NEXT"

            with m.State("EMPTY"):
                m.d.comb += [self.requests.valid.eq(~drain), self.requests.payload.last.eq(1)]
                with m.If(self.requests.ready | drain):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                # The writable segments follow the readable ones.
                m.d.sync += [answering.eq(1), address.eq(chain.address), left.eq(Mux(chain.single, chain.writable, 0)),
                             segments_left.eq(Mux(chain.single, 0, chain.segments - chain.readable_segments))]
                m.next = "NEXT"
            with m.State("RESPONSE"):
                m.d.comb += self.responses.ready.eq(~drain)
                with m.If(drain):
                    m.next = "RELEASE"
                with m.Elif(self.responses.valid):
                    m.d.sync += answered.eq(self.responses.payload.last)
                    with m.If(left != 0):
                        m.d.sync += [word.word_select(filled[:(lanes - 1).bit_length()], 8).eq(self.responses.payload.data),
                                     filled.eq(filled + 1), left.eq(left - 1), written.eq(written + 1)]
                        with m.If(self.responses.payload.last | (left == 1) | (filled == lanes - 1)):
                            m.next = "WRITE"
                    with m.Elif(self.responses.payload.last):
                        m.next = "USED"
            with m.State("WRITE"):
                m.d.comb += self.writes.valid.eq(1)
                with m.If(self.writes.ready):
                    m.d.sync += [address.eq(address + filled), filled.eq(0)]
                    m.next = "NEXT"
                    with m.If(answered):
                        m.next = "USED"
            with m.State("USED"):
                m.d.comb += self.used.valid.eq(~drain)
                with m.If(self.used.ready | drain):
                    m.next = "RELEASE"
            with m.State("RELEASE"):
                m.d.comb += [chains.release.valid.eq(1), done.eq(chains.release.ready), state.write_valid.eq(done),
                             self.abandoned.eq(drain)]
                with m.If(done):
                    m.d.sync += position.eq(position + 1)
                    m.next = "AGAIN"
            with m.State("AGAIN"):
                m.next = "SLOT"
                with m.If(position == chains.parsed):
                    m.next = "IDLE"
        return m
