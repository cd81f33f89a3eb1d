# SPDX-License-Identifier: BSD-2-Clause
"""The used side: buffers go back to the driver, in the format that was negotiated.

    elements --> UsedInputs --> SplitUsedBursts, PackedUsedBursts --> UsedWrites --> writes, published
                 row by row     which elements make a write
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ..contract import QueueConfigPort
from .contract import Published, UsedElement
from .rows import Sweep, connect_sweep
from .used_inputs import MARKS, UsedInputs
from .used_packed_bursts import PackedUsedBursts
from .used_split_bursts import SplitUsedBursts
from .used_writes import UsedWrites

__all__ = ["UsedWriter"]


class UsedWriter(wiring.Component):
    """Used elements of several inputs: gathered into bursts for the split ring or, with ``packed``, for the packed one, and written.

    **Latency**: six cycles from an element to the first beat of its write. **Throughput**: one burst is written while the next is gathered: of one
    element each they take three cycles, in the packed ring four. **Ordering**: of a row elements, index, ``published``, each after the one before was
    accepted by the write engine. **Back-pressure**: 32 elements of each of up to 16 rows are taken, of more rows
    fewer each; what is more waits.

    Parameters
    ----------
    data_width, rows, inputs : int

    Members
    -------
    packed : ``In(1)``
        VIRTIO_F_RING_PACKED was negotiated; constant except while everything is quiet.
    in_order : ``In(1)``
        VIRTIO_F_IN_ORDER was negotiated.
    elements : ``In(stream.Signature(UsedElement)).array(inputs)``
    config : ``Out(QueueConfigPort)``
    writes : ``Out(stream.Signature(WriteBeat))``
    published : ``Out(stream.Signature(Published))``
    discard, sweep :
        As in the makers of bursts; a burst that is being written is completed, its index too.
    mark, passed :
        As in :class:`~unvirt.virtio.queue.used_inputs.UsedInputs`.
    urgent : ``Out(1)``
        A write has waited for 8192 / ``data_width`` cycles, or many elements wait.
    idle : ``Out(1)``
        Nothing is held.
    """

    def __init__(self, *, data_width, rows, inputs):
        self._data_width = data_width
        self._rows = rows
        self._inputs = inputs
        super().__init__({
            "packed": In(1),
            "in_order": In(1),
            "elements": In(stream.Signature(UsedElement(rows))).array(inputs),
            "config": Out(QueueConfigPort(rows)),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
            "published": Out(stream.Signature(Published(rows))),
            "discard": In(1),
            "mark": In(MARKS),
            "passed": Out(MARKS),
            "urgent": Out(1),
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.inputs = inputs = UsedInputs(rows=self._rows, inputs=self._inputs)
        m.submodules.split = split = SplitUsedBursts(rows=self._rows)
        m.submodules.packed = packed = PackedUsedBursts(rows=self._rows)
        m.submodules.writes = writes = UsedWrites(data_width=self._data_width, rows=self._rows)
        for number, source in enumerate(self.elements):
            connect(m, flipped(source), inputs.elements[number])
        connect(m, writes.writes, flipped(self.writes))
        connect(m, writes.published, flipped(self.published))
        connect_sweep(m, self.sweep, (inputs, split, packed))
        m.d.comb += [
            self.idle.eq(inputs.empty & split.idle & packed.idle & writes.idle),
            inputs.discard.eq(self.discard),
            inputs.mark.eq(self.mark),
            self.passed.eq(inputs.passed),
            self.urgent.eq(inputs.crowded | writes.urgent),
            inputs.port.done.eq(writes.done),
            writes.packed.eq(self.packed),
            writes.forget.eq(self.discard),
        ]
        for maker, mine in ((split, ~self.packed), (packed, self.packed)):
            m.d.comb += [
                maker.port.element.eq(inputs.port.element),
                maker.port.waiting.eq(inputs.port.waiting & mine),
                maker.port.coming.eq(inputs.port.coming),
                maker.port.begin.eq(inputs.port.begin & mine),
                maker.config.config.eq(self.config.config),
                maker.discard.eq(self.discard),
                maker.in_order.eq(self.in_order),
                maker.burst.room.eq(writes.port.room),
                maker.burst.free.eq(writes.port.free),
            ]
            with m.If(mine):
                m.d.comb += [
                    inputs.port.take.eq(maker.port.take),
                    inputs.port.pass_on.eq(maker.port.pass_on),
                    self.config.row.eq(maker.config.row),
                    writes.port.content.eq(maker.burst.content),
                    writes.port.put.eq(maker.burst.put),
                    writes.port.replace.eq(maker.burst.replace),
                    writes.port.burst.eq(maker.burst.burst),
                    writes.port.give.eq(maker.burst.give),
                ]
        return m
