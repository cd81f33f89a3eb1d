# SPDX-License-Identifier: BSD-2-Clause
"""The fetch side of the queue engine: from doorbells to chains in the chain store.

    notifications -> scheduler -> split or packed side -> reads -> meta -> read engine
                         ^            ^  |  |
                         +------------+  |  +--> chain store (slots, order)
                                         v
    meta answers -> descriptor reader -> heads -> walker -> chain store (records, segments)
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ...stream.buffer import HalfBuffer, SkidBuffer
from ...stream.fifo import Queue
from ..contract import Doorbell, QueueConfigPort, row_width
from .chains import ChainStore
from .contract import ChainPortSignature, RowDrain
from .descriptors import DescriptorReader
from .meta import MetaReader
from .packed_side import PackedSide
from .reads import LineClientSignature, SmallAnswer, SmallRead
from .ring_side import RingSelect
from .rows import RowFlags, Sweep, connect_sweep
from .scheduler import Scheduler
from .split_side import SplitSide
from .walker import Walker

__all__ = ["FetchSide"]


class FetchSide(wiring.Component):
    """Fetches available buffers of every queue into the chain store.

    Members
    -------
    drain : ``In(1)``
        Nothing new is fetched from the cycle after it on; what is in flight comes home.
    hold : ``In(1)``, still : ``Out(1)``
        Nothing new is fetched from the cycle after it on; what is in flight becomes chains, and no walk begins. Nothing is being done, apart from
        reads; one cycle of it means nothing. Once ``hold`` has fallen each row is to be notified of.
    row_drain : ``In(RowDrain)``, row_rest : ``Out(1)``
        A row in reset; nothing of it was under way in the cycle before, apart from what is in the store.
    notifications : ``In(stream.Signature(Doorbell))``
        Doorbells, always accepted once ``ready``.
    indirect_enabled, event_idx, packed : ``In(1)``
    configs : ``Out(QueueConfigPort).array(3)``
    client : ``Out(ReadClientSignature)``
        Small reads.
    flag_reads, flag_answers : streams
        Suppression state for the notification decision, through the same contexts.
    flags : ``Out(stream.Signature(WriteBeat))``
        Writes of used flags and of avail_event.
    retired_row, retired : ``Out``/``In``
        Position after the last chain of a row given back (synchronous).
    coming_row, coming : ``In``/``Out``
        Whether entries of a row are on their way to the store (synchronous).
    head_row, head : ``Out``/``In``
        Position of the oldest chain of a row not consumed (synchronous).
    starved : ``In(stream.Signature(row))``
        A consumer waits for more chains of this row.
    ready_rows : ``Out(stream)``
        Source rows with a chain that became usable.
    issue, retire, sink, request : ``In(ChainPortSignature)``
        Consumers of chains; the last if there are requests.
    requests : ``In(LineClientSignature)``
        Lines of requests, through contexts of their own.
    violation, at_rest, chains_left : ``Out(1)``
        ``chains_left``: some chain is in the store.
    sweep : ``In``
    """

    def __init__(self, config, *, is_sink, serves_requests=False):
        self._config = config
        self._is_sink = is_sink
        self._serves_requests = serves_requests
        rows, width = config.rows, row_width(config.rows)
        meta = self._meta = MetaReader(data_width=config.data_width, rows=rows,
                                       contexts=config.meta_contexts, serves_requests=serves_requests)
        port = ChainPortSignature(rows, config.chain_slots, config.segment_groups)
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_rest": Out(1),
            "notifications": In(stream.Signature(Doorbell(rows))),
            "indirect_enabled": In(1),
            "event_idx": In(1),
            "packed": In(1),
            "configs": Out(QueueConfigPort(rows)).array(3),
            "client": Out(meta.signature.members["client"].signature),
            "flag_reads": In(stream.Signature(SmallRead(rows))),
            "flag_answers": Out(stream.Signature(SmallAnswer(rows))),
            "flags": Out(stream.Signature(WriteBeat(config.data_width))),
            "retired_row": Out(width),
            "retired": In(16),
            "coming_row": In(width),
            "coming": Out(1),
            "head_row": Out(width),
            "head": In(16),
            "starved": In(stream.Signature(width)),
            "ready_rows": Out(stream.Signature(width)),
            "issue": In(port),
            "retire": In(port),
            "sink": In(port),
            "violation": Out(1),
            "at_rest": Out(1),
            "still": Out(1),
            "chains_left": Out(1),
            "sweep": In(Sweep(rows)),
        } | ({"request": In(port), "requests": In(LineClientSignature(config.data_width, rows, config.meta_contexts))} if serves_requests else {}))

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows, width, contexts = config.rows, config.data_width, config.meta_contexts
        slots, window, groups = config.chain_slots, config.queue_window, config.segment_groups
        sizes = {"data_width": width, "rows": rows, "contexts": contexts, "slots": slots, "window": window}

        m.submodules.meta = meta = self._meta
        m.submodules.scheduler = scheduler = Scheduler(rows=rows, kicks=6)
        m.submodules.split = split = SplitSide(**sizes)
        m.submodules.packed = packed = PackedSide(**sizes)
        m.submodules.select = select = RingSelect(data_width=width, rows=rows, slots=slots)
        m.submodules.reader = reader = DescriptorReader(data_width=width, rows=rows, contexts=contexts)
        m.submodules.walker = walker = Walker(
            rows=rows, slots=slots, window=window, groups=groups, walks=meta.walks,
            contexts=contexts, max_chain=config.max_chain, is_sink=self._is_sink)
        m.submodules.store = store = ChainStore(rows=rows, slots=slots, window=window, groups=groups)
        side = select.o
        # They come from far and go everywhere.
        drain, hold = Signal(init=1, name="drain_here"), Signal(name="hold_here")
        walker_drain = Signal(init=1)
        m.d.sync += [drain.eq(self.drain), hold.eq(self.hold), walker_drain.eq(drain)]
        connect(m, split.side, select.split_side)
        connect(m, packed.side, select.packed_side)
        for block, index in ((side, 0), (split, 1), (walker, 2)):
            connect(m, block.config, flipped(self.configs[index]))
        m.submodules.rung = rung = RowFlags(rows=rows)
        connect_sweep(m, self.sweep, (side, meta, walker, store))

        # Doorbells: one memory of who is waiting, one of who was notified.
        doorbell = self.notifications
        m.d.comb += [
            scheduler.kicks[0].valid.eq(doorbell.valid),
            scheduler.kicks[0].payload.eq(doorbell.payload.row),
            doorbell.ready.eq(scheduler.kicks[0].ready),
            side.notified_valid.eq(doorbell.valid & doorbell.ready),
            side.notified.eq(doorbell.payload),
            rung.set_valid.eq(side.notified_valid),
            rung.set_row.eq(doorbell.payload.row),
            rung.test_row.eq(side.rung_row),
            side.rung.eq(rung.test_value),
            rung.clear.eq(side.rung_clear),
        ]
        connect(m, side.again, scheduler.kicks[1])
        connect(m, packed.kicks[1], scheduler.kicks[2])
        # While draining rows are visited until their lines are back, also that of a row that waits for the end of a chain. Last, as it kicks in
        # every cycle.
        drain_row = Signal(row_width(rows))
        m.d.sync += drain_row.eq(drain_row + 1)
        resetting = self.row_drain.fetch & ~side.row_clean & ~drain
        m.d.comb += [scheduler.kicks[5].valid.eq(resetting | (drain & self.packed & ~meta.at_rest)),
                     scheduler.kicks[5].payload.eq(Mux(resetting, self.row_drain.row, drain_row))]
        # A row whose window is full sleeps until some of its chains have gone, or one that waits for more says so.
        m.submodules.made_room = made_room = SkidBuffer(row_width(rows))
        connect(m, store.made_room, made_room.i)
        connect(m, made_room.o, scheduler.kicks[3])
        connect(m, flipped(self.starved), scheduler.kicks[4])
        self._elaborate_visits(m, scheduler.visits, packed.kicks[0], side, meta.line_free_any | drain | self.row_drain.fetch)

        # Reads and answers.
        connect(m, split.index_reads, meta.index_reads)
        connect(m, split.ring_reads, meta.ring_reads)
        connect(m, side.reads, meta.descriptor_reads)
        # What the walker asks for hangs on all that it looks at, and what is read next on all that is asked for.
        m.submodules.walks = walks = HalfBuffer(walker.reads.payload.shape())
        connect(m, walker.reads, walks.i)
        connect(m, walks.o, meta.walk_reads)
        connect(m, flipped(self.flag_reads), meta.flag_reads)
        connect(m, meta.index_answers, split.index_answers)
        connect(m, meta.flag_answers, flipped(self.flag_answers))
        connect(m, meta.ring_answers, split.ring_answers)
        connect(m, split.port, meta.ring_port)
        connect(m, split.free, meta.ring_free)
        connect(m, reader.port, meta.line_port)
        connect(m, reader.free, meta.line_free)
        connect(m, meta.client, flipped(self.client))
        self._elaborate_lines(m, meta.line_answers, packed, reader, walker)

        # Chains.
        connect(m, side.chains, store.add)
        connect(m, walker.store, store.walker)
        connect(m, walker.give_back, store.give_back)
        connect(m, walker.ends, packed.ends)
        connect(m, side.flags, flipped(self.flags))
        connect(m, walker.ready_rows, flipped(self.ready_rows))
        for name in ("issue", "retire", "sink"):
            connect(m, flipped(getattr(self, name)), getattr(store, name))
        if self._serves_requests:
            connect(m, flipped(self.request), store.request)
            connect(m, flipped(self.requests), meta.requests)
        # As in the engine: near to where it is wanted.
        chosen = self.packed
        for name, block in (("select", select), ("reader", reader), ("walker", walker), ("store", store)):
            own = Signal(name=f"packed_for_{name}")
            m.d.sync += own.eq(chosen)
            m.d.comb += block.packed.eq(own)
            chosen = own
        m.d.comb += [
            side.drain.eq(drain),
            walker.drain.eq(walker_drain),
            side.hold.eq(hold),
            walker.hold.eq(hold),
            side.row_drain.eq(self.row_drain),
            walker.row_drain.eq(self.row_drain),
            meta.line_rest_row.eq(self.row_drain.row),
            self.row_rest.eq(side.row_clean & meta.line_rest & walker.row_rest),
            side.event_idx.eq(self.event_idx),
            walker.indirect_enabled.eq(self.indirect_enabled),
            meta.line_room_row.eq(side.room_row),
            side.room.eq(meta.line_room),
            packed.context_free.eq(meta.line_free_any),
            packed.contexts_free.eq(meta.line_free_some),
            split.index_free.eq(meta.index_free_any),
            split.ring_free.eq(meta.ring_free_any),
            store.group_taken_sink.eq(walker.group_taken_sink),
            walker.source_groups.eq(store.source_groups),
            walker.sink_groups.eq(store.sink_groups),
            side.free_slots.eq(store.free_slots),
            self.retired_row.eq(side.retired_row),
            side.retired.eq(self.retired),
            side.coming_row.eq(self.coming_row),
            self.coming.eq(side.coming),
            self.head_row.eq(walker.head_row),
            walker.head_position.eq(self.head),
            self.violation.eq(side.violation | walker.violation),
            self.chains_left.eq(~store.at_rest),
            self.still.eq(side.idle & reader.idle & walker.still & ~walks.o.valid),
            self.at_rest.eq(side.idle & reader.idle & walker.idle & meta.at_rest & store.at_rest),
        ]
        return m

    def _elaborate_visits(self, m, scheduled, arrived, side, may_do):
        """Rows of lines that have arrived first: each holds a context, of which there are less than half, and which rows in the scheduler want.

        While there is none these are not visited in vain: only if they ``may_do`` something. The side is told of those that wait, so that arrivals
        come to an end. A row for which no other waits is visited in the cycle in which its line arrives.
        """
        m.submodules.waiting = waiting = Queue(row_width(self._config.rows), self._config.meta_contexts // 2)
        visits, turn, others = side.visits, side.turn, side.others
        urgent = Signal()
        row = Mux(waiting.o.valid, waiting.o.payload, arrived.payload)
        of_use = ~self.packed | may_do
        m.d.comb += [
            urgent.eq(waiting.o.valid | arrived.valid),
            waiting.i.payload.eq(arrived.payload),
            waiting.i.valid.eq(arrived.valid & (waiting.o.valid | ~visits.ready)),
            arrived.ready.eq(waiting.i.ready),
            waiting.o.ready.eq(visits.ready),
            turn.eq(~urgent),
            others.eq(scheduled.valid & of_use),
            visits.valid.eq(urgent | others),
            visits.payload.eq(Mux(urgent, row, scheduled.payload)),
            scheduled.ready.eq(visits.ready & ~urgent & of_use),
        ]

    def _elaborate_lines(self, m, answers, packed, reader, walker):
        """Lines of a packed ring take the way through its table; those of walks, and all of the split ring, are read as they come."""
        ordered = Signal()
        direct = Signal()
        m.d.comb += [
            ordered.eq(self.packed & ~answers.payload.walk),
            direct.eq(answers.valid & ~ordered),
            packed.answers.payload.eq(answers.payload),
            packed.answers.valid.eq(answers.valid & ordered),
            packed.lines.ready.eq(reader.answers.ready & ~direct),
            reader.answers.valid.eq(direct | packed.lines.valid),
            reader.answers.payload.eq(Mux(direct, answers.payload, packed.lines.payload)),
            answers.ready.eq(Mux(ordered, packed.answers.ready, reader.answers.ready)),
        ]
        # Descriptors on their way to the walker: heads are looked for in those of a packed ring.
        m.d.comb += [
            packed.found.payload.eq(reader.items.payload),
            packed.found.valid.eq(reader.items.valid & self.packed),
            walker.items.payload.eq(Mux(self.packed, packed.items.payload, reader.items.payload)),
            walker.items.valid.eq(Mux(self.packed, packed.items.valid, reader.items.valid)),
            packed.items.ready.eq(walker.items.ready & self.packed),
            reader.items.ready.eq(Mux(self.packed, packed.found.ready, walker.items.ready)),
            packed.skip.eq(walker.skip),
            reader.skip.eq(Mux(self.packed, packed.skip_found, walker.skip)),
        ]
