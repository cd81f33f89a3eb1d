# SPDX-License-Identifier: BSD-2-Clause
"""The completer: memory requests of the host become register accesses and completions.

    rx_requests --+--> writes --------------------> register bus
                  +--> waiting reads --> reader --> register bus --> tx_completions
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect

from ..stream.buffer import HalfBuffer
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
    was read, so a driver that reads status or ISR finds all earlier DMA in memory. **Latency** of a one-DW read: nine cycles and the register's;
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
        # Whether a request is a read is known late: what tells of one goes no further than this.
        m.submodules.entrance = entrance = HalfBuffer(RequestHeader)
        connect(m, entrance.o, waiting.i)
        # A write is on show and not taken; a read is on show, and writes wait. A request on show stays until it is taken.
        write_waits = Signal()
        read_shown = Signal()
        self._elaborate_writes(m, entrance.i, write_waits, read_shown)
        self._elaborate_reads(m, waiting.o, write_waits, read_shown)
        return m

    def _elaborate_writes(self, m, reads, write_waits, read_shown):
        """Take requests: reads into the queue, writes DW by DW to the bus."""
        beat = self.requests.payload
        lanes = self._data_width // 32
        lane = Signal(range(max(2, lanes)))      # DW of this beat
        following = Signal(14)                   # where the DW behind the one written last belongs, in DWs
        first = Signal(RequestHeader)
        header = Signal(RequestHeader)
        first_dw, last_dw, good = Signal(), Signal(), Signal()
        address = Signal(14)
        unsupported = Signal()
        # Every beat but the last is full.
        last_lane = (header.length - 1)[:len(lane)] if lanes > 1 else 0
        m.d.comb += [
            header.eq(Mux(beat.first, Value.cast(beat.header), Value.cast(first))),
            first_dw.eq(beat.first & (lane == 0)),
            last_dw.eq(beat.last & (lane == last_lane)),
            address.eq(Mux(first_dw, beat.header.address[2:16], following)),
            good.eq((header.bar == 0) & ~header.poisoned),
            reads.payload.eq(beat.header),
            reads.valid.eq(self.requests.valid & ~header.write),
        ]
        end_of_beat = last_dw | (lane == lanes - 1)
        bus = self.bus.request
        m.d.comb += bus.payload.data.eq(beat.data.word_select(lane, 32))
        with m.If(~read_shown):
            m.d.comb += [
                bus.valid.eq(self.requests.valid & header.write & good),
                bus.payload.write.eq(1),
                bus.payload.function.eq(header.function),
                bus.payload.address.eq(address << 2),
                bus.payload.byte_enables.eq(Mux(first_dw, header.first_be, Mux(last_dw, header.last_be, 0xF))),
                write_waits.eq(bus.valid & ~bus.ready),
            ]
            with m.If(bus.valid & bus.ready):
                m.d.sync += [lane.eq(Mux(end_of_beat, 0, lane + 1)), following.eq(address + 1)]
        m.d.comb += self.requests.ready.eq(
            Mux(header.write, Mux(good, ~read_shown & bus.ready & end_of_beat, 1), reads.ready))
        with m.If(self.requests.valid & beat.first):
            m.d.sync += first.eq(beat.header)
        m.d.sync += unsupported.eq(self.requests.valid & header.write & ~good & beat.last)
        with m.If(unsupported):
            m.d.comb += self.stat_unsupported.eq(1)

    def _elaborate_reads(self, m, waiting, write_waits, read_shown):
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

        head = waiting.payload
        single = request.length == 1
        all_bytes = Signal(13)
        m.d.comb += all_bytes.eq(
            Mux(single,
                Mux(request.first_be == 0, 1, highest(request.first_be) - lowest(request.first_be) + 1),
                (request.length << 2) - lowest(request.first_be) - 3 + highest(request.last_be)))
        first_chunk = Signal()
        index_first = Signal()
        lower = Signal(7)
        m.d.comb += lower.eq(Cat(Mux(first_chunk, lowest(request.first_be), 0), address[2:7]))

        payload_mask = Signal(10, init=31)        # of the largest payload
        room = Signal(11)                # DWs from ``address`` to its end
        sent = Signal(13)                # bytes of this completion
        final = Signal()                 # it ends with this beat
        m.d.sync += payload_mask.eq(Cat(C(31, 5), *(self.max_payload_size > step for step in range(5))))

        numbered = Signal()
        # What was accepted when the register was read has a number now; differences wrap.
        m.d.comb += numbered.eq(~wrap_sub(self.writes_numbered, accepted)[7])

        header = Signal(TxCompletionHeader)
        m.d.comb += [
            out.payload.header.eq(header),
            out.payload.data.eq(beat),
            out.payload.first.eq(beat_first),
            out.payload.last.eq(final),
        ]
        enables = Signal(4)
        m.d.comb += enables.eq(Mux(index_first, request.first_be,
                                   Mux(left == 1, request.last_be, 0xF)))

        with m.FSM(name="completer"):
            with m.State("IDLE"):
                m.d.sync += [
                    request.eq(head), address.eq(head.address[:16]), left.eq(head.length),
                    first_chunk.eq(1), index_first.eq(1),
                    failed.eq((head.bar != 0) | head.poisoned),
                ]
                m.d.comb += waiting.ready.eq(1)
                with m.If(waiting.valid):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                # To the end of the payload is the complement of the offset in it, and one.
                m.d.sync += room.eq((~address[2:12] & payload_mask) + 1)
                with m.If(first_chunk):
                    m.d.sync += bytes_left.eq(all_bytes)
                m.next = "CUT"
            with m.State("CUT"):
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
                # Writes go first.
                with m.If(~write_waits):
                    m.d.sync += read_shown.eq(1)
                    m.next = "SHOW"
            with m.State("SHOW"):
                m.d.comb += [
                    self.bus.request.valid.eq(1),
                    self.bus.request.payload.function.eq(request.function),
                    self.bus.request.payload.address.eq(address),
                    self.bus.request.payload.byte_enables.eq(enables),
                ]
                with m.If(self.bus.request.ready):
                    m.d.sync += read_shown.eq(0)
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
                    final.eq(failed | (chunk_left == 0)),
                    sent.eq((chunk << 2) - Mux(first_chunk, lowest(request.first_be), 0)),
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
                    with m.Elif(final):
                        m.d.sync += [bytes_left.eq(bytes_left - sent), first_chunk.eq(0)]
                        m.next = "MEASURE"
                        with m.If(left == 0):
                            m.next = "IDLE"
        return m
