# SPDX-License-Identifier: BSD-2-Clause
"""The read engine: reads of host memory for two clients.

    meta --\\                                        /--> meta memory, done
            ReadIssuer --> link --> ReadCompleter --
    data --/                                        \\--> data memory, done

Rules between the engine and its clients are in ``docs/contracts.md`` section 4.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .dma import ReadClientSignature
from .dma_read_complete import ReadCompleter
from .dma_read_issue import ReadIssuer
from .tags import split_tags
from .tlp import CompletionHeader, NonPostedHeader, TlpBeat

__all__ = ["DmaRead"]


class DmaRead(wiring.Component):
    """Reads pieces of host memory into the clients' memories, many at a time.

    **Latency**: request to ``tx_nonposted`` one cycle, two with a fence already passed; last
    completion beat to ``write`` two cycles, to ``done`` three. **Throughput**: one request and one
    completion beat per cycle. **Ordering**: requests of a client leave in order, completions end
    them in any. A fenced piece waits until every write command accepted before it is numbered and
    then carries the number; it holds back only its own client. **Back-pressure**: none on
    completions (see :class:`~unvirt.pcie.dma_read_complete.ReadCompleter` for one exception),
    places are reserved by the clients. **Errors**: status, poison, contradiction, time-out, link
    reset, bus mastering off all end in ``done`` with ``done_error``; each piece gets exactly one
    ``done``. **Reset** forgets everything; the engine issues nothing for as many cycles as it has
    tags.

    Parameters
    ----------
    config : DeviceConfig
        Uses ``data_width``, ``meta_tags``, ``data_tags`` and ``completion_timeout``.
    meta_handle_width, meta_buffer_width, data_handle_width, data_buffer_width : int
        Of the clients' signatures.

    Members
    -------
    meta, data : ``In(ReadClientSignature)``
        The clients, each with its own tags.
    tx_nonposted, rx_completions : streams
        To and from the attachment.
    writes_accepted, writes_numbered, posted_number : ``In(8)``
        From :class:`~unvirt.pcie.dma_write.DmaWrite`.
    posted_done : ``In(8)``
        From the attachment.
    bus_master_enable, extended_tags : ``In(1)``
        From the attachment's control signals. Without bus mastering pieces end in an error; a
        request already presented stays.
    link_reset : ``In(1)``
        The link is down or being reset: all reads under way end in an error, quarantined tags are
        freed.
    idle : ``Out(1)``
        No piece is held and no tag in use but quarantined ones.
    stat_unexpected, stat_timeout, stat_failed : ``Out(1)``
        Pulses: completion dropped, read timed out, bad completion.

    Spec
    ----
    [PCIe 2.2.5] First/Last DW Byte Enables, [PCIe 2.2.9] Completions, [PCIe 2.3.1.1] Data Return
    for Read Requests, [PCIe 2.8] Completion Timeout Mechanism
    """

    def __init__(self, config, *, meta_handle_width, meta_buffer_width, data_handle_width,
                 data_buffer_width):
        self._config = config
        self._handle_widths = (meta_handle_width, data_handle_width)
        self._buffer_widths = (meta_buffer_width, data_buffer_width)
        width = config.data_width
        super().__init__({
            "meta": In(ReadClientSignature(width, meta_handle_width, meta_buffer_width)),
            "data": In(ReadClientSignature(width, data_handle_width, data_buffer_width)),
            "tx_nonposted": Out(stream.Signature(TlpBeat(NonPostedHeader, width))),
            "rx_completions": In(stream.Signature(TlpBeat(CompletionHeader, width))),
            "writes_accepted": In(8),
            "writes_numbered": In(8),
            "posted_number": In(8),
            "posted_done": In(8),
            "bus_master_enable": In(1),
            "extended_tags": In(1),
            "link_reset": In(1),
            "idle": Out(1),
            "stat_unexpected": Out(1),
            "stat_timeout": Out(1),
            "stat_failed": Out(1),
        })

    @property
    def config(self):
        return self._config

    def elaborate(self, platform):
        m = Module()
        config = self._config
        tags = split_tags(config.meta_tags, config.data_tags)
        m.submodules.issuer = issuer = ReadIssuer(
            data_width=config.data_width, tags=tags,
            handle_widths=self._handle_widths, buffer_widths=self._buffer_widths)
        m.submodules.completer = completer = ReadCompleter(
            data_width=config.data_width, tags=tags[0].count + tags[1].count,
            timeout=config.completion_timeout, handle_width=max(self._handle_widths),
            buffer_width=max(self._buffer_widths))

        connect(m, issuer.tx_nonposted, flipped(self.tx_nonposted))
        connect(m, flipped(self.rx_completions), completer.completions)
        for name in ("writes_accepted", "writes_numbered", "posted_number", "posted_done",
                     "extended_tags"):
            m.d.comb += getattr(issuer, name).eq(getattr(self, name))
        m.d.comb += [
            issuer.enable.eq(completer.ready),
            issuer.refuse.eq(~self.bus_master_enable | completer.flushing),
            completer.link_reset.eq(self.link_reset),
            completer.issued_valid.eq(issuer.issued_valid),
            completer.issued_tag.eq(issuer.issued_tag),
            completer.issued.eq(issuer.issued),
            completer.presented_valid.eq(issuer.presented),
            completer.presented_tag.eq(issuer.tx_nonposted.payload.header.tag),
            issuer.released_valid.eq(completer.released_valid),
            issuer.released_tag.eq(completer.released_tag),
            issuer.ended_valid.eq(completer.ended_valid),
            issuer.ended_client.eq(completer.ended_client),
            self.stat_unexpected.eq(completer.stat_unexpected),
            self.stat_timeout.eq(completer.stat_timeout),
            self.stat_failed.eq(completer.stat_failed),
        ]

        clients = (self.meta, self.data)
        with m.If(completer.granule_client):
            m.d.comb += completer.granule_next.eq(self.data.lookup_next)
        with m.Else():
            m.d.comb += completer.granule_next.eq(self.meta.lookup_next)

        for index, client in enumerate(clients):
            requests = getattr(issuer, f"requests_{index}")
            refused = getattr(issuer, f"refused_{index}")
            ended = Signal(name=f"ended_{index}")
            connect(m, flipped(client.requests), requests)
            m.d.comb += [
                client.lookup.eq(completer.granule),
                client.write.enable.eq(Mux(completer.write_client == index,
                                           completer.write.enable, 0)),
                client.write.high.eq(completer.write.high),
                client.write.address_low.eq(completer.write.address_low),
                client.write.address_high.eq(completer.write.address_high),
                client.write.data.eq(completer.write.data),
                ended.eq(completer.ended_valid & (completer.ended_client == index)),
                # One report a cycle; a refused piece waits for a gap.
                refused.ready.eq(~ended),
            ]
            m.d.sync += [
                client.done_valid.eq(ended | refused.valid),
                client.done_handle.eq(Mux(ended, completer.ended_handle, refused.payload)),
                client.done_error.eq(~ended | completer.ended_error),
            ]
        m.d.comb += self.idle.eq(issuer.idle & ~self.meta.done_valid & ~self.data.done_valid)
        return m
