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

    A flow that was not sent since ``drain``, or on a pair beyond ``pairs``, is spread evenly. What would go to a receive queue that is not enabled,
    for it is in reset, goes to another, the same for all as long as that is enabled. **Latency**: ``rx_pair`` is that of a frame three cycles
    after its last beat. While ``drain``, and 256 cycles after, everything is forgotten.

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
        m.submodules.tx_hash = tx_hash = FlowHash(data_width=self._data_width)
        m.submodules.rx_hash = rx_hash = FlowHash(data_width=self._data_width)
        bits = len(self.tx_pair)
        m.submodules.table = table = memory.Memory(shape=1 + bits, depth=1 << _HASH, init=[])
        write, read = table.write_port(), table.read_port()
        forget = Signal(_HASH)
        forgetting = Signal(init=1)
        ended, pair = Signal(), Signal.like(self.tx_pair)
        flow = Signal(_HASH)
        m.d.sync += [ended.eq(self.tx_valid & self.tx.last), pair.eq(self.tx_pair), flow.eq(rx_hash.flow)]
        with m.If(self.drain):
            m.d.sync += [forgetting.eq(1), forget.eq(0)]
        with m.Elif(forgetting):
            m.d.sync += [forget.eq(forget + 1), forgetting.eq(forget != 255)]
        remembered = read.data[1:]
        wanted, spread = Signal.like(self.rx_pair), Signal.like(self.rx_pair)
        last_wanted, last_flow = Signal.like(wanted), Signal(_HASH)
        enabled, other_enabled, other = self._elaborate_enabled(m, wanted)
        m.d.sync += [last_wanted.eq(wanted), last_flow.eq(flow)]
        m.d.comb += [
            tx_hash.valid.eq(self.tx_valid), tx_hash.beat.eq(self.tx),
            rx_hash.valid.eq(self.rx_valid), rx_hash.beat.eq(self.rx),
            write.addr.eq(Mux(forgetting, forget, tx_hash.flow)),
            write.data.eq(Mux(forgetting, 0, Cat(C(1, 1), pair))),
            write.en.eq(forgetting | ended),
            read.addr.eq(rx_hash.flow),
            wanted.eq(Mux(read.data[0] & (remembered < self.pairs), remembered, (flow * self.pairs) >> _HASH)),
            # Pairs may have become fewer since.
            spread.eq((last_flow * self.pairs) >> _HASH),
            self.rx_pair.eq(Mux(enabled & (last_wanted < self.pairs), last_wanted, Mux(other_enabled, other, spread))),
        ]
        return m

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
