# SPDX-License-Identifier: BSD-2-Clause
"""The chain store: every descriptor chain the device holds, in slots shared by all queues.

    ring parser --(row, position, head)--> order, head, parsed
    walker      --(slot, record)---------> chain, walked
                --(group, segment)-------> segments, next group
    source issue, source retire, sink <--- look-ups by ChainPortSignature; release ---> pools
"""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ...stream.flags import FlagTable
from ...stream.free_list import FreeList
from ...stream.ram import read_settled, settled_memory
from ..contract import row_width
from .contract import GROUP_SEGMENTS, ChainPortSignature, ChainRecord, Segment, worth_fetching
from .rows import RowMemory, Sweep, connect_sweep

__all__ = ["ChainAdd", "ChainStore", "WalkerPortSignature"]


class ChainAdd(data.StructLayout):
    """A chain head found in the ring."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "position": 16, "head": 16})


def WalkerPortSignature(rows, window, slots, groups):
    """The walker's side of the chain store, as the walker sees it.

    ``parsed_*`` and ``order_*`` are synchronous, ``groups`` hands out groups, ``link_*`` writes the successor of a group.
    """
    return wiring.Signature({
        "parsed_row": Out(row_width(rows)),
        "parsed": In(16),
        "order_row": Out(row_width(rows)),
        "order_position": Out(16),
        "slot": In(range(slots)),
        "chain_valid": Out(1),
        "chain_slot": Out(range(slots)),
        "chain": Out(ChainRecord(groups)),
        "segment_valid": Out(1),
        "segment_group": Out(range(groups)),
        "segment_index": Out(range(GROUP_SEGMENTS)),
        "segment": Out(Segment),
        "link_valid": Out(1),
        "link_group": Out(range(groups)),
        "link_next": Out(range(groups)),
        "groups": In(stream.Signature(range(groups))),
    })


class ChainStore(wiring.Component):
    """Slots, their order per queue, their records and their segments.

    Slots are taken by :attr:`add` (one per cycle) and come back by the ``release`` of a consumer port: one slot and one group per cycle.
    Each memory has one writer. ``sink_groups`` and ``source_groups`` count the groups that each kind of consumer has not
    given back, so that the walker can keep either from starving the other.

    Parameters
    ----------
    rows, slots, window, groups : int
        Queue rows, chain slots, positions remembered per row (a power of two), segment groups.

    Members
    -------
    add : ``In(stream.Signature(ChainAdd))``
        Next chain of a row; waits for a slot.
    free_slots : ``Out``
        Slots in the pool.
    walker : ``In``
        See :func:`WalkerPortSignature`.
    issue, retire, sink, request : ``In``
        Consumers, see :func:`~unvirt.virtio.queue.contract.ChainPortSignature`.
    group_taken_sink : ``In(1)``
        The group being handed out goes to a chain of a sink row.
    packed : ``In(1)``
        Chains go by the id in their record, not by their head.
    give_back : ``In(stream)``
        Groups without a slot, from a walk that gave up.
    made_room : ``Out(stream.Signature(row))``
        So many chains of this row were released that it is worth while to fetch more: every ``worth_fetching(window)`` positions. A release waits
        for it.
    at_rest : ``Out(1)``
        Every slot and group is in its pool.
    sweep : ``In``
        Clears ``parsed`` of a row.
    """

    def __init__(self, *, rows, slots, window, groups):
        self._rows = rows
        self._slots = slots
        self._window = window
        self._unit = worth_fetching(window)
        self._groups = groups
        port = ChainPortSignature(rows, slots, groups)
        super().__init__({
            "add": In(stream.Signature(ChainAdd(rows))),
            "free_slots": Out(range(slots + 1)),
            "walker": In(WalkerPortSignature(rows, window, slots, groups)),
            "group_taken_sink": In(1),
            "packed": In(1),
            "give_back": In(stream.Signature(data.StructLayout({
                "group": range(groups), "groups": range(groups + 1), "sink": 1}))),
            "source_groups": Out(range(groups + 1)),
            "sink_groups": Out(range(groups + 1)),
            "issue": In(port),
            "retire": In(port),
            "sink": In(port),
            "request": In(port),
            "made_room": Out(stream.Signature(row_width(rows))),
            "at_rest": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.slots = slots = FreeList(self._slots)
        m.submodules.groups = groups = FreeList(self._groups)
        m.submodules.walked = walked = FlagTable(self._slots, 4)
        m.submodules.parsed = parsed = RowMemory(16, rows=self._rows, readers=5)
        connect_sweep(m, self.sweep, (parsed,))
        consumers = (self.issue, self.retire, self.sink, self.request)

        # All are written before a look-up that tells of it (of `parsed`, `walked` or another chain) leads anyone to read them.
        def table(name, width, depth, readers):
            m.submodules[name] = cells = settled_memory(width, depth, block=False)
            return cells.write_port(), [read_settled(m, cells) for _ in range(readers)]

        # Order: slot of a position; positions in flight never exceed the window.
        window_bits = (self._window - 1).bit_length()
        order_write, order_reads = table("order", (self._slots - 1).bit_length(),
                                         self._rows * self._window, 5)
        head_write, head_reads = table("head", 16, self._slots, 4)
        chain_write, chain_reads = table("chain", ChainRecord(self._groups).size, self._slots, 4)
        segment_write, segment_reads = table("segment", Segment.as_shape().size,
                                             self._groups * GROUP_SEGMENTS, 3)
        # Linked by the walker only; the reader in `release` follows the list of a chain that goes.
        m.submodules.link = links = memory.Memory(shape=(self._groups - 1).bit_length(), depth=self._groups, init=[])
        link_write, link_reads = links.write_port(), [links.read_port(domain="comb") for _ in range(4)]

        add = self.add.payload
        adding = Signal()
        m.d.comb += [
            self.add.ready.eq(slots.alloc.valid & walked.ready),
            adding.eq(self.add.valid & self.add.ready),
            slots.alloc.ready.eq(self.add.valid & walked.ready),
            self.free_slots.eq(slots.count),
            order_write.addr.eq(Cat(add.position[:window_bits], add.row)),
            order_write.data.eq(slots.alloc.payload),
            order_write.en.eq(adding),
            head_write.addr.eq(slots.alloc.payload),
            head_write.data.eq(add.head),
            head_write.en.eq(adding),
            walked.clear_index.eq(slots.alloc.payload),
            walked.clear_valid.eq(adding),
            parsed.write_row.eq(add.row),
            parsed.write_value.eq(add.position + 1),
            parsed.write_valid.eq(adding),
        ]

        walker = self.walker
        m.d.comb += [
            parsed.read_row[4].eq(walker.parsed_row),
            walker.parsed.eq(parsed.read_value[4]),
            order_reads[4].addr.eq(Cat(walker.order_position[:window_bits], walker.order_row)),
            walker.slot.eq(order_reads[4].data),
            chain_write.addr.eq(walker.chain_slot),
            chain_write.data.eq(walker.chain.as_value()),
            chain_write.en.eq(walker.chain_valid),
            walked.set_index.eq(walker.chain_slot),
            walked.set_valid.eq(walker.chain_valid),
            segment_write.addr.eq(Cat(walker.segment_index, walker.segment_group)),
            segment_write.data.eq(walker.segment.as_value()),
            segment_write.en.eq(walker.segment_valid),
            link_write.addr.eq(walker.link_group),
            link_write.data.eq(walker.link_next),
            link_write.en.eq(walker.link_valid),
            walker.groups.payload.eq(groups.alloc.payload),
            walker.groups.valid.eq(groups.alloc.valid),
            groups.alloc.ready.eq(walker.groups.ready),
        ]

        segment_ports = iter(zip(segment_reads, link_reads))
        for index, port in enumerate(consumers):
            m.d.comb += [
                parsed.read_row[index].eq(port.parsed_row),
                port.parsed.eq(parsed.read_value[index]),
                order_reads[index].addr.eq(Cat(port.order_position[:window_bits], port.order_row)),
                port.slot.eq(order_reads[index].data),
                walked.test_index[index].eq(port.walked_slot),
                port.walked.eq(walked.test_value[index]),
                chain_reads[index].addr.eq(port.chain_slot),
                port.chain.as_value().eq(chain_reads[index].data),
                head_reads[index].addr.eq(port.chain_slot),
                port.head.eq(Mux(self.packed, port.chain.id, head_reads[index].data)),
            ]
            if port is not self.retire:
                read, link = next(segment_ports)
                m.d.comb += [
                    read.addr.eq(Cat(port.segment_index, port.segment_group)),
                    port.segment.as_value().eq(read.data),
                    link.addr.eq(port.next_group_of),
                    port.next_group.eq(link.data),
                ]

        self._elaborate_release(m, slots, groups, link_reads[3])
        return m

    def _elaborate_release(self, m, slots, groups, link):
        """Take slots and groups back, one group per cycle: the walker first, then the rare request, `retire` and `sink` in turn."""
        count_type = range(self._groups + 1)
        group = Signal(range(self._groups))
        left = Signal(count_type)
        from_sink = Signal()
        prefer_sink = Signal()
        sources, sinks, requests = self.retire.release, self.sink.release, self.request.release
        pick_sink = Signal()
        released, told = Signal(), Signal()
        chosen = Signal(sources.payload.shape())

        m.d.comb += [
            self.issue.release.ready.eq(1),
            pick_sink.eq(~requests.valid & sinks.valid & (prefer_sink | ~sources.valid)),
            chosen.eq(Mux(requests.valid, requests.payload, Mux(pick_sink, sinks.payload, sources.payload))),
            told.eq(~(chosen.position + 1)[:exact_log2(self._unit)].any()),
            self.made_room.payload.eq(chosen.row),
            slots.free.payload.eq(chosen.slot),
            link.addr.eq(group),
            groups.free.payload.eq(group),
            groups.free.valid.eq(left != 0),
        ]
        back = self.give_back
        with m.If((left == 0) & back.valid):
            m.d.comb += back.ready.eq(1)
            m.d.sync += [
                from_sink.eq(back.payload.sink),
                group.eq(back.payload.group),
                left.eq(back.payload.groups),
            ]
        with m.Elif(left == 0):
            some, may = requests.valid | sources.valid | sinks.valid, ~told | self.made_room.ready
            m.d.comb += [
                self.made_room.valid.eq(some & told),
                released.eq(some & may),
                slots.free.valid.eq(released),
                requests.ready.eq(may),
                sources.ready.eq(~requests.valid & ~pick_sink & may),
                sinks.ready.eq(pick_sink & may),
            ]
            with m.If(released):
                m.d.sync += [
                    prefer_sink.eq(~pick_sink),
                    from_sink.eq(pick_sink),
                    group.eq(chosen.group),
                    left.eq(chosen.groups),
                ]
        with m.Else():
            m.d.sync += [
                group.eq(link.data),
                left.eq(left - 1),
            ]

        taken = Signal()
        m.d.comb += taken.eq(self.walker.groups.valid & self.walker.groups.ready)
        for held, mine in ((self.sink_groups, True), (self.source_groups, False)):
            up = taken & (self.group_taken_sink == mine)
            down = (left != 0) & (from_sink == mine)
            with m.If(up & ~down):
                m.d.sync += held.eq(held + 1)
            with m.If(~up & down):
                m.d.sync += held.eq(held - 1)
        m.d.comb += self.at_rest.eq((slots.count == self._slots) & (groups.count == self._groups))
