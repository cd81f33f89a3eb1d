# SPDX-License-Identifier: BSD-2-Clause
"""Receive side of the raw attachment: header stripped, payload at lane 0, kinds told apart."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..tlp import CompletionHeader, RequestHeader, TlpBeat
from ..wire import (CommonDw, CompleterDw, CompletionDw, ConfigDw, RawBeat, RequestDw, TlpType,
                    swap_bytes)

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

    One beat per cycle; a TLP whose payload does not end with its last raw beat takes one cycle more. Header and payload leave in the cycle in which
    they arrive. Memory requests that hit BAR 0 while memory space is enabled go to ``requests``, completions to ``completions``, configuration
    requests and non-posted requests that are not supported to ``local``; other posted TLPs, messages and poisoned writes are dropped. A digest is
    dropped. ``clear`` forgets a TLP that was under way.

    Members
    -------
    rx : ``In(stream.Signature(RawBeat))``
    requests, completions, local : ``Out(stream)``
    memory_enable : ``In(1)``, bar0 : ``In(64)``, clear : ``In(1)``
    unsupported : ``Out(1)``
        Pulse: a request was refused or dropped.
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
        width = self._data_width
        lanes = width // 32
        beat = self.rx.payload

        # The header as known in this cycle: DWs of this beat, or kept from earlier ones.
        kept = [Signal(32, name=f"kept{i}") for i in range(4)]
        header = [Signal(32, name=f"header{i}") for i in range(4)]
        before = Signal(3)                     # header DWs that came before this beat
        start = Signal(3)
        flush = Signal()
        # While the rest of a TLP is flushed the next one may be on show: its header is not wanted yet.
        m.d.comb += start.eq(Mux(flush, 7, Mux(beat.first, 0, before)))
        for number in range(4):
            m.d.comb += header[number].eq(kept[number])
            lane = number % lanes
            with m.If(start == number - lane):
                m.d.comb += header[number].eq(swap_bytes(beat.data.word_select(lane, 32)))
        dw0 = Signal(CommonDw)
        m.d.comb += dw0.eq(header[0])
        long, has_data = dw0.fmt[0], dw0.fmt[1]
        size = Signal(3)
        length = Signal(11)
        m.d.comb += [size.eq(Mux(long, 4, 3)), length.eq(Mux(dw0.length == 0, 1024, dw0.length))]
        here = Signal(range(lanes + 1))        # DWs in this beat
        m.d.comb += here.eq(lanes - Mux(beat.last, beat.empty, 0) if lanes > 1 else 1)

        complete_before = start >= size
        completes = ~complete_before & (start + here >= size)
        in_beat = Signal(range(max(2, lanes + 1)))   # header DWs in this beat
        m.d.comb += in_beat.eq(Mux(complete_before, 0, size - start))

        # Payload: what an earlier beat left over, then this beat.
        carry = Signal(width)
        left = Signal(11)                      # payload DWs not given out yet
        started = Signal()
        finished = Signal()                    # all payload is out; what follows is a digest or too much
        shift = Signal(range(max(2, lanes)))
        m.d.comb += shift.eq(size % lanes if lanes > 4 else (Mux(long, 4 % lanes, 3 % lanes)))
        out_data = Signal(width)
        out_valid, out_first, out_last, out_ready = Signal(), Signal(), Signal(), Signal()
        now_left = Signal(11)
        m.d.comb += now_left.eq(Mux(started, left, length))

        shifts = sorted({3 % lanes, 4 % lanes})
        moved = Signal(width)                  # this beat without its lowest `shift` DWs
        joined = Signal(width)                 # carry below, then the lowest DWs of this beat
        for value in shifts:
            with m.If(shift == value):
                m.d.comb += [
                    moved.eq(beat.data >> 32 * value),
                    joined.eq(Cat(carry[:width - 32 * value], beat.data[:32 * value])
                              if value else beat.data),
                ]
        after_header = Signal(range(lanes + 1))      # payload DWs in the beat that ends the header
        m.d.comb += after_header.eq(Mux(completes, here - in_beat, 0))
        # A beat that ends the header and has payload too keeps it for the next, unless it is all there is.
        all_here = completes & has_data & (after_header >= length)
        header_only = completes & ~has_data

        with m.If(flush):
            m.d.comb += [out_valid.eq(1), out_data.eq(carry), out_last.eq(1)]
        with m.Elif(self.rx.valid):
            with m.If(header_only | all_here):
                m.d.comb += [out_valid.eq(1), out_last.eq(1), out_data.eq(moved)]
            with m.Elif(complete_before & has_data & ~finished):
                m.d.comb += [out_valid.eq(1), out_data.eq(joined),
                             out_last.eq((now_left <= lanes) | (beat.last & (shift == 0)))]
        m.d.comb += [
            out_first.eq(~started),
            self.rx.ready.eq(~flush & (~out_valid | out_ready)),
        ]
        with m.If(out_valid & out_ready):
            m.d.sync += [started.eq(~out_last), left.eq(now_left - lanes)]
        with m.If(flush & out_ready):
            m.d.sync += flush.eq(0)
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += [
                carry.eq(moved),
                finished.eq(~beat.last & ((~beat.first & finished) | (out_valid & out_last))),
            ]
            for number in range(4):
                m.d.sync += kept[number].eq(header[number])
            m.d.sync += before.eq(Mux(start + lanes > 4, 4, start + lanes))
            # The last raw beat is in, but payload is left in the carry.
            with m.If(beat.last & complete_before & has_data & ~finished & (now_left > lanes)
                      & (shift != 0)):
                m.d.sync += flush.eq(1)
            with m.If(beat.last & completes & has_data & ~all_here):
                m.d.sync += started.eq(0)
        with m.If(self.clear):
            m.d.sync += [flush.eq(0), started.eq(0), finished.eq(0)]

        self._elaborate_routes(m, dw0, header, long, has_data, length, out_data, out_valid,
                               out_first, out_last, out_ready)
        return m

    def _elaborate_routes(self, m, dw0, header, long, has_data, length, out_data, out_valid,
                          out_first, out_last, out_ready):
        """Send a beat where its TLP belongs."""
        request, config = Signal(RequestDw), Signal(ConfigDw)
        completer, completion = Signal(CompleterDw), Signal(CompletionDw)
        address = Signal(64)
        m.d.comb += [
            request.eq(header[1]), config.eq(header[2]),
            completer.eq(header[1]), completion.eq(header[2]),
            address.eq(Mux(long, Cat(C(0, 2), header[3][2:], header[2]),
                           Cat(C(0, 2), header[2][2:]))),
        ]
        kind = dw0.type
        tag = Cat(request.tag, dw0.tag_8, dw0.tag_9)
        attr = Cat(dw0.attr_low, dw0.attr_high)
        plain = ~dw0.fmt[2]
        is_memory = plain & (kind == TlpType.MEMORY.value)
        is_completion = plain & kind.matches(TlpType.COMPLETION.value,
                                             TlpType.COMPLETION_LOCKED.value)
        is_config = plain & (kind == TlpType.CONFIG0.value)
        is_message = kind[4] & (kind != TlpType.DEFERRABLE_WRITE.value)
        bits = (self._bar_size - 1).bit_length()
        hit = is_memory & self.memory_enable & (address[bits:] == self.bar0[bits:])
        posted = (is_memory & has_data) | is_message
        to_request = hit & ~(has_data & dw0.poisoned)
        to_local = ~is_completion & ~to_request & ~posted

        m.d.comb += [
            self.requests.valid.eq(out_valid & to_request),
            self.requests.payload.data.eq(out_data),
            self.requests.payload.first.eq(out_first),
            self.requests.payload.last.eq(out_last),
            self.completions.valid.eq(out_valid & is_completion),
            self.completions.payload.data.eq(out_data),
            self.completions.payload.first.eq(out_first),
            self.completions.payload.last.eq(out_last),
            # Only the first beat of a request for the attachment itself matters.
            self.local.valid.eq(out_valid & to_local & out_first),
            out_ready.eq(Mux(to_request, self.requests.ready,
                             Mux(is_completion, self.completions.ready,
                                 Mux(to_local & out_first, self.local.ready, 1)))),
            self.unsupported.eq(out_valid & out_ready & out_first & ~is_completion & ~is_config
                                & ~to_request & ~is_message),
        ]
        r, c, own = (self.requests.payload.header, self.completions.payload.header,
                     self.local.payload)
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
            own.byte_enables.eq(request.first_be), own.data.eq(out_data[:32]),
            own.requester_id.eq(request.requester_id), own.tag.eq(tag), own.tc.eq(dw0.tc),
            own.attr.eq(attr),
        ]
