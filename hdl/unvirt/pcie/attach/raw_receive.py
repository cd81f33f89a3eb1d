# SPDX-License-Identifier: BSD-2-Clause
"""Receive side of the raw attachment: headers decoded, kinds told apart."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...stream.buffer import HalfBuffer
from ..tlp import CompletionHeader, RequestHeader, TlpBeat
from ..wire import CommonDw, CompleterDw, CompletionDw, ConfigDw, RawBeat, RequestDw, TlpType, swap_bytes

__all__ = ["LocalRequest", "RawReceive"]


class LocalRequest(data.Struct):
    """A non-posted request the attachment answers itself: configuration, or not supported."""

    unsupported:  1
    write:        1
    function:     3
    bus_device:   13
    register:     10
    byte_enables: 4
    data:         32
    requester_id: 16
    tag:          10
    tc:           3
    attr:         3


class RawReceive(wiring.Component):
    """Decodes TLPs as they come.

    One beat per cycle; a beat leaves in the cycle in which it arrives, for ``local`` in the next. Memory requests that hit BAR 0 while memory
    space is enabled go to ``requests``, completions to ``completions``, configuration requests and non-posted requests that are not supported to
    ``local``; other posted TLPs, messages and poisoned writes are dropped. So is what follows the payload, a digest. ``clear`` drops what is left of
    a TLP under way.

    Members
    -------
    rx : ``In(stream.Signature(RawBeat))``
    requests, completions, local : ``Out(stream)``
    memory_enable : ``In(1)``, bar0 : ``In(64)``, clear : ``In(1)``
    unsupported : ``Out(1)``
        Pulse: a request was refused or dropped in the cycle before.
    """

    def __init__(self, *, data_width, bar_size):
        self._data_width = data_width
        self._bar_size = bar_size
        super().__init__({
            "rx": In(stream.Signature(RawBeat(data_width))),
            "requests": Out(stream.Signature(TlpBeat(RequestHeader, data_width))),
            "completions": Out(stream.Signature(TlpBeat(CompletionHeader, data_width))),
            "local": Out(stream.Signature(LocalRequest)),
            "memory_enable": In(1),
            "bar0": In(64),
            "clear": In(1),
            "unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 32
        beat = self.rx.payload
        dw0 = Signal(CommonDw)
        header = [swap_bytes(beat.header.word_select(number, 32)) for number in range(4)]
        has_data, length = dw0.fmt[1], Cat(dw0.length, dw0.length == 0)
        m.d.comb += dw0.eq(header[0])
        # Whether a request is for BAR 0 is known late: of the rest it is not to hold anything up.
        m.submodules.own = own = HalfBuffer(LocalRequest)
        connect(m, own.o, flipped(self.local))
        to_request, to_completion, to_local, refused = self._elaborate_kinds(m, dw0, header, has_data, length, own.i.payload)

        # Where a TLP goes is said by its first beat, and kept for the others.
        of_request, of_completion, kept_request, kept_completion = Signal(), Signal(), Signal(), Signal()
        left = Signal(11)                                  # DWs of payload from the next beat on
        left_ends = Signal()                               # not more than a beat takes
        now_left = Signal(11)                              # DWs of payload from this beat on
        more = Signal()                                    # payload is to follow, not a digest
        wanted, last, taken = Signal(), Signal(), Signal()
        kept_ready = Signal()                              # a beat that is not the first goes on
        m.d.comb += [
            of_request.eq(Mux(beat.first, to_request, kept_request)),
            of_completion.eq(Mux(beat.first, to_completion, kept_completion)),
            now_left.eq(Mux(beat.first, length, left)),
            # A length of 0 is the longest.
            last.eq(beat.last | Mux(beat.first, ~has_data | ((dw0.length != 0) & (dw0.length <= lanes)), left_ends)),
            wanted.eq(self.rx.valid & (beat.first | more)),
            self.requests.valid.eq(wanted & of_request),
            self.completions.valid.eq(wanted & of_completion),
            own.i.valid.eq(self.rx.valid & beat.first & to_local),
            self.rx.ready.eq(Mux(of_request, self.requests.ready, Mux(of_completion, self.completions.ready,
                                                                      own.i.ready | ~(beat.first & to_local)))),
            kept_ready.eq(Mux(kept_request, self.requests.ready, self.completions.ready | ~kept_completion)),
            taken.eq(self.rx.valid & self.rx.ready),
        ]
        for out in (self.requests.payload, self.completions.payload):
            m.d.comb += [out.data.eq(beat.data), out.first.eq(beat.first), out.last.eq(last)]
        with m.If(self.rx.valid):
            m.d.sync += [kept_request.eq(of_request), kept_completion.eq(of_completion)]
        # What the first beat says may be noted while it waits.
        with m.If(self.rx.valid & (beat.first | kept_ready)):
            m.d.sync += [left.eq(now_left - lanes), left_ends.eq(now_left <= 2 * lanes), more.eq(wanted & ~last)]
        with m.If(self.clear):
            m.d.sync += more.eq(0)
        m.d.sync += self.unsupported.eq(taken & beat.first & refused)
        return m

    def _elaborate_kinds(self, m, dw0, header, has_data, length, own):
        """Fill in the headers of all outputs; return whether a TLP is for ``requests``, ``completions``, ``local``, and whether it is refused."""
        request, config = Signal(RequestDw), Signal(ConfigDw)
        completer, completion = Signal(CompleterDw), Signal(CompletionDw)
        address, long = Signal(64), dw0.fmt[0]
        m.d.comb += [
            request.eq(header[1]), config.eq(header[2]),
            completer.eq(header[1]), completion.eq(header[2]),
            address.eq(Mux(long, Cat(C(0, 2), header[3][2:], header[2]), Cat(C(0, 2), header[2][2:]))),
        ]
        kind = dw0.type
        tag = Cat(request.tag, dw0.tag_8, dw0.tag_9)
        attr = Cat(dw0.attr_low, dw0.attr_high)
        plain = ~dw0.fmt[2]
        is_memory = plain & (kind == TlpType.MEMORY.value)
        is_completion = plain & kind.matches(TlpType.COMPLETION.value, TlpType.COMPLETION_LOCKED.value)
        is_config = plain & (kind == TlpType.CONFIG0.value)
        is_message = kind[4] & (kind != TlpType.DEFERRABLE_WRITE.value)
        bits = (self._bar_size - 1).bit_length()
        hit = is_memory & self.memory_enable & (address[bits:] == self.bar0[bits:])
        posted = (is_memory & has_data) | is_message
        to_request = hit & ~(has_data & dw0.poisoned)
        to_local = ~is_completion & ~to_request & ~posted

        r, c = self.requests.payload.header, self.completions.payload.header
        m.d.comb += [
            r.write.eq(has_data), r.address.eq(address), r.length.eq(length),
            r.first_be.eq(request.first_be), r.last_be.eq(request.last_be),
            r.requester_id.eq(request.requester_id), r.tag.eq(tag), r.tc.eq(dw0.tc),
            r.attr.eq(attr), r.poisoned.eq(dw0.poisoned),
            c.tag.eq(Cat(completion.tag, dw0.tag_8, dw0.tag_9)),
            c.status.eq(completer.status),
            c.byte_count.eq(Mux(completer.byte_count == 0, 4096, completer.byte_count)),
            c.lower_address.eq(completion.lower_address),
            c.length.eq(Mux(has_data, length, 0)), c.poisoned.eq(dw0.poisoned),
            own.unsupported.eq(~is_config | (has_data & dw0.poisoned)),
            own.write.eq(has_data), own.function.eq(config.function),
            own.bus_device.eq(config.bus_device), own.register.eq(config.register),
            own.byte_enables.eq(request.first_be), own.data.eq(self.rx.payload.data[:32]),
            own.requester_id.eq(request.requester_id), own.tag.eq(tag), own.tc.eq(dw0.tc),
            own.attr.eq(attr),
        ]
        return to_request, is_completion, to_local, ~is_completion & ~is_config & ~to_request & ~is_message
