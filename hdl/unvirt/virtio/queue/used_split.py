# SPDX-License-Identifier: BSD-2-Clause
"""The used ring of the split virtqueue: elements gathered into bursts, the index published once per burst [virtio 2.7.8]."""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ...stream.ring import wrap_sub
from ..contract import QueueConfigPort, row_width
from .contract import Published
from .rows import RowMemory, Sweep, connect_sweep
from .used_inputs import BURST, UsedPortSignature

__all__ = ["SplitUsedWriter"]


class SplitUsedWriter(wiring.Component):
    """Writes used elements and indices.

    Consecutive elements of one row make a burst; it ends when nothing waits behind it, at 32, at the end of the ring, or before an element of
    another row. Then the next input with elements has its turn. An element with ``more`` set is not published before its successors: the index
    waits for the end of the group, even over several writes [NET-RX-04]. With ``in_order`` an element stands for those before it in the burst that
    were used completely, in the slot of the first of them [SPLIT-INORD-03].

    **Latency**: three cycles from an element at ``port`` to the first beat of its write, one more if it was another input's turn. **Throughput**:
    a burst takes a cycle for each element (two with 32 bits), its beats, and five; the index is one of these. **Ordering**: elements, then index,
    then ``published``, each after the one before was accepted by the write engine, which keeps their order on the link.

    With ``discard`` elements vanish; a write that began is completed, its index too if it ends a group. ``sweep`` clears the index of a row
    while everything is quiet.

    Parameters
    ----------
    data_width, rows : int

    Members
    -------
    port : ``Out(UsedPortSignature)``
    config : ``Out(QueueConfigPort)``
    writes : ``Out(stream.Signature(WriteBeat))``
    published : ``Out(stream.Signature(Published))``
        ``place`` is the used index.
    in_order : ``In(1)``
        VIRTIO_F_IN_ORDER was negotiated.
    discard : ``In(1)``, idle : ``Out(1)``
        Nothing is held.
    sweep : ``In``

    Spec
    ----
    [virtio 2.7.8] The Virtqueue Used Ring
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
        lanes = self._data_width // 8
        m.submodules.index = index = RowMemory(16, rows=self._rows, readers=1)
        connect_sweep(m, self.sweep, (index,))
        element, waiting, begin, take = self.port.element, self.port.waiting, self.port.begin, self.port.take

        # The burst, packed as it will be written.
        m.submodules.burst = burst = memory.Memory(shape=self._data_width,
                                                   depth=BURST * 64 // self._data_width or 1,
                                                   init=[])
        per_beat = max(1, self._data_width // 64)
        per_element = max(1, 64 // self._data_width)
        write = burst.write_port(granularity=min(64, self._data_width))
        read = burst.read_port(domain="comb")

        row = Signal(row_width(self._rows))
        old, start = Signal(16), Signal(16)      # first index of the burst; of what is not yet published
        count = Signal(range(BURST + 1))
        half = Signal()                          # second half of an element, on a 32-bit bus
        open_group = Signal()                    # the last element gathered has successors to come
        size, device = Signal(16), Signal(64)
        beat = Signal(range(BURST * 64 // self._data_width + 1))
        resume = Signal()                        # an index is owed to elements already written
        packets = Signal(16)                     # groups that end among what is not yet published
        slot = Signal(16)
        m.d.comb += slot.eq(old & (size - 1))
        # With IN_ORDER: entries written for the elements gathered, whether one more would replace the last, and whether one stands for several.
        entries = Signal(range(BURST + 1))
        last_full, merged = Signal(), Signal()
        merge = self.in_order & last_full & (count != 0)
        entry = Signal(range(BURST))
        m.d.comb += entry.eq(entries - merge)
        # An element that has to lie behind a batch would leave a hole before it.
        fits = (count < Mux(size - slot < BURST, size - slot, BURST)[:6]) & ~(merged & ~last_full)
        content = Cat(element.head, C(0, 16), element.written, C(0, 32 - len(element.written)))

        out = self.writes.payload
        length = Signal(16)
        m.d.comb += [
            self.config.row.eq(element.row),
            index.read_row[0].eq(element.row),
            index.write_row.eq(row),
            index.write_value.eq(old),
            self.published.payload.row.eq(row),
            self.published.payload.place.eq(old),
            self.published.payload.count.eq(wrap_sub(old, start)),
            self.published.payload.packets.eq(packets),
            out.header.length.eq(length),
            read.addr.eq(beat),
        ]
        if per_beat > 1:
            m.d.comb += [
                write.addr.eq(entry >> (per_beat.bit_length() - 1)),
                write.data.eq(content.replicate(per_beat)),
                write.en.eq(0),
            ]
        else:
            m.d.comb += [
                write.addr.eq(Cat(half, entry) if per_element > 1 else entry),
                write.data.eq(Mux(half, content[32:], content[:32]) if per_element > 1
                              else content),
            ]

        def gather():
            """Put the element at hand, or half of it, into the burst."""
            if per_beat > 1:
                m.d.comb += write.en.eq((1 << entry[:per_beat.bit_length() - 1])[:per_beat])
            else:
                m.d.comb += write.en.eq(1)
            if per_element > 1:
                m.d.sync += half.eq(~half)
            m.d.comb += take.eq(half if per_element > 1 else 1)
            with m.If(take):
                m.d.sync += [count.eq(count + 1), open_group.eq(element.more), entries.eq(entry + 1),
                             last_full.eq(element.full), merged.eq(merged | merge), packets.eq(packets + ~element.more)]

        with m.FSM(name="split_used"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~resume)
                m.d.sync += [count.eq(0), entries.eq(0), merged.eq(0), half.eq(0), row.eq(element.row)]
                with m.If(~resume):
                    m.d.sync += packets.eq(0)
                with m.If(self.discard):
                    m.d.comb += take.eq(1)
                    m.d.sync += [resume.eq(0), open_group.eq(0)]
                    with m.If(~waiting):
                        m.d.comb += self.port.pass_on.eq(1)
                with m.Elif(waiting & (begin | resume)):
                    # The row's configuration and index are looked up in this cycle.
                    m.next = "LOAD"
                with m.Elif(~resume):
                    m.d.comb += self.port.pass_on.eq(1)
            with m.State("LOAD"):
                m.d.sync += [size.eq(self.config.config.size),
                             device.eq(self.config.config.device)]
                with m.If(~resume):
                    m.d.sync += [old.eq(index.read_value[0]), start.eq(index.read_value[0])]
                # There is always room for one.
                gather()
                m.next = "GATHER"
            with m.State("GATHER"):
                m.d.sync += beat.eq(0)
                with m.If(self.discard):
                    m.next = "IDLE"
                with m.Elif(waiting & (element.row == row) & fits & (begin | open_group | half)):
                    gather()
                with m.Elif(~open_group | ~fits):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += [
                    self.writes.valid.eq(1),
                    length.eq(entries << 3),
                    out.header.address.eq(device + 4 + (slot << 3)),
                    out.data.eq(read.data),
                    out.first.eq(beat == 0),
                    out.last.eq((beat + 1) * lanes >= length),
                    out.empty.eq(Mux(out.last, ((beat + 1) * lanes - length)[:len(out.empty)], 0)),
                ]
                with m.If(self.writes.ready):
                    m.d.sync += beat.eq(beat + 1)
                    with m.If(out.last):
                        m.d.sync += [old.eq(old + count), resume.eq(open_group)]
                        m.next = "INDEX"
                        with m.If(open_group):
                            m.next = "IDLE"
            with m.State("INDEX"):
                m.d.comb += [
                    self.writes.valid.eq(1),
                    length.eq(2),
                    out.header.address.eq(device + 2),
                    out.data.eq(old),
                    out.first.eq(1),
                    out.last.eq(1),
                    out.empty.eq(lanes - 2),
                ]
                with m.If(self.writes.ready):
                    m.d.comb += index.write_valid.eq(1)
                    m.next = "PUBLISH"
            with m.State("PUBLISH"):
                m.d.comb += self.published.valid.eq(1)
                with m.If(self.published.ready):
                    m.d.comb += self.port.pass_on.eq(1)
                    m.next = "IDLE"
        return m
