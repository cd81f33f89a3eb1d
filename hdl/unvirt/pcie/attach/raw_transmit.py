# SPDX-License-Identifier: BSD-2-Clause
"""Transmit side of the raw attachment: order, credits, one stream of TLPs."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.ring import round_robin, wrap_sub
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
    completions. The data of a posted write waits one cycle in registers, so that the next header is seen meanwhile. A write or a read is begun in the
    cycle in which it is on show, a completion or a message one later; credits count from the cycle behind that in which they come. Headers below 4
    GiB have three DWs. From ``clear`` on all that comes is taken without credits and goes nowhere, and so does the rest of a TLP under way
    (``tx.valid`` falls in its midst), until ``clear`` has fallen and nothing is on show.

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
        completions, own = self.completions, self.own_completions
        posted, read = ahead.headers.payload, self.nonposted.payload.header

        sending = Signal()
        kind = Signal(range(5))
        gates = []
        for name, number, source in (("nonposted", _NONPOSTED, self.nonposted), ("completion", _COMPLETION, completions),
                                     ("own", _OWN_COMPLETION, own)):
            # A completion stays on show while it is sent: it is not the next one.
            shown = C(1) if number == _NONPOSTED else ~(sending & (kind == number))
            m.submodules[f"{name}_gate"] = gate = OrderGate()
            m.d.comb += [
                gate.valid.eq(source.valid & source.payload.first & shown),
                gate.order.eq(source.payload.header.order),
                gate.posted_done.eq(self.posted_done),
            ]
            gates.append(gate)

        m.d.comb += self.posted_begun.eq(self.posted_done + (sending & (kind == _POSTED)) + ahead.headers.valid + ahead.behind)

        # The link is being reset, or was, and what was on show then has not gone.
        self._forget = forget = Signal()
        forgets = Signal()
        on_show = Cat(sending, ahead.headers.valid, ahead.behind, self.nonposted.valid, completions.valid, own.valid).any()
        m.d.sync += forgets.eq(self.clear | (forgets & on_show))
        m.d.comb += forget.eq(self.clear | forgets)

        # Writes and reads go in the cycle in which they are on show. What else may go, completions and messages, is found out the cycle before.
        free = Signal()                        # the next TLP may be loaded
        go_posted = Signal()
        go_read = Signal()
        go_other = Signal()
        told = Signal()                        # the interrupt level last sent
        other_valid = Signal()
        other = Signal(range(5), init=_MESSAGE)
        completion = Signal(TxCompletionHeader)
        m.d.comb += completion.eq(Mux(other == _COMPLETION, Value.cast(completions.payload.header), Value.cast(own.payload.header)))
        is_message = other == _MESSAGE

        limits, infinite = self.credits, self.credits.infinite
        began_posted, began_read, began_other = free & go_posted, free & go_read, free & go_other
        ph = self._elaborate_header_credits(m, "ph", limits.ph, infinite[0], began_posted | (began_other & is_message))
        nph = self._elaborate_header_credits(m, "nph", limits.nph, infinite[2], began_read)
        cplh = self._elaborate_header_credits(m, "cplh", limits.cplh, infinite[4], began_other & ~is_message)
        pd = self._elaborate_data_credits(m, "pd", limits.pd, infinite[1], began_posted, posted.length)
        cpld = self._elaborate_data_credits(m, "cpld", limits.cpld, infinite[5], began_other & ~is_message, completion.length)

        ready = Signal(3)
        m.d.comb += ready.eq(Cat(*(gate.open & (forget | (cplh & cpld(source.payload.header.length)))
                                   for gate, source in zip(gates[1:], (completions, own))),
                                 (told != self.intx) & ph & ~forget))

        can_posted = Signal()
        can_read = Signal()
        can_other = Signal()
        # A message whose credit a write took keeps nobody waiting.
        with m.If(~can_other):
            m.d.sync += [other_valid.eq(ready.any()), other.eq(round_robin(ready, (other - _COMPLETION)[:2]) + _COMPLETION)]
        with m.Elif(began_other):
            m.d.sync += other_valid.eq(0)
        m.d.comb += [
            can_posted.eq(ahead.headers.valid & (forget | (ph & pd(posted.length)))),
            can_read.eq(gates[0].open & (forget | nph)),
            can_other.eq(other_valid & (~is_message | (ph & ~forget))),
        ]
        owed = self._elaborate_share(m, began_posted, began_read, posted.length, read.length)
        # Who went last: the others go before writes unless it was one of them, before reads only if it was a read.
        last_read, last_other = Signal(), Signal()
        with m.If(free & (can_posted | can_read | can_other)):
            m.d.sync += [last_read.eq(go_read), last_other.eq(go_other)]
        m.d.comb += [
            go_posted.eq(can_posted & ~(can_read & owed) & ~(can_other & ~last_other)),
            go_read.eq(can_read & ~(can_posted & ~owed) & ~(can_other & last_read)),
            go_other.eq(can_other & ~go_posted & ~go_read),
            ahead.headers.ready.eq(began_posted), self.nonposted.ready.eq(began_read),
            gates[0].taken.eq(began_read),
            gates[1].taken.eq(began_other & (other == _COMPLETION)), gates[2].taken.eq(began_other & (other == _OWN_COMPLETION)),
        ]

        # The next TLP is loaded as the last beat of the one before leaves.
        head = Signal(128)
        left = Signal(11)                      # DWs of payload not sent yet
        ends = Signal()                        # it is the last beat
        with_data = Signal()
        first = Signal()
        ends_request = Signal()
        length = Signal(11)                    # of the completion
        m.d.comb += length.eq(Mux(is_message, 0, completion.length))
        # The last completion of a request carries all the bytes that are left, or none.
        final = (completion.length == 0) | (completion.byte_count <= (completion.length << 2) - completion.lower_address[:2])

        def chosen(of_posted, of_read, of_other):
            return Mux(go_posted, of_posted, Mux(go_read, of_read, of_other))

        with m.If(free):
            m.d.sync += [
                sending.eq(can_posted | can_read | can_other), first.eq(1),
                kind.eq(chosen(_POSTED, _NONPOSTED, other)),
                head.eq(chosen(self._request(m, "posted", posted, True), self._request(m, "read", read, False),
                               Mux(is_message, self._message(m, ~told), self._completion(m, completion)))),
                left.eq(chosen(posted.length, 0, length)),
                ends.eq(chosen(posted.length <= lanes, 1, length <= lanes)),
                with_data.eq(chosen(1, 0, length != 0)),
                ends_request.eq(chosen(0, 0, ((other == _COMPLETION) & final) | (other == _OWN_COMPLETION))),
            ]
        with m.If(began_other & is_message):
            m.d.sync += told.eq(~told)
        with m.If(forget):
            m.d.sync += told.eq(0)

        current = Signal(width)
        current_valid = Signal()
        with m.Switch(kind):
            for number, source, word in ((_POSTED, ahead.data, ahead.data.payload), (_COMPLETION, completions, completions.payload.data),
                                         (_OWN_COMPLETION, own, own.payload.data)):
                with m.Case(number):
                    m.d.comb += [current.eq(word), current_valid.eq(source.valid)]
        out = self.tx.payload
        shown, sent = Signal(), Signal()
        m.d.comb += [
            out.header.eq(head), out.data.eq(current),
            out.first.eq(first), out.last.eq(ends),
            shown.eq(sending & (~with_data | current_valid)),
            self.tx.valid.eq(shown & ~forget),
            sent.eq(shown & (self.tx.ready | forget)),
            free.eq(~sending | (sent & ends)),
            # A completion leaves its source as it is sent, with data or without.
            ahead.data.ready.eq(sent & (kind == _POSTED)), completions.ready.eq(sent & (kind == _COMPLETION)),
            own.ready.eq(sent & (kind == _OWN_COMPLETION)),
            self.nonposted_done.eq(sent & ends & ends_request),
        ]
        with m.If(sent & ~ends):
            m.d.sync += [first.eq(0), left.eq(left - lanes), ends.eq(left <= 2 * lanes)]
        with m.If(sent & ends & (kind == _POSTED)):
            m.d.sync += self.posted_done.eq(self.posted_done + 1)
        return m

    def _elaborate_share(self, m, began_posted, began_read, written, asked):
        """Return whether reads have moved less than writes, so that a read goes first of those that may."""
        # DWs written less DWs read, as far as it is remembered: two of the longest reads.
        balance = Signal(signed(9))
        more, less = Signal(signed(13)), Signal(signed(13))
        m.d.comb += [
            more.eq(balance + written),
            # A quarter off: for what only tells where data lies, of which frames in both directions need some.
            less.eq(balance + (asked >> 2) - asked),
        ]
        with m.If(began_posted):
            m.d.sync += balance.eq(Mux(more > 255, 255, more))
        with m.If(began_read):
            m.d.sync += balance.eq(Mux(less < -256, -256, less))
        with m.If(self._forget):
            m.d.sync += balance.eq(0)
        return balance > 0

    def _elaborate_header_credits(self, m, name, limit, infinite, spent):
        """Count headers sent [PCIe 2.6.1.2]; return whether there is credit for one more, which is known from the cycle before."""
        following = Signal(8, init=1, name=f"following_{name}")      # the number of the next header
        enough = Signal(name=f"enough_{name}")
        m.d.sync += enough.eq(infinite | ~Mux(spent, wrap_sub(limit, (following + 1)[:8]), wrap_sub(limit, following))[7])
        with m.If(spent):
            m.d.sync += following.eq(following + 1)
        with m.If(self._forget):
            m.d.sync += following.eq(1)
        return enough

    def _elaborate_data_credits(self, m, name, limit, infinite, spent, length):
        """Count the credits of TLPs with ``length`` DWs [PCIe 2.6.1.2]; return what tells whether there are enough for a number of DWs."""
        used = Signal(12, name=f"used_{name}")
        rest = Signal(12, name=f"rest_{name}")           # credits left, those that came in this cycle not among them; never more than 2047
        credits = Signal(9, name=f"credits_{name}")
        unused = Signal(12, name=f"unused_{name}")
        m.d.comb += [credits.eq((length + 3) >> 2), unused.eq(wrap_sub(limit, used))]
        m.d.sync += rest.eq(Mux(spent, wrap_sub(unused, credits), unused))
        with m.If(spent):
            m.d.sync += used.eq(used + credits)
        with m.If(self._forget):
            m.d.sync += used.eq(0)
        return lambda dws: infinite | (~rest[11] & (dws <= Cat(C(0, 2), rest[:11])))

    def _request(self, m, name, header, write):
        """Return the header of a write or a read."""
        common, request = Signal(CommonDw, name=f"{name}_common"), Signal(RequestDw, name=f"{name}_request")
        long = header.address[32:].any()
        m.d.comb += [
            common.type.eq(TlpType.MEMORY.value),
            common.fmt.eq(Cat(long, C(write, 1))),
            common.length.eq(header.length[:10]),
            request.first_be.eq(header.first_be), request.last_be.eq(header.last_be),
            request.requester_id.eq(self.requester_id + header.function),
        ]
        if not write:
            m.d.comb += [request.tag.eq(header.tag[:8]), common.tag_8.eq(header.tag[8]), common.tag_9.eq(header.tag[9])]
        return header_to_beats((common, request, Mux(long, header.address[32:], header.address[:32]), header.address[:32]))

    def _completion(self, m, header):
        """Return the header of a completion."""
        common, completer, completion = Signal(CommonDw), Signal(CompleterDw), Signal(CompletionDw)
        m.d.comb += [
            common.type.eq(TlpType.COMPLETION.value),
            common.fmt.eq(Mux(header.length == 0, Fmt.SHORT.value, Fmt.SHORT_DATA.value)),
            common.length.eq(header.length[:10]), common.tc.eq(header.tc),
            common.attr_low.eq(header.attr[:2]), common.attr_high.eq(header.attr[2]),
            common.tag_8.eq(header.tag[8]), common.tag_9.eq(header.tag[9]),
            completer.byte_count.eq(header.byte_count[:12]),
            completer.status.eq(header.status),
            completer.completer_id.eq(self.requester_id + header.function),
            completion.lower_address.eq(header.lower_address),
            completion.tag.eq(header.tag[:8]),
            completion.requester_id.eq(header.requester_id),
        ]
        return header_to_beats((common, completer, completion, C(0, 32)))

    def _message(self, m, level):
        """Return the header of the message that tells the interrupt level."""
        common, message = Signal(CommonDw), Signal(MessageDw)
        m.d.comb += [
            common.type.eq(TlpType.MESSAGE.value | 4), common.fmt.eq(Fmt.LONG.value),
            message.code.eq(Mux(level, MessageCode.ASSERT_INTA.value, MessageCode.DEASSERT_INTA.value)),
            message.requester_id.eq(self.requester_id),
        ]
        return header_to_beats((common, message, C(0, 32), C(0, 32)))
