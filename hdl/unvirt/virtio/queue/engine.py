# SPDX-License-Identifier: BSD-2-Clause
"""The queue engine: every virtqueue of the device, with its state in memory and its logic shared.

                     doorbells                                        interrupts
                        |                                                 ^
        +---------------v---------------+     used     +-----------+  +---+------+
        | fetch   available rings ->    |  +---------->| used      |->| notify   |
        |         chains in the store   |  |  +------->| writer    |  | decision |
        +--+---------+----------+-------+  |  |        +----+------+  +---+------+
           | chains  | chains   | reads    |  |             | writes      | reads (by fetch);
           |         |          |          |  |             |             | coalescer before it
        +--v------+  +--v----+  |          |  |             v             v
        | source  |  | sink  |  +---> read engine       write engine
        +--+------+  +--+-+--+             |  |
           | packets    | +--- writes      |  |
           v            ^ frames           |  |
        personality ----+------------------+--+

Nothing here knows what kind of device it serves.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, WriteBeat
from ..contract import EngineControlSignature, row_width
from ..spec import Feature
from .balance import DirectionBalance
from .coalescer import CoalescePortSignature, Coalescer
from .control import EngineControl
from .fetch import FetchSide
from .lanes import GranuleChain
from .notify_decision import NotifyDecision
from .request import RequestByte, RequestService, ResponseByte
from .retire import SourcePacket
from .row_reset import RowReset
from .rows import Sweep, connect_sweep
from .sink import Sink, SinkPacket
from .source_service import SourceService
from .used import UsedWriter

__all__ = ["CONFIG_PORTS", "USED_WRITES", "QueueEngine"]

CONFIG_PORTS = 7
"""Readers of the queue configuration rows: available side, ring parser, walker, used writer, decision, queue reset, coalescer."""

USED_WRITES = 1
"""Which of the engine's writes are those of used rings: they should go behind the others, so that they tell of more at once, and ahead of them while
``writes_urgent``."""

_PATIENCE = 16
"""Completion timeouts that a suspension may take: what it waits for beside reads is a MAC."""


class QueueEngine(wiring.Component):
    """Fetches buffers, reads and fills them, uses them and raises interrupts.

    **Ordering**: data, used elements, index, suppression read and interrupt of a row follow each other on the link. Packets of a row keep
    its order; rows are independent. **Reset, suspension**: see :class:`~unvirt.virtio.queue.control.EngineControl`.

    Parameters
    ----------
    config : DeviceConfig
    is_sink, is_request : callable
        Tell from a row (a Value) whether the device writes its buffers, and whether they are requests; all others it reads. Without
        ``is_request`` there is no request service.
    header_size, start_offset : int
        Bytes of the personality's header; where in a word packets begin in the transmit buffer.
    sink_size : int
        Bytes of the personality's memory that packets for sinks come from.
    coalesces : bool
        The personality has notifications coalesced.
    sink_cut : bool
        A packet goes into one buffer, cut to it; see :class:`~unvirt.virtio.queue.sink.Sink`.

    Members
    -------
    control : ``In(EngineControlSignature)``
    meta, data : ``Out(ReadClientSignature)``
        Clients of the read engine.
    writes : ``Out(stream.Signature(WriteBeat)).array(4)``
        Used flags, used ring, sink data, answers to requests.
    writes_urgent : ``Out(1)``
        Used elements have waited long enough, or are many. What is written for them leaves a cycle behind each burst, in which another write begins.
    source_packets, source_word, source_data, source_next_of, source_next, source_free :
        The source service: packets in the transmit buffer and access to it.
    requests, responses :
        The request service, see :class:`~unvirt.virtio.queue.request.RequestService`.
    coalesce :
        Notification coalescing, see :class:`~unvirt.virtio.queue.coalescer.Coalescer`.
    sink_packets, sink_word, sink_data, sink_buffers, sink_crowded, sink_behind, mergeable :
        The sink service.
    msix_enable, max_read_request_size, extended_tags : ``In``
    dma_idle : ``In(1)``
        Both DMA engines and the interrupt path have nothing under way.
    drain : ``Out(1)``
        For the personality: discard what waits.
    request_abandoned : ``Out(1)``
        Pulse: forget the request at hand, its queue is being reset.
    flush : ``In(1)``, flushed : ``Out(1)``
        While ``flush``: the buffers of every packet that the sink had taken when it rose are published, so before any answer that is given then.
    row_cleared, cleared_row : ``Out``
        Pulse: this queue was reset.
    seen_row, seen_enabled : ``Out``
        One row after the other, again and again: whether its queue is enabled.
    stat_source_dropped, stat_sink_dropped : ``Out(1)``
    """

    def __init__(self, config, *, is_sink, header_size, start_offset, sink_size, is_request=None, coalesces=False, sink_cut=False):
        self._config = config
        self._is_sink = is_sink
        self._has_requests = is_request is not None
        self._is_request = is_request or (lambda row: C(0, 1))
        self._coalesces = coalesces
        self._sink_size = sink_size
        self._sink_cut = sink_cut
        self._fetch = FetchSide(config, is_sink=is_sink, serves_requests=self._has_requests)
        self._source = SourceService(config, is_source=lambda row: ~is_sink(row) & ~self._is_request(row), start_offset=start_offset,
                                     header_size=header_size)
        granules = config.tx_buffer_size // GRANULE_SIZE
        width = config.data_width
        super().__init__({
            "control": In(EngineControlSignature(config.rows, CONFIG_PORTS)),
            "meta": Out(self._fetch.signature.members["client"].signature),
            "data": Out(self._source.signature.members["client"].signature),
            "writes": Out(stream.Signature(WriteBeat(width))).array(3 + self._has_requests),
            "writes_urgent": Out(1),
            "source_packets": Out(stream.Signature(SourcePacket(config.rows, granules))),
            "source_word": In(range(config.tx_buffer_size * 8 // width)),
            "source_data": Out(width),
            "source_next_of": In(range(granules)),
            "source_next": Out(range(granules)),
            "source_free": In(stream.Signature(GranuleChain(granules))),
            "requests": Out(stream.Signature(RequestByte(config.rows))),
            "responses": In(stream.Signature(ResponseByte)),
            "coalesce": In(CoalescePortSignature(config.rows)),
            "sink_packets": In(stream.Signature(SinkPacket(config, sink_size))),
            "sink_word": Out(range(sink_size * 8 // width)),
            "sink_data": In(width),
            "sink_buffers": Out(16),
            "sink_crowded": In(1),
            "sink_behind": In(1),
            "mergeable": In(1),
            "msix_enable": In(1),
            "max_read_request_size": In(3),
            "extended_tags": In(1),
            "dma_idle": In(1),
            "drain": Out(1),
            "request_abandoned": Out(1),
            "flush": In(1),
            "flushed": Out(1),
            "row_cleared": Out(1),
            "cleared_row": Out(row_width(config.rows)),
            "seen_row": Out(row_width(config.rows)),
            "seen_enabled": Out(1),
            "stat_source_dropped": Out(1),
            "stat_sink_dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows = config.rows
        m.submodules.engine_control = control = EngineControl(rows=rows, patience=_PATIENCE * config.completion_timeout)
        m.submodules.row_reset = row_reset = RowReset(rows=rows)
        m.submodules.fetch = fetch = self._fetch
        m.submodules.source = source = self._source
        m.submodules.sink = sink = Sink(config, is_sink=self._is_sink, size=self._sink_size, cut=self._sink_cut)
        m.submodules.used = used = UsedWriter(data_width=config.data_width, rows=rows, inputs=2 + self._has_requests)
        m.submodules.decision = decision = NotifyDecision(rows=rows)
        # What only some personalities want: lists of one or none.
        requests, coalescers = [], []
        if self._has_requests:
            m.submodules.request = request = self._elaborate_requests(m, fetch, used)
            requests.append(request)
        if self._coalesces:
            m.submodules.coalescer = coalescer = self._elaborate_coalescer(m, used, decision)
            coalescers.append(coalescer)
        else:
            connect(m, used.published, decision.published)
        transport = self.control

        # Life of the engine.
        m.d.comb += [
            control.driver_ok.eq(transport.driver_ok),
            control.reset.eq(transport.reset),
            transport.reset_done.eq(control.reset_done),
            self.drain.eq(control.drain),
            control.at_rest.eq(fetch.at_rest & source.at_rest & sink.idle & used.idle & self.dma_idle
                               & Cat(block.idle for block in (*requests, decision, *coalescers)).all()),
            control.suspend.eq(transport.suspend),
            transport.suspended.eq(control.suspended),
            control.still.eq(used.idle & self.dma_idle & Cat(block.still for block in (fetch, source, sink, *coalescers)).all()
                             & Cat(block.idle for block in (*requests, decision)).all()),
            used.discard.eq(control.drain),
            transport.violation.eq(control.overdue | Cat(block.violation for block in (fetch, source, *requests, decision)).any()),
        ]
        for block in (fetch, sink, *coalescers):
            m.d.comb += block.hold.eq(control.hold)
        stages = (fetch, source, sink, *requests, decision, *coalescers)
        for block in stages:
            m.d.comb += [block.drain.eq(control.drain), block.row_drain.eq(row_reset.drain)]
        # The sweep of all rows, or of one that was reset.
        sweep = Sweep(rows).create()
        connect_sweep(m, sweep, (*stages, used))
        m.d.comb += [
            sweep.valid.eq(control.sweep.valid | row_reset.sweep.valid),
            sweep.row.eq(Mux(control.sweep.valid, control.sweep.row, row_reset.sweep.row)),
            control.sweep.done.eq(sweep.done),
            row_reset.sweep.done.eq(sweep.done),
        ]
        self._elaborate_row_reset(m, row_reset, control, fetch, source, sink, requests, used, decision)

        # Fetch.
        connect(m, flipped(transport.notifications), fetch.notifications)
        for index in range(3):
            connect(m, flipped(getattr(transport, f"config_{index}")), fetch.configs[index])
        connect(m, flipped(transport.config_3), used.config)
        connect(m, flipped(transport.config_4), decision.config)
        connect(m, fetch.client, flipped(self.meta))
        connect(m, source.issue, fetch.issue)
        connect(m, source.retire, fetch.retire)
        connect(m, sink.chains, fetch.sink)
        connect(m, sink.starved, fetch.starved)
        is_request = self._is_request(fetch.ready_rows.payload)
        m.d.comb += fetch.ready_rows.ready.eq(source.ready_rows.ready)
        for service, mine in zip([source, *requests], (~is_request, is_request)):
            m.d.comb += [service.ready_rows.valid.eq(fetch.ready_rows.valid & mine),
                         service.ready_rows.payload.eq(fetch.ready_rows.payload)]
            with m.If(mine):
                m.d.comb += fetch.ready_rows.ready.eq(service.ready_rows.ready)
        m.d.comb += fetch.indirect_enabled.eq(transport.features[Feature.INDIRECT_DESC])
        for block in (fetch, decision):
            m.d.comb += block.event_idx.eq(transport.features[Feature.EVENT_IDX])
        m.d.comb += used.in_order.eq(transport.features[Feature.IN_ORDER])
        # Constant while anything is under way, and wanted everywhere: each has a register of its own, one behind the other.
        packed = transport.features[Feature.RING_PACKED]
        for name, block in (("decision", decision), ("used", used), ("fetch", fetch)):
            own = Signal(name=f"packed_for_{name}")
            m.d.sync += own.eq(packed)
            m.d.comb += block.packed.eq(own)
            packed = own

        # Positions of a row come from the service that consumes its chains.
        for asked, given, source_ports, index in (
                (fetch.retired_row, fetch.retired, (source.retired_row, source.retired), 0),
                (fetch.head_row, fetch.head, (source.issued_row, source.issued), 1)):
            of_sink, of_request = Signal(name=f"of_sink{index}"), Signal(name=f"of_request{index}")
            m.d.sync += [of_sink.eq(self._is_sink(asked)), of_request.eq(self._is_request(asked))]
            m.d.comb += [
                source_ports[0].eq(asked),
                sink.retired_row[index].eq(asked),
                given.eq(Mux(of_sink, sink.retired[index], source_ports[1])),
            ]
            for request in requests:
                m.d.comb += request.retired_row[index].eq(asked)
                with m.If(of_request):
                    m.d.comb += given.eq(request.retired[index])

        # Source and sink.
        connect(m, source.client, flipped(self.data))
        connect(m, source.packets, flipped(self.source_packets))
        connect(m, flipped(self.source_free), source.free)
        connect(m, flipped(self.sink_packets), sink.packets)
        m.d.comb += [
            source.max_read_request_size.eq(self.max_read_request_size),
            source.extended_tags.eq(self.extended_tags),
            source.read_word.eq(self.source_word),
            self.source_data.eq(source.read_data),
            source.next_of.eq(self.source_next_of),
            self.source_next.eq(source.next),
            self.sink_word.eq(sink.read_word),
            sink.read_data.eq(self.sink_data),
            self.sink_buffers.eq(sink.buffers),
            sink.crowded.eq(self.sink_crowded),
            fetch.coming_row.eq(sink.coming_row),
            sink.coming.eq(fetch.coming),
            sink.mergeable.eq(self.mergeable),
            self.stat_source_dropped.eq(source.stat_dropped),
            self.stat_sink_dropped.eq(sink.stat_dropped),
        ]

        # Used elements, and whether to interrupt.
        connect(m, source.used, used.elements[0])
        connect(m, sink.used, used.elements[1])
        connect(m, decision.reads, fetch.flag_reads)
        connect(m, fetch.flag_answers, decision.answers)
        connect(m, decision.interrupts, flipped(transport.interrupts))
        m.d.comb += decision.msix_enable.eq(self.msix_enable)
        connect(m, fetch.flags, flipped(self.writes[0]))
        connect(m, used.writes, flipped(self.writes[USED_WRITES]))
        m.d.comb += self.writes_urgent.eq(used.urgent)
        connect(m, sink.writes, flipped(self.writes[2]))
        m.submodules.balance = balance = DirectionBalance()
        sink_write = sink.writes
        m.d.comb += [
            source.open.eq(balance.open),
            balance.begins.eq(source.begins),
            balance.begun.eq(source.begun),
            balance.moves.eq(sink_write.valid & sink_write.ready & sink_write.payload.first),
            balance.moved.eq(sink_write.payload.header.length),
            balance.waits.eq(sink_write.valid & ~sink_write.ready),
            balance.behind.eq(self.sink_behind),
        ]
        return m

    def _elaborate_requests(self, m, fetch, used):
        """Make the request service."""
        config = self._config
        request = RequestService(
            data_width=config.data_width, rows=config.rows, slots=config.chain_slots, groups=config.segment_groups,
            contexts=config.meta_contexts, is_request=self._is_request)
        connect(m, request.chains, fetch.request)
        connect(m, request.lines, fetch.requests)
        m.d.comb += request.chains_left.eq(fetch.chains_left)
        connect(m, request.used, used.elements[2])
        connect(m, request.requests, flipped(self.requests))
        connect(m, flipped(self.responses), request.responses)
        connect(m, request.writes, flipped(self.writes[3]))
        m.d.comb += self.request_abandoned.eq(request.abandoned)
        return request

    def _elaborate_coalescer(self, m, used, decision):
        """Make the coalescer, between the used writer and the decision."""
        coalescer = Coalescer(rows=self._config.rows, cycles_per_microsecond=self._config.cycles_per_microsecond)
        connect(m, flipped(self.control.config_6), coalescer.config)
        connect(m, used.published, coalescer.published)
        connect(m, coalescer.due, decision.published)
        connect(m, flipped(self.coalesce), coalescer.port)
        return coalescer

    def _elaborate_row_reset(self, m, row_reset, control, fetch, source, sink, requests, used, decision):
        """One queue comes to rest while the others go on."""
        transport, row = self.control, row_reset.drain.row
        connect(m, flipped(transport.config_5), row_reset.config)
        connect(m, row_reset.done, flipped(transport.rows_reset))
        services_clean = Signal()
        m.d.comb += services_clean.eq(Mux(self._is_sink(row), sink.row_clean, source.row_clean))
        for request in requests:
            with m.If(self._is_request(row)):
                m.d.comb += services_clean.eq(request.row_clean)
        m.d.comb += [
            row_reset.row_rest.eq(fetch.row_rest),
            row_reset.services_clean.eq(services_clean),
            self.flushed.eq(used.passed[1]),
            sink.flush.eq(self.flush),
            used.mark.eq(Cat(row_reset.used_mark, sink.flushed)),
            row_reset.used_passed.eq(used.passed[0]),
            row_reset.notify_clean.eq(decision.row_clean),
            row_reset.quiet.eq(control.quiet),
            row_reset.cleared.eq(control.cleared),
            self.row_cleared.eq(row_reset.done.valid & row_reset.done.ready),
            self.cleared_row.eq(row_reset.done.payload),
            self.seen_row.eq(row_reset.seen_row),
            self.seen_enabled.eq(row_reset.config.config.enabled),
        ]
