# SPDX-License-Identifier: BSD-2-Clause
"""The used ring of the split virtqueue: elements gathered into bursts, the index published once per burst [virtio 2.7.8]."""

from amaranth import *
from amaranth.lib import wiring

from ...stream.ring import wrap_sub
from .rows import RowMemory, connect_sweep
from .used_inputs import BURST
from .used_writes import UsedBurstsSignature

__all__ = ["SplitUsedBursts"]


class SplitUsedBursts(wiring.Component):
    """Gathers used elements, and counts the index on.

    Consecutive elements of one row make a burst; it ends when nothing waits behind it, at 32, or at the end of the ring. Then the next row with
    elements has its turn. An element with ``more`` set is not published before its successors: the index
    waits for the end of the group, even over several writes [NET-RX-04]. With ``in_order`` an element stands for those before it in the burst that
    were used completely, in the slot of the first of them [SPLIT-INORD-03].

    **Latency**: two cycles from an element at ``port`` to its burst. **Throughput**: a burst takes a cycle
    for each element and two; while the one before is being written it gathers on.

    Members are those of :func:`~unvirt.virtio.queue.used_writes.UsedBurstsSignature`; ``place`` of what a burst publishes is the used index.

    Parameters
    ----------
    rows : int

    Spec
    ----
    [virtio 2.7.8] The Virtqueue Used Ring
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__(UsedBurstsSignature(rows))

    def elaborate(self, platform):
        m = Module()
        # Written in another state than looked up; a row that is swept has no elements.
        m.submodules.index = index = RowMemory(16, rows=self._rows, readers=1, settled=True)
        connect_sweep(m, self.sweep, (index,))
        element, waiting, begin, take = self.port.element, self.port.waiting, self.port.begin, self.port.take

        old, start = Signal(16), Signal(16)      # first index of the burst; of what is not yet published
        count = Signal(range(BURST + 1))
        open_group = Signal()                    # the last element gathered has successors to come
        mask, device = Signal(16), Signal(64)    # of the slot in an index
        resume = Signal()                        # an index is owed to elements already given
        packets = Signal(16)                     # groups that end among what is not yet published
        slot, following = Signal(16), Signal(16)
        some, newest = Signal(), Signal(16)      # something was gathered; index of the last one, or of the first one to come
        # With IN_ORDER: entries for the elements gathered, whether one more would replace the last, and whether one stands for several.
        entries = Signal(range(BURST + 1))
        last_full, merged = Signal(), Signal()
        merge = self.in_order & last_full & some
        # The burst ends with the ring. An element that has to lie behind a batch would leave a hole before it.
        fits = ~(some & (newest | ~mask).all()) & (count != BURST) & ~(merged & ~last_full)
        room = self.burst.room | merge

        burst = self.burst.burst
        m.d.comb += [
            slot.eq(old & mask),
            following.eq(old + count),
            self.config.row.eq(element.row),
            index.read_row[0].eq(element.row),
            index.write_row.eq(element.row),
            index.write_value.eq(following),
            self.burst.content.eq(Cat(element.head, C(0, 16), element.written, C(0, 32 - len(element.written)))),
            self.burst.replace.eq(merge),
            burst.base.eq(device),
            burst.offset.eq(Cat(C(4, 3), slot)),
            burst.length.eq(entries << 3),
            burst.publish.eq(~open_group),
            burst.published.row.eq(element.row),
            burst.published.place.eq(following),
            burst.published.count.eq(wrap_sub(following, start)),
            burst.published.packets.eq(packets),
        ]

        def gather():
            """Put the element at hand into the burst, as soon as there is room for it."""
            m.d.comb += [take.eq(room), self.burst.put.eq(room)]
            with m.If(room):
                m.d.sync += [count.eq(count + 1), some.eq(1), open_group.eq(element.more), entries.eq(entries + ~merge),
                             last_full.eq(element.full), merged.eq(merged | merge), packets.eq(packets + ~element.more)]

        with m.FSM(name="split_used"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~resume)
                m.d.sync += [count.eq(0), entries.eq(0), merged.eq(0), some.eq(0)]
                with m.If(~resume):
                    m.d.sync += packets.eq(0)
                with m.If(self.discard):
                    m.d.comb += self.port.pass_on.eq(1)
                    m.d.sync += [resume.eq(0), open_group.eq(0)]
                with m.Elif(waiting & (begin | resume)):
                    # The row's configuration and index are looked up in this cycle.
                    m.next = "LOAD"
                with m.Elif(~resume):
                    m.d.comb += self.port.pass_on.eq(1)
            with m.State("LOAD"):
                m.d.sync += [mask.eq(self.config.config.size - 1), device.eq(self.config.config.device), newest.eq(old)]
                with m.If(~resume):
                    m.d.sync += [old.eq(index.read_value[0]), newest.eq(index.read_value[0]), start.eq(index.read_value[0])]
                gather()
                m.next = "GATHER"
            with m.State("GATHER"):
                with m.If(self.discard):
                    m.next = "IDLE"
                with m.Elif(waiting & fits & (begin | open_group | ~some)):
                    gather()
                    with m.If(room & some):
                        m.d.sync += newest.eq(newest + 1)
                with m.Elif((~(open_group | self.port.coming) | ~fits) & self.burst.free):
                    m.d.comb += [self.burst.give.eq(1), index.write_valid.eq(~open_group), self.port.pass_on.eq(~open_group)]
                    m.d.sync += [old.eq(following), resume.eq(open_group)]
                    m.next = "IDLE"
        return m
