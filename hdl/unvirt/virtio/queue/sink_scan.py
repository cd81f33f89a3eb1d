# SPDX-License-Identifier: BSD-2-Clause
"""The sink's first stage: which chains hold a packet?"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width
from .contract import ChainRecord, RowDrain
from .sink_read import fits_word

__all__ = ["PATIENCE", "SinkPacket", "SinkChain", "SinkScan"]

_SMALL = 76
"""Bytes of a packet of 64 with a header of virtio-net."""

PATIENCE = 1 << 14
"""Cycles that a packet may wait for buffers on their way: several times what fetching them takes, and soon over for whoever is behind it."""


def _place(rows, size):
    return {"row": row_width(rows), "address": range(size), "length": 14}


class SinkPacket(data.StructLayout):
    """A packet that waits in the personality's memory of ``size`` bytes, and those ``behind`` it, oldest first.

    Those may become valid while the packet waits, one after the other; otherwise they are held like the rest.
    """

    def __init__(self, config, size):
        # From when its scan begins until it is read a small packet takes six cycles, in which its memory is read in as many as it has words.
        behind = 1 if 8 * _SMALL > 2 * config.data_width else 2
        super().__init__({
            **_place(config.rows, size),
            "behind": data.ArrayLayout(data.StructLayout({"valid": 1, **_place(config.rows, size)}), behind),
        })


class SinkChain(data.StructLayout):
    """A chain chosen for a packet; ``drop``: no chain, the packet is to be forgotten."""

    def __init__(self, rows, slots, groups, size):
        super().__init__({
            "drop": 1,
            "first": 1,                  # of its packet
            "last": 1,
            "place": data.StructLayout(_place(rows, size)),
            "source": range(size),       # where the bytes for this chain begin
            "amount": 14,                # how many these are
            "short": 1,                  # as in a ReadCommand
            "direct": 1,
            "full": 1,                   # they fill the chain
            "empty": 1,                  # there are none
            "pieces": 1,                 # there are some, for the segments of a chain that is not `single`
            "buffers": 16,               # chains of the packet
            "position": 16,
            "slot": range(slots),
            "head": 16,
            "chain": ChainRecord(groups),
        })


class SinkScan(wiring.Component):
    """Finds the chains of each packet, all of them before the first is used.

    Looks at a packet or those behind it, so that chains are known when the memory is free to be read. If the queue has too few chains, or
    without ``mergeable`` the first is too small, the packet is a ``drop`` and none is used. The queue has too few if all it made available are in
    the store and walked, or fill its window; as long as more are on their way the scan begins again, up to ``PATIENCE`` cycles, and neither while
    ``crowded`` nor with a packet of another row behind: then the packet is dropped after all, so that no queue holds up another.

    With ``cut`` any chain of at least one byte holds any packet; chains of none are passed over, given to the packet as its first.

    **Latency**: two cycles from packet to chain or drop, with n chains 2 n + 1 to the first. **Throughput**: a packet of one chain, or none, in two
    cycles, of n chains in 4 n. The first packet of another row than the one before, or after a sweep, takes one more. **Back-pressure**: ``o``
    waits; nothing is lost.
    **Drain**: the scan under way is ended as if nothing had happened; what it found is used. Then, once ``behind_empty``, packets are let go and
    every chain in the store of every sink row is offered at ``loose``. A row that is reset gets no packet any more; between packets its chains
    are offered at ``loose`` too.

    Members
    -------
    drain, mergeable : ``In(1)``
    hold : ``In(1)``
        No further packet gets chains: each is a ``drop``, also one whose chains were not all found yet.
    forget : ``In(1)``
        ``state`` is being cleared.
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
        Position behind the last chain chosen (synchronous).
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
        self._lanes = config.data_width // 8
        slots, groups = config.chain_slots, config.segment_groups
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "forget": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_empty": Out(1),
            "mergeable": In(1),
            "packet_valid": In(1),
            "packet": In(SinkPacket(config, size)),
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
        parsed = Signal(16)                    # as it was when the scan of this packet began
        free, known = Signal(16), Signal()     # first position of the row at hand that is not chosen
        position, behind = Signal(16), Signal(16)   # of the chain looked at; the one after it, known a cycle later
        at_end = Signal()                      # no chain is known behind that one
        source = Signal.like(out.source)       # of the bytes for the next chain passed on
        need = Signal(14)                      # bytes that the chains found so far have no room for
        need_short, need_direct, need_none = Signal(), Signal(), Signal()
        found = Signal(16)                     # how many these are, the one looked at included
        only = Signal()                        # that one
        given = Signal(16)                     # of them, with the one at hand, passed on
        given_first, given_last = Signal(), Signal()
        coming = Signal()                      # as it was when `parsed` was looked up
        waited = Signal(range(PATIENCE + 1))   # cycles since the scan of this packet began
        impatient = Signal()                   # these were enough
        # Between any change and its use is the cycle in which a slot is looked up.
        short, direct = fits_word(source, need, self._lanes)
        m.d.sync += [
            behind.eq(position + 1),
            at_end.eq((position + 1)[:16] == parsed),
            need_short.eq(short),
            need_direct.eq((source[:(self._lanes - 1).bit_length()] == 0) | (short & direct)),
            need_none.eq(need == 0),
            given_first.eq(given == 1),
            given_last.eq(given == found),
        ]

        # The oldest packet that no scan has begun for.
        packet = self.packet
        ahead = Signal(range(2 + len(packet.behind)))     # packets with a scan begun, at most all that are shown
        picked = Signal()
        candidate = Signal(place.shape())
        candidate_valid = Signal()
        shown = (packet, *packet.behind)
        with m.Switch(ahead):
            for number, other in enumerate(shown):
                with m.Default() if other is shown[-1] else m.Case(number):
                    m.d.comb += [candidate.row.eq(other.row), candidate.address.eq(other.address), candidate.length.eq(other.length)]
        valid = Cat((ahead == number) & (other.valid if number else 1) for number, other in enumerate(shown))
        m.d.comb += candidate_valid.eq(self.packet_valid & valid.any())
        m.d.sync += ahead.eq(ahead + picked - (self.popped & (ahead != 0)))

        # Both ends of the row at hand are looked up in every cycle: `parsed` and `state` are those of one cycle ago.
        looked_up = Signal.like(place.row)
        choosing, other_row = Signal(), Signal()   # a packet may be picked; it is of another row than the one at hand
        m.d.comb += [
            other_row.eq(candidate.row != place.row),
            # Whether it is picked or not: it stays the candidate until it is.
            looked_up.eq(Mux(choosing & candidate_valid & other_row, candidate.row, place.row)),
            self.parsed_row.eq(looked_up),
            self.state_row.eq(looked_up),
            self.order_row.eq(place.row),
            self.order_position.eq(position),
            self.chain_slot.eq(self.slot),
            self.store_row.eq(place.row),
            self.store_position.eq(behind),
            out.place.eq(place),
            out.position.eq(position),
            out.slot.eq(self.slot),
            out.head.eq(self.head),
            out.chain.eq(self.chain),
            out.source.eq(source),
            out.buffers.eq(found),
            self.loose.payload.eq(out),
        ]
        enough = self._elaborate_amount(m, source, need, need_short, need_direct, need_none)

        # A row that is reset: its chains go one by one, in turn with the packets of others; its packets are dropped.
        resetting = self.row_drain
        one_row, row_turn = Signal(), Signal()
        row_wanted = resetting.services & ~self.row_empty & (row_turn | ~candidate_valid)
        doomed = self.hold | (resetting.services & (place.row == resetting.row))
        with m.If(~resetting.services):
            m.d.sync += self.row_empty.eq(0)
        with m.If(picked):
            m.d.sync += row_turn.eq(1)

        def pick(first):
            """Begin with the next packet; ``first`` is the first position of the row at hand that is not chosen."""
            # For whoever may be next: that is known later.
            m.d.comb += self.order_position.eq(first)
            m.d.sync += [place.eq(candidate), source.eq(candidate.address), need.eq(candidate.length)]
            again()
            m.next = "IDLE"
            with m.If(candidate_valid & ~self.drain & ~row_wanted):
                m.d.comb += picked.eq(1)
                m.d.sync += [waited.eq(0), impatient.eq(0)]
                with m.If(other_row | ~known):
                    m.next = "LOOK"
                with m.Else():
                    look(first)
            with m.Else():
                m.d.sync += place.row.eq(place.row)

        def again():
            """No chain was found yet."""
            m.d.sync += [found.eq(1), only.eq(1), given.eq(1)]

        def look(first):
            """Begin with the chain at ``first``; its slot is looked up in this cycle."""
            m.d.sync += [parsed.eq(self.parsed), coming.eq(self.coming), position.eq(first)]
            m.next = "TEST"

        def lack(hope):
            """There are too few chains; with ``hope`` look again."""
            m.next = "DROP"
            with m.If(hope & ~self.crowded & ~(candidate_valid & other_row) & ~self.drain & ~doomed & ~impatient):
                m.next = "WAIT"

        swept_clean, loose_since = Signal(), Signal()    # a whole round found nothing; this one has found something
        m.d.sync += impatient.eq(waited == PATIENCE)
        with m.If(waited != PATIENCE):
            m.d.sync += waited.eq(waited + 1)
        with m.FSM(name="sink_scan"):
            with m.State("IDLE"):
                m.d.comb += choosing.eq(1)
                m.d.sync += [swept_clean.eq(0), loose_since.eq(0), one_row.eq(0)]
                pick(free)
                with m.If(row_wanted & ~self.drain):
                    m.d.sync += [place.row.eq(resetting.row), one_row.eq(1), row_turn.eq(0), known.eq(0)]
                    m.next = "SWEEP"
                with m.If(self.drain & self.behind_empty & (ahead == 0)):
                    m.d.sync += [place.row.eq(0), known.eq(0)]
                    m.next = "SWEEP"
            with m.State("LOOK"):
                m.d.comb += self.order_position.eq(self.state)
                m.d.sync += [free.eq(self.state), known.eq(1)]
                look(self.state)
            with m.State("WAIT"):
                m.d.comb += self.starved.eq(1)
                m.d.sync += need.eq(place.length)
                again()
                m.next = "LOOK"
            with m.State("TEST"):
                # Its record is looked up in this cycle; both look-ups stay as they are until the chain was looked at.
                m.next = "SUM"
                none = parsed == position
                with m.If(none | ~self.walked | doomed):
                    lack(coming | ~none)
            with m.State("SUM"):
                m.d.comb += [choosing.eq(1), out.first.eq(1), out.last.eq(1)]
                with m.If(enough):
                    with m.If(only):
                        m.d.comb += [self.o.valid.eq(1), self.store_valid.eq(self.o.ready)]
                        with m.If(self.o.ready):
                            pick(behind)
                    with m.Else():
                        m.d.comb += self.order_position.eq(free)
                        m.d.sync += position.eq(free)
                        m.next = "AGAIN"
                with m.Elif(~self.mergeable):
                    m.next = "DROP"
                with m.Elif(at_end):
                    # A full window holds all there can be.
                    lack(coming & (found != self._window))
                with m.Else():
                    m.d.comb += self.order_position.eq(behind)
                    m.d.sync += [need.eq(need - self.chain.writable), found.eq(found + 1), only.eq(0), position.eq(behind)]
                    m.next = "TEST"

            # They are enough: from the first on they are passed on.
            with m.State("AGAIN"):
                m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [
                    choosing.eq(1),
                    self.o.valid.eq(1),
                    out.first.eq(given_first),
                    out.last.eq(given_last),
                    self.store_valid.eq(self.o.ready & given_last),
                ]
                with m.If(self.o.ready):
                    with m.If(given_last):
                        pick(behind)
                    with m.Else():
                        m.d.comb += self.order_position.eq(behind)
                        m.d.sync += [source.eq(source + self.chain.writable), position.eq(behind), given.eq(given + 1)]
                        m.next = "AGAIN"

            with m.State("DROP"):
                m.d.comb += [choosing.eq(1), self.o.valid.eq(1), out.drop.eq(1),
                             self.stat_dropped.eq(self.o.ready)]
                with m.If(self.o.ready):
                    pick(free)

            # Draining: row by row, until a round has found nothing; or one row that is reset.
            with m.State("SWEEP"):
                m.next = "SWEEP_LOOK"
                with m.If(~self.drain & ~one_row):
                    m.next = "IDLE"
            with m.State("SWEEP_LOOK"):
                look(self.state)
                m.next = "SWEEP_TEST"
            with m.State("SWEEP_TEST"):
                with m.If((parsed != position) & self._is_sink(place.row)):
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

        with m.If(self.store_valid):
            m.d.sync += free.eq(behind)
        with m.If(self.forget):
            m.d.sync += known.eq(0)
        with m.If(self.drain & (ahead == 0) & self.packet_valid):
            # Nobody scans while draining, and of this one no scan has begun.
            m.d.comb += self.discard.eq(1)
        m.d.comb += self.idle.eq(self.drain & swept_clean)
        return m

    def _elaborate_amount(self, m, source, need, need_short, need_direct, need_none):
        """Say how many bytes of what is left of the packet go to the chain at hand; return whether that ends the search for chains."""
        out = self.o.payload
        writable = self.chain.writable
        fits, rest = Signal(), Signal()        # the chain has room for what is left; it gets that
        short, direct = fits_word(source, writable, self._lanes)
        m.d.comb += [
            fits.eq(writable >= need),
            # The last chain holds what those before have no room for, unless the packet is cut to it.
            rest.eq(out.last & fits if self._cut else out.last),
            out.amount.eq(writable),
            out.short.eq(short),
            out.direct.eq((source[:(self._lanes - 1).bit_length()] == 0) | (short & direct)),
            out.full.eq(~rest | (writable == need)),
            out.empty.eq(writable == 0),
            out.pieces.eq(~self.chain.single & ~out.empty & ~out.drop),
        ]
        with m.If(rest):
            m.d.comb += [out.amount.eq(need), out.short.eq(need_short), out.direct.eq(need_direct), out.empty.eq(need_none)]
        return writable != 0 if self._cut else fits
