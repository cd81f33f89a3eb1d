# SPDX-License-Identifier: BSD-2-Clause
"""Used descriptors of the packed virtqueue, gathered into bursts [virtio 2.8.5]."""

from amaranth import *
from amaranth.lib import data, wiring

from .descriptors import DescriptorFlags
from .rows import RowMemory, connect_sweep
from .used_inputs import BURST
from .used_writes import UsedBurstsSignature

__all__ = ["PackedUsedBursts"]


class _UsedDescriptor(data.Struct):
    """The part of a used descriptor that means something: its second half."""

    written: 32
    id:      16
    flags:   DescriptorFlags


class _Place(data.Struct):
    """A slot of the ring; all zero after a reset."""

    slot: 15
    lap:  1              # complement of the wrap counter


class PackedUsedBursts(wiring.Component):
    """Gathers used descriptors.

    Consecutive elements of one row whose chains take one slot each make a burst; it ends when nothing waits behind it, at 32, at the end of the
    ring, or behind a chain of several slots. A burst is one write, from the second half of its first descriptor to the end of its last; the
    first halves in between, which mean nothing in a used descriptor, are written as zero. Of elements that must become visible together (``more``)
    the first is written last, behind all others [PACK-MULTI-01]: a driver looks at the slots in their order. With ``in_order`` a descriptor stands
    for those before it in the burst whose buffers were used completely, in the slot of the first of them [PACK-INORD-02].

    **Latency**: two cycles from an element at ``port`` to its burst. **Throughput**: a burst takes a cycle
    for each element and three; while the one before is being written it gathers on.

    Members are those of :func:`~unvirt.virtio.queue.used_writes.UsedBurstsSignature`; ``place`` of what a burst publishes is the slot behind it, and
    the wrap counter there.

    Parameters
    ----------
    rows : int
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__(UsedBurstsSignature(rows))

    def elaborate(self, platform):
        m = Module()
        # Written in another state than looked up; a row that is swept has no elements.
        m.submodules.places = places = RowMemory(_Place, rows=self._rows, readers=1, settled=True)
        connect_sweep(m, self.sweep, (places,))

        element, waiting, take = self.port.element, self.port.waiting, self.port.take
        size, desc = Signal(16), Signal(64)
        place = Signal(_Place)                     # of the element at hand
        first = Signal(_Place)                     # of the burst
        count = Signal(range(BURST + 1))
        some = Signal()                            # descriptors in the burst
        advanced = Signal(16)                      # slots since the last publication
        packets = Signal(16)                       # groups ended since then
        closed = Signal()                          # nothing more fits behind the burst
        grouped = Signal()                         # the first of a group is kept back
        ended = Signal()                           # the last of it was gathered
        open_batch = Signal()                      # with IN_ORDER: the last of a group is yet to come
        last_full, lap = Signal(), Signal()        # of the descriptor gathered last
        kept, kept_place = Signal(_UsedDescriptor), Signal(_Place)

        merge = self.in_order & last_full & some   # the element at hand replaces the last
        used = Signal(_UsedDescriptor)
        used_lap = Mux(merge, lap, place.lap)
        following, wrapped = Signal(17), Signal(signed(17))
        wraps = Signal()
        begins_group, gathers, fits = Signal(), Signal(), Signal()
        port, burst = self.burst, self.burst.burst
        m.d.comb += [
            used.written.eq(element.written),
            used.id.eq(element.head),
            used.flags.write.eq(element.written != 0),
            used.flags.avail.eq(~used_lap),
            used.flags.used.eq(~used_lap),
            following.eq(place.slot + element.ring_slots),
            wrapped.eq((place.slot - size) + element.ring_slots),
            wraps.eq(wrapped >= 0),
            begins_group.eq(element.more & ~grouped & ~self.in_order),
            # The element comes out of memory late: only the last choice is its own. What begins a group is kept, and begins the burst.
            gathers.eq(waiting & (self.port.begin | grouped | open_batch) & ~ended & (~closed | merge)),
            fits.eq(Mux(begins_group, ~some, port.room | merge)),
            self.config.row.eq(element.row),
            places.read_row[0].eq(element.row),
            places.write_row.eq(element.row),
            places.write_value.eq(place),
            port.content.eq(used),
            port.replace.eq(merge),
            # 16 bytes each, but for the first half of the first.
            burst.base.eq(desc),
            burst.offset.eq(Cat(C(8, 4), first.slot)),
            burst.length.eq((count << 4) - 8),
            burst.publish.eq(~grouped),
            burst.published.row.eq(element.row),
            burst.published.place.eq(Cat(place.slot, ~place.lap)),
            burst.published.count.eq(advanced),
            burst.published.packets.eq(packets),
        ]

        def consume():
            """Take the element at hand; its descriptor was put somewhere."""
            m.d.comb += take.eq(1)
            m.d.sync += [advanced.eq(advanced + element.ring_slots), packets.eq(packets + ~element.more), place.slot.eq(following)]
            with m.If(wraps):
                m.d.sync += [place.slot.eq(wrapped), place.lap.eq(~place.lap)]

        with m.FSM(name="packed_used"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                m.d.sync += [count.eq(0), some.eq(0), closed.eq(0), grouped.eq(0), ended.eq(0), open_batch.eq(0), advanced.eq(0),
                             packets.eq(0)]
                with m.If(self.discard):
                    m.d.comb += self.port.pass_on.eq(1)
                with m.Elif(waiting & self.port.begin):
                    # The row's configuration and place are looked up in this cycle.
                    m.next = "LOAD"
                with m.Else():
                    m.d.comb += self.port.pass_on.eq(1)
            with m.State("LOAD"):
                m.d.sync += [size.eq(self.config.config.size), desc.eq(self.config.config.desc), place.eq(places.read_value[0])]
                m.next = "GATHER"
            with m.State("GATHER"):
                # Of the element that may be the first of a burst, or of a group.
                with m.If(~some):
                    m.d.sync += first.eq(place)
                with m.If(~grouped):
                    m.d.sync += [kept.eq(used), kept_place.eq(place)]
                with m.If(self.discard):
                    m.next = "IDLE"
                with m.Elif(gathers):
                    with m.If(fits):
                        consume()
                        with m.If(begins_group):
                            m.d.sync += grouped.eq(1)
                        with m.Else():
                            m.d.comb += port.put.eq(1)
                            m.d.sync += [count.eq(count + ~merge), some.eq(1), ended.eq(grouped & ~element.more),
                                         open_batch.eq(element.more & self.in_order),
                                         last_full.eq(element.full), lap.eq(used_lap),
                                         closed.eq(merge | (element.ring_slots != 1) | wraps | (count == BURST - 1))]
                    with m.Elif(begins_group & port.free):
                        # The burst ends before the group. It stays the turn of the row, for that is decided earlier in the cycle.
                        m.d.comb += [port.give.eq(1), places.write_valid.eq(1)]
                        m.next = "IDLE"
                with m.Elif((~(grouped | self.port.coming) | ended | closed) & ~open_batch & port.free):
                    m.d.comb += [port.give.eq(1), self.port.pass_on.eq(~grouped), places.write_valid.eq(~grouped)]
                    m.d.sync += [count.eq(0), some.eq(0), closed.eq(0)]
                    m.next = "IDLE"
                    with m.If(grouped):
                        m.next = "GATHER"
                        with m.If(ended):
                            m.next = "FIRST"
            with m.State("FIRST"):
                # What was kept back is a burst of its own.
                m.d.comb += port.content.eq(kept)
                m.d.sync += [count.eq(1), some.eq(1), first.eq(kept_place), grouped.eq(0), ended.eq(1)]
                with m.If(self.discard):
                    m.next = "IDLE"
                with m.Elif(port.room):
                    m.d.comb += port.put.eq(1)
                    m.next = "GATHER"
        return m
