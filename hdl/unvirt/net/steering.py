# SPDX-License-Identifier: BSD-2-Clause
"""Automatic receive steering: a frame goes to the queue pair on which its flow was last sent [virtio 5.1.9.5.5]."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .transmit import MacBeat

__all__ = ["FlowHash", "Steering"]

_HASH = 8
"""Bits of a flow's number."""

_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP, _UDP = 6, 17
_LOOKED_AT = 58
"""Bytes of a frame that tell its flow: up to the ports behind an IPv6 header."""


class FlowHash(wiring.Component):
    """The flow that a frame belongs to, the same in both directions.

    Addresses, and of TCP and UDP the ports, of IPv4 without options and IPv6 without extension headers, in frames without a VLAN tag, are folded to
    eight bits; every other frame has flow 0. One beat per cycle; ``flow`` is that of the frame in the cycle after its last beat. A frame that
    ends before its headers has any flow.

    Members
    -------
    valid, beat : ``In``
    flow : ``Out(8)``
    """

    def __init__(self, *, data_width):
        self._data_width = data_width
        super().__init__({"valid": In(1), "beat": In(MacBeat(data_width)), "flow": Out(_HASH)})

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        beats = -(-_LOOKED_AT // lanes)
        number = Signal(range(beats + 1))              # of the beat at hand, counted up to `beats`
        now = Signal.like(number)
        # Halves of 16 bits, folded: addresses and ports of either kind of header.
        folds = {"v4": range(26, 34), "v4_ports": range(34, 38), "v6": range(22, 54), "v6_ports": range(54, 58)}
        sums = {name: Signal(16, name=f"{name}_fold") for name in folds}
        fields = {"kind": range(12, 14), "length": range(14, 15), "fragment": range(20, 22), "v4_protocol": range(23, 24),
                  "v6_protocol": range(20, 21)}
        values = {name: Signal(8 * len(places), name=name) for name, places in fields.items()}
        m.d.comb += now.eq(Mux(self.beat.first, 0, number))

        def byte(place):
            return self.beat.data.word_select(place % lanes, 8)

        with m.If(self.valid):
            m.d.sync += number.eq(Mux(now == beats, beats, now + 1))
            for at in range(beats):
                here = range(at * lanes, (at + 1) * lanes)
                with m.If(now == at):
                    for name, places in folds.items():
                        total = C(0, 16) if at == 0 else sums[name]
                        for place in places:
                            if place in here:
                                total = total ^ (byte(place) << (8 * (place & 1)))
                        m.d.sync += sums[name].eq(total)
                    for name, places in fields.items():
                        for index, place in enumerate(places):
                            if place in here:
                                # Big endian on the wire.
                                m.d.sync += values[name].word_select(len(places) - 1 - index, 8).eq(byte(place))

        def has_ports(protocol):
            return (protocol == _TCP) | (protocol == _UDP)

        whole = Signal(16)
        with m.If((values["kind"] == _IPV4) & (values["length"] == 0x45)):
            # Fragments but the first have no ports: none of a fragmented packet counts.
            ports = has_ports(values["v4_protocol"]) & ((values["fragment"] & 0x3FFF) == 0)
            m.d.comb += whole.eq(sums["v4"] ^ Mux(ports, sums["v4_ports"], 0))
        with m.Elif(values["kind"] == _IPV6):
            m.d.comb += whole.eq(sums["v6"] ^ Mux(has_ports(values["v6_protocol"]), sums["v6_ports"], 0))
        m.d.comb += self.flow.eq(whole[:_HASH] ^ whole[_HASH:])
        return m


class Steering(wiring.Component):
    """Remembers on which queue pair each of 256 flows was last sent, and tells where a received frame goes.

        frames sent --> sent: the pair of each flow --> wanted --> enabled? --> goes: where frames of each flow go --> rx_pair
                          a flow that was sent, or else the next in turn: one a cycle

    A flow that was not sent since ``drain``, or on a pair beyond ``pairs``, is spread evenly. What would go to a receive queue that is not enabled,
    for it is in reset, goes to another, the same for all as long as that is enabled. **Latency**: ``rx_pair`` is that of a frame two cycles
    after its last beat. A frame sent counts for frames that end five cycles after it or later; a change of ``pairs``, or of a queue, for those that
    end 260 cycles later, or one more for each frame sent meanwhile. Until then what would go beyond ``pairs`` goes to pair 0. While ``drain``, and
    256 cycles after, what was sent is forgotten.

    Parameters
    ----------
    data_width, pairs : int
        ``pairs`` of the device.

    Members
    -------
    drain : ``In(1)``
    pairs : ``In``
        Pairs in use.
    tx_valid, tx, tx_pair : ``In``
        Beats of frames sent, and the pair of the frame.
    rx_valid, rx : ``In``
        Beats of frames received.
    rx_pair : ``Out``
    seen_valid, seen_pair, seen_enabled : ``In``
        Again and again, of every pair: whether its receive queue is enabled.
    """

    def __init__(self, *, data_width, pairs):
        self._data_width = data_width
        self._pairs = pairs
        pair = range(max(2, pairs))
        super().__init__({
            "drain": In(1),
            "pairs": In(range(pairs + 1)),
            "tx_valid": In(1),
            "tx": In(MacBeat(data_width)),
            "tx_pair": In(pair),
            "rx_valid": In(1),
            "rx": In(MacBeat(data_width)),
            "rx_pair": Out(pair),
            "seen_valid": In(1),
            "seen_pair": In(pair),
            "seen_enabled": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.hash = rx_hash = FlowHash(data_width=self._data_width)
        m.submodules.goes = goes = memory.Memory(shape=self.rx_pair.shape(), depth=1 << _HASH, init=[])
        write, read = goes.write_port(), goes.read_port()
        flow, wanted = self._elaborate_sent(m)
        enabled, other_enabled, other = self._elaborate_enabled(m, wanted)
        last_flow, last_wanted = Signal.like(flow), Signal.like(wanted)
        m.d.sync += [last_flow.eq(flow), last_wanted.eq(wanted)]
        m.d.comb += [
            write.en.eq(1), write.addr.eq(last_flow), write.data.eq(Mux(enabled | ~other_enabled, last_wanted, other)),
            rx_hash.valid.eq(self.rx_valid), rx_hash.beat.eq(self.rx),
            read.addr.eq(rx_hash.flow),
            # Pairs may have become fewer since.
            self.rx_pair.eq(Mux(read.data < self.pairs, read.data, 0)),
        ]
        return m

    def _elaborate_sent(self, m):
        """Remember frames sent; return a flow, another in each cycle, and the pair its frames should go to."""
        m.submodules.tx_hash = tx_hash = FlowHash(data_width=self._data_width)
        m.submodules.sent = sent = memory.Memory(shape=1 + len(self.tx_pair), depth=1 << _HASH, init=[])
        write, read = sent.write_port(), sent.read_port()
        turn, forgotten = Signal(_HASH), Signal(range((1 << _HASH) + 1))
        forgetting = Signal()
        ended, pair = Signal(), Signal.like(self.tx_pair)
        written, looked_up, flow = Signal(_HASH), Signal(_HASH), Signal(_HASH)
        valid, remembered, wanted = Signal(), Signal.like(pair), Signal.like(pair)
        m.d.comb += [
            forgetting.eq(~forgotten[-1]),
            tx_hash.valid.eq(self.tx_valid), tx_hash.beat.eq(self.tx),
            write.addr.eq(Mux(ended & ~forgetting, tx_hash.flow, turn)),
            write.data.eq(Mux(forgetting, 0, Cat(C(1, 1), pair))),
            write.en.eq(forgetting | ended),
            # What was written in the cycle before is what is read: the last to be written of a flow is the last to be looked up.
            read.addr.eq(written),
            Cat(valid, remembered).eq(read.data),
        ]
        m.d.sync += [
            ended.eq(self.tx_valid & self.tx.last), pair.eq(self.tx_pair),
            written.eq(write.addr), looked_up.eq(written), flow.eq(looked_up),
            wanted.eq(Mux(valid & (remembered < self.pairs), remembered, (looked_up * self.pairs) >> _HASH)),
        ]
        with m.If(self.drain):
            m.d.sync += forgotten.eq(0)
        with m.Elif(forgetting):
            m.d.sync += forgotten.eq(forgotten + 1)
        with m.If(~ended | forgetting):
            m.d.sync += turn.eq(turn + 1)
        return flow, wanted

    def _elaborate_enabled(self, m, wanted):
        """Return whether the queue of the pair ``wanted`` in the cycle before is enabled, whether some other one is, and which."""
        m.submodules.enabled = cells = memory.Memory(shape=1, depth=1 << len(wanted), init=[])
        write, read = cells.write_port(), cells.read_port()
        kept, valid, another = Signal(), Signal(), Signal.like(wanted)
        m.d.comb += [
            write.en.eq(self.seen_valid), write.addr.eq(self.seen_pair), write.data.eq(self.seen_enabled),
            read.addr.eq(wanted), valid.eq(kept & (another < self.pairs)),
        ]
        with m.If(self.seen_valid & (~valid | (self.seen_pair == another))):
            m.d.sync += [kept.eq(self.seen_enabled), another.eq(self.seen_pair)]
        return read.data, valid, another
