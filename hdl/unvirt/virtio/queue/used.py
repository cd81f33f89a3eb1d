# SPDX-License-Identifier: BSD-2-Clause
"""The used side: buffers go back to the driver, in the format that was negotiated."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ..contract import QueueConfigPort
from .contract import Published, UsedElement
from .rows import Sweep, connect_sweep
from .used_inputs import MARKS, UsedInputs
from .used_packed import PackedUsedWriter
from .used_split import SplitUsedWriter

__all__ = ["UsedWriter"]


class UsedWriter(wiring.Component):
    """Used elements of several inputs, written by :class:`~unvirt.virtio.queue.used_split.SplitUsedWriter` or, with ``packed``, by
    :class:`~unvirt.virtio.queue.used_packed.PackedUsedWriter`.

    **Latency**: four cycles from an element to the first beat of its write. **Back-pressure**: each input takes 32 elements, then waits.

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
    config, writes, published, discard, sweep :
        As in the writers.
    mark, passed :
        As in :class:`~unvirt.virtio.queue.used_inputs.UsedInputs`.
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
            "idle": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.inputs = inputs = UsedInputs(rows=self._rows, inputs=self._inputs)
        m.submodules.split = split = SplitUsedWriter(data_width=self._data_width, rows=self._rows)
        m.submodules.packed = packed = PackedUsedWriter(data_width=self._data_width, rows=self._rows)
        for number, source in enumerate(self.elements):
            connect(m, flipped(source), inputs.elements[number])
        connect_sweep(m, self.sweep, (split, packed))
        m.d.comb += [
            self.idle.eq(inputs.empty & split.idle & packed.idle),
            inputs.mark.eq(self.mark),
            self.passed.eq(inputs.passed),
        ]
        for writer, mine in ((split, ~self.packed), (packed, self.packed)):
            m.d.comb += [
                writer.port.element.eq(inputs.port.element),
                writer.port.waiting.eq(inputs.port.waiting & mine),
                writer.port.begin.eq(inputs.port.begin & mine),
                writer.config.config.eq(self.config.config),
                writer.discard.eq(self.discard),
                writer.in_order.eq(self.in_order),
                writer.writes.ready.eq(self.writes.ready & mine),
                writer.published.ready.eq(self.published.ready & mine),
            ]
            with m.If(mine):
                m.d.comb += [
                    inputs.port.take.eq(writer.port.take),
                    inputs.port.pass_on.eq(writer.port.pass_on),
                    self.config.row.eq(writer.config.row),
                    self.writes.valid.eq(writer.writes.valid),
                    self.writes.payload.eq(writer.writes.payload),
                    self.published.valid.eq(writer.published.valid),
                    self.published.payload.eq(writer.published.payload),
                ]
        return m
