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
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, ReadClientSignature
from ...stream.fifo import Queue
from ...stream.free_list import FreeList
from ..contract import row_width
from .lanes import LaneMemory
from .reads import ContextFree, LineAnswer, LineClientSignature, LinePortSignature, LineRead, SmallAnswer, SmallRead, WalkRead
from .rows import RowCount, Sweep, connect_sweep

__all__ = ["MetaReader"]

_REQUESTS = 2
"""Contexts of requests."""


class MetaReader(wiring.Component):
    """Issues the engine's small reads and sorts their answers.

    Requests are taken round robin, one per cycle, each when a context of its kind is free. Answers come as
    the completions do, in any order. At most half of the descriptor contexts serve one row (``line_room`` for
    ``line_room_row``, synchronous; a read is counted in a look-up of the cycle after it), so that reads which are never answered stop one
    queue only.

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
    line_free_any, index_free_any, ring_free_any : ``Out(1)``
        A context for descriptors, for an index, for ring entries is free.
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
        m.submodules.records = records = memory.Memory(
            shape=data.StructLayout({"row": row_width(self._rows), "position": 16, "count": 7}),
            depth=self._contexts, init=[])
        connect(m, flipped(self.client.write), buffer.write)
        m.d.comb += [
            self.client.lookup_next.eq(self.client.lookup),
            self.index_free_any.eq(pools[0].alloc.valid),
            self.ring_free_any.eq(pools[2].alloc.valid),
            self.at_rest.eq(Cat(pool.count == pool.depth for pool in pools).all()),
        ]
        self._elaborate_issue(m, pools, first, records, walks)
        self._elaborate_answers(m, pools, first, records, walks)
        self._elaborate_ports(m, buffer)
        return m

    def _elaborate_issue(self, m, pools, first, records, walks):
        """Pick a request round robin, take a context, hand the piece on."""
        write = records.write_port()
        piece = self.client.requests
        # A slot for one piece, so that picking never depends on the engine's ready.
        held = Signal(piece.payload.shape())
        held_valid = Signal()
        m.d.comb += [piece.payload.eq(held), piece.valid.eq(held_valid)]
        free = Signal()
        m.d.comb += free.eq(~held_valid | piece.ready)
        with m.If(piece.ready):
            m.d.sync += held_valid.eq(0)

        requests = [self.index_reads, self.flag_reads, self.ring_reads, self.descriptor_reads,
                    *([self.requests.reads] if self._request_contexts else []), self.walk_reads]
        kinds = len(requests)
        can = Signal(kinds)
        tail = Signal()          # the second part of a walk read that crosses a 128-byte line waits
        tail_piece = Signal(piece.payload.shape())
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

        with m.If(free & tail):
            m.d.sync += [held.eq(tail_piece), held_valid.eq(1), tail.eq(0)]
        with m.If(picked):
            m.d.sync += [last.eq(pick), held_valid.eq(1)]
        context = Signal(range(self._contexts))
        m.d.comb += write.addr.eq(context)
        for number, request in enumerate(requests):
            m.d.comb += request.ready.eq(picked & (pick == number))
        with m.If(picked):
            with m.Switch(pick):
                for number in range(len(pools)):
                    request = requests[number].payload
                    with m.Case(number):
                        small = number < 2
                        m.d.comb += [
                            context.eq(pools[number].alloc.payload + first[number]),
                            pools[number].alloc.ready.eq(1),
                            write.en.eq(1),
                            write.data.row.eq(request.row),
                        ]
                        if not small:
                            m.d.comb += [write.data.position.eq(request.position),
                                         write.data.count.eq(request.count)]
                        m.d.sync += [
                            held.address.eq(request.address),
                            held.length.eq(Mux(request.wide, 4, 2) if small else request.length),
                            held.fence.eq(request.fence),
                            held.handle.eq(context),
                            held.buffer.eq(context << 7),
                        ]
                with m.Case(len(pools)):
                    request = self.walk_reads.payload
                    line_left = Signal(8)
                    split = Signal()
                    m.d.comb += [
                        line_left.eq(GRANULE_SIZE - request.address[:7]),
                        split.eq(request.length > line_left),
                        context.eq(request.walk),
                        write.en.eq(1),
                        write.data.count.eq(request.count),
                    ]
                    m.d.sync += [
                        held.address.eq(request.address),
                        held.length.eq(Mux(split, line_left, request.length)),
                        held.fence.eq(0),
                        held.handle.eq(request.walk),
                        held.buffer.eq(request.walk << 7),
                        tail.eq(split),
                        tail_piece.address.eq(Cat(C(0, 7), (request.address[7:] + 1)[:57])),
                        tail_piece.length.eq((request.length - line_left)[:8]),
                        tail_piece.handle.eq(request.walk),
                        tail_piece.buffer.eq((request.walk << 7) + line_left),
                    ]
                    with m.If(split):
                        m.d.comb += self._more_set.eq((1 << request.walk)[:walks])

    def _elaborate_answers(self, m, pools, first, records, walks):
        """Sort finished contexts by kind; the FIFOs are as deep as their contexts."""
        read = records.read_port(domain="comb")
        handle = self.client.done_handle
        more, failed = self._more, Signal(walks)
        small = memory.Memory(shape=32, depth=self._contexts, init=[])
        m.submodules.small = small
        small_write = small.write_port()
        word = Signal.like(self.client.write.address_low)
        word_bits = len(self.ring_port.word)
        m.d.comb += [
            word.eq(Mux(self.client.write.high[0], self.client.write.address_high,
                        self.client.write.address_low)),
            small_write.addr.eq(word >> word_bits),
            small_write.data.eq(self.client.write.data[:32]),
            small_write.en.eq(self.client.write.enable[0] & self.client.write.enable[1]
                              & (word[:word_bits] == 0)),
            read.addr.eq(handle),
        ]

        record = read.data
        valid = self.client.done_valid
        is_walk = handle < walks
        of_kind = [valid & (handle >= first[kind]) & (handle < first[kind + 1])
                   for kind in range(len(pools))]
        walk_number = handle[:max(1, (walks - 1).bit_length())]
        first_half = is_walk & more.bit_select(walk_number, 1)
        with m.If(valid & is_walk):
            mask = (1 << walk_number)[:walks]
            with m.If(first_half):
                m.d.comb += self._more_clear.eq(mask)
                with m.If(self.client.done_error):
                    m.d.sync += failed.eq(failed | mask)
            with m.Else():
                m.d.sync += failed.eq(failed & ~mask)

        small_shape = data.StructLayout({"context": range(self._contexts), "error": 1})
        for name, kind, answers in (("index", 0, self.index_answers),
                                    ("flag", 1, self.flag_answers)):
            m.submodules[f"{name}_queue"] = queue = Queue(small_shape, pools[kind].depth)
            value_read = small.read_port(domain="comb")
            record_read = records.read_port(domain="comb")
            m.d.comb += [
                queue.i.valid.eq(of_kind[kind]),
                queue.i.payload.context.eq(handle),
                queue.i.payload.error.eq(self.client.done_error),
                value_read.addr.eq(queue.o.payload.context),
                record_read.addr.eq(queue.o.payload.context),
                answers.payload.row.eq(record_read.data.row),
                answers.payload.value.eq(value_read.data),
                answers.payload.error.eq(queue.o.payload.error),
                answers.valid.eq(queue.o.valid),
                queue.o.ready.eq(answers.ready),
                pools[kind].free.valid.eq(answers.valid & answers.ready),
                pools[kind].free.payload.eq(queue.o.payload.context - first[kind]),
            ]
        line_shape = LineAnswer(self._rows, self._contexts)
        m.submodules.ring_queue = ring_queue = Queue(line_shape, pools[2].depth)
        m.submodules.line_queue = line_queue = Queue(line_shape, self._contexts)
        frees = [self.ring_free, self.line_free]
        lines = [(ring_queue, self.ring_answers, of_kind[2]),
                 (line_queue, self.line_answers, of_kind[3] | (valid & is_walk & ~first_half))]
        if self._request_contexts:
            m.submodules.request_queue = request_queue = Queue(line_shape, pools[4].depth)
            frees.append(self.requests.free)
            lines.append((request_queue, self.requests.answers, of_kind[4]))
        for kind, free in enumerate(frees, 2):
            m.d.comb += [
                pools[kind].free.valid.eq(free.valid),
                pools[kind].free.payload.eq(free.context - first[kind]),
            ]
        for queue, answers, arrives in lines:
            m.d.comb += [
                queue.i.valid.eq(arrives),
                queue.i.payload.context.eq(handle),
                queue.i.payload.row.eq(record.row),
                queue.i.payload.position.eq(record.position),
                queue.i.payload.count.eq(record.count),
                queue.i.payload.walk.eq(is_walk),
                queue.i.payload.error.eq(self.client.done_error
                                         | (is_walk & failed.bit_select(walk_number, 1))),
            ]
            connect(m, queue.o, flipped(answers))

        self._elaborate_line_room(m, pools[3])

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
