# SPDX-License-Identifier: BSD-2-Clause
"""Transmit side of the raw attachment: order, credits, one stream of TLPs."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.ring import wrap_sub
from ..tlp import NonPostedHeader, PostedHeader, TlpBeat, TxCompletionHeader
from ..wire import (CommonDw, CompleterDw, CompletionDw, CreditLimits, Fmt, MessageCode,
                    MessageDw, RawBeat, RequestDw, TlpType, header_to_beats)
from .header_ahead import HeaderAhead
from .order_gate import OrderGate

__all__ = ["RawTransmit"]

_POSTED, _NONPOSTED, _COMPLETION, _OWN_COMPLETION, _MESSAGE = range(5)


class RawTransmit(wiring.Component):
    """Merges posted writes, reads and completions into one stream.

    A TLP is begun when the link partner has credits for it and, for reads and completions, when the posted write it must not pass has gone; then it
    is sent whole. The kinds take turns, but of a write and a read that both may go, the one goes whose kind has moved less: so a link that is
    full carries as much of the frames received as of those to send, whatever their size. One beat per cycle, and no gap between TLPs but between
    completions. The data of a posted write waits one cycle in registers, so that the next header is seen meanwhile. Headers below 4 GiB have three
    DWs.

    Members
    -------
    posted, nonposted, completions : ``In(stream)``
        From the device.
    own_completions : ``In(stream)``
        Answers of the attachment itself.
    intx : ``In(1)``
        Level to tell the root complex by messages.
    requester_id : ``In(16)``, credits : ``In(CreditLimits)``, clear : ``In(1)``
    posted_done : ``Out(8)``
        Number of the last posted write wholly sent.
    posted_begun : ``Out(8)``
        Number of the last one that is being sent or waits to be.
    nonposted_done : ``Out(1)``
        Pulse: the last completion of a request was sent.
    tx : ``Out(stream.Signature(RawBeat))``
    """

    def __init__(self, *, data_width):
        self._data_width = data_width
        completion = stream.Signature(TlpBeat(TxCompletionHeader, data_width))
        super().__init__({
            "posted": In(stream.Signature(TlpBeat(PostedHeader, data_width))),
            "nonposted": In(stream.Signature(TlpBeat(NonPostedHeader, data_width))),
            "completions": In(completion),
            "own_completions": In(completion),
            "intx": In(1),
            "requester_id": In(16),
            "credits": In(CreditLimits),
            "clear": In(1),
            "posted_done": Out(8),
            "posted_begun": Out(8),
            "nonposted_done": Out(1),
            "tx": Out(stream.Signature(RawBeat(data_width))),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._data_width
        lanes = width // 32
        m.submodules.ahead = ahead = HeaderAhead(PostedHeader, width)
        connect(m, flipped(self.posted), ahead.i)
        # Where the data of each kind comes from.
        sources = (ahead.data, self.nonposted, self.completions, self.own_completions)
        words = [ahead.data.payload, *(source.payload.data for source in sources[1:])]
        headers = [ahead.headers.payload, *(source.payload.header for source in sources[1:])]

        sending, kind = Signal(), Signal(range(5))
        gates = []
        for name, number in (("nonposted", _NONPOSTED), ("completion", _COMPLETION),
                             ("own", _OWN_COMPLETION)):
            # A completion stays on show while its data is sent: it is not the next one.
            shown = C(1) if number == _NONPOSTED else ~(sending & (kind == number))
            m.submodules[f"{name}_gate"] = gate = OrderGate()
            m.d.comb += [
                gate.valid.eq(sources[number].valid & sources[number].payload.first & shown),
                gate.order.eq(headers[number].order),
                gate.posted_done.eq(self.posted_done),
            ]
            gates.append(gate)

        m.d.comb += self.posted_begun.eq(self.posted_done + (sending & (kind == _POSTED)) + ahead.headers.valid)

        told = Signal()                        # the interrupt level last sent
        message = told != self.intx
        taken, pick = Signal(), Signal(range(5))
        allowed = self._elaborate_credits(m, headers, taken, pick)

        can = Signal(5)
        m.d.comb += can.eq(Cat(
            ahead.headers.valid & allowed[0],
            gates[0].open & allowed[1],
            gates[1].open & allowed[2],
            gates[2].open & allowed[3],
            message & allowed[4]))

        may = self._elaborate_share(m, can, headers, taken, pick)
        # The kind that waited longest goes first among those that may.
        last = Signal(range(5))
        with m.Switch(last):
            for value in range(5):
                with m.Case(value):
                    for step in range(5, 0, -1):
                        with m.If(may[(value + step) % 5]):
                            m.d.comb += pick.eq((value + step) % 5)

        dws = [Signal(32, name=f"dw{i}") for i in range(4)]
        payload = Signal(11)
        self._elaborate_headers(m, headers, pick, dws, payload)

        # The last completion of a request carries all the bytes that are left, or none.
        end = headers[_COMPLETION]
        final = (end.length == 0) | (end.byte_count <= (end.length << 2) - end.lower_address[:2])
        ends_request = Signal()
        head = Signal(128)
        left = Signal(11)                      # DWs of payload not sent yet
        with_data = Signal()
        first = Signal()
        current = Signal(width)
        current_valid = Signal()
        with m.Switch(kind):
            for number, source in enumerate(sources):
                with m.Case(number):
                    m.d.comb += [current.eq(words[number]), current_valid.eq(source.valid)]
        out = self.tx.payload
        sent = Signal()
        m.d.comb += [
            out.header.eq(head), out.data.eq(current),
            out.first.eq(first), out.last.eq(left <= lanes),
            self.tx.valid.eq(sending & (~with_data | current_valid)),
            sent.eq(self.tx.valid & self.tx.ready),
        ]
        with m.If(sent):
            m.d.sync += [first.eq(0), left.eq(left - lanes)]
            with m.If(with_data):
                m.d.comb += self._take(m, sources, kind)
            with m.If(out.last):
                m.d.sync += sending.eq(0)
                with m.If(kind == _POSTED):
                    m.d.sync += self.posted_done.eq(self.posted_done + 1)
                m.d.comb += self.nonposted_done.eq(ends_request)

        # The next TLP is loaded as the last beat of the one before leaves.
        m.d.comb += taken.eq(can.any() & (~sending | (sent & out.last)))
        with m.If(taken):
            m.d.sync += [
                sending.eq(1), last.eq(pick),
                ends_request.eq(((pick == _COMPLETION) & final) | (pick == _OWN_COMPLETION)),
                kind.eq(pick), first.eq(1), head.eq(header_to_beats(dws)), left.eq(payload), with_data.eq(payload != 0),
            ]
            with m.If(pick == _MESSAGE):
                m.d.sync += told.eq(self.intx)
        m.d.comb += ahead.headers.ready.eq(taken & (pick == _POSTED))

        # TLPs without data leave their source as they begin.
        with m.If(taken):
            with m.Switch(pick):
                for number, source in enumerate(sources):
                    if number == _POSTED:
                        continue
                    with m.Case(number):
                        with m.If(payload == 0):
                            m.d.comb += source.ready.eq(1)
        for gate, number in zip(gates, (_NONPOSTED, _COMPLETION, _OWN_COMPLETION)):
            m.d.comb += gate.taken.eq(taken & (pick == number))
        with m.If(self.clear):
            m.d.sync += told.eq(0)
        return m

    def _take(self, m, sources, kind):
        """Return the assignments that take a beat from the source being sent."""
        return [source.ready.eq(kind == number) for number, source in enumerate(sources)]

    def _elaborate_share(self, m, can, headers, taken, pick):
        """Return who may go of those that can: of writes and reads only the one that has moved less."""
        # DWs written less DWs read, as far as it is remembered: two of the longest reads.
        balance = Signal(signed(9))
        change, after = Signal(signed(12)), Signal(signed(13))
        with m.If(pick == _POSTED):
            m.d.comb += change.eq(headers[_POSTED].length)
        with m.Elif(pick == _NONPOSTED):
            # A quarter off: for what only tells where data lies, of which frames in both directions need some.
            m.d.comb += change.eq((headers[_NONPOSTED].length >> 2) - headers[_NONPOSTED].length)
        m.d.comb += after.eq(balance + change)
        with m.If(taken):
            m.d.sync += balance.eq(Mux(after > 255, 255, Mux(after < -256, -256, after)))
        with m.If(self.clear):
            m.d.sync += balance.eq(0)
        may = Signal(5)
        m.d.comb += may.eq(can)
        with m.If(can[_POSTED] & can[_NONPOSTED]):
            m.d.comb += [may[_POSTED].eq(balance <= 0), may[_NONPOSTED].eq(balance > 0)]
        return may

    def _elaborate_credits(self, m, headers, taken, pick):
        """Count what was used against the limits [PCIe 2.6.1.2]; return what may go, by kind."""
        limits = self.credits
        used = [Signal(8, name="used_ph"), Signal(12, name="used_pd"),
                Signal(8, name="used_nph"), Signal(12, name="used_npd"),
                Signal(8, name="used_cplh"), Signal(12, name="used_cpld")]
        limit = [limits.ph, limits.pd, limits.nph, limits.npd, limits.cplh, limits.cpld]
        needs = {
            _POSTED: (0, headers[_POSTED].length), _NONPOSTED: (1, 0),
            _COMPLETION: (2, headers[_COMPLETION].length),
            _OWN_COMPLETION: (2, headers[_OWN_COMPLETION].length), _MESSAGE: (0, 0),
        }
        allowed, spent = [], []
        for number in range(5):
            pool, length = needs[number]
            data_credits = Signal(9, name=f"data_credits{number}")
            if not isinstance(length, int):
                m.d.comb += data_credits.eq((length + 3) >> 2)
            fits = []
            for part, need in ((0, 1), (1, data_credits)):
                kind = 2 * pool + part
                room = wrap_sub(limit[kind], (used[kind] + need)[:len(used[kind])])
                nothing = need == 0 if part else 0
                fits.append(limits.infinite[kind] | ~room[-1] | nothing)
            allowed.append(fits[0] & fits[1])
            spent.append((pool, data_credits))
        for number, (pool, data_credits) in enumerate(spent):
            with m.If(taken & (pick == number)):
                m.d.sync += [used[2 * pool].eq(used[2 * pool] + 1),
                             used[2 * pool + 1].eq(used[2 * pool + 1] + data_credits)]
        with m.If(self.clear):
            m.d.sync += [counter.eq(0) for counter in used]
        return allowed

    def _elaborate_headers(self, m, headers, pick, dws, payload):
        """The header of the TLP picked, and the DWs of its payload."""
        common = Signal(CommonDw)
        request, completer = Signal(RequestDw), Signal(CompleterDw)
        completion, message = Signal(CompletionDw), Signal(MessageDw)
        m.d.comb += dws[0].eq(common)
        with m.Switch(pick):
            for number in (_POSTED, _NONPOSTED):
                header = headers[number]
                with m.Case(number):
                    long = header.address[32:].any()
                    write = number == _POSTED
                    m.d.comb += [
                        common.type.eq(TlpType.MEMORY.value),
                        common.fmt.eq(Cat(long, C(write, 1))),
                        common.length.eq(header.length[:10]),
                        request.first_be.eq(header.first_be), request.last_be.eq(header.last_be),
                        request.requester_id.eq(self.requester_id + header.function),
                        dws[1].eq(request),
                        dws[2].eq(Mux(long, header.address[32:], header.address[:32])),
                        dws[3].eq(header.address[:32]),
                        payload.eq(header.length if write else 0),
                    ]
                    if not write:
                        m.d.comb += [request.tag.eq(header.tag[:8]),
                                     common.tag_8.eq(header.tag[8]),
                                     common.tag_9.eq(header.tag[9])]
            for number in (_COMPLETION, _OWN_COMPLETION):
                header = headers[number]
                with m.Case(number):
                    m.d.comb += [
                        common.type.eq(TlpType.COMPLETION.value),
                        common.fmt.eq(Mux(header.length == 0, Fmt.SHORT.value,
                                          Fmt.SHORT_DATA.value)),
                        common.length.eq(header.length[:10]), common.tc.eq(header.tc),
                        common.attr_low.eq(header.attr[:2]), common.attr_high.eq(header.attr[2]),
                        common.tag_8.eq(header.tag[8]), common.tag_9.eq(header.tag[9]),
                        completer.byte_count.eq(header.byte_count[:12]),
                        completer.status.eq(header.status),
                        completer.completer_id.eq(self.requester_id + header.function),
                        completion.lower_address.eq(header.lower_address),
                        completion.tag.eq(header.tag[:8]),
                        completion.requester_id.eq(header.requester_id),
                        dws[1].eq(completer), dws[2].eq(completion),
                        payload.eq(header.length),
                    ]
            with m.Case(_MESSAGE):
                m.d.comb += [
                    common.type.eq(TlpType.MESSAGE.value | 4), common.fmt.eq(Fmt.LONG.value),
                    message.code.eq(Mux(self.intx, MessageCode.ASSERT_INTA.value,
                                        MessageCode.DEASSERT_INTA.value)),
                    message.requester_id.eq(self.requester_id),
                    dws[1].eq(message),
                ]
