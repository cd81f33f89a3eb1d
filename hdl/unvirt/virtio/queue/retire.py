# SPDX-License-Identifier: BSD-2-Clause
"""The source service, second half: packets that are complete leave in the order of their queue."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.flags import FlagTable
from ..contract import row_width
from .contract import ChainPortSignature, RowDrain, UsedElement
from .lanes import GranuleChain
from .read_window import Arrival
from .rows import RowMemory, Sweep, connect_sweep
from .source import FetchCount, PacketInfo, SourceRow

__all__ = ["SourcePacket", "FetchTracker", "SourceRetire"]


class SourcePacket(data.StructLayout):
    """A whole packet in the transmit buffer."""

    def __init__(self, rows, granules):
        super().__init__({
            "row": row_width(rows),
            "first": range(granules), "last": range(granules), "count": range(granules + 1),
            "length": 14,
        })


class FetchTracker(wiring.Component):
    """Counts the pieces of each packet as they come back.

    One piece per cycle. A packet is complete when all its pieces were issued and answered; then its flag is set, and its row kicked in the next
    cycle (never refused: the scheduler's first input). Any piece in error marks the packet ``failed`` and is a violation.

    Members
    -------
    done_valid, done_slot, done_error : ``In``
        Pieces answered.
    count_valid, count_slot, count : ``In``
        Writes of :class:`FetchCount` by the issue stage.
    complete_valid, complete_row : ``Out``
    max_read_request_size : ``In(3)``
        Largest piece; see ``arrived``.
    arrives, arrived : ``Out(1)``, ``Out(Arrival)``
        A piece was answered three cycles before. It counts for as much as a piece may have, or what is left of the packet.
    test_slot, test_complete, test_failed : ``In``/``Out``
        Combinational.
    clear_valid, clear_slot : ``In``
        The packet of this slot was retired.
    done_row, pieces_done : ``In``/``Out``
        Pieces answered of a row, modulo 2**16 (synchronous).
    """

    def __init__(self, *, rows, slots):
        self._rows = rows
        self._slots = slots
        super().__init__({
            "done_valid": In(1),
            "done_slot": In(range(slots)),
            "done_error": In(1),
            "count_valid": In(1),
            "count_slot": In(range(slots)),
            "count": In(FetchCount(rows)),
            "complete_valid": Out(1),
            "complete_row": Out(row_width(rows)),
            "max_read_request_size": In(3),
            "arrives": Out(1),
            "arrived": Out(Arrival(slots)),
            "test_slot": In(range(slots)),
            "test_complete": Out(1),
            "test_failed": Out(1),
            "clear_valid": In(1),
            "clear_slot": In(range(slots)),
            "done_row": In(row_width(rows)),
            "pieces_done": Out(16),
            "violation": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.complete = complete = FlagTable(self._slots, 1)
        m.submodules.pieces = pieces = RowMemory(16, rows=self._rows, readers=2)
        connect_sweep(m, self.sweep, (pieces,))
        count_shape = data.StructLayout({"count": 12, "all": 1})
        m.submodules.counts = counts = memory.Memory(shape=count_shape, depth=self._slots, init=[])
        # Apart and looked up a cycle later: a row's number in distributed memory costs more the more rows there are.
        owner_shape = data.StructLayout({"row": row_width(self._rows), "bytes": 14})
        m.submodules.owners = owners = memory.Memory(shape=owner_shape, depth=self._slots, init=[], attrs={"ram_style": "block"})
        owner_write, owner_read = owners.write_port(), owners.read_port()
        # With the number that the packet's next piece has, from one up.
        answered_shape = data.StructLayout({"number": 12, "failed": 1})
        m.submodules.answered = answered = memory.Memory(shape=answered_shape, depth=self._slots,
                                                         init=[])
        count_write, count_read = counts.write_port(), counts.read_port(domain="comb")
        write, read = answered.write_port(), answered.read_port(domain="comb")
        test = answered.read_port(domain="comb")

        swept = Signal(range(self._slots))
        ready = Signal()
        with m.If(~ready):
            m.d.sync += [swept.eq(swept + 1), ready.eq(swept == self._slots - 1)]

        record, before = count_read.data, read.data
        finished = Signal()
        m.d.comb += [
            count_write.addr.eq(self.count_slot),
            count_write.data.count.eq(self.count.count),
            count_write.data.all.eq(self.count.all),
            owner_write.addr.eq(self.count_slot),
            owner_write.data.row.eq(self.count.row),
            owner_write.data.bytes.eq(self.count.bytes),
            owner_write.en.eq(self.count_valid),
            owner_read.addr.eq(self.done_slot),
            count_write.en.eq(self.count_valid),
            count_read.addr.eq(self.done_slot),
            read.addr.eq(self.done_slot),
            finished.eq(record.all & (record.count == before.number)),
            # The number goes back to one with the last piece, ready for the slot's next packet;
            # `failed` stays until then.
            write.addr.eq(Mux(ready, self.done_slot, swept)),
            write.data.number.eq(Mux(ready & ~finished, before.number + 1, 1)),
            write.data.failed.eq(ready & (self.done_error
                                          | (before.failed & (before.number != 1)))),
            write.en.eq(self.done_valid | ~ready),
            self.complete_row.eq(owner_read.data.row),
            complete.set_valid.eq(self.done_valid & finished),
            complete.set_index.eq(self.done_slot),
            complete.clear_valid.eq(self.clear_valid),
            complete.clear_index.eq(self.clear_slot),
            complete.test_index[0].eq(self.test_slot),
            self.test_complete.eq(complete.test_value[0]),
            test.addr.eq(self.test_slot),
            self.test_failed.eq(test.data.failed),
            self.violation.eq(self.done_valid & self.done_error),
        ]

        # Read, add, write in three cycles; the memory is transparent, and what is being written is known, so pieces of one row may follow each other.
        answered_row, looked, pending, again = Signal(), Signal(), Signal(), Signal()
        owner = Signal(owner_shape)
        total = Signal(16)
        m.d.sync += [
            self.complete_valid.eq(complete.set_valid),
            answered_row.eq(self.done_valid), looked.eq(answered_row), pending.eq(looked),
            owner.eq(owner_read.data), pieces.write_row.eq(owner.row),
            total.eq(Mux(again, total + 1, pieces.read_value[0])),
        ]
        m.d.comb += [
            again.eq(pending & (pieces.write_row == owner.row)),
            pieces.read_row[0].eq(owner_read.data.row),
            pieces.write_valid.eq(pending),
            pieces.write_value.eq(total + 1),
            pieces.read_row[1].eq(self.done_row),
            self.pieces_done.eq(pieces.read_value[1]),
        ]
        # A piece counts for as much as a read may ask for, as far as so much is left: there are never fewer than that takes.
        counted, last_number, left, slots = Signal(12), Signal(12), Signal(signed(22)), [self.done_slot]
        for _ in range(3):
            slots.append(Signal.like(self.done_slot, name=f"slot_{len(slots)}"))
            m.d.sync += slots[-1].eq(slots[-2])
        m.d.sync += [last_number.eq(before.number), counted.eq(last_number - 1), self.arrives.eq(looked)]
        m.d.comb += self.arrived.slot.eq(slots[-1])
        with m.Switch(self.max_read_request_size):
            for setting, shift in ((0, 7), (1, 8), (None, 9)):
                with m.Default() if setting is None else m.Case(setting):
                    m.d.comb += left.eq(owner.bytes - (counted << shift))
                    m.d.sync += self.arrived.bytes.eq(Mux(left < 0, 0, Mux(left < 1 << shift, left, 1 << shift)))
        return m


class SourceRetire(wiring.Component):
    """Hands complete packets to the personality and their chains to the used ring, in queue order.

    Two cycles a packet; the next one is looked up meanwhile. A chain is used once its data was fetched completely, whether it is sent or
    dropped [DER-TX-02]. A failed packet is given back unsent and unused: the function has stopped. While ``drain``, and of a row that is reset,
    nothing is sent or used. A packet that finds no room in ``packets`` waits at the tail, so that a personality that stands still keeps no row from
    being reset.

    Members
    -------
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset, and whether a visit has found none of it left since ``issue_clean``.
    visits, again : streams
        From and to the scheduler.
    chains : ``Out(ChainPortSignature)``
    issued_row, issued : ``Out``/``In``
        State of the issue stage (synchronous).
    retired_row, retired : ``In``/``Out`` arrays
        State of this stage, for the issue stage and the available side (synchronous).
    info_slot, info : ``Out``/``In``
        Packet information (synchronous).
    tracker_* :
        To :class:`FetchTracker`.
    packets : ``Out(stream.Signature(SourcePacket))``
    discards : ``Out(stream.Signature(GranuleChain))``
        Memory of packets not sent.
    used : ``Out(stream.Signature(UsedElement))``
    """

    def __init__(self, *, rows, slots, groups, granules):
        self._rows = rows
        self._slots = slots
        self._granules = granules
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "row_drain": In(RowDrain(rows)),
            "issue_clean": In(1),
            "row_clean": Out(1),
            "visits": In(stream.Signature(width)),
            "again": Out(stream.Signature(width)),
            "chains": Out(ChainPortSignature(rows, slots, groups)),
            "issued_row": Out(width),
            "issued": In(16),
            "retired_row": In(width).array(2),
            "retired": Out(SourceRow).array(2),
            "info_slot": Out(range(slots)),
            "info": In(PacketInfo(granules)),
            "tracker_slot": Out(range(slots)),
            "tracker_complete": In(1),
            "tracker_failed": In(1),
            "tracker_clear": Out(1),
            "packets": Out(stream.Signature(SourcePacket(rows, granules))),
            "discards": Out(stream.Signature(GranuleChain(granules))),
            "used": Out(stream.Signature(UsedElement(rows))),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        # A row is looked up when nothing is written. Others look whenever they like.
        m.submodules.state = state = RowMemory(SourceRow, rows=self._rows, readers=1, settled=True)
        m.submodules.progress = progress = RowMemory(SourceRow, rows=self._rows, readers=2)
        connect_sweep(m, self.sweep, (state, progress))
        m.d.comb += [progress.write_valid.eq(state.write_valid), progress.write_row.eq(state.write_row),
                     progress.write_value.eq(state.write_value)]
        for index in range(2):
            m.d.comb += [progress.read_row[index].eq(self.retired_row[index]), self.retired[index].eq(progress.read_value[index])]

        row = Signal(row_width(self._rows))
        now = Signal(SourceRow)
        issued = Signal(16)
        slot = Signal(range(self._slots))
        position, following = Signal(16), Signal(16)
        chains = self.chains
        sent, given = Signal(), Signal()
        walked, discard = Signal(), Signal()
        # What was looked up for the packet at hand.
        chain = Signal(chains.chain.shape())
        head = Signal(16)
        info = Signal(self.info.shape())

        m.d.comb += [
            state.read_row[0].eq(self.visits.payload),
            self.issued_row.eq(self.visits.payload),
            chains.order_row.eq(row),
            chains.order_position.eq(position),
            chains.chain_slot.eq(chains.slot),
            chains.walked_slot.eq(chains.slot),
            self.info_slot.eq(chains.slot),
            self.tracker_slot.eq(slot),
            position.eq(following),
            following.eq(now.position + 1),
            state.write_row.eq(row),
            state.write_value.position.eq(following),
            state.write_value.granules.eq(now.granules + info.count),
        ]

        packet, discards, used, release = self.packets.payload, self.discards.payload, self.used.payload, chains.release.payload
        m.d.comb += [
            packet.row.eq(row), packet.first.eq(info.first), packet.last.eq(info.last), packet.count.eq(info.count),
            packet.length.eq(info.length),
            discards.first.eq(info.first), discards.last.eq(info.last), discards.count.eq(info.count),
            used.row.eq(row), used.head.eq(head), used.ring_slots.eq(chain.ring_slots),
            used.full.eq(chain.writable == 0),
            release.row.eq(row), release.position.eq(now.position), release.slot.eq(slot), release.group.eq(chain.group),
            release.groups.eq(Mux(chain.single | ~walked, 0, chain.groups)),
        ]

        def look():
            """Go on with the chain at `position` of the cycle before: its record is looked up in this cycle, so now it is good or not."""
            m.d.sync += [slot.eq(chains.slot), walked.eq(chains.walked)]
            m.next = "TEST"

        mine = self.row_drain.services & (row == self.row_drain.row)
        drain = Signal()
        m.d.comb += [drain.eq(self.drain | mine), self.again.payload.eq(row)]
        with m.If(~self.row_drain.services):
            m.d.sync += self.row_clean.eq(0)
        with m.FSM(name="source_retire"):
            with m.State("IDLE"):
                m.d.comb += [self.visits.ready.eq(~self.sweep.valid), self.idle.eq(~self.visits.valid)]
                m.d.sync += row.eq(self.visits.payload)
                with m.If(self.visits.valid & ~self.sweep.valid):
                    m.next = "LOAD"
            with m.State("LOAD"):
                found = state.read_value[0]
                m.d.comb += position.eq(found.position)
                m.d.sync += [now.eq(found), issued.eq(self.issued)]
                m.next = "SLOT"
                with m.If((found.position == self.issued) | (mine & self.row_clean)):
                    with m.If(mine & self.issue_clean):
                        m.d.sync += self.row_clean.eq(1)
                    m.next = "IDLE"
            with m.State("SLOT"):
                look()
            with m.State("TEST"):
                m.d.sync += [
                    chain.eq(chains.chain), head.eq(chains.head), info.eq(self.info),
                    discard.eq(drain | self.tracker_failed),
                    sent.eq(self.info.drop),
                    # An unused chain of a stopped function or queue: only its memory goes back.
                    given.eq(drain | (~self.info.drop & self.tracker_failed)),
                ]
                m.next = "GIVE"
                with m.If(~self.info.drop & ~self.tracker_complete):
                    m.next = "IDLE"
                with m.Elif(~self.info.drop & ~drain & ~self.tracker_failed & ~self.packets.ready):
                    m.next = "AGAIN"
            with m.State("AGAIN"):
                m.d.comb += self.again.valid.eq(1)
                with m.If(self.again.ready):
                    m.next = "IDLE"
            with m.State("GIVE"):
                gone = Mux(discard, self.discards.ready, self.packets.ready)
                m.d.comb += [
                    self.packets.valid.eq(~sent & ~discard),
                    self.discards.valid.eq(~sent & discard),
                    self.used.valid.eq(~given),
                    # Last: the slot's next packet may be complete soon after.
                    chains.release.valid.eq((sent | gone) & (given | self.used.ready)),
                ]
                m.d.sync += [sent.eq(sent | gone), given.eq(given | self.used.ready)]
                with m.If(chains.release.valid & chains.release.ready):
                    m.d.comb += [self.tracker_clear.eq(~info.drop), state.write_valid.eq(1)]
                    m.d.sync += now.eq(state.write_value)
                    with m.If(following == issued):
                        m.next = "IDLE"
                    with m.Else():
                        look()
        return m
