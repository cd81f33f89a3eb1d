# SPDX-License-Identifier: BSD-2-Clause
"""The source service: buffers the device reads, fetched whole and handed over in queue order.

    ready rows -> scheduler -> issue -> pieces -> read engine -> transmit buffer
                                 |                    | done
                                 v                    v
                 packets <- retire <- scheduler <- tracker
"""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, ReadClientSignature
from ...pcie.tags import split_tags
from ...stream.fifo import Queue
from ..contract import row_width
from .contract import ChainPortSignature, RowDrain, UsedElement
from .lanes import GranuleChain, GranulePool, LaneMemory
from .read_window import ReadWindow
from .retire import FetchTracker, SourcePacket, SourceRetire
from .rows import Sweep, connect_sweep
from .scheduler import Scheduler
from .source import PacketInfo, SourceIssue

__all__ = ["SourceService"]

_LEAST_UNDER_WAY = 4096
"""Bytes of packets that are always read at once."""


class SourceService(wiring.Component):
    """Reads the device-readable bytes of chains into the transmit buffer.

    Packets come out in the order of their queue, queues in the order in which packets are complete. Buffer space is reserved for a whole
    packet before its first read. See :class:`~unvirt.virtio.queue.source.SourceIssue` for what is dropped and for the limits per row.

    Members
    -------
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset; none of its chains is left.
    ready_rows : ``In(stream)``
        Rows with a chain that became usable.
    issue, retire : ``Out(ChainPortSignature)``
    client : ``Out(ReadClientSignature)``
    packets : ``Out(stream.Signature(SourcePacket))``
    read_word, read_data, next_of, next, free :
        The personality's access to the transmit buffer.
    used : ``Out(stream.Signature(UsedElement))``
    open, begins, begun : ``In(1)``, ``Out(1)``, ``Out(14)``
        Packets may begin, as they may if nobody says; one of so many bytes does.
    retired_row, retired, issued_row, issued : ``In``/``Out``
        Positions (synchronous).
    stat_dropped, violation, at_rest : ``Out(1)``
    still : ``Out(1)``
        Every packet that could be begun was, and has left.
    """

    def __init__(self, config, *, is_source, start_offset, header_size):
        self._config = config
        self._is_source = is_source
        self._start = start_offset
        self._header_size = header_size
        rows, width = config.rows, row_width(config.rows)
        self._granules = granules = config.tx_buffer_size // GRANULE_SIZE
        port = ChainPortSignature(rows, config.chain_slots, config.segment_groups)
        self._handle_width = (config.chain_slots - 1).bit_length()
        self._buffer_width = (config.tx_buffer_size - 1).bit_length()
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "max_read_request_size": In(3),
            "extended_tags": In(1),
            "ready_rows": In(stream.Signature(width)),
            "issue": Out(port),
            "retire": Out(port),
            "client": Out(ReadClientSignature(config.data_width, self._handle_width,
                                              self._buffer_width)),
            "packets": Out(stream.Signature(SourcePacket(rows, granules))),
            "read_word": In(range(config.tx_buffer_size * 8 // config.data_width)),
            "read_data": Out(config.data_width),
            "next_of": In(range(granules)),
            "next": Out(range(granules)),
            "free": In(stream.Signature(GranuleChain(granules))),
            "used": Out(stream.Signature(UsedElement(rows))),
            "open": In(1, init=1),
            "begins": Out(1),
            "begun": Out(14),
            "retired_row": In(width),
            "retired": Out(16),
            "issued_row": In(width),
            "issued": Out(16),
            "stat_dropped": Out(1),
            "violation": Out(1),
            "at_rest": Out(1),
            "still": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows, slots, groups = config.rows, config.chain_slots, config.segment_groups
        granules = self._granules

        # So many of the shortest packets wait in the store whenever a row of them is visited, and can be read at once.
        shortest = min(config.queue_window // 2, config.data_tags // 2)
        quantum = min(64 << (shortest.bit_length() - 1), 2048)
        longest = config.max_frame + self._header_size
        short_tags = split_tags(config.meta_tags, config.data_tags)[1].low_count
        m.submodules.issue_scheduler = issue_scheduler = Scheduler(rows=rows, kicks=3)
        m.submodules.issue = issue = SourceIssue(
            rows=rows, slots=slots, groups=groups, granules=granules, tags=config.data_tags, short_tags=short_tags,
            handle_width=self._handle_width, buffer_width=self._buffer_width,
            start_offset=self._start, header_size=self._header_size, shortest=self._header_size + 14,
            longest=longest, quantum=quantum)
        m.submodules.tracker = tracker = FetchTracker(rows=rows, slots=slots)
        m.submodules.window = window = ReadWindow(slots=slots, least=_LEAST_UNDER_WAY, most=config.tx_buffer_size)
        m.submodules.retire_scheduler = retire_scheduler = Scheduler(rows=rows, kicks=3)
        m.submodules.retire = retire = SourceRetire(rows=rows, slots=slots, groups=groups,
                                                    granules=granules)
        m.submodules.pool = pool = GranulePool(granules=granules, lookups=2)
        m.submodules.buffer = buffer = LaneMemory(data_width=config.data_width,
                                                  size=config.tx_buffer_size)
        m.submodules.info = info = memory.Memory(shape=PacketInfo(granules), depth=slots, init=[])
        info_write, info_read = info.write_port(), info.read_port()

        connect_sweep(m, self.sweep, (issue, tracker, retire))
        for block in (issue, retire):
            m.d.comb += [block.drain.eq(self.drain), block.row_drain.eq(self.row_drain)]
        m.d.comb += [retire.issue_clean.eq(issue.row_clean), self.row_clean.eq(retire.row_clean)]

        # While draining every source row is visited again and again, so that all chains come home.
        counter, drain_row = Signal(row_width(rows)), Signal(row_width(rows))
        m.d.sync += counter.eq(counter + 1)
        m.d.comb += drain_row.eq(Mux(self.drain, counter, self.row_drain.row))
        drains = Signal()
        retire_kick = retire_scheduler.kicks[2]
        m.d.comb += [
            drains.eq((self.drain | self.row_drain.services) & self._is_source(drain_row)),
            issue_scheduler.kicks[2].valid.eq(drains),
            issue_scheduler.kicks[2].payload.eq(drain_row),
            # Who asks for another visit goes before. As a kick of its own it would cost eight LUTs for every bit of a row number instead of three.
            retire_kick.valid.eq(retire.again.valid | drains),
            retire_kick.payload.eq(Mux(retire.again.valid, retire.again.payload, drain_row)),
            retire.again.ready.eq(retire_kick.ready),
        ]

        connect(m, flipped(self.ready_rows), issue_scheduler.kicks[0])
        connect(m, issue.again, issue_scheduler.kicks[1])
        connect(m, issue_scheduler.visits, issue.visits)
        connect(m, issue.dropped, retire_scheduler.kicks[1])
        connect(m, retire_scheduler.visits, retire.visits)
        m.d.comb += [
            retire_scheduler.kicks[0].valid.eq(tracker.complete_valid),
            retire_scheduler.kicks[0].payload.eq(tracker.complete_row),
        ]

        connect(m, issue.chains, flipped(self.issue))
        connect(m, retire.chains, flipped(self.retire))
        connect(m, issue.pieces, flipped(self.client.requests))
        connect(m, flipped(self.client.write), buffer.write)
        # Room for some packets that wait for the MAC, so that their chains are used without waiting.
        m.submodules.packets = packets = Queue(SourcePacket(rows, granules), 16)
        connect(m, retire.packets, packets.i)
        connect(m, packets.o, flipped(self.packets))
        connect(m, retire.used, flipped(self.used))
        # The personality gives back what was sent; what was not sent goes back when it does not.
        m.d.comb += [
            pool.free.valid.eq(self.free.valid | retire.discards.valid),
            pool.free.payload.eq(Mux(self.free.valid, self.free.payload, retire.discards.payload)),
            self.free.ready.eq(pool.free.ready),
            retire.discards.ready.eq(pool.free.ready & ~self.free.valid),
        ]
        m.d.comb += [
            issue.max_read_request_size.eq(self.max_read_request_size),
            issue.extended_tags.eq(self.extended_tags),
            issue.pool_head.eq(pool.head),
            issue.pool_count.eq(pool.count),
            pool.take.eq(issue.pool_take),
            pool.next_of[0].eq(self.client.lookup),
            self.client.lookup_next.eq(pool.next[0]),
            pool.next_of[1].eq(self.next_of),
            self.next.eq(pool.next[1]),
            buffer.read_word.eq(self.read_word),
            self.read_data.eq(buffer.read_data),

            # What is under way.
            window.begins.eq(issue.begins),
            window.begun.eq(issue.begun),
            window.wanted.eq(issue.wanted),
            issue.open.eq(window.open & self.open),
            self.begins.eq(issue.begins),
            self.begun.eq(issue.begun.bytes),
            window.arrives.eq(tracker.arrives),
            window.arrived.eq(tracker.arrived),
            tracker.max_read_request_size.eq(self.max_read_request_size),
            window.clear.eq(pool.at_rest),

            # Progress of the later stages, for the limits of the earlier ones.
            retire.retired_row[0].eq(issue.progress_row),
            issue.retired.eq(retire.retired[0]),
            tracker.done_row.eq(issue.progress_row),
            issue.pieces_done.eq(tracker.pieces_done),
            issue.issued_row[0].eq(retire.issued_row),
            retire.issued.eq(issue.issued[0]),
            issue.issued_row[1].eq(self.issued_row),
            self.issued.eq(issue.issued[1]),
            retire.retired_row[1].eq(self.retired_row),
            self.retired.eq(retire.retired[1].position),

            info_write.addr.eq(issue.info_slot),
            info_write.data.eq(issue.info),
            info_write.en.eq(issue.info_valid),
            info_read.addr.eq(retire.info_slot),
            retire.info.eq(info_read.data),

            tracker.done_valid.eq(self.client.done_valid),
            tracker.done_slot.eq(self.client.done_handle),
            tracker.done_error.eq(self.client.done_error),
            tracker.count_valid.eq(issue.count_valid),
            tracker.count_slot.eq(issue.info_slot),
            tracker.count.eq(issue.count),
            tracker.test_slot.eq(retire.tracker_slot),
            retire.tracker_complete.eq(tracker.test_complete),
            retire.tracker_failed.eq(tracker.test_failed),
            tracker.clear_valid.eq(retire.tracker_clear),
            tracker.clear_slot.eq(retire.tracker_slot),

            self.stat_dropped.eq(issue.stat_dropped),
            self.violation.eq(tracker.violation),
            self.at_rest.eq(pool.at_rest),
            self.still.eq(pool.at_rest & issue.idle & retire.idle),
        ]
        return m
