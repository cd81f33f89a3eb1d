# SPDX-License-Identifier: BSD-2-Clause
"""The sink's first stage: which chains hold a packet?"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .contract import LENGTH_WIDTH, ChainRecord, RowDrain

__all__ = ["PATIENCE", "SinkPacket", "SinkChain", "SinkScan"]

PATIENCE = 1 << 14
"""Cycles that a packet may wait for buffers on their way: several times what fetching them takes, and soon over for whoever is behind it."""


def _place(rows, size):
    return {"row": row_width(rows), "address": range(size), "length": 14}


class SinkPacket(data.StructLayout):
    """A packet that waits in the personality's memory, and the one behind it.

    ``following`` may become valid while the packet waits; otherwise it is held like the rest.
    """

    def __init__(self, rows, size):
        super().__init__({
            **_place(rows, size),
            "following": data.StructLayout({"valid": 1, **_place(rows, size)}),
        })


class SinkChain(data.StructLayout):
    """A chain chosen for a packet; ``drop``: no chain, the packet is to be forgotten."""

    def __init__(self, rows, slots, groups, size):
        super().__init__({
            "drop": 1,
            "first": 1,                  # of its packet
            "last": 1,
            "place": data.StructLayout(_place(rows, size)),
            "buffers": 16,               # chains of the packet
            "position": 16,
            "slot": range(slots),
            "head": 16,
            "chain": ChainRecord(groups),
        })


class SinkScan(wiring.Component):
    """Finds the chains of each packet, all of them before the first is used.

    Looks at a packet or the one behind it, so that chains are known when the memory is free to be read. If the queue has too few chains, or
    without ``mergeable`` the first is too small, the packet is a ``drop`` and none is used. The queue has too few if all it made available are in
    the store and walked, or fill its window; as long as more are on their way the scan begins again, up to ``PATIENCE`` cycles, and neither while
    ``crowded`` nor with a packet of another row behind: then the packet is dropped after all, so that no queue holds up another.

    With ``cut`` any chain of at least one byte holds any packet; chains of none are passed over, given to the packet as its first.

    **Latency**: two cycles from packet to chain, with n chains 2 n + 1 to the first. **Throughput**: a packet of one chain in two cycles,
    of n chains in 4 n. The first packet of another row than the one before takes one more. **Back-pressure**: ``o`` waits; nothing is lost.
    **Drain**: the scan under way is ended as if nothing had happened; what it found is used. Then, once ``behind_empty``, packets are let go and
    every chain in the store of every sink row is offered at ``loose``. A row that is reset gets no packet any more; between packets its chains
    are offered at ``loose`` too.

    Members
    -------
    drain, mergeable : ``In(1)``
    hold : ``In(1)``
        No further packet gets chains: each is a ``drop``, also one whose chains were not all found yet.
    row_drain : ``In(RowDrain)``, row_empty : ``Out(1)``
        A row in reset; all its chains went.
    packet_valid, packet : ``In``
        The oldest packet; ``popped`` pulses when it goes.
    discard : ``Out(1)``
        Let the oldest packet go: nobody knows it.
    o : ``Out(stream.Signature(SinkChain))``
    coming : ``In(1)``
        Chains of ``parsed_row`` are on their way to the store (synchronous, like ``parsed``).
    crowded : ``In(1)``
        No packet may wait for chains.
    parsed_row, parsed, order_row, order_position, slot, chain_slot, walked, chain, head :
        As in :func:`~unvirt.virtio.queue.contract.ChainPortSignature`.
    state_row, state : ``Out``/``In``
        Position behind the last chain chosen (synchronous, transparent).
    store_valid, store_row, store_position : ``Out``
        A new such position.
    loose : ``Out(stream)``
        Chains nobody will use, as :class:`SinkChain` in which position, slot and record count; ``loose_walked`` tells whether the record does.
    behind_empty : ``In(1)``
        Everything behind ``o`` and ``loose`` is done.
    stat_dropped : ``Out(1)``
    idle : ``Out(1)``
        Draining, and the last round over all rows found every one empty.
    """

    def __init__(self, config, *, is_sink, size, cut=False):
        self._is_sink = is_sink
        self._cut = cut
        self._rows = rows = config.rows
        self._window = config.queue_window
        slots, groups = config.chain_slots, config.segment_groups
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_empty": Out(1),
            "mergeable": In(1),
            "packet_valid": In(1),
            "packet": In(SinkPacket(rows, size)),
            "popped": In(1),
            "discard": Out(1),
            "o": Out(stream.Signature(SinkChain(rows, slots, groups, size))),
            "parsed_row": Out(width),
            "parsed": In(16),
            "coming": In(1),
            "starved": Out(1),
            "crowded": In(1),
            "order_row": Out(width),
            "order_position": Out(16),
            "slot": In(range(slots)),
            "walked": In(1),
            "chain_slot": Out(range(slots)),
            "chain": In(ChainRecord(groups)),
            "head": In(16),
            "state_row": Out(width),
            "state": In(16),
            "store_valid": Out(1),
            "store_row": Out(width),
            "store_position": Out(16),
            "loose": Out(stream.Signature(SinkChain(rows, slots, groups, size))),
            "loose_walked": Out(1),
            "behind_empty": In(1),
            "stat_dropped": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        out = self.o.payload
        place = Signal(out.place.shape())      # the packet at hand
        parsed, begin = Signal(16), Signal(16)
        position = Signal(16)                  # of the chain looked at
        held = Signal(14)                      # bytes of the chains found so far: not enough
        found = Signal(16)                     # how many these are
        given = Signal(16)                     # of them already passed on
        coming = Signal()                      # as it was when `parsed` was looked up
        waited = Signal(range(PATIENCE + 1))   # cycles since the scan of this packet began

        # The oldest packet that no scan has begun for.
        ahead = Signal(2)                      # packets with a scan begun, at most two
        picked = Signal()
        candidate = Signal(place.shape())
        candidate_valid = Signal()
        packet, following = self.packet, self.packet.following
        with m.If(ahead == 0):
            m.d.comb += [candidate.row.eq(packet.row), candidate.address.eq(packet.address),
                         candidate.length.eq(packet.length),
                         candidate_valid.eq(self.packet_valid)]
        with m.Else():
            m.d.comb += [candidate.row.eq(following.row), candidate.address.eq(following.address),
                         candidate.length.eq(following.length),
                         candidate_valid.eq(self.packet_valid & following.valid & (ahead == 1))]
        m.d.sync += ahead.eq(ahead + picked - (self.popped & (ahead != 0)))

        # Both ends of the row at hand are looked up in every cycle: `parsed` and `state` are those of one cycle ago.
        looked_up = Signal.like(place.row)
        m.d.comb += [
            looked_up.eq(place.row),
            self.parsed_row.eq(looked_up),
            self.state_row.eq(looked_up),
            self.order_row.eq(place.row),
            self.order_position.eq(position),
            self.chain_slot.eq(self.slot),
            self.store_row.eq(place.row),
            self.store_position.eq(position + 1),
            out.place.eq(place),
            out.position.eq(position),
            out.slot.eq(self.slot),
            out.head.eq(self.head),
            out.chain.eq(self.chain),
            self.loose.payload.eq(out),
        ]

        # A row that is reset: its chains go one by one, in turn with the packets of others; its packets are dropped.
        resetting = self.row_drain
        one_row, row_turn = Signal(), Signal()
        row_wanted = resetting.services & ~self.row_empty & (row_turn | ~candidate_valid)
        doomed = self.hold | (resetting.services & (looked_up == resetting.row))
        with m.If(~resetting.services):
            m.d.sync += self.row_empty.eq(0)
        with m.If(picked):
            m.d.sync += row_turn.eq(1)

        def pick(free):
            """Begin with the next packet; ``free`` is the first position of the row at hand that is not chosen."""
            m.d.sync += [place.eq(candidate), held.eq(0), found.eq(1), given.eq(1)]
            m.next = "IDLE"
            with m.If(candidate_valid & ~self.drain & ~row_wanted):
                m.d.comb += picked.eq(1)
                m.d.sync += waited.eq(0)
                with m.If(candidate.row != place.row):
                    m.d.comb += looked_up.eq(candidate.row)
                    m.next = "LOOK"
                with m.Else():
                    look(free)
            with m.Else():
                m.d.sync += place.row.eq(place.row)

        def look(free):
            """Begin with the chain at ``free``; its slot is looked up in this cycle."""
            m.d.comb += self.order_position.eq(free)
            m.d.sync += [parsed.eq(self.parsed), coming.eq(self.coming), begin.eq(free), position.eq(free)]
            m.next = "TEST"
            with m.If(doomed):
                m.next = "DROP"
            with m.Elif(self.parsed == free):
                lack(self.coming)

        def lack(hope):
            """There are too few chains; with ``hope`` look again."""
            m.next = "DROP"
            others_wait = candidate_valid & (candidate.row != place.row)
            with m.If(hope & ~self.crowded & ~others_wait & ~self.drain & ~doomed & (waited != PATIENCE)):
                m.next = "WAIT"

        swept_clean, loose_since = Signal(), Signal()    # a whole round found nothing; this one has found something
        with m.If(waited != PATIENCE):
            m.d.sync += waited.eq(waited + 1)
        with m.FSM(name="sink_scan"):
            with m.State("IDLE"):
                m.d.sync += [swept_clean.eq(0), loose_since.eq(0), one_row.eq(0)]
                pick(self.state)
                with m.If(row_wanted & ~self.drain):
                    m.d.sync += [place.row.eq(resetting.row), one_row.eq(1), row_turn.eq(0)]
                    m.next = "SWEEP"
                with m.If(self.drain & self.behind_empty & (ahead == 0)):
                    m.d.sync += place.row.eq(0)
                    m.next = "SWEEP"
            with m.State("LOOK"):
                look(self.state)
            with m.State("WAIT"):
                m.d.comb += self.starved.eq(1)
                m.d.sync += [held.eq(0), found.eq(1), given.eq(1)]
                m.next = "LOOK"
            with m.State("TEST"):
                # Its record is looked up in this cycle; both look-ups stay as they are until the chain was looked at.
                m.next = "SUM"
                with m.If(~self.walked | self.hold):
                    lack(1)
            with m.State("SUM"):
                total = Signal(LENGTH_WIDTH + 1)
                m.d.comb += [
                    total.eq(held + self.chain.writable),
                    out.first.eq(1), out.last.eq(1), out.buffers.eq(1),
                ]
                with m.If((total != 0) if self._cut else (total >= place.length)):
                    with m.If(found == 1):
                        m.d.comb += [self.o.valid.eq(1), self.store_valid.eq(self.o.ready)]
                        with m.If(self.o.ready):
                            pick((position + 1)[:16])
                    with m.Else():
                        m.d.comb += self.order_position.eq(begin)
                        m.d.sync += position.eq(begin)
                        m.next = "AGAIN"
                with m.Elif(~self.mergeable):
                    m.next = "DROP"
                with m.Elif((position + 1)[:16] == parsed):
                    # A full window holds all there can be.
                    lack(coming & (found != self._window))
                with m.Else():
                    m.d.comb += self.order_position.eq(position + 1)
                    m.d.sync += [held.eq(total), found.eq(found + 1), position.eq(position + 1)]
                    m.next = "TEST"

            # They are enough: from the first on they are passed on.
            with m.State("AGAIN"):
                m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [
                    self.o.valid.eq(1),
                    out.first.eq(given == 1),
                    out.last.eq(given == found),
                    out.buffers.eq(found),
                    self.store_valid.eq(self.o.ready & out.last),
                ]
                with m.If(self.o.ready):
                    with m.If(out.last):
                        pick((position + 1)[:16])
                    with m.Else():
                        m.d.comb += self.order_position.eq(position + 1)
                        m.d.sync += [position.eq(position + 1), given.eq(given + 1)]
                        m.next = "AGAIN"

            with m.State("DROP"):
                m.d.comb += [self.o.valid.eq(1), out.drop.eq(1),
                             self.stat_dropped.eq(self.o.ready)]
                with m.If(self.o.ready):
                    pick(self.state)

            # Draining: row by row, until a round has found nothing; or one row that is reset.
            with m.State("SWEEP"):
                m.next = "SWEEP_TEST"
                with m.If(~self.drain & ~one_row):
                    m.next = "IDLE"
            with m.State("SWEEP_TEST"):
                m.d.comb += self.order_position.eq(self.state)
                m.d.sync += position.eq(self.state)
                with m.If((self.parsed != self.state) & self._is_sink(place.row)):
                    m.d.sync += [swept_clean.eq(0), loose_since.eq(1)]
                    m.next = "SWEEP_SLOT"
                with m.Elif(one_row):
                    m.d.sync += self.row_empty.eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += place.row.eq(place.row + 1)
                    with m.If(place.row.all()):
                        m.d.sync += [swept_clean.eq(~loose_since), loose_since.eq(0)]
                    m.next = "SWEEP"
            with m.State("SWEEP_SLOT"):
                m.d.sync += self.loose_walked.eq(self.walked)
                m.next = "SWEEP_GIVE"
            with m.State("SWEEP_GIVE"):
                m.d.comb += [self.loose.valid.eq(1), self.store_valid.eq(self.loose.ready)]
                with m.If(self.loose.ready):
                    m.next = "SWEEP"
                    with m.If(one_row):
                        m.next = "IDLE"

        with m.If(self.drain & (ahead == 0) & self.packet_valid):
            # Nobody scans while draining, and of this one no scan has begun.
            m.d.comb += self.discard.eq(1)
        m.d.comb += self.idle.eq(self.drain & swept_clean)
        return m
