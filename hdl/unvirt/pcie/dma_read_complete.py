# SPDX-License-Identifier: BSD-2-Clause
"""Middle of the read engine: completions are matched with tags and checked; late ones are given up.

    rx_completions --> S0 table read --> S1 check, rotate --> S2 write --> S3 done
    timeout sweep  -->      "                  "

Every change of a tag's state but its issue happens in S1, so completions, time-outs and link resets
never race.
"""

from types import SimpleNamespace

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..stream.flags import FlagTable
from ..stream.ring import wrap_sub
from .dma import LaneWriteSignature
from .dma_read_issue import TagRecord
from .dma_read_place import LanePlacer
from .tlp import CompletionHeader, CompletionStatus, TlpBeat

__all__ = ["ReadCompleter"]

_SWEEP_PATIENCE = 1024
"""Cycles without a gap between completions after which the sweep takes one."""


class _Progress(data.StructLayout):
    """What changes of a read while completions arrive."""

    def __init__(self, buffer_width):
        super().__init__({"position": buffer_width, "source": 7, "remaining": 10, "failed": 1})


class _Verdict(data.StructLayout):
    """What becomes of a completion, decided on its first beat, carried out on its last."""

    def __init__(self):
        super().__init__({
            "place": 1,        # its data go to the client
            "ends": 1,         # the read ends
            "error": 1,        # and in an error
            "retire": 1,       # a quarantined tag ends its quarantine
            "last_one": 1,     # no more completions of this tag may come
            "unexpected": 1,
        })


class ReadCompleter(wiring.Component):
    """Takes completions, one beat per cycle, whatever their order and cut.

    From the last beat in, ``write`` comes two cycles later and ``ended``/``done`` three.
    ``completions`` is ready but for one cycle in 1024 when completions have come without a gap for
    that long. Completions of one tag must be in order, those of different tags may be mixed.

    * Error status: the read ends in an error, its tag is free.
    * Poisoned: the read ends in an error with its last completion.
    * Byte count, lower address or length contradict the request: the read ends in an error at once;
      the tag is kept until the completion that says it is the last, or until ``timeout``.
    * Unknown tag or function: dropped and counted.
    * No end within ``timeout`` to 8/7 ``timeout`` cycles: error, quarantine.
    * ``link_reset``: completions are ignored; every read that has left ends in an error,
      quarantined tags are freed.

    Reset forgets all reads; the tag tables are swept until ``ready``.

    Parameters
    ----------
    data_width, tags, timeout : int
        Bits of a beat, number of tags, cycles.
    handle_width, buffer_width : int
        The wider of both clients.

    Members
    -------
    completions : ``In(stream.Signature(TlpBeat(CompletionHeader)))``
        Completions.
    issued_valid, issued_tag, issued : ``In``
        A read starts: its request may leave in this cycle. It was let go in the cycle before, in which there was no ``flushing``.
    presented_valid, presented_tag : ``In``
        The request that has not left yet.
    link_reset : ``In(1)``
        Level or pulse.
    flushing : ``Out(1)``
        A link reset is being dealt with; issue nothing.
    ready : ``Out(1)``
        Tag tables are swept.
    granule, granule_client, granule_next : ``Out``/``Out``/``In``
        Look-up of a client's next granule.
    write, write_client : ``Out``
        Write to the memory of a client.
    ended_valid, ended_client, ended_handle, ended_error : ``Out``
        A read has ended; its last byte is written in this cycle.
    released_valid, released_tag : ``Out``
        A tag is free again; with ``ended_valid`` if it is that read's.
    stat_unexpected, stat_timeout, stat_failed : ``Out(1)``
        Pulses: completion dropped, read timed out, completion with error, poison or contradiction.
    """

    def __init__(self, *, data_width, tags, timeout, handle_width, buffer_width):
        self._data_width = data_width
        self._tags = tags
        self._timeout = timeout
        self._buffer_width = buffer_width
        self._record = TagRecord(handle_width, buffer_width)
        granule_width = buffer_width - 7
        super().__init__({
            "completions": In(stream.Signature(TlpBeat(CompletionHeader, data_width))),
            "issued_valid": In(1),
            "issued_tag": In(8),
            "issued": In(self._record),
            "presented_valid": In(1),
            "presented_tag": In(8),
            "link_reset": In(1),
            "flushing": Out(1),
            "ready": Out(1),
            "granule": Out(granule_width),
            "granule_client": Out(1),
            "granule_next": In(granule_width),
            "write": Out(LaneWriteSignature(data_width, buffer_width)),
            "write_client": Out(1),
            "ended_valid": Out(1),
            "ended_client": Out(1),
            "ended_handle": Out(handle_width),
            "ended_error": Out(1),
            "released_valid": Out(1),
            "released_tag": Out(8),
            "stat_unexpected": Out(1),
            "stat_timeout": Out(1),
            "stat_failed": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        tags = self._tags
        m.submodules.placer = placer = LanePlacer(data_width=self._data_width,
                                                  buffer_width=self._buffer_width)
        connect(m, placer.write, flipped(self.write))
        m.submodules.in_use = in_use = FlagTable(tags, 1)
        m.submodules.begun = begun = FlagTable(tags, 1)
        m.submodules.quarantine = quarantine = FlagTable(tags, 1)
        m.d.comb += self.ready.eq(in_use.ready & begun.ready & quarantine.ready)

        # S0: a completion begins, or the sweep visits a tag.
        rx = self.completions
        beat = rx.payload
        arrive, begin, visit, packet, starved = (Signal(name=name) for name in (
            "arrive", "begin", "visit", "packet", "starved"))
        swept = Signal(range(tags))
        patience = Signal(range(_SWEEP_PATIENCE))
        m.d.comb += [
            rx.ready.eq(packet | ~starved),
            # A link reset may have cut a completion: beats that belong to none are dropped.
            arrive.eq(rx.valid & rx.ready & ~self.link_reset & (beat.first | packet)),
            begin.eq(arrive & beat.first),
            visit.eq(~arrive & ~packet & self.ready),
            starved.eq(patience == _SWEEP_PATIENCE - 1),
        ]
        with m.If(arrive):
            m.d.sync += packet.eq(~beat.last)
        with m.Elif(self.link_reset):
            m.d.sync += packet.eq(0)
        with m.If(visit):
            m.d.sync += [swept.eq(Mux(swept == tags - 1, 0, swept + 1)), patience.eq(0)]
        with m.Elif(~starved):
            m.d.sync += patience.eq(patience + 1)

        # After a link reset each tag is visited once more.
        flush_left = Signal(range(tags + 1))
        m.d.comb += self.flushing.eq(self.link_reset | (flush_left != 0))
        with m.If(self.link_reset):
            m.d.sync += flush_left.eq(tags)
        with m.Elif(visit & (flush_left != 0)):
            m.d.sync += flush_left.eq(flush_left - 1)

        stage = self._elaborate_tables(m, begun, begin, visit, swept)
        valid, sweep, flush = Signal(), Signal(), Signal()
        payload = Signal(beat.shape(), reset_less=True)
        m.d.sync += [
            valid.eq(arrive),
            sweep.eq(visit),
            flush.eq(self.flushing),
            payload.eq(beat),
        ]

        # S1.
        tag, record = stage.tag, stage.record
        m.d.comb += [
            in_use.test_index[0].eq(tag),
            quarantine.test_index[0].eq(tag),
            in_use.set_valid.eq(self.issued_valid),
            in_use.set_index.eq(self.issued_tag),
            in_use.clear_index.eq(tag),
            begun.clear_valid.eq(self.issued_valid),
            begun.clear_index.eq(self.issued_tag),
            begun.set_index.eq(tag),
            quarantine.set_index.eq(tag),
            quarantine.clear_index.eq(tag),
        ]
        # In use and in quarantine: a contradiction was reported, more completions may come. In
        # quarantine and not in use: timed out.
        used, held = Signal(), Signal()
        m.d.comb += [
            used.eq(in_use.test_value[0] & ~quarantine.test_value[0] & stage.known & ~stage.fresh),
            held.eq(quarantine.test_value[0] & stage.known),
        ]
        verdict, end, after = self._elaborate_verdict(m, valid, payload, stage, used, held)

        m.d.comb += [
            placer.valid.eq(valid),
            placer.first.eq(payload.first),
            placer.data.eq(payload.data),
            placer.skip.eq(payload.header.lower_address[:2]),
            placer.start.eq(stage.progress.position),
            placer.end.eq(end),
            placer.enable.eq(verdict.place),
            placer.granule_next.eq(self.granule_next),
            self.granule.eq(placer.granule),
            self.granule_client.eq(record.client),
        ]
        m.d.sync += self.write_client.eq(record.client)

        # The last beat, or a visit of the sweep, changes the tag's state.
        last, short, expired, ends, error, release, contradicted, to_quarantine = (
            Signal(name=name) for name in ("last", "short", "expired", "ends", "error", "release",
                                           "contradicted", "to_quarantine"))
        presented = self.presented_valid & (self.presented_tag == tag)
        m.d.comb += [
            last.eq(valid & payload.last),
            short.eq(verdict.place & ~placer.complete),
            expired.eq(sweep & used & (stage.expired | flush) & ~(flush & presented)),
        ]
        with m.If(sweep):
            m.d.comb += [
                ends.eq(expired),
                error.eq(1),
                release.eq((flush & (expired | held))
                           | (held & in_use.test_value[0] & stage.expired)),
                to_quarantine.eq(expired & ~flush),
            ]
        with m.Elif(last):
            m.d.comb += [
                ends.eq(verdict.ends | short),
                error.eq(verdict.error | short),
                release.eq(verdict.last_one & (ends | verdict.retire)),
                contradicted.eq(ends & ~verdict.last_one),
                to_quarantine.eq(contradicted),
            ]
        m.d.comb += [
            in_use.clear_valid.eq((ends & ~contradicted) | release),
            quarantine.set_valid.eq(to_quarantine),
            quarantine.clear_valid.eq(release & held),
            begun.set_valid.eq(last & verdict.place & ~ends),
            stage.write_valid.eq(begun.set_valid),
            stage.write.eq(after),
            stage.write.position.eq(placer.position),
        ]

        # S2; the client hears of it in S3.
        m.d.sync += [
            self.ended_valid.eq(ends),
            self.ended_client.eq(record.client),
            self.ended_handle.eq(record.handle),
            self.ended_error.eq(error),
            self.released_valid.eq(release),
            self.released_tag.eq(tag),
            self.stat_unexpected.eq(last & verdict.unexpected),
            self.stat_timeout.eq(to_quarantine & sweep),
            self.stat_failed.eq(last & ends & error),
        ]
        return m

    def _elaborate_tables(self, m, begun, begin, visit, swept):
        """Read the tables of a tag in S0; the result stands until the next completion begins."""
        tags = self._tags
        # Seven steps must have passed, hence an age of eight; and no tag may stay unvisited until
        # its stamp looks young again.
        step = max(1, -(-self._timeout // 7))
        stamp_width = 4
        while ((1 << stamp_width) - 9) * step < 2 * _SWEEP_PATIENCE * tags:
            stamp_width += 1
        epoch = Signal(stamp_width)
        prescaler = Signal(range(max(2, step)))
        with m.If(prescaler == step - 1):
            m.d.sync += [prescaler.eq(0), epoch.eq(epoch + 1)]
        with m.Else():
            m.d.sync += prescaler.eq(prescaler + 1)

        row = data.StructLayout({"record": self._record, "stamp": stamp_width})
        # Distributed: what is read in S0 has to be chosen from before it is registered.
        attrs = {"ram_style": "distributed"}
        m.submodules.records = records = memory.Memory(shape=row, depth=tags, init=[], attrs=attrs)
        m.submodules.progress = progress = memory.Memory(shape=_Progress(self._buffer_width),
                                                         depth=tags, init=[], attrs=attrs)
        record_write, progress_write = records.write_port(), progress.write_port()
        record_read = records.read_port(domain="comb")
        progress_read = progress.read_port(domain="comb")

        stage = SimpleNamespace(
            tag=Signal(8, name="stage_tag"), known=Signal(name="stage_known"),
            expired=Signal(name="stage_expired"), fresh=Signal(name="stage_fresh"),
            record=Signal(self._record, name="stage_record", reset_less=True),
            progress=Signal(_Progress(self._buffer_width), name="stage_progress", reset_less=True),
            write=progress_write.data, write_valid=progress_write.en)
        wanted = Signal(10)
        m.d.comb += [
            wanted.eq(Mux(begin, self.completions.payload.header.tag, swept)),
            record_write.addr.eq(self.issued_tag),
            record_write.data.record.eq(self.issued),
            record_write.data.stamp.eq(epoch),
            record_write.en.eq(self.issued_valid),
            progress_write.addr.eq(stage.tag),
            record_read.addr.eq(wanted),
            progress_read.addr.eq(wanted),
            begun.test_index[0].eq(wanted),
        ]
        record = record_read.data.record
        with m.If(begin | visit):
            m.d.sync += [
                stage.tag.eq(wanted),
                stage.known.eq(wanted < tags),
                stage.record.eq(record),
                stage.expired.eq(wrap_sub(epoch, record_read.data.stamp) >= 8),
                # The record of a tag just being issued is not written yet. No completion of it can have come in this cycle.
                stage.fresh.eq(self.issued_valid & (self.issued_tag == wanted)),
            ]
            # Completions of one tag may follow each other without a gap.
            with m.If(stage.write_valid & (stage.tag == wanted)):
                m.d.sync += stage.progress.eq(stage.write)
            with m.Elif(begun.test_value[0]):
                m.d.sync += stage.progress.eq(progress_read.data)
            with m.Else():
                m.d.sync += [
                    stage.progress.position.eq(record.position),
                    stage.progress.source.eq(record.source),
                    stage.progress.remaining.eq(record.remaining),
                    stage.progress.failed.eq(0),
                ]
        return stage

    def _elaborate_verdict(self, m, valid, payload, stage, used, held):
        """Judge a completion on its first beat [PCIe 2.2.9, 2.3.2]."""
        # What the header says by itself is worked out in S0.
        coming = self.completions.payload.header
        span = Signal(13)          # end of the payload, bytes from its first DW
        missing = Signal(14)       # end of all that is missing, by its own account
        span_fits, final = Signal(), Signal()
        count, end = Signal(10), Signal(10)
        m.d.comb += [
            span.eq(coming.length << 2),
            missing.eq(coming.byte_count + coming.lower_address[:2]),
        ]
        m.d.sync += [
            span_fits.eq((coming.length != 0) & (span <= missing + 3)),
            final.eq(span >= missing),
            count.eq(Mux(span >= missing, coming.byte_count,
                         span - coming.lower_address[:2])),
            end.eq(Mux(span >= missing, missing, span)),
        ]

        header, record, progress = payload.header, stage.record, stage.progress
        now, kept, verdict = (Signal(_Verdict(), name=name) for name in ("now", "kept", "verdict"))
        success, ours, fits = Signal(), Signal(), Signal()
        m.d.comb += [
            success.eq(header.status.as_value() == CompletionStatus.SUCCESS.value),
            ours.eq(header.function == record.function),
            fits.eq((header.byte_count == progress.remaining)
                    & (header.lower_address == progress.source) & span_fits),
            now.place.eq(used & ours & success & fits),
            now.ends.eq(used & ours & (~success | ~fits | final)),
            now.error.eq(~success | ~fits | progress.failed | header.poisoned),
            now.last_one.eq(~success | final),
            now.retire.eq(held & ours),
            now.unexpected.eq(~((used | held) & ours)),
        ]

        # On later beats the decision and the progress of the first.
        after, after_now, after_kept = (Signal(_Progress(self._buffer_width), name=name)
                                        for name in ("after", "after_now", "after_kept"))
        m.d.comb += [
            after_now.source.eq(progress.source + count),
            after_now.remaining.eq(progress.remaining - count),
            after_now.failed.eq(progress.failed | header.poisoned),
            verdict.eq(Mux(payload.first, now, kept)),
            after.eq(Mux(payload.first, after_now, after_kept)),
        ]
        with m.If(valid & payload.first):
            m.d.sync += [kept.eq(now), after_kept.eq(after_now)]
        return verdict, end, after
