# SPDX-License-Identifier: BSD-2-Clause
"""Transmit: whole packets from the transmit buffer to the MAC, without their virtio header."""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..pcie.dma import GRANULE_SIZE
from ..stream.fifo import Queue
from ..virtio.contract import row_width
from ..virtio.queue.lanes import GranuleChain
from ..virtio.queue.retire import SourcePacket
from .spec import NET_HEADER_SIZE

__all__ = ["MacBeat", "Transmit", "packet_start"]


class MacBeat(data.StructLayout):
    """One beat of an Ethernet frame without preamble and FCS; ``error`` counts on the last beat."""

    def __init__(self, data_width):
        super().__init__({
            "data": data_width, "empty": range(max(2, data_width // 8)), "first": 1, "last": 1,
            "error": 1,
        })


def packet_start(data_width):
    """Return the buffer offset at which packets begin, so that the frame itself begins at lane 0."""
    return -NET_HEADER_SIZE % (data_width // 8)


class Transmit(wiring.Component):
    """Sends packets of the transmit buffer as frames.

    Latency three cycles from packet to first beat, then one beat per cycle without a gap, also between frames. The MAC may
    stall between and within frames. When ``drain`` comes while a frame is under way, the rest of it is replaced by one last beat with ``error``;
    packets that wait are given back unsent. Granules go back when their last word was read.

    Parameters
    ----------
    data_width, rows, size : int
        Bits per beat; queue rows; bytes of the transmit buffer.

    Members
    -------
    drain : ``In(1)``
    packets : ``In(stream.Signature(SourcePacket))``
    read_word, read_data : ``Out``/``In``
        Transmit buffer (synchronous).
    next_of, next : ``Out``/``In``
        Successor of a granule (combinational).
    free : ``Out(stream.Signature(GranuleChain))``
    mac : ``Out(stream.Signature(MacBeat))``
    sent_valid, sent, sent_row : ``Out``
        Beats of frames on their way to the MAC, and the queue that the frame comes from.
    """

    def __init__(self, *, data_width, rows, size):
        self._data_width = data_width
        self._granules = granules = size // GRANULE_SIZE
        super().__init__({
            "drain": In(1),
            "packets": In(stream.Signature(SourcePacket(rows, granules))),
            "read_word": Out(range(size * 8 // data_width)),
            "read_data": In(data_width),
            "next_of": Out(range(granules)),
            "next": In(range(granules)),
            "free": Out(stream.Signature(GranuleChain(granules))),
            "mac": Out(stream.Signature(MacBeat(data_width))),
            "sent_valid": Out(1),
            "sent": Out(MacBeat(data_width)),
            "sent_row": Out(row_width(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        words = GRANULE_SIZE // lanes
        first_word = (packet_start(self._data_width) + NET_HEADER_SIZE) // lanes
        m.submodules.output = output = Queue(MacBeat(self._data_width), 4)
        wiring.connect(m, output.o, wiring.flipped(self.mac))

        packet = Signal(self.packets.payload.shape())
        granule = Signal(range(self._granules))
        word = Signal(range(words))
        left = Signal(14)                  # bytes of the frame not asked for yet
        first = Signal()
        reading = Signal()
        # What was asked for in the previous cycle.
        arrived = Signal()
        arrived_first, arrived_last = Signal(), Signal()
        arrived_row = Signal.like(packet.row)
        arrived_empty = Signal(range(max(2, lanes)))
        abort = Signal()

        m.d.comb += [
            self.read_word.eq(Cat(word, granule)),
            self.next_of.eq(granule),
            self.free.payload.first.eq(packet.first),
            self.free.payload.last.eq(packet.last),
            self.free.payload.count.eq(packet.count),
            output.i.valid.eq(arrived),
            output.i.payload.data.eq(self.read_data),
            output.i.payload.first.eq(arrived_first),
            output.i.payload.last.eq(arrived_last),
            output.i.payload.empty.eq(arrived_empty),
            self.sent_valid.eq(arrived),
            self.sent.eq(output.i.payload),
            self.sent_row.eq(arrived_row),
        ]
        m.d.sync += [
            arrived.eq(reading),
            arrived_first.eq(first),
            arrived_row.eq(packet.row),
            arrived_last.eq(left <= lanes),
            arrived_empty.eq(Mux(left < lanes, (lanes - left)[:len(arrived_empty)], 0)),
        ]

        def accept():
            """Take the next packet, if there is one."""
            m.d.comb += self.packets.ready.eq(~abort | self.drain)
            m.d.sync += [
                packet.eq(self.packets.payload),
                granule.eq(self.packets.payload.first),
                word.eq(first_word),
                left.eq(self.packets.payload.length - NET_HEADER_SIZE),
                first.eq(1),
            ]
            m.next = "IDLE"
            with m.If(self.packets.valid & self.packets.ready):
                m.next = "READ"
                with m.If(self.drain):
                    m.next = "FREE"

        def give_back():
            m.d.comb += self.free.valid.eq(1)
            m.next = "FREE"
            with m.If(self.free.ready):
                accept()

        with m.FSM(name="transmit"):
            with m.State("IDLE"):
                accept()
            with m.State("READ"):
                m.d.comb += reading.eq((output.level + arrived < 3) & ~self.drain)
                with m.If(self.drain):
                    m.d.sync += abort.eq(~first)
                    m.next = "FREE"
                with m.Elif(reading):
                    m.d.sync += [first.eq(0), left.eq(left - lanes), word.eq(word + 1)]
                    with m.If(word == words - 1):
                        m.d.sync += [word.eq(0), granule.eq(self.next)]
                    with m.If(left <= lanes):
                        # The last word is read in this cycle, so its granule may go.
                        give_back()
            with m.State("FREE"):
                give_back()

        # A frame that was begun must end. Nothing waits for that beat but the next frame: a dead MAC
        # keeps no granule and no reset waiting.
        with m.If(abort & ~arrived):
            m.d.comb += [
                output.i.valid.eq(1),
                output.i.payload.first.eq(0),
                output.i.payload.last.eq(1),
                output.i.payload.empty.eq(0),
                output.i.payload.error.eq(1),
            ]
            with m.If(output.i.ready):
                m.d.sync += abort.eq(0)
        return m
