# SPDX-License-Identifier: BSD-2-Clause
"""Used descriptors of the packed virtqueue, gathered into bursts [virtio 2.8.5]."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ..contract import QueueConfigPort, row_width
from .contract import Published
from .descriptors import DescriptorFlags
from .rows import RowMemory, Sweep, connect_sweep
from .used_inputs import BURST, UsedPortSignature

__all__ = ["PackedUsedWriter"]


class _UsedDescriptor(data.Struct):
    """The part of a used descriptor that means something: its second half."""

    written: 32
    id:      16
    flags:   DescriptorFlags


class _Place(data.Struct):
    """A slot of the ring; all zero after a reset."""

    slot: 15
    lap:  1              # complement of the wrap counter


class PackedUsedWriter(wiring.Component):
    """Writes used descriptors.

    Consecutive elements of one row whose chains take one slot each make a burst; it ends when nothing waits behind it, at 32, at the end of the
    ring, or behind a chain of several slots. A burst is one write, from the second half of its first descriptor to the end of its last; the
    first halves in between, which mean nothing in a used descriptor, are written as zero. Of elements that must become visible together (``more``)
    the first is written last, behind all others [PACK-MULTI-01]: a driver looks at the slots in their order. With ``in_order`` a descriptor stands
    for those before it in the burst whose buffers were used completely, in the slot of the first of them [PACK-INORD-02].

    **Latency**: three cycles from an element at ``port`` to the first beat of its write, one more if it was another input's turn. **Throughput**:
    a burst takes a cycle for each element, its beats, and four. **Ordering**: descriptors, then ``published``, after the last one was accepted by
    the write engine.

    With ``discard`` elements vanish; a write that began is completed. ``sweep`` sets a row to its first slot while everything is quiet.

    Parameters
    ----------
    data_width, rows : int

    Members
    -------
    port : ``Out(UsedPortSignature)``
    config : ``Out(QueueConfigPort)``
    writes : ``Out(stream.Signature(WriteBeat))``
    published : ``Out(stream.Signature(Published))``
    in_order : ``In(1)``
        VIRTIO_F_IN_ORDER was negotiated.
    discard : ``In(1)``, idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, *, data_width, rows):
        self._data_width = data_width
        self._rows = rows
        super().__init__({
            "port": Out(UsedPortSignature(rows)),
            "config": Out(QueueConfigPort(rows)),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
            "published": Out(stream.Signature(Published(rows))),
            "in_order": In(1),
            "discard": In(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._data_width
        lanes = width // 8
        m.submodules.places = places = RowMemory(_Place, rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (places,))
        # Every other 64 bits of a write are a used descriptor.
        per_beat = max(1, width // 128)
        m.submodules.burst = burst = memory.Memory(shape=64 * per_beat, depth=BURST // per_beat, init=[])
        write = burst.write_port(granularity=64)
        read = burst.read_port(domain="comb")

        element, waiting, take = self.port.element, self.port.waiting, self.port.take
        row = Signal(row_width(self._rows))
        size, desc = Signal(16), Signal(64)
        place = Signal(_Place)                     # of the element at hand
        first = Signal(_Place)                     # of the burst
        count = Signal(range(BURST + 1))
        advanced = Signal(16)                      # slots since the last publication
        packets = Signal(16)                       # groups ended since then
        closed = Signal()                          # nothing more fits behind the burst
        grouped = Signal()                         # the first of a group is kept back
        ended = Signal()                           # the last of it was gathered
        open_batch = Signal()                      # with IN_ORDER: the last of a group is yet to come
        last_full, lap = Signal(), Signal()        # of the descriptor gathered last
        kept, kept_place = Signal(_UsedDescriptor), Signal(_Place)
        beat = Signal(range(BURST * 128 // width + 1))

        merge = self.in_order & last_full & (count != 0)   # the element at hand replaces the last
        used = Signal(_UsedDescriptor)
        used_lap = Mux(merge, lap, place.lap)
        following = Signal(17)
        wraps = Signal()
        out = self.writes.payload
        begins_group = Signal()
        entry = Signal(range(BURST))
        m.d.comb += [
            used.written.eq(element.written),
            used.id.eq(element.head),
            used.flags.write.eq(element.written != 0),
            used.flags.avail.eq(~used_lap),
            used.flags.used.eq(~used_lap),
            following.eq(place.slot + element.ring_slots),
            wraps.eq(following >= size),
            begins_group.eq(element.more & ~grouped & ~self.in_order),
            entry.eq(count - merge),
            self.config.row.eq(element.row),
            places.read_row[0].eq(element.row),
            places.write_row.eq(row),
            places.write_value.eq(place),
            self.published.payload.row.eq(row),
            self.published.payload.place.eq(Cat(place.slot, ~place.lap)),
            self.published.payload.count.eq(advanced),
            self.published.payload.packets.eq(packets),
            write.addr.eq(entry >> (per_beat - 1).bit_length()),
            write.data.eq(used.as_value().replicate(per_beat)),
            read.addr.eq(beat >> (2 if width == 32 else 1 if width == 64 else 0)),
        ]

        def consume():
            """Take the element at hand; its descriptor was put somewhere."""
            m.d.comb += take.eq(1)
            m.d.sync += [advanced.eq(advanced + element.ring_slots), packets.eq(packets + ~element.more), place.slot.eq(following)]
            with m.If(wraps):
                m.d.sync += [place.slot.eq(following - size), place.lap.eq(~place.lap)]

        beat_data = Signal(width)
        if width >= 128:
            m.d.comb += [beat_data.word_select(2 * number, 64).eq(read.data.word_select(number, 64)) for number in range(per_beat)]
        elif width == 64:
            m.d.comb += beat_data.eq(Mux(beat[0], 0, read.data))
        else:
            m.d.comb += beat_data.eq(Mux(beat[1], 0, read.data.word_select(beat[0], 32)))

        def drive(address_of, length, content):
            """Put a write of half a descriptor and more on the bus; return whether its last beat goes."""
            last = Signal()
            m.d.comb += [
                self.writes.valid.eq(1),
                last.eq((beat + 1) * lanes >= length),
                out.header.address.eq(desc + (address_of.slot << 4) + 8),
                out.header.length.eq(length),
                out.first.eq(beat == 0),
                out.last.eq(last),
                out.empty.eq(Mux(last, ((beat + 1) * lanes - length)[:len(out.empty)], 0)),
                out.data.eq(content),
            ]
            with m.If(self.writes.ready):
                m.d.sync += beat.eq(beat + 1)
            return last & self.writes.ready

        with m.FSM(name="packed_used"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                m.d.sync += [count.eq(0), closed.eq(0), grouped.eq(0), ended.eq(0), open_batch.eq(0), advanced.eq(0),
                             packets.eq(0), row.eq(element.row)]
                with m.If(self.discard):
                    m.d.comb += [take.eq(waiting), self.port.pass_on.eq(~waiting)]
                with m.Elif(waiting & self.port.begin):
                    # The row's configuration and place are looked up in this cycle.
                    m.next = "LOAD"
                with m.Else():
                    m.d.comb += self.port.pass_on.eq(1)
            with m.State("LOAD"):
                m.d.sync += [size.eq(self.config.config.size), desc.eq(self.config.config.desc), place.eq(places.read_value[0])]
                m.next = "GATHER"
            with m.State("GATHER"):
                m.d.sync += beat.eq(0)
                with m.If(self.discard):
                    m.next = "IDLE"
                with m.Elif(waiting & (element.row == row) & (self.port.begin | grouped | open_batch) & ~ended & (~closed | merge)
                            & ~(begins_group & (count != 0))):
                    consume()
                    with m.If(begins_group):
                        m.d.sync += [grouped.eq(1), kept.eq(used), kept_place.eq(place)]
                    with m.Else():
                        m.d.comb += write.en.eq(1 if per_beat == 1 else (1 << entry[:(per_beat - 1).bit_length()])[:per_beat])
                        m.d.sync += [count.eq(entry + 1), ended.eq(grouped & ~element.more), open_batch.eq(element.more & self.in_order),
                                     last_full.eq(element.full), lap.eq(used_lap),
                                     closed.eq(merge | (element.ring_slots != 1) | wraps | (count == BURST - 1))]
                        with m.If(count == 0):
                            m.d.sync += first.eq(place)
                with m.Elif((~grouped | ended | closed) & ~open_batch):
                    m.next = "WRITE"
            with m.State("WRITE"):
                # 16 bytes each, but for the first half of the first.
                length = Signal(range(16 * BURST))
                m.d.comb += length.eq((count << 4) - 8)
                with m.If(drive(first, length, beat_data)):
                    m.d.sync += [count.eq(0), closed.eq(0), beat.eq(0)]
                    m.next = "PUBLISH"
                    with m.If(grouped):
                        m.next = "GATHER"
                        with m.If(ended):
                            m.next = "FIRST"
            with m.State("FIRST"):
                kept_bits = kept.as_value()
                with m.If(drive(kept_place, 8, kept_bits if width >= 64 else kept_bits.word_select(beat[0], 32))):
                    m.next = "PUBLISH"
            with m.State("PUBLISH"):
                m.d.comb += [self.published.valid.eq(1), places.write_valid.eq(self.published.ready)]
                with m.If(self.published.ready):
                    m.d.comb += self.port.pass_on.eq(1)
                    m.next = "IDLE"
        return m
