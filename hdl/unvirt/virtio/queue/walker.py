# SPDX-License-Identifier: BSD-2-Clause
"""Walks descriptor chains and indirect tables [virtio 2.7.5, 2.8.6, 2.8.7] and records their segments.

    items (heads) ----> single descriptor -----------------------------> chain store
                  \\--> waiting chains --> start
    items (walks) ----> step: segment, next, indirect --> read on / finish / give up and wait again
"""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import QueueConfigPort, row_width
from .chains import WalkerPortSignature
from .contract import GROUP_SEGMENTS, RowDrain
from .descriptors import Descriptor, DescriptorItem
from .packed_ends import RowChainEnd
from .reads import WalkRead
from .rows import RowCount, Sweep, connect_sweep
from .waiting import WaitingChains
from .walk_admission import Shortage, WalkAdmission
from .walk_state import WalkState, as_in_a_split_ring, saturated

__all__ = ["Walker"]

class Walker(wiring.Component):
    """Completes chains: a single descriptor at once, longer ones by walking in one of several contexts.

    Heads with neither NEXT nor INDIRECT are taken one a cycle, the first in two. Every other chain waits for a walk context, reads its table in lines
    of four (chain) or eight (indirect table) descriptors, and takes four to five cycles a descriptor; walks overlap, none holds the others up. Which
    chain is walked when, and how segment groups are shared, decides :class:`~unvirt.virtio.queue.walk_admission.WalkAdmission`; a walk that may not
    have another group gives its own back and starts again later.

    Violations [virtio 2.7.5.3]: index beyond the table, more than ``max_chain`` descriptors or than the ring has, INDIRECT inside a table, with
    NEXT, not negotiated, or with a length of zero or no multiple of 16, readable after writable, a readable buffer in a sink row. Lengths
    saturate at 2**20 - 1.

    With ``packed`` the following descriptor lies in the following slot of the ring, or of the table up to its end, whatever the flags in a table
    say; the length of a chain of several slots is told at ``ends`` if it is the newest.

    Members
    -------
    drain : ``In(1)``
        Walks end at their next answer, waiting chains are forgotten.
    hold : ``In(1)``, still : ``Out(1)``
        No walk begins, chains go on waiting; none is under way.
    row_drain : ``In(RowDrain)``, row_rest : ``Out(1)``
        The same for one row that is reset; none of its chains waits or walks (of the cycle before).
    indirect_enabled : ``In(1)``
        VIRTIO_F_INDIRECT_DESC was negotiated.
    packed : ``In(1)``
        VIRTIO_F_RING_PACKED was negotiated.
    items, skip : ``In``/``Out``
        Descriptors; see :class:`~unvirt.virtio.queue.descriptors.DescriptorReader`.
    reads : ``Out(stream.Signature(WalkRead))``
    store : ``Out(WalkerPortSignature)``
    give_back : ``Out(stream)``
        Groups of a walk that gave up.
    group_taken_sink, source_groups, sink_groups :
        Accounting with the chain store.
    head_row, head_position : ``Out``/``In``
        Position of the oldest chain of a row that was not consumed (synchronous).
    ready_rows : ``Out(stream.Signature(row))``
        A chain of this source row became usable.
    ends : ``Out(stream.Signature(RowChainEnd))``
        Before that, for a chain of several ring slots that is the newest of its row.
    sweep : ``In``
        Clears a row while everything is quiet.
    """

    def __init__(self, *, rows, slots, window, groups, walks, contexts, max_chain, is_sink):
        self._rows = rows
        self._slots = slots
        self._groups = groups
        self._walks = walks
        self._contexts = contexts
        self._max_chain = max_chain
        self._is_sink = is_sink
        self._chain_groups = -(-max_chain // GROUP_SEGMENTS)
        width = row_width(rows)
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_rest": Out(1),
            "indirect_enabled": In(1),
            "packed": In(1),
            "items": In(stream.Signature(DescriptorItem(rows, contexts))),
            "skip": Out(1),
            "config": Out(QueueConfigPort(rows)),
            "reads": Out(stream.Signature(WalkRead(rows, walks))),
            "store": Out(WalkerPortSignature(rows, window, slots, groups)),
            "give_back": Out(stream.Signature(data.StructLayout({
                "group": range(groups), "groups": range(groups + 1), "sink": 1}))),
            "group_taken_sink": Out(1),
            "source_groups": In(range(groups + 1)),
            "sink_groups": In(range(groups + 1)),
            "head_row": Out(width),
            "head_position": In(16),
            "ready_rows": Out(stream.Signature(width)),
            "ends": Out(stream.Signature(RowChainEnd(rows))),
            "violation": Out(1),
            "idle": Out(1),
            "still": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.waiting = waiting = WaitingChains(rows=self._rows, slots=self._slots, groups=self._groups)
        shape = WalkState(rows=self._rows, slots=self._slots, groups=self._groups, max_chain=self._max_chain)
        m.submodules.walks = walks = memory.Memory(shape=shape, depth=self._walks, init=[])
        walk_write, walk_read = walks.write_port(), walks.read_port(domain="comb")

        item, store, config = self.items.payload, self.store, self.config.config
        desc = Signal(Descriptor)
        state = Signal(shape)
        walk = Signal(range(self._walks))
        from_item = Signal()             # `desc` came from a line, not from the waiting list
        failed = Signal()                # the head at hand could not be read
        shortage = Signal(Shortage(self._groups))
        m.submodules.admission = admission = WalkAdmission(rows=self._rows, groups=self._groups, walks=self._walks, chain_groups=self._chain_groups)
        # Chains of each row that wait or walk.
        m.submodules.longer = longer = RowCount(self._slots, rows=self._rows)
        connect_sweep(m, self.sweep, (admission, longer))
        drain = Signal()                            # the chain at hand is not wanted
        gone = Signal()                             # it neither waits nor walks any more
        m.d.comb += [
            longer.taken_row.eq(state.row),
            longer.given_valid.eq(gone),
            longer.given_row.eq(state.row),
            longer.row[0].eq(self.row_drain.row),
            self.row_rest.eq(longer.count[0] == 0),
            drain.eq(self.drain | (self.row_drain.fetch & (state.row == self.row_drain.row))),
        ]
        free_walk = Signal()                        # the walk at hand ends
        sink_row = Signal()
        length = saturated(desc.length)

        m.d.comb += [
            sink_row.eq(self._is_sink(state.row)),
            walk_read.addr.eq(item.context),
            walk_write.addr.eq(walk),
            walk_write.data.eq(state),
            store.parsed_row.eq(state.row),
            store.order_row.eq(item.row),
            store.order_position.eq(item.position),
            self.config.row.eq(state.row),
            admission.row.eq(state.row),
            admission.position.eq(state.position),
            admission.sink_row.eq(sink_row),
            admission.head_position.eq(self.head_position),
            admission.source_groups.eq(self.source_groups),
            admission.sink_groups.eq(self.sink_groups),
            admission.shortage.eq(waiting.shortage),
            admission.held.eq(state.groups),
            admission.number.eq(walk),
            admission.ends.eq(free_walk),
            self.head_row.eq(state.row),
            self.group_taken_sink.eq(sink_row),
            self.ready_rows.payload.eq(state.row),
            self.ends.payload.row.eq(state.row),
            self.ends.payload.end.position.eq(state.position),
            self.ends.payload.end.length.eq(state.ring_slots),
            waiting.note_slot.eq(store.slot),
            waiting.note.descriptor.eq(desc),
            waiting.note.row.eq(state.row),
            waiting.note.position.eq(state.position),
            waiting.put_slot.eq(state.slot),
            waiting.put_sink.eq(sink_row),
            waiting.short.eq(shortage),
            store.segment.address.eq(desc.address),
            store.segment.length.eq(length),
            store.segment_index.eq(state.segments[:3]),
            store.link_group.eq(state.tail),
            store.link_next.eq(store.groups.payload),
            store.chain_slot.eq(state.slot),
            self.give_back.payload.group.eq(state.group),
            self.give_back.payload.groups.eq(state.groups),
            self.give_back.payload.sink.eq(sink_row),
        ]
        arrived = as_in_a_split_ring(m, item.descriptor, walk_read.data, self.packed)
        m.d.comb += self.still.eq(admission.idle)

        def accept(skip):
            m.d.comb += [self.items.ready.eq(from_item), self.skip.eq(skip)]

        def take_head():
            """Take the next head, if there is one; the slot of its position is looked up in this cycle."""
            m.next = "IDLE"
            with m.If(self.items.valid & ~item.walk):
                m.d.comb += self.items.ready.eq(1)
                m.d.sync += [state.row.eq(item.row), state.position.eq(item.position), desc.eq(item.descriptor), failed.eq(item.error)]
                m.next = "HEAD"

        def record_chain(**fields):
            """The chain at hand is complete; ``fields`` are those that its walk's state does not have."""
            m.d.comb += store.chain_valid.eq(1)
            for name in ("address", "readable", "writable", "single", "group", "groups", "segments", "readable_segments", "id", "ring_slots"):
                m.d.comb += store.chain[name].eq(fields[name] if name in fields else state[name])

        looked = Signal()                           # whether the head position of the walk at hand is known that wants a group
        with m.FSM(name="walker") as fsm:
            m.d.comb += admission.head_known.eq(fsm.ongoing("SEGMENT"))
            m.d.sync += looked.eq(admission.head_known)
            with m.State("IDLE"):
                m.d.sync += from_item.eq(self.items.valid)
                with m.If(self.items.valid):
                    m.d.sync += [walk.eq(item.context), state.eq(walk_read.data), desc.eq(arrived)]
                    take_head()
                    with m.If(item.walk):
                        m.next = "STEP"
                with m.Elif(waiting.valid):
                    m.d.comb += waiting.take.eq(1)
                    m.next = "TAKE"
                with m.Else():
                    m.d.comb += self.idle.eq(admission.idle)

            with m.State("HEAD"):
                flags = desc.flags
                m.d.sync += state.slot.eq(store.slot)
                m.d.comb += waiting.note_valid.eq(1)
                bad = failed | (sink_row & ~flags.write & ~flags.next & ~flags.indirect)
                with m.If(drain):
                    take_head()
                with m.Elif(bad):
                    m.d.comb += self.violation.eq(1)
                    take_head()
                with m.Elif(flags.next | flags.indirect):
                    m.next = "PUT_WAITING"
                with m.Else():
                    # Whoever is told of it looks two cycles later.
                    record_chain(single=1, address=desc.address, id=desc.next, ring_slots=1, groups=0,
                                 readable=Mux(flags.write, 0, length), writable=Mux(flags.write, length, 0))
                    m.d.comb += [store.chain_slot.eq(store.slot), self.ready_rows.valid.eq(~sink_row)]
                    with m.If(sink_row | self.ready_rows.ready):
                        take_head()
                    with m.Else():
                        m.next = "ANNOUNCE"

            with m.State("PUT_WAITING"):
                m.d.comb += [waiting.put.eq(1), longer.taken_valid.eq(1)]
                m.next = "IDLE"

            with m.State("ANNOUNCE"):
                m.d.comb += self.ready_rows.valid.eq(~sink_row)
                with m.If(sink_row | self.ready_rows.ready):
                    m.next = "IDLE"

            with m.State("TAKE"):
                # What is known of the chain is looked up in this cycle.
                m.next = "START"
            with m.State("START"):
                m.d.sync += [
                    state.eq(0),
                    state.row.eq(waiting.chain.row),
                    state.position.eq(waiting.chain.position),
                    state.slot.eq(waiting.slot),
                    walk.eq(admission.free),
                ]
                m.next = "LOOK"
            with m.State("LOOK"):
                # The head position of this row, its walks and its table are looked up in this cycle.
                m.next = "WEIGH"
            with m.State("WEIGH"):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.next = "LOAD"
                with m.If(drain):
                    m.d.comb += gone.eq(1)
                    m.next = "IDLE"
                with m.Elif(self.hold | ~admission.may_begin):
                    m.next = "NOT_YET"
            with m.State("NOT_YET"):
                m.d.comb += waiting.put.eq(1)
                m.next = "IDLE"
            with m.State("LOAD"):
                m.d.comb += admission.begins.eq(1)
                m.d.sync += [desc.eq(waiting.chain.descriptor), state.base.eq(config.desc), state.entries.eq(config.size)]
                m.next = "STEP"

            with m.State("STEP"):
                flags = desc.flags
                # The head position of this row is looked up in this cycle.
                m.d.sync += [state.count.eq(state.count + 1),
                             state.ring_slots.eq(state.ring_slots + ~state.indirect)]
                table = desc.length[4:]
                # A chain that is longer than its ring goes round and round; the available side moves by once around at most.
                longer_than_ring = ~state.indirect & (state.ring_slots == state.entries)
                m.next = "SEGMENT"
                with m.If(drain):
                    m.next = "GIVE_BACK"
                with m.Elif((from_item & item.error) | (state.count == self._max_chain) | longer_than_ring):
                    m.next = "VIOLATE"
                with m.Elif(flags.indirect):
                    # A table stands alone: not in a table, not followed, whole entries [2.7.5.3].
                    m.d.sync += [state.indirect.eq(1), state.id.eq(desc.next), state.base.eq(desc.address),
                                 state.entries.eq(Mux(table[16:].any(), 0xFFFF, table[:16])),
                                 state.index.eq(0)]
                    m.next = "READ"
                    with m.If(state.indirect | flags.next | ~self.indirect_enabled
                              | desc.length[:4].any() | (table == 0)):
                        m.next = "VIOLATE"
                with m.Elif((~flags.write & state.wrote) | (~flags.write & sink_row)):
                    m.next = "VIOLATE"
                with m.Elif(desc.length == 0):
                    m.next = "NEXT"

            with m.State("SEGMENT"):
                new_group = state.segments[:3] == 0
                allowed = admission.may_take
                writes = desc.flags.write
                stored = Signal()
                m.d.comb += [
                    stored.eq(~new_group | (allowed & store.groups.valid)),
                    store.groups.ready.eq(new_group & allowed),
                    store.segment_valid.eq(stored),
                    store.segment_group.eq(Mux(new_group, store.groups.payload, state.tail)),
                    store.link_valid.eq(stored & new_group & (state.groups != 0)),
                ]
                with m.If(stored):
                    sums = Mux(writes, state.writable, state.readable) + length
                    total = saturated(sums)
                    m.d.sync += [state.segments.eq(state.segments + 1),
                                 state.wrote.eq(state.wrote | writes)]
                    with m.If(writes):
                        m.d.sync += state.writable.eq(total)
                    with m.Else():
                        m.d.sync += [state.readable.eq(total),
                                     state.readable_segments.eq(state.readable_segments + 1)]
                    with m.If(new_group):
                        m.d.sync += [state.tail.eq(store.groups.payload),
                                     state.groups.eq(state.groups + 1)]
                        with m.If(state.groups == 0):
                            m.d.sync += state.group.eq(store.groups.payload)
                    m.next = "NEXT"
                with m.Elif(~allowed & looked):
                    m.d.sync += shortage.eq(admission.short)
                    m.next = "RETREAT"

            with m.State("NEXT"):
                following = (state.index + 1)[:16]
                m.d.sync += state.index.eq(desc.next)
                with m.If(~desc.flags.next):
                    m.next = "FINISH"
                with m.Elif(desc.next >= state.entries):
                    m.next = "VIOLATE"
                with m.Elif(from_item & ~item.last & (desc.next == following)):
                    m.next = "STORE"
                with m.Else():
                    m.next = "READ"
            with m.State("STORE"):
                m.d.comb += walk_write.en.eq(1)
                accept(skip=0)
                m.next = "IDLE"

            with m.State("READ"):
                left = state.entries - state.index
                # A chain's neighbours in the table belong to it only perhaps; a table is all its own.
                most = Mux(state.indirect, 8, 4)
                count = Mux(left < most, left, most)
                m.d.comb += [
                    self.reads.valid.eq(1),
                    self.reads.payload.walk.eq(walk),
                    self.reads.payload.address.eq(state.base + (state.index << 4)),
                    self.reads.payload.length.eq(count << 4),
                    self.reads.payload.count.eq(count),
                    walk_write.en.eq(1),
                ]
                with m.If(self.reads.ready):
                    accept(skip=1)
                    m.next = "IDLE"

            with m.State("FINISH"):
                # Who drains has perhaps given the slot back already, as one not walked.
                with m.If(drain):
                    m.next = "GIVE_BACK"
                with m.Else():
                    record_chain(single=0, address=desc.address, id=Mux(state.indirect, state.id, desc.next))
                    m.d.comb += [free_walk.eq(1), gone.eq(1)]
                    accept(skip=1)
                    m.next = "ANNOUNCE"
                    with m.If(self.packed & (state.ring_slots != 1)):
                        m.next = "TELL_END"
            with m.State("TELL_END"):
                # Only the newest chain of a row can be one whose end is waited for; an older one may be walked after it.
                newest = store.parsed == (state.position + 1)[:16]
                m.d.comb += self.ends.valid.eq(newest)
                with m.If(~newest | self.ends.ready):
                    m.next = "ANNOUNCE"

            with m.State("RETREAT"):
                # No group to be had: give back what the walk holds, begin again later.
                m.d.comb += self.give_back.valid.eq(state.groups != 0)
                with m.If((state.groups == 0) | self.give_back.ready):
                    m.d.comb += [waiting.put.eq(~drain), waiting.gave_up.eq(1), gone.eq(drain), free_walk.eq(1)]
                    accept(skip=1)
                    m.next = "IDLE"
            with m.State("VIOLATE"):
                m.d.comb += self.violation.eq(1)
                m.next = "GIVE_BACK"
            with m.State("GIVE_BACK"):
                m.d.comb += self.give_back.valid.eq(state.groups != 0)
                with m.If((state.groups == 0) | self.give_back.ready):
                    m.d.comb += [free_walk.eq(1), gone.eq(1)]
                    accept(skip=1)
                    m.next = "IDLE"
        return m
