# SPDX-License-Identifier: BSD-2-Clause
"""The completer: memory requests of the host become register accesses and completions.

    rx_requests --+--> writes --------------------> register bus
                  +--> waiting reads --> reader --> register bus --> tx_completions
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.fifo import Queue
from ..stream.ring import wrap_sub
from .bus import RegisterBusSignature
from .tlp import CompletionStatus, RequestHeader, TlpBeat, TxCompletionHeader

__all__ = ["Completer"]


class Completer(wiring.Component):
    """Executes memory reads and writes that hit a BAR.

    **Writes** of any length and byte enables become one register write per DW, one per cycle; poisoned ones and those to another BAR than 0 are
    dropped. They never wait for a read to be completed: reads wait in a queue as deep as the non-posted credits advertised, and the register bus
    answers within a bounded time. **Reads** of any length are answered with the data of consecutive registers, cut at the largest payload; a
    zero-length read has no side effects [PCIe 2.2.5]. A read of another BAR, or a poisoned one, is answered Unsupported Request.

    **Ordering**: a completion's ``order`` covers every write command that the write engine had accepted when the last register of its first beat
    was read, so a driver that reads status or ISR finds all earlier DMA in memory. **Latency** of a one-DW read: six cycles and the register's;
    **reset** forgets waiting reads.

    Members
    -------
    requests : ``In(stream)``, completions : ``Out(stream)``
        Attachment side.
    bus : ``Out(RegisterBusSignature)``
    max_payload_size : ``In(3)``
        Encoded, 128 << n bytes.
    writes_accepted, writes_numbered, posted_number : ``In(8)``
        From the write engine.
    stat_unsupported : ``Out(1)``
    """

    def __init__(self, *, data_width, depth):
        self._data_width = data_width
        self._depth = depth
        super().__init__({
            "requests": In(stream.Signature(TlpBeat(RequestHeader, data_width))),
            "completions": Out(stream.Signature(TlpBeat(TxCompletionHeader, data_width))),
            "bus": Out(RegisterBusSignature()),
            "max_payload_size": In(3),
            "writes_accepted": In(8),
            "writes_numbered": In(8),
            "posted_number": In(8),
            "stat_unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.waiting = waiting = Queue(RequestHeader, self._depth)
        # Writes go first, but a read on show stays until it is taken.
        writing = Signal()
        self._read_shown = Signal()
        self._elaborate_writes(m, waiting, writing)
        self._elaborate_reads(m, waiting, writing)
        return m

    def _elaborate_writes(self, m, waiting, writing):
        """Take requests: reads into the queue, writes DW by DW to the bus."""
        beat = self.requests.payload
        lanes = self._data_width // 32
        lane = Signal(range(max(2, lanes)))      # DW of this beat
        done = Signal(11)                        # DWs of this request written before this beat
        first = Signal(RequestHeader)
        header = Signal(RequestHeader)
        index = Signal(11)                       # DW of this request
        good = Signal()
        end_of_beat, last_dw = Signal(), Signal()
        m.d.comb += [
            header.eq(Mux(beat.first, Value.cast(beat.header), Value.cast(first))),
            index.eq(Mux(beat.first, 0, done) + lane),
            last_dw.eq(index + 1 == header.length),
            end_of_beat.eq(last_dw | (lane == lanes - 1)),
            good.eq((header.bar == 0) & ~header.poisoned),
            waiting.i.payload.eq(beat.header),
        ]
        with m.If(self.requests.valid):
            with m.If(~header.write):
                m.d.comb += [waiting.i.valid.eq(1), self.requests.ready.eq(waiting.i.ready)]
            with m.Elif(~good):
                m.d.comb += [self.requests.ready.eq(1), self.stat_unsupported.eq(beat.last)]
            with m.Elif(~self._read_shown):
                m.d.comb += [
                    writing.eq(1),
                    self.bus.request.valid.eq(1),
                    self.bus.request.payload.write.eq(1),
                    self.bus.request.payload.function.eq(header.function),
                    self.bus.request.payload.address.eq(header.address[:16] + (index << 2)),
                    self.bus.request.payload.data.eq(beat.data.word_select(lane, 32)),
                    self.bus.request.payload.byte_enables.eq(
                        Mux(index == 0, header.first_be, Mux(last_dw, header.last_be, 0xF))),
                    self.requests.ready.eq(self.bus.request.ready & end_of_beat),
                ]
                with m.If(self.bus.request.ready):
                    m.d.sync += lane.eq(Mux(end_of_beat, 0, lane + 1))
                    with m.If(end_of_beat):
                        m.d.sync += done.eq(index + 1)
            with m.If(beat.first):
                m.d.sync += first.eq(beat.header)

    def _elaborate_reads(self, m, waiting, writing):
        """Read registers and send completions."""
        lanes = self._data_width // 32
        request = Signal(RequestHeader)
        address = Signal(16)
        left = Signal(11)                # DWs of the request not yet completed
        bytes_left = Signal(13)
        chunk = Signal(11)               # DWs of this completion
        chunk_left = Signal(11)
        lane = Signal(range(max(2, lanes)))
        beat = Signal(self._data_width)
        beat_first = Signal()
        accepted = Signal(8)
        failed = Signal()
        out = self.completions

        # [PCIe 2.3.1.1 table 2-39] bytes from the first enabled to the last enabled one.
        def lowest(enables):
            return Mux(enables[0], 0, Mux(enables[1], 1, Mux(enables[2], 2, Mux(enables[3], 3, 0))))

        def highest(enables):
            return Mux(enables[3], 3, Mux(enables[2], 2, Mux(enables[1], 1, 0)))

        head = waiting.o.payload
        single = head.length == 1
        head_bytes = Signal(13)
        m.d.comb += head_bytes.eq(
            Mux(single,
                Mux(head.first_be == 0, 1, highest(head.first_be) - lowest(head.first_be) + 1),
                (head.length << 2) - lowest(head.first_be) - 3 + highest(head.last_be)))
        first_chunk = Signal()
        index_first = Signal()
        lower = Signal(7)
        m.d.comb += lower.eq(Cat(Mux(first_chunk, lowest(request.first_be), 0), address[2:7]))

        payload_dws = Signal(11)
        offset = Signal(11)
        m.d.comb += payload_dws.eq(32 << Mux(self.max_payload_size > 5, 5, self.max_payload_size))
        m.d.comb += offset.eq(address[2:] & (payload_dws - 1))

        numbered = Signal()
        # What was accepted when the register was read has a number now; differences wrap.
        m.d.comb += numbered.eq(~wrap_sub(self.writes_numbered, accepted)[7])

        header = Signal(TxCompletionHeader)
        m.d.comb += [
            out.payload.header.eq(header),
            out.payload.data.eq(beat),
            out.payload.first.eq(beat_first),
            out.payload.last.eq(failed | (chunk_left == 0)),
        ]
        enables = Signal(4)
        m.d.comb += enables.eq(Mux(index_first, request.first_be,
                                   Mux(left == 1, request.last_be, 0xF)))

        with m.FSM(name="completer"):
            with m.State("IDLE"):
                m.d.sync += [
                    request.eq(head), address.eq(head.address[:16]), left.eq(head.length),
                    bytes_left.eq(head_bytes), first_chunk.eq(1), index_first.eq(1),
                    failed.eq((head.bar != 0) | head.poisoned),
                ]
                m.d.comb += waiting.o.ready.eq(1)
                with m.If(waiting.o.valid):
                    m.next = "CUT"
            with m.State("CUT"):
                room = payload_dws - offset
                m.d.sync += [
                    chunk.eq(Mux(left < room, left, room)),
                    chunk_left.eq(Mux(left < room, left, room)),
                    lane.eq(0), beat_first.eq(1), beat.eq(0),
                    header.lower_address.eq(lower),
                    header.byte_count.eq(bytes_left),
                ]
                m.next = "ASK"
                with m.If(failed):
                    m.d.comb += self.stat_unsupported.eq(1)
                    m.d.sync += accepted.eq(self.writes_accepted)
                    m.next = "ORDER"
            with m.State("ASK"):
                with m.If(~writing):
                    m.d.comb += [
                        self.bus.request.valid.eq(1),
                        self.bus.request.payload.function.eq(request.function),
                        self.bus.request.payload.address.eq(address),
                        self.bus.request.payload.byte_enables.eq(enables),
                    ]
                    m.d.sync += self._read_shown.eq(~self.bus.request.ready)
                    with m.If(self.bus.request.ready):
                        m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(self.bus.response_valid):
                    m.d.sync += [
                        beat.word_select(lane, 32).eq(self.bus.response_data),
                        lane.eq(lane + 1), address.eq(address + 4), left.eq(left - 1),
                        index_first.eq(0), chunk_left.eq(chunk_left - 1),
                        accepted.eq(self.writes_accepted),
                    ]
                    m.next = "ASK"
                    with m.If((lane == lanes - 1) | (chunk_left == 1)):
                        m.next = "ORDER"
            with m.State("ORDER"):
                m.d.sync += [
                    header.function.eq(request.function),
                    header.requester_id.eq(request.requester_id),
                    header.tag.eq(request.tag), header.tc.eq(request.tc),
                    header.attr.eq(request.attr),
                    header.status.eq(Mux(failed, CompletionStatus.UNSUPPORTED_REQUEST.value,
                                         CompletionStatus.SUCCESS.value)),
                    header.length.eq(Mux(failed, 0, chunk)),
                    header.order.eq(self.posted_number),
                ]
                with m.If(numbered | ~beat_first):
                    m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += out.valid.eq(1)
                with m.If(out.ready):
                    m.d.sync += [lane.eq(0), beat_first.eq(0)]
                    m.next = "ASK"
                    with m.If(failed):
                        m.next = "IDLE"
                    with m.Elif(chunk_left == 0):
                        sent = Signal(13)
                        m.d.comb += sent.eq((chunk << 2)
                                            - Mux(first_chunk, lowest(request.first_be), 0))
                        m.d.sync += [bytes_left.eq(bytes_left - sent), first_chunk.eq(0)]
                        m.next = "CUT"
                        with m.If(left == 0):
                            m.next = "IDLE"
        return m
