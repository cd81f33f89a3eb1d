# SPDX-License-Identifier: BSD-2-Clause
"""The source service, first half: reads of the packets that drivers made available.

    ready rows --> scheduler --> SourceIssue --> pieces --> read engine --> transmit buffer
                                     | info                     | done
                                     v                          v
                                 SourceRetire <-- complete -- FetchTracker

See :mod:`unvirt.virtio.queue.retire` for the second half.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import GRANULE_SIZE, ReadPiece
from ...stream.ring import wrap_sub
from ..contract import row_width
from .contract import LENGTH_WIDTH, ChainPortSignature, RowDrain
from .read_window import PacketBegin
from .rows import RowMemory, Sweep, connect_sweep
from .source_cut import PacketCut

__all__ = ["SourceRow", "PacketInfo", "FetchCount", "SourceIssue"]

_DROPPED = 256
"""Bytes that a packet counts for which is not fetched: so that a row of nothing else gives way as well."""

_SEEN_WIDTH = 4
"""Bits by which it is told whether any read of a row came back between two visits: if it was a multiple of 16, it is told none did."""


class SourceRow(data.Struct):
    """Progress of a row at one of the two stages."""

    position: 16
    granules: 16                # taken so far, modulo 2**16
    pieces:   16                # read so far (issue stage only), modulo 2**16


class IssueRow(data.Struct):
    """State of a row at the issue stage."""

    progress: SourceRow
    credit:   signed(16)        # bytes it may still begin; below zero what it began too much
    seen:     _SEEN_WIDTH       # pieces that had come back when it was visited last


class PacketInfo(data.StructLayout):
    """Where a packet lies in the transmit buffer; ``drop``: nowhere, it was not fetched."""

    def __init__(self, granules):
        super().__init__({
            "first": range(granules), "last": range(granules), "count": range(granules + 1),
            "length": LENGTH_WIDTH, "drop": 1,
        })


class FetchCount(data.StructLayout):
    """How many pieces a packet of so many bytes was cut into so far; ``all``: there will be no more."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "bytes": 14, "count": 12, "all": 1})


class SourceIssue(wiring.Component):
    """Decides which packet is read next, and reserves buffer space for all of it before its reads go.

    A packet begins when its chain is walked and all of its granules are free; two cycles for one of a single short segment, and one more per
    further piece or granule. Of the chains that follow, the next one's record and the slot of the one after it are looked up meanwhile. A visit costs
    three cycles more, as the next row is looked up while the last packet of the one at hand begins. Packets that are too short or too long are
    dropped: not fetched, but retired in order.

    Rows share in bytes of packets, without the header: a visit gives a row ``quantum`` bytes of credit, it begins packets while credit
    is left, then goes to the tail with what it overdrew. Credit that it could not use is kept, up to two quanta, and lost when nothing is
    available. While granules are short, or enough is under way, it waits in place: otherwise short packets would always find room before long
    ones.

    A row may not begin a packet while half of the tags, or half of the buffer (in a small one, what two of the longest packets need), serve its
    unfinished packets: reads that are never answered stop one row only. A row of which reads have come back since it was visited last may use three
    quarters of the tags. Without ``extended_tags`` there are ``short_tags``.

    While ``drain`` every chain in the store is passed on as dropped.

    Parameters
    ----------
    quantum : int
        A power of two: no more bytes than the shortest packets have that can be under way for one row, or those are at a disadvantage.

    Members
    -------
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        The same for one row that is reset, and whether a visit has found none of it left.
    visits, again : streams
        From and to the scheduler.
    chains : ``Out(ChainPortSignature)``
    pieces : ``Out(stream.Signature(ReadPiece))``
        ``handle`` is the chain slot.
    pool_head, pool_count, pool_take :
        The granule pool.
    begins, begun, wanted, open :
        To :class:`~unvirt.virtio.queue.read_window.ReadWindow`.
    retired, pieces_done :
        Per row (synchronous on ``progress_row``): state of the retire stage, pieces that came back.
    info_*, count_* : ``Out``
        Writes of :class:`PacketInfo` and :class:`FetchCount` by slot.
    dropped : ``Out(stream.Signature(row))``
        A dropped packet waits for retirement.
    issued_row, issued : ``In``/``Out`` arrays
        Position after the last packet begun (synchronous), for the retire stage and the walker.
    stat_dropped : ``Out(1)``
    """

    def __init__(self, *, rows, slots, groups, granules, tags, short_tags, handle_width, buffer_width,
                 start_offset, header_size, shortest, longest, quantum):
        self._rows = rows
        self._slots = slots
        self._granules = granules
        self._tags, self._short_tags = tags, short_tags
        self._cut = PacketCut(groups=groups, slots=slots, granules=granules, handle_width=handle_width, buffer_width=buffer_width,
                              start_offset=start_offset)
        self._start = start_offset
        self._header_size = header_size
        self._shortest = shortest
        self._longest = longest
        self._quantum = quantum
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "max_read_request_size": In(3),
            "extended_tags": In(1),
            "visits": In(stream.Signature(width)),
            "again": Out(stream.Signature(width)),
            "chains": Out(ChainPortSignature(rows, slots, groups)),
            "pieces": Out(stream.Signature(ReadPiece(handle_width, buffer_width))),
            "pool_head": In(range(granules)),
            "pool_count": In(range(granules + 1)),
            "pool_take": Out(1),
            "begins": Out(1),
            "begun": Out(PacketBegin(slots)),
            "wanted": Out(1),
            "open": In(1),
            "progress_row": Out(width),
            "retired": In(SourceRow),
            "pieces_done": In(16),
            "info_valid": Out(1),
            "info_slot": Out(range(slots)),
            "info": Out(PacketInfo(granules)),
            "count_valid": Out(1),
            "count": Out(FetchCount(rows)),
            "dropped": Out(stream.Signature(width)),
            "issued_row": In(width).array(2),
            "issued": Out(16).array(2),
            "stat_dropped": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        # A row is loaded only if it was not written as it was looked up. Others look whenever they like.
        m.submodules.state = state = RowMemory(IssueRow, rows=self._rows, readers=1, settled=True)
        m.submodules.positions = positions = RowMemory(16, rows=self._rows, readers=2)
        connect_sweep(m, self.sweep, (state, positions))
        m.d.comb += [positions.write_valid.eq(state.write_valid), positions.write_row.eq(state.write_row),
                     positions.write_value.eq(state.write_value.progress.position)]
        for index in range(2):
            m.d.comb += [positions.read_row[index].eq(self.issued_row[index]), self.issued[index].eq(positions.read_value[index])]

        row = Signal(row_width(self._rows))
        now = Signal(SourceRow)
        parsed = Signal(16)
        # The row that is visited next. It is looked up as long as it waits for the one at hand to end: what is found is of the cycle before.
        waits = Signal()
        next_row = Signal.like(row)
        other = Signal()            # it is another row than the one at hand, which was written (`wrote`) as it was looked up
        tail_valid = Signal()       # a row goes to the scheduler's tail
        tail_row = Signal.like(row)
        wrote = Signal()
        swept = Signal()
        found = state.read_value[0]
        slot = Signal(range(self._slots))
        next_slot = Signal(range(self._slots))
        walked = Signal()           # the next chain was, when its record was looked up
        chain = Signal(self.chains.chain.shape())
        retired = Signal(SourceRow)
        done = Signal(16)
        held_granules = Signal(range(self._granules + 1))
        held_pieces = Signal(16)
        need = Signal(range(self._granules + 2))
        drop = Signal()
        credit = Signal(signed(16))
        cost = Signal(14)
        # What is known a cycle before it decides.
        last_chain = Signal()       # the next chain is the last one parsed
        at_end = Signal()           # the chain at hand was
        spent = Signal()            # no credit is left
        many = Signal()             # as many of the tags are taken as may be
        most_pieces = Signal(range(self._tags + 1))
        seen = Signal(_SEEN_WIDTH)  # of `done` when the row was visited last
        holds = Signal()            # some granules are held, `spare` more may be
        spare = Signal(signed(len(held_granules) + 1))

        m.submodules.cut = cut = self._cut
        connect(m, cut.pieces, flipped(self.pieces))
        goes = Signal()             # a piece does
        last_piece = Signal()       # it is the last one of its packet

        drain = Signal()
        draining = Signal()
        mine = self.row_drain.services & (row == self.row_drain.row)
        m.d.comb += drain.eq(self.drain | mine)
        m.d.sync += draining.eq(drain)
        with m.If(~self.row_drain.services):
            m.d.sync += self.row_clean.eq(0)

        chains = self.chains
        # The slots of two chains are held, that of the packet at hand and the next one; the order is asked for the one behind them.
        position = Signal(16)
        following = Signal(16)
        looked_up = Signal(range(self._slots))
        coming = Signal.like(row)
        ending = Signal()           # the visit at hand is about to
        loading = Signal()
        returns = Signal()          # the row at hand is to go to the tail
        m.d.sync += [other.eq(coming != row), wrote.eq(state.write_valid), swept.eq(self.sweep.valid)]
        m.d.comb += [
            coming.eq(Mux(waits, next_row, self.visits.payload)),
            self.visits.ready.eq(ending & ~waits),
            position.eq(following),
            following.eq(now.position + 1),
            looked_up.eq(next_slot),
            state.read_row[0].eq(coming),
            self.progress_row.eq(coming),
            chains.parsed_row.eq(coming),
            chains.order_row.eq(row),
            chains.order_position.eq(position),
            chains.walked_slot.eq(looked_up),
            chains.chain_slot.eq(looked_up),
            chains.segment_group.eq(cut.segment_group),
            chains.segment_index.eq(cut.segment_index),
            chains.next_group_of.eq(cut.next_group_of),
            cut.segment.eq(chains.segment),
            cut.next_group.eq(chains.next_group),
            cut.chain.eq(chains.chain),
            cut.slot.eq(slot),
            cut.max_read_request_size.eq(self.max_read_request_size),
            cut.pool_head.eq(self.pool_head),
            self.pool_take.eq(cut.start | cut.pool_take),
            goes.eq(cut.pieces.valid & cut.pieces.ready),
            last_piece.eq(goes & cut.ends),
            self.begins.eq(cut.start),
            state.write_row.eq(row),
            state.write_value.progress.eq(now),
            state.write_value.credit.eq(credit),
            state.write_value.seen.eq(done),
            self.again.payload.eq(tail_row),
            self.again.valid.eq(tail_valid),
            self.dropped.payload.eq(row),
            self.info_slot.eq(slot),
            self.info.first.eq(cut.first),
            self.info.last.eq(cut.tail),
            self.info.count.eq(Mux(drop, 0, need)),
            self.info.length.eq(chain.readable),
            self.info.drop.eq(drop),
            self.count.row.eq(row),
            self.count.bytes.eq(chain.readable),
            self.begun.slot.eq(slot),
            self.begun.bytes.eq(chain.readable),
            self.count_valid.eq(goes),
            self.count.count.eq(cut.number),
            self.count.all.eq(cut.ends),
        ]

        size = chains.chain.readable
        m.d.sync += [walked.eq(chains.walked), last_chain.eq(following == parsed)]

        def begin():
            """Load the chain of `next_slot`, whose record was looked up in the cycle before."""
            m.d.comb += cut.load.eq(1)
            m.d.sync += [
                slot.eq(next_slot), next_slot.eq(chains.slot),
                chain.eq(chains.chain),
                drop.eq((size < self._shortest) | (size > self._longest) | draining),
                cost.eq(size - self._header_size),
                need.eq((size[:14] + (self._start + GRANULE_SIZE - 1)) >> 7),
            ]

        def load():
            """Begin with the row that was looked up."""
            m.d.comb += loading.eq(1)
            m.next = "SLOT"

        def ask():
            """Ask for the slot of the first chain of the row that was looked up."""
            m.d.comb += [position.eq(found.progress.position), chains.order_row.eq(next_row)]

        def leave():
            """Go on with the next row, at once if it was looked up after the last change of this one."""
            m.next = "IDLE"
            with m.If(waits & other & ~swept):
                load()

        def go_on():
            """The packet at hand is under way."""
            begin()
            with m.If(at_end | spent):
                m.d.comb += returns.eq(~at_end)
                m.next = "AGAIN"
                with m.If(at_end | ~tail_valid):
                    leave()
            with m.Elif(~walked & ~draining):
                m.next = "IDLE"
            with m.Else():
                m.next = "BEGIN"

        # Where that leaves room for one of another row, two of the longest packets: one is sent while the next is read.
        packet = -(-(self._start + self._longest) // GRANULE_SIZE)
        share = max(self._granules // 2, min(2 * packet, self._granules - packet))

        def most(tags):
            """Of so many tags, those that the row that is looked up may use."""
            return Mux(done[:_SEEN_WIDTH] != seen, max(1, tags - tags // 4), max(1, tags // 2))

        with m.If(self.again.ready):
            m.d.sync += tail_valid.eq(0)
        with m.If(self.visits.valid & self.visits.ready):
            m.d.sync += [waits.eq(1), next_row.eq(self.visits.payload)]
        with m.FSM(name="source_issue"):
            with m.State("IDLE"):
                ask()
                m.d.comb += [ending.eq(1), self.idle.eq(~self.visits.valid & ~waits & ~tail_valid)]
                with m.If(waits & (other | ~wrote) & ~swept):
                    load()
            with m.State("SLOT"):
                m.d.comb += looked_up.eq(chains.slot)
                m.d.sync += [
                    next_slot.eq(chains.slot),
                    held_granules.eq(wrap_sub(now.granules, retired.granules)),
                    held_pieces.eq(wrap_sub(now.pieces, done)),
                    most_pieces.eq(Mux(self.extended_tags, most(self._tags), most(self._short_tags))),
                ]
                with m.If(credit < self._quantum):
                    m.d.sync += credit.eq(credit + self._quantum)
                m.next = "CHAIN"
                # Once empty a row in reset stays so, also while its numbers are swept one after the other.
                with m.If((now.position == parsed) | (mine & self.row_clean)):
                    with m.If(mine):
                        m.d.sync += self.row_clean.eq(1)
                    m.next = "IDLE"
                with m.Elif(credit <= -self._quantum):
                    m.next = "AGAIN"
            with m.State("CHAIN"):
                begin()
                m.d.sync += [spare.eq(share - held_granules), holds.eq(held_granules != 0), many.eq(held_pieces >= most_pieces)]
                m.next = "BEGIN"
                with m.If(~walked & ~draining):
                    m.next = "IDLE"
            with m.State("BEGIN"):
                m.d.comb += [position.eq(now.position + 2), ending.eq(last_chain)]
                with m.If(drop):
                    m.d.comb += self.stat_dropped.eq(~draining)
                    m.d.comb += self.info_valid.eq(1)
                    m.d.sync += [now.position.eq(following), at_end.eq(last_chain),
                                 credit.eq(credit - _DROPPED), spent.eq(credit <= _DROPPED)]
                    m.next = "STORE_DROPPED"
                with m.Elif(many | (holds & (need > spare))):
                    m.next = "AGAIN"
                with m.Elif((need > self.pool_count) | ~self.open):
                    m.d.comb += self.wanted.eq(need <= self.pool_count)
                    with m.If(self.drain | self.row_drain.services):
                        m.next = "AGAIN"
                with m.Else():
                    m.d.comb += cut.start.eq(1)
                    m.d.sync += [now.position.eq(following), at_end.eq(last_chain),
                                 credit.eq(credit - cost), spent.eq(credit <= cost),
                                 now.granules.eq(now.granules + need), spare.eq(spare - need), holds.eq(1)]
                    m.next = "PIECES"
            with m.State("STORE_DROPPED"):
                m.d.comb += state.write_valid.eq(1)
                m.next = "DROPPED"
            with m.State("DROPPED"):
                m.d.comb += self.dropped.valid.eq(1)
                with m.If(at_end | spent):
                    ask()
                with m.If(self.dropped.ready):
                    go_on()

            with m.State("PIECES"):
                # Not before the last one: until then the slot shows what became of the packet that had it last.
                m.d.comb += [ending.eq(at_end | spent), self.info_valid.eq(last_piece), state.write_valid.eq(last_piece),
                             state.write_value.progress.pieces.eq(now.pieces + 1)]
                with m.If(at_end & ~spent):
                    m.d.comb += state.write_value.credit.eq(0)
                with m.If(at_end | spent):
                    ask()
                with m.If(goes):
                    m.d.sync += [now.pieces.eq(now.pieces + 1), held_pieces.eq(held_pieces + 1), many.eq(held_pieces + 1 >= most_pieces)]
                with m.If(last_piece):
                    go_on()
            with m.State("AGAIN"):
                ask()
                m.d.comb += [state.write_valid.eq(1), returns.eq(1)]
                with m.If(~tail_valid):
                    leave()

        with m.If(returns & ~tail_valid):
            m.d.sync += [tail_valid.eq(1), tail_row.eq(row)]
        with m.If(loading):
            m.d.sync += [
                waits.eq(0), row.eq(next_row), now.eq(found.progress), parsed.eq(chains.parsed), credit.eq(found.credit), seen.eq(found.seen),
                retired.eq(self.retired), done.eq(self.pieces_done),
            ]
        return m
