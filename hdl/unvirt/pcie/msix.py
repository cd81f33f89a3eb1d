# SPDX-License-Identifier: BSD-2-Clause
"""MSI-X: table, masks, pending bits and messages [PCIe 6.1.4]."""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .bus import RegisterBusSignature, RegisterRequest
from .dma import InterruptRequest, WriteBeat

__all__ = ["MsixTable"]


class MsixTable(wiring.Component):
    """Sends a message for each request, or keeps it pending while its vector or function is masked.

    One message in five cycles. A sweep looks at one vector per cycle for pending messages that may go. Table and pending bits are registers of the
    two regions ``Region.MSIX_TABLE`` and ``Region.MSIX_PBA``; accesses take effect in order, a read answers in four cycles and not before messages
    accepted earlier were handed to the write engine: reading a mask back flushes what was on its way. Requests are dropped while MSI-X is disabled.

    ``clear`` (function reset, a level) masks every vector and forgets what is pending, one vector per cycle; then it is idle and drops
    requests until ``clear`` falls. ``forget`` (virtio reset) forgets what is pending only; requests wait for it. Accesses wait for either.

    Members
    -------
    bus : ``In(RegisterBusSignature)``
    requests : ``In(stream.Signature(InterruptRequest))``
    messages : ``Out(stream.Signature(WriteBeat))``
    enable, function_mask, clear, forget : ``In(1)``
    idle : ``Out(1)``
        No request is being worked on.
    """

    def __init__(self, *, vectors, data_width):
        self._vectors = vectors
        self._data_width = data_width
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "requests": In(stream.Signature(InterruptRequest)),
            "messages": Out(stream.Signature(WriteBeat(data_width))),
            "enable": In(1),
            "function_mask": In(1),
            "clear": In(1),
            "forget": In(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        depth = max(2, 1 << (self._vectors - 1).bit_length())
        bits = (depth - 1).bit_length()
        # Address low, address high and data by vector; masks and pending bits are looked at by the sweep.
        tables = []
        for name in ("address_low", "address_high", "data"):
            m.submodules[name] = cells = memory.Memory(shape=32, depth=depth, init=[])
            tables.append((cells.write_port(granularity=8), cells.read_port(domain="comb")))
        m.submodules.masks = masks = memory.Memory(shape=1, depth=depth, init=[])
        mask_write, mask_read = masks.write_port(), masks.read_port(domain="comb")
        m.submodules.pending = pending = memory.Memory(shape=1, depth=depth, init=[])
        pending_write, pending_read = pending.write_port(), pending.read_port(domain="comb")

        vector = Signal(bits)
        swept = Signal(bits)
        # An access as it was on show in the cycle before: it stays until it is taken.
        access = Signal(RegisterRequest)
        asked = Signal()
        answer = Signal(32)
        m.d.sync += [access.eq(self.bus.request.payload), asked.eq(self.bus.request.valid & ~self.bus.request.ready)]
        is_table = access.address[15]      # Region.MSIX_TABLE and nothing else
        in_range = Signal()
        entry = [Signal(32, name=f"entry{i}") for i in range(2)]
        # The vector that an access looks at. What 32 pending bits look like takes a walk over the memory.
        place = Signal(12)
        blocked = ~self.enable | self.function_mask

        m.d.comb += [
            mask_read.addr.eq(vector), pending_read.addr.eq(vector),
            mask_write.addr.eq(vector), pending_write.addr.eq(vector),
            self.bus.response_data.eq(answer),
            self.messages.payload.first.eq(1),
            self.messages.payload.last.eq(1),
            self.messages.payload.empty.eq(self._data_width // 8 - 4),
            self.messages.payload.header.address.eq(Cat(C(0, 2), entry[0][2:], entry[1])),
            self.messages.payload.header.length.eq(4),
        ]
        for write, read in tables:
            m.d.comb += [write.addr.eq(vector), read.addr.eq(vector), write.data.eq(access.data)]
        message_data = Signal(32)
        m.d.comb += self.messages.payload.data.eq(message_data)

        with m.FSM(name="msix"):
            with m.State("CLEAR"):
                m.d.sync += swept.eq(swept + 1)
                m.d.comb += [vector.eq(swept), mask_write.en.eq(1), mask_write.data.eq(1),
                             pending_write.en.eq(1)]
                with m.If(swept == depth - 1):
                    m.next = "CLEARED"
            with m.State("CLEARED"):
                # Idle, or a reset that waits for that would never end; what still wants a vector is lost with the table.
                m.d.comb += [self.idle.eq(1), self.requests.ready.eq(1)]
                with m.If(~self.clear):
                    m.next = "IDLE"
            with m.State("FORGET"):
                m.d.sync += swept.eq(swept + 1)
                m.d.comb += [vector.eq(swept), pending_write.en.eq(1)]
                with m.If((swept == depth - 1) & ~self.forget):
                    m.next = "IDLE"
            with m.State("IDLE"):
                m.d.comb += vector.eq(Mux(self.requests.valid, self.requests.payload.vector, swept))
                # The entry in case that it is sent.
                m.d.sync += [entry[0].eq(tables[0][1].data), entry[1].eq(tables[1][1].data), message_data.eq(tables[2][1].data)]
                with m.If(self.clear | self.forget):
                    m.d.sync += swept.eq(0)
                    m.next = "FORGET"
                    with m.If(self.clear):
                        m.next = "CLEAR"
                with m.Elif(self.requests.valid):
                    m.d.comb += self.requests.ready.eq(1)
                    with m.If(self.enable & (self.requests.payload.vector < self._vectors)):
                        with m.If(self.function_mask | mask_read.data):
                            m.d.comb += [pending_write.en.eq(1), pending_write.data.eq(1)]
                        with m.Else():
                            m.next = "SEND"
                with m.Elif(asked):
                    m.next = "DECODE"
                with m.Else():
                    m.d.comb += self.idle.eq(1)
                    m.d.sync += swept.eq(Mux(swept == self._vectors - 1, 0, swept + 1))
                    with m.If(pending_read.data & ~mask_read.data & ~blocked):
                        m.d.comb += [pending_write.en.eq(1), self.idle.eq(0)]
                        m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.messages.valid.eq(1)
                with m.If(self.messages.ready):
                    m.next = "IDLE"
            with m.State("DECODE"):
                m.d.sync += [
                    in_range.eq(access.address[4:15] < self._vectors),
                    place.eq(Mux(is_table, access.address[4:15], Cat(C(0, 5), access.address[2:9]))),
                ]
                m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += vector.eq(place)
                m.d.sync += answer.eq(0)
                with m.If(access.write):
                    m.d.comb += self.bus.request.ready.eq(1)
                    with m.If(is_table & in_range):
                        with m.Switch(access.address[2:4]):
                            for number in range(3):
                                with m.Case(number):
                                    m.d.comb += tables[number][0].en.eq(access.byte_enables)
                            with m.Case(3):
                                m.d.comb += [mask_write.en.eq(access.byte_enables[0]),
                                             mask_write.data.eq(access.data[0])]
                    m.next = "IDLE"
                with m.Elif(is_table):
                    m.d.comb += self.bus.request.ready.eq(1)
                    with m.If(in_range):
                        with m.Switch(access.address[2:4]):
                            for number in range(3):
                                with m.Case(number):
                                    m.d.sync += answer.eq(tables[number][1].data)
                            with m.Case(3):
                                m.d.sync += answer.eq(mask_read.data)
                    m.next = "RESPOND"
                with m.Else():
                    m.next = "WALK"
            with m.State("WALK"):
                m.d.comb += vector.eq(place)
                m.d.sync += [
                    place.eq(Cat((place + 1)[:5], place[5:])),
                    answer.eq(Cat(answer[1:], pending_read.data & (place < self._vectors))),
                ]
                with m.If(place[:5] == 31):
                    m.d.comb += self.bus.request.ready.eq(1)
                    m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += self.bus.response_valid.eq(1)
                m.next = "IDLE"
        return m
