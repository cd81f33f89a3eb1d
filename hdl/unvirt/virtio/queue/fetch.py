# SPDX-License-Identifier: BSD-2-Clause
"""The fetch side of the queue engine: from doorbells to chains in the chain store.

    notifications -> scheduler -> avail -> index, ring reads -+
                                    ^                        |-> meta -> read engine
                       ring parser -+-> descriptor reads ----+
    meta answers -> ring parser -> chain store (slots, order)
                 -> descriptor reader -> walker -> chain store (records, segments)
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ..contract import Notification, QueueConfigPort, row_width
from .avail import AvailController
from .chains import ChainStore
from .contract import ChainPortSignature
from .descriptors import DescriptorReader
from .meta import MetaReader, SmallAnswer, SmallRead
from .ring import RingParser
from .rows import Sweep
from .scheduler import Scheduler
from .walker import Walker

__all__ = ["FetchSide"]


class FetchSide(wiring.Component):
    """Fetches available buffers of every queue into the chain store.

    Members
    -------
    drain : ``In(1)``
        Nothing new is fetched; what is in flight comes home.
    notifications : ``In(stream.Signature(Notification))``
        Doorbells, always accepted once ``ready``.
    indirect_enabled, event_idx : ``In(1)``
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
    ready_rows : ``Out(stream)``
        Source rows with a chain that became usable.
    issue, retire, sink : ``In(ChainPortSignature)``
        Consumers of chains.
    violation, at_rest : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, config, *, is_sink):
        self._config = config
        self._is_sink = is_sink
        rows, width = config.rows, row_width(config.rows)
        meta = self._meta = MetaReader(data_width=config.data_width, rows=rows,
                                       contexts=config.meta_contexts)
        port = ChainPortSignature(rows, config.chain_slots, config.segment_groups)
        super().__init__({
            "drain": In(1),
            "notifications": In(stream.Signature(Notification(rows))),
            "indirect_enabled": In(1),
            "event_idx": In(1),
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
            "ready_rows": Out(stream.Signature(width)),
            "issue": In(port),
            "retire": In(port),
            "sink": In(port),
            "violation": Out(1),
            "at_rest": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows, width, contexts = config.rows, config.data_width, config.meta_contexts
        slots, window, groups = config.chain_slots, config.queue_window, config.segment_groups

        m.submodules.meta = meta = self._meta
        m.submodules.scheduler = scheduler = Scheduler(rows=rows, kicks=2)
        m.submodules.avail = avail = AvailController(data_width=width, rows=rows, slots=slots,
                                                     window=window)
        m.submodules.ring = ring = RingParser(data_width=width, rows=rows, contexts=contexts)
        m.submodules.reader = reader = DescriptorReader(data_width=width, rows=rows,
                                                        contexts=contexts)
        m.submodules.walker = walker = Walker(
            rows=rows, slots=slots, window=window, groups=groups, walks=meta.walks,
            contexts=contexts, max_chain=config.max_chain, is_sink=self._is_sink)
        m.submodules.store = store = ChainStore(rows=rows, slots=slots, window=window,
                                                groups=groups)

        for index, block in enumerate((avail, ring, walker)):
            connect(m, flipped(self.configs[index]), block.config)
            m.d.comb += block.drain.eq(self.drain)
        for block in (avail, meta, walker, store):
            connect(m, flipped(self.sweep), block.sweep)

        # Doorbells: one memory of who is waiting, one of who was notified.
        doorbell = self.notifications
        m.d.comb += [
            scheduler.kicks[0].valid.eq(doorbell.valid),
            scheduler.kicks[0].payload.eq(doorbell.payload.row),
            doorbell.ready.eq(scheduler.kicks[0].ready),
            avail.notified_valid.eq(doorbell.valid & doorbell.ready),
            avail.notified_row.eq(doorbell.payload.row),
        ]
        connect(m, avail.again, scheduler.kicks[1])
        connect(m, scheduler.visits, avail.visits)

        # Reads and answers.
        connect(m, avail.index_reads, meta.index_reads)
        connect(m, avail.ring_reads, meta.ring_reads)
        connect(m, ring.reads, meta.descriptor_reads)
        connect(m, walker.reads, meta.walk_reads)
        connect(m, flipped(self.flag_reads), meta.flag_reads)
        connect(m, meta.index_answers, avail.index_answers)
        connect(m, meta.flag_answers, flipped(self.flag_answers))
        connect(m, meta.ring_answers, ring.answers)
        connect(m, meta.line_answers, reader.answers)
        connect(m, ring.port, meta.ring_port)
        connect(m, reader.port, meta.line_port)
        connect(m, ring.free, meta.ring_free)
        connect(m, reader.free, meta.line_free)
        connect(m, meta.client, flipped(self.client))
        connect(m, reader.items, walker.items)
        m.d.comb += [
            reader.skip.eq(walker.skip),
            meta.line_room_row.eq(ring.room_row),
            ring.room.eq(meta.line_room),
        ]

        # Chains.
        connect(m, ring.chains, store.add)
        connect(m, ring.finished, avail.finished)
        connect(m, walker.store, store.walker)
        connect(m, walker.give_back, store.give_back)
        connect(m, avail.flags, flipped(self.flags))
        connect(m, walker.ready_rows, flipped(self.ready_rows))
        for name in ("issue", "retire", "sink"):
            connect(m, flipped(getattr(self, name)), getattr(store, name))
        m.d.comb += [
            store.group_taken_sink.eq(walker.group_taken_sink),
            walker.source_groups.eq(store.source_groups),
            walker.sink_groups.eq(store.sink_groups),
            walker.indirect_enabled.eq(self.indirect_enabled),
            avail.event_idx.eq(self.event_idx),
            avail.free_slots.eq(store.free_slots),
            avail.unused.eq(ring.unused),
            avail.added.eq(ring.chains.valid & ring.chains.ready),
            self.retired_row.eq(avail.retired_row),
            avail.retired.eq(self.retired),
            avail.coming_row.eq(self.coming_row),
            self.coming.eq(avail.coming),
            self.head_row.eq(walker.head_row),
            walker.head_position.eq(self.head),
            self.violation.eq(avail.violation | ring.violation | walker.violation),
            self.at_rest.eq(avail.idle & ring.idle & reader.idle & walker.idle & meta.at_rest
                            & store.at_rest),
        ]
        return m
