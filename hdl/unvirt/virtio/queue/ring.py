# SPDX-License-Identifier: BSD-2-Clause
"""Available ring entries become chains and reads of their descriptors [virtio 2.7.6].

A line of ring entries is read head by head: each head gets a slot, runs of consecutive heads become one
descriptor read.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import GRANULE_SIZE
from ...stream.fifo import Queue
from ..contract import QueueConfigPort, row_width
from .chains import ChainAdd
from .contract import RowDrain
from .reads import ContextFree, LineAnswer, LinePortSignature, LineRead
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["RingParser"]


_MOST = GRANULE_SIZE // 16
"""Descriptors that a read has at most."""


class RingParser(wiring.Component):
    """Turns lines of available ring entries into chains and descriptor reads.

    One head per cycle while the word lasts; a word costs three cycles, a line four, a descriptor read two. A descriptor read covers up to eight
    consecutive heads: of the last 16 of a line of entries within one page, so that reads are as few as can be, and before these within one
    128-byte line of the table, so that completions need not be cut. When the row may not have more descriptor reads in flight, or an earlier line
    of the row is not parsed yet, the line goes to the tail and is taken up again at the head where it stopped. A head at or above the queue size
    is a violation [virtio 2.7.5]. While ``drain``, and for a row that is reset, lines are given back unread.

    Members
    -------
    answers : ``In(stream.Signature(LineAnswer))``
    port, free : ``Out``
        Bytes of a line, and its way back to the pool.
    config : ``Out(QueueConfigPort)``
    chains : ``Out(stream.Signature(ChainAdd))``
    reads : ``Out(stream.Signature(LineRead))``
        Descriptor reads.
    room_row, room : ``Out`` / ``In``
        Whether that row may have another descriptor read (synchronous).
    finished : ``Out(stream.Signature(row))``
        All heads of the line are chains now.
    unused : ``Out``
        Number of reserved slots given back in this cycle.
    violation, idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, *, data_width, rows, contexts):
        self._data_width = data_width
        self._rows = rows
        self._contexts = contexts
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "answers": In(stream.Signature(LineAnswer(rows, contexts))),
            "port": Out(LinePortSignature(data_width, contexts)),
            "free": Out(ContextFree(rows, contexts)),
            "config": Out(QueueConfigPort(rows)),
            "chains": Out(stream.Signature(ChainAdd(rows))),
            "reads": Out(stream.Signature(LineRead(rows))),
            "room_row": Out(width),
            "room": In(1),
            "finished": Out(stream.Signature(width)),
            "unused": Out(7),
            "violation": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        entries = self._data_width // 16
        entry_bits = (entries - 1).bit_length()
        job_shape = data.StructLayout({
            "answer": LineAnswer(self._rows, self._contexts),
            "start": 7,          # first entry to look at
            "added": 7,          # entries before this one have a slot already
        })
        # One place more than there are ring contexts, so that a line can always go to the tail.
        m.submodules.waiting = waiting = Queue(job_shape, max(2, self._contexts // 16))
        job = Signal(job_shape)
        answer = job.answer
        # Position of the entry whose descriptor is the next to be read.
        m.submodules.following = following = RowMemory(16, rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (following,))
        index = Signal(7)
        added = Signal(7)              # entries before this one have a slot; this is its position
        position = Signal(16)
        run_first = Signal(16)
        run_next = Signal(16)          # the head that would go on with the run
        run_start = Signal(7)
        run_count = Signal(4)
        word = Signal(self._data_width)
        # The entry at `index`, and all that is compared of it: much hangs on them, so they are chosen from their word in the cycle before.
        head = Signal(16)
        known = Signal()               # it has a slot
        follows = Signal()             # it goes on with the run
        outside = Signal()             # there is no such descriptor
        line_start = Signal()          # its descriptor begins a line
        page_start = Signal()          # and a page
        seek = Signal()                # it is still to be chosen
        begins = Signal()              # the line is taken up, at `place`
        place = Signal(16)
        ended = Signal()               # a line is, and the controller does not know yet
        ended_row = Signal.like(self.finished.payload)

        # Behind the start of a line a cycle old, for much hangs on it there.
        drain_now, drain = Signal(), Signal()
        m.d.comb += drain_now.eq(self.drain | (self.row_drain.fetch & (answer.row == self.row_drain.row)))
        m.d.sync += drain.eq(drain_now)
        config = Signal.like(self.config.config)
        few = Signal()                 # the run began with few entries to come
        extends = Signal()
        m.d.comb += [
            self.config.row.eq(answer.row),
            self.room_row.eq(answer.row),
            self.port.context.eq(answer.context),
            self.port.word.eq(index >> entry_bits),
            extends.eq(follows & ~Mux(few, page_start | (run_count == _MOST), line_start)),
            self.chains.payload.row.eq(answer.row),
            self.chains.payload.position.eq(position),
            self.chains.payload.head.eq(head),
            self.reads.payload.row.eq(answer.row),
            self.reads.payload.address.eq(config.desc + (run_first << 4)),
            self.reads.payload.length.eq(run_count << 4),
            self.reads.payload.position.eq(answer.position + run_start),
            self.reads.payload.count.eq(run_count),
            following.read_row[0].eq(answer.row),
            following.write_row.eq(answer.row),
            following.write_valid.eq(self.reads.valid & self.reads.ready),
            following.write_value.eq(answer.position + index),
            self.finished.payload.eq(ended_row),
            self.finished.valid.eq(ended),
            self.free.context.eq(answer.context),
            self.free.row.eq(answer.row),
        ]

        # Two cycles behind the row, which is a state before it is wanted.
        m.d.sync += config.eq(self.config.config)

        def retry(start):
            """Send the line to the tail; entries before ``added`` keep their slots."""
            m.d.comb += [
                waiting.i.valid.eq(1),
                waiting.i.payload.answer.eq(answer),
                waiting.i.payload.start.eq(start),
                waiting.i.payload.added.eq(added),
            ]

        def tell():
            """Go on; the controller hears of the line meanwhile, but if it has not heard of the one before."""
            m.next = "TELL"
            with m.If(~ended):
                m.d.sync += [ended.eq(1), ended_row.eq(answer.row)]
                m.next = "IDLE"

        def finish():
            """All of the line is known. Its context goes back before the controller hears of it, which may itself be waiting for a context."""
            m.d.comb += self.free.valid.eq(1)
            tell()

        with m.If(self.finished.ready):
            m.d.sync += ended.eq(0)

        # A cycle old, for from the counts to the choice among all reads it is far: it does not know of a read of two cycles ago.
        room, read_before, unsure = Signal(), Signal(), Signal()
        m.d.sync += [room.eq(self.room), read_before.eq(self.reads.valid & self.reads.ready), unsure.eq(read_before)]

        # The next head is chosen; of its descriptor the place in the page: it has 16 bytes, as the table is aligned, a line 128.
        chosen, in_page = word.word_select((index + ~seek)[:entry_bits], 16), Signal(8)
        moves_on = Signal()
        m.d.comb += in_page.eq(config.desc[4:12] + chosen[:8])
        with m.If(seek | moves_on):
            m.d.sync += [head.eq(chosen), follows.eq(chosen == Mux(seek, run_next, (head + 1)[:16])), outside.eq(chosen >= config.size),
                         line_start.eq(in_page[:3] == 0), page_start.eq(in_page == 0),
                         known.eq(Mux(seek, index != added, known & ((index + 1)[:7] != added)))]

        with m.FSM(name="ring_parser"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~waiting.o.valid & ~self.answers.valid & ~ended)
                # A new line first: an old one has waited for descriptor reads to come back anyway.
                with m.If(self.answers.valid):
                    m.d.comb += self.answers.ready.eq(1)
                    m.d.sync += [job.answer.eq(self.answers.payload), job.start.eq(0),
                                 job.added.eq(0)]
                    m.next = "START"
                with m.Elif(waiting.o.valid):
                    m.d.comb += waiting.o.ready.eq(1)
                    m.d.sync += job.eq(waiting.o.payload)
                    m.next = "START"
            with m.State("START"):
                # The configuration row is read in this cycle.
                m.d.sync += [index.eq(job.start), run_count.eq(0), added.eq(job.added), position.eq(answer.position + job.added),
                             begins.eq(1), place.eq(answer.position + job.start)]
                with m.If(answer.error & ~drain_now):
                    m.d.comb += self.violation.eq(1)
                with m.If(answer.error | drain_now):
                    m.next = "ABANDON"
                with m.Else():
                    m.next = "ASK_WORD"
            with m.State("ASK_WORD"):
                # Lines come as they are answered; they become chains, and descriptors are read, in the order of the ring. Were it only chains, one
                # whose descriptor is read late would hold up all that came after it.
                turn = ~begins | (following.read_value[0] == place)
                m.d.comb += self.port.valid.eq(turn)
                with m.If(~turn):
                    retry(job.start)
                    with m.If(waiting.i.ready):
                        m.next = "IDLE"
                with m.Elif(self.port.ready):
                    m.d.sync += begins.eq(0)
                    m.next = "TAKE_WORD"
            with m.State("TAKE_WORD"):
                m.d.sync += word.eq(self.port.data)
                m.next = "SEEK"
            with m.State("SEEK"):
                m.d.comb += seek.eq(1)
                m.next = "HEADS"
            with m.State("HEADS"):
                with m.If(drain):
                    m.next = "ABANDON"
                with m.Elif(outside):
                    m.d.comb += self.violation.eq(1)
                    m.next = "ABANDON"
                with m.Elif((run_count != 0) & ~extends):
                    m.next = "READ_RUN"
                with m.Else():
                    m.d.comb += self.chains.valid.eq(~known)
                    with m.If(known | self.chains.ready):
                        with m.If(run_count == 0):
                            m.d.sync += [run_first.eq(head), run_start.eq(index), few.eq(answer.count - index <= 2 * _MOST)]
                        with m.If(~known):
                            m.d.sync += [added.eq(added + 1), position.eq(position + 1)]
                        m.d.sync += [run_count.eq(run_count + 1), run_next.eq(head + 1), index.eq(index + 1)]
                        m.d.comb += moves_on.eq(1)
                        with m.If(index + 1 == answer.count):
                            m.next = "READ_RUN"
                        with m.Elif(index[:entry_bits] == entries - 1):
                            m.next = "ASK_WORD"
            with m.State("READ_RUN"):
                # Descriptors are requested only now, after the index that exposed them [DER-ORD-03].
                with m.If(drain):
                    m.next = "ABANDON"
                with m.Elif(unsure):
                    m.next = "READ_RUN"
                with m.Elif(~room):
                    retry(run_start)
                    with m.If(waiting.i.ready):
                        m.next = "IDLE"
                with m.Else():
                    m.d.comb += self.reads.valid.eq(1)
                    with m.If(self.reads.ready):
                        m.d.sync += run_count.eq(0)
                        with m.If(index == answer.count):
                            finish()
                        with m.Elif(index[:entry_bits] == 0):
                            m.next = "ASK_WORD"
                        with m.Else():
                            m.next = "HEADS"
            with m.State("ABANDON"):
                m.d.comb += self.unused.eq(answer.count - added)
                finish()
            with m.State("TELL"):
                tell()
        return m
