# SPDX-License-Identifier: BSD-2-Clause
"""Reads of rings, descriptors and suppression state: contexts, pieces and their way back.

    index, flags, ring --> small pools ---+
    descriptors        --> line pool -----+--> pieces --> read engine --> buffer, done
    requests           --> their own -----+                                  |
    walks              --> one per walk --+                                  |
    index answers, flags answers <--- small values -----------------------------+
    ring lines, descriptor lines <--- contexts, read word by word through `LinePort`

A context is a reservation: its 128-byte granule takes the answer, so completions never wait. Each kind has its own contexts, so that a
stage waiting for one kind never keeps another from going on: what a descriptor answer needs is never a context.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, ReadClientSignature
from ...stream.buffer import SkidBuffer
from ...stream.free_list import FreeList
from ..contract import row_width
from .answers import LineAnswers, SmallAnswers
from .lanes import LaneMemory
from .reads import ContextFree, LineAnswer, LineClientSignature, LinePortSignature, LineRead, LineRecord, SmallAnswer, SmallRead, WalkRead
from .rows import RowCount, Sweep, connect_sweep

__all__ = ["MetaReader"]

_REQUESTS = 2
"""Contexts of requests."""


class MetaReader(wiring.Component):
    """Issues the engine's small reads and sorts their answers.

    Requests are taken round robin, one per cycle, each when a context of its kind is free. Answers come as
    the completions do, in any order. At most half of the descriptor contexts serve one row (``line_room`` for
    ``line_room_row``, synchronous; a read is counted in a look-up of the cycle after it, and who looks earlier may get one more), so that reads
    which are never answered stop one queue only.

    Parameters
    ----------
    data_width, rows, contexts : int
        ``contexts`` is a power of two of at least 16: seven sixteenths for descriptors, a quarter for walks, an eighth each for indices and
        flags, a sixteenth for ring entries.
    serves_requests : bool
        There is a reader of requests; two of the contexts of descriptors are for it.

    Members
    -------
    index_reads, flag_reads, ring_reads, descriptor_reads, walk_reads : ``In(stream)``
        What is to be read.
    index_answers, flag_answers : ``Out(stream.Signature(SmallAnswer))``
    ring_answers, line_answers : ``Out(stream.Signature(LineAnswer))``
        ``line_answers`` are those of descriptors and walks.
    ring_port, line_port : ``In(LinePortSignature)``
        Access to the bytes of an answer, until its context is freed.
    ring_free, line_free : ``In(ContextFree)``
        A context goes back.
    requests : ``In(LineClientSignature)``
        The same for requests, if they are served.
    line_rest_row, line_rest : ``In``/``Out``
        Whether that row has no descriptor context (synchronous).
    line_free_any, line_free_some, index_free_any, ring_free_any : ``Out(1)``
        A context for descriptors is free, more than a quarter of those are; one for an index, for ring entries is.
    client : ``Out(ReadClientSignature)``
        To the read engine.
    at_rest : ``Out(1)``
        All contexts but those of walks are free.
    sweep : ``In``
    """

    def __init__(self, *, data_width, rows, contexts, serves_requests):
        self._data_width = data_width
        self._rows = rows
        self._contexts = contexts
        self._request_contexts = _REQUESTS * serves_requests
        self._walks = contexts // 4
        small, line = SmallAnswer(rows), LineAnswer(rows, contexts)
        self._handle_width = (contexts - 1).bit_length()
        self._buffer_width = (contexts * GRANULE_SIZE - 1).bit_length()
        port = LinePortSignature(data_width, contexts)
        free = ContextFree(rows, contexts)
        super().__init__({
            "index_reads": In(stream.Signature(SmallRead(rows))),
            "flag_reads": In(stream.Signature(SmallRead(rows))),
            "ring_reads": In(stream.Signature(LineRead(rows))),
            "descriptor_reads": In(stream.Signature(LineRead(rows))),
            "walk_reads": In(stream.Signature(WalkRead(rows, self._walks))),
            "index_answers": Out(stream.Signature(small)),
            "flag_answers": Out(stream.Signature(small)),
            "ring_answers": Out(stream.Signature(line)),
            "line_answers": Out(stream.Signature(line)),
            "ring_port": In(port),
            "line_port": In(port),
            "ring_free": In(free),
            "line_free": In(free),
            "line_room_row": In(row_width(rows)),
            "line_room": Out(1),
            "line_rest_row": In(row_width(rows)),
            "line_rest": Out(1),
            "line_free_any": Out(1),
            "line_free_some": Out(1),
            "index_free_any": Out(1),
            "ring_free_any": Out(1),
            "client": Out(ReadClientSignature(data_width, self._handle_width, self._buffer_width)),
            "at_rest": Out(1),
            "sweep": In(Sweep(rows)),
        } | ({"requests": In(LineClientSignature(data_width, rows, contexts))} if serves_requests else {}))

    @property
    def walks(self):
        """Number of walks (contexts 0 to ``walks - 1`` are theirs)."""
        return self._walks

    def elaborate(self, platform):
        m = Module()
        walks = self._walks
        pools = []
        first = [walks]
        counts = {"index": self._contexts // 8, "flag": self._contexts // 8, "ring": self._contexts // 16,
                  "descriptor": self._contexts * 7 // 16 - self._request_contexts}
        if self._request_contexts:
            counts["request"] = self._request_contexts
        for name, count in counts.items():
            m.submodules[f"{name}_pool"] = pool = FreeList(count)
            pools.append(pool)
            first.append(first[-1] + count)
        m.submodules.buffer = buffer = LaneMemory(data_width=self._data_width,
                                                  size=self._contexts * GRANULE_SIZE)
        connect(m, flipped(self.client.write), buffer.write)
        m.d.comb += [
            self.client.lookup_next.eq(self.client.lookup),
            self.index_free_any.eq(pools[0].alloc.valid),
            self.ring_free_any.eq(pools[2].alloc.valid),
            self.at_rest.eq(Cat(pool.count == pool.depth for pool in pools).all()),
        ]
        begin = self._elaborate_issue(m, pools, first, walks)
        self._elaborate_answers(m, pools, first, begin, walks)
        self._elaborate_ports(m, buffer)
        return m

    def _elaborate_issue(self, m, pools, first, walks):
        """Pick a request round robin, take a context, hand the piece on; return what begins: its kind, context and record."""
        record = Signal(LineRecord(self._rows))
        # Picking never depends on the engine's ready.
        m.submodules.pieces = pieces = SkidBuffer(self.client.requests.payload.shape())
        connect(m, pieces.o, flipped(self.client.requests))
        piece, free = pieces.i.payload, pieces.i.ready

        requests = [self.index_reads, self.flag_reads, self.ring_reads, self.descriptor_reads,
                    *([self.requests.reads] if self._request_contexts else []), self.walk_reads]
        kinds = len(requests)
        can = Signal(kinds)
        tail = Signal()          # the second part of a walk read that is cut waits
        tail_piece = Signal(piece.shape())
        m.d.comb += can.eq(Cat(*(request.valid & pool.alloc.valid
                                 for request, pool in zip(requests, pools)),
                               self.walk_reads.valid))
        last = Signal(range(kinds))
        pick = Signal(range(kinds))
        picked = Signal()
        with m.Switch(last):
            for value in range(kinds):
                with m.Case(value):
                    # The nearest requester after `last` wins: later assignments override.
                    for step in range(kinds, 0, -1):
                        with m.If(can[(value + step) % kinds]):
                            m.d.comb += pick.eq((value + step) % kinds)
        m.d.comb += picked.eq(free & can.any() & ~tail)
        # A second piece of these walk reads is on its way; issue sets, the first answer clears.
        self._more = more = Signal(walks)
        self._more_set, self._more_clear = Signal(walks), Signal(walks)
        m.d.sync += more.eq((more & ~self._more_clear) | self._more_set)

        m.d.comb += pieces.i.valid.eq(can.any() | tail)
        with m.If(free & tail):
            m.d.sync += tail.eq(0)
        with m.If(picked):
            m.d.sync += last.eq(pick)
        context = Signal(range(self._contexts))
        for number, request in enumerate(requests):
            m.d.comb += request.ready.eq(picked & (pick == number))
        with m.Switch(pick):
            for number in range(len(pools)):
                request = requests[number].payload
                with m.Case(number):
                    small = number < 2
                    m.d.comb += [
                        context.eq(pools[number].alloc.payload + first[number]),
                        pools[number].alloc.ready.eq(picked),
                        record.row.eq(request.row),
                    ]
                    if not small:
                        m.d.comb += [record.position.eq(request.position), record.count.eq(request.count)]
                    m.d.comb += [
                        piece.address.eq(request.address),
                        piece.length.eq(Mux(request.wide, 4, 2) if small else request.length),
                        piece.fence.eq(request.fence),
                        piece.handle.eq(context),
                        piece.buffer.eq(context << 7),
                    ]
            with m.Case(len(pools)):
                request = self.walk_reads.payload
                line_left = Signal(8)
                split = Signal()
                m.d.comb += [
                    line_left.eq(GRANULE_SIZE - request.address[:7]),
                    # At a page, or where so many bytes would be a DW more than the least MRRS has.
                    split.eq((request.length > line_left) & (request.address[7:12].all() | request.address[:2].any())),
                    context.eq(request.walk),
                    record.count.eq(request.count),
                    piece.address.eq(request.address),
                    piece.length.eq(Mux(split, line_left, request.length)),
                    piece.fence.eq(0),
                    piece.handle.eq(request.walk),
                    piece.buffer.eq(request.walk << 7),
                ]
                with m.If(picked):
                    m.d.sync += [
                        tail.eq(split),
                        tail_piece.address.eq(Cat(C(0, 7), (request.address[7:] + 1)[:57])),
                        tail_piece.length.eq((request.length - line_left)[:8]),
                        tail_piece.handle.eq(request.walk),
                        tail_piece.buffer.eq((request.walk << 7) + line_left),
                    ]
                with m.If(picked & split):
                    m.d.comb += self._more_set.eq((1 << request.walk)[:walks])
        with m.If(tail):
            m.d.comb += piece.eq(tail_piece)
        return [picked & (pick == number) for number in range(kinds)], context, record

    def _elaborate_answers(self, m, pools, first, begin, walks):
        """Sort finished contexts by kind."""
        begins, context, record = begin
        client, rows, contexts = self.client, self._rows, self._contexts
        handle = client.done_handle
        more, failed = self._more, Signal(walks)
        # A value lies in the first bytes of its granule.
        word = Signal.like(client.write.address_low)
        word_bits = len(self.ring_port.word)
        value_valid = Signal()
        m.d.comb += [
            word.eq(Mux(client.write.high[0], client.write.address_high, client.write.address_low)),
            value_valid.eq(client.write.enable[0] & client.write.enable[1] & (word[:word_bits] == 0)),
        ]

        valid = client.done_valid
        is_walk = handle < walks
        of_kind = [valid & (handle >= first[kind]) & (handle < first[kind + 1])
                   for kind in range(len(pools))]
        walk_number = handle[:max(1, (walks - 1).bit_length())]
        first_half = is_walk & more.bit_select(walk_number, 1)
        with m.If(valid & is_walk):
            mask = (1 << walk_number)[:walks]
            with m.If(first_half):
                m.d.comb += self._more_clear.eq(mask)
                with m.If(client.done_error):
                    m.d.sync += failed.eq(failed | mask)
            with m.Else():
                m.d.sync += failed.eq(failed & ~mask)

        for kind, (name, stream_out) in enumerate((("index", self.index_answers), ("flag", self.flag_answers))):
            m.submodules[f"{name}_answers"] = block = SmallAnswers(rows=rows, contexts=contexts, first=first[kind], count=pools[kind].depth)
            m.d.comb += [
                block.row.eq(record.row),
                block.value_valid.eq(value_valid),
                block.value_context.eq(word >> word_bits),
                block.value.eq(client.write.data[:32]),
                pools[kind].free.valid.eq(block.free),
                pools[kind].free.payload.eq(block.free_number),
            ]
            self._connect_answers(m, block, begins[kind], context, of_kind[kind], client.done_error, stream_out)

        # Descriptors and walks share a queue: the walker takes both as they come.
        frees = [self.ring_free, self.line_free]
        lines = [("ring", begins[2], first[2], pools[2].depth, 0, of_kind[2], client.done_error, self.ring_answers),
                 ("line", begins[3] | begins[-1], 0, contexts, walks, of_kind[3] | (valid & is_walk & ~first_half),
                  client.done_error | (is_walk & failed.bit_select(walk_number, 1)), self.line_answers)]
        if self._request_contexts:
            frees.append(self.requests.free)
            lines.append(("request", begins[4], first[4], pools[4].depth, 0, of_kind[4], client.done_error, self.requests.answers))
        for kind, free in enumerate(frees, 2):
            m.d.comb += [
                pools[kind].free.valid.eq(free.valid),
                pools[kind].free.payload.eq(free.context - first[kind]),
            ]
        for name, begins_here, low, count, of_walks, done, error, stream_out in lines:
            m.submodules[f"{name}_answers"] = block = LineAnswers(rows=rows, contexts=contexts, first=low, count=count, walks=of_walks)
            m.d.comb += block.record.eq(record)
            self._connect_answers(m, block, begins_here, context, done, error, stream_out)
        self._elaborate_line_room(m, pools[3])

    def _connect_answers(self, m, block, begin, context, done, error, stream_out):
        """Connect what all blocks of answers have."""
        m.d.comb += [
            block.begin.eq(begin),
            block.context.eq(context),
            block.done.eq(done),
            block.done_context.eq(self.client.done_handle),
            block.error.eq(error),
        ]
        connect(m, block.answers, flipped(stream_out))

    def _elaborate_line_room(self, m, pool):
        """Count the descriptor contexts of each row."""
        m.submodules.held = held = RowCount(pool.depth, rows=self._rows, lookups=2)
        connect_sweep(m, self.sweep, (held,))
        m.d.comb += [
            held.taken_valid.eq(pool.alloc.valid & pool.alloc.ready),
            held.taken_row.eq(self.descriptor_reads.payload.row),
            held.given_valid.eq(self.line_free.valid),
            held.given_row.eq(self.line_free.row),
            held.row[0].eq(self.line_room_row),
            self.line_room.eq(held.count[0] < pool.depth // 2),
            held.row[1].eq(self.line_rest_row),
            self.line_rest.eq(held.count[1] == 0),
            self.line_free_any.eq(pool.alloc.valid),
            self.line_free_some.eq(pool.alloc.valid & (pool.count > pool.depth // 4)),
        ]

    def _elaborate_ports(self, m, buffer):
        """Two readers in turn; descriptors first when both ask, but never twice running. Requests take the cycles that these leave."""
        ring_turn = Signal()
        ring, line = self.ring_port, self.line_port
        ring_wins = Signal()
        m.d.comb += [
            ring_wins.eq(ring.valid & (ring_turn | ~line.valid)),
            ring.ready.eq(ring_wins),
            line.ready.eq(~ring_wins),
            buffer.read_word.eq(Mux(ring_wins, Cat(ring.word, ring.context), Cat(line.word, line.context))),
            ring.data.eq(buffer.read_data),
            line.data.eq(buffer.read_data),
        ]
        m.d.sync += ring_turn.eq(line.valid & ~ring_wins)
        if self._request_contexts:
            request = self.requests.port
            m.d.comb += [request.ready.eq(~ring.valid & ~line.valid), request.data.eq(buffer.read_data)]
            with m.If(request.ready):
                m.d.comb += buffer.read_word.eq(Cat(request.word, request.context))
