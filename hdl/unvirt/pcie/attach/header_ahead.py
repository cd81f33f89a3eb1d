# SPDX-License-Identifier: BSD-2-Clause
"""Shows the header of the next TLP while the data of the one before it is still being sent."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.buffer import HalfBuffer, SkidBuffer
from ..tlp import TlpBeat

__all__ = ["HeaderAhead"]


class HeaderAhead(wiring.Component):
    """Splits a stream of TLPs that all have data into headers and data, the next header ahead of its data.

    Latency one cycle, one beat per cycle, no bubble between TLPs. The ``ready`` of ``i`` depends on that of ``headers`` combinationally,
    not on that of ``data``. Reset empties both.

    Members
    -------
    i : ``In(stream.Signature(TlpBeat(header, data_width)))``
    headers : ``Out(stream.Signature(header))``
    data : ``Out(stream.Signature(data_width))``
        Data of the headers taken, in their order.
    """

    def __init__(self, header, data_width):
        self._header = header
        self._data_width = data_width
        super().__init__({
            "i": In(stream.Signature(TlpBeat(header, data_width))),
            "headers": Out(stream.Signature(header)),
            "data": Out(stream.Signature(data_width)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.header_slice = header = HalfBuffer(self._header)
        m.submodules.data_slice = data = SkidBuffer(self._data_width)
        wiring.connect(m, header.o, wiring.flipped(self.headers))
        wiring.connect(m, data.o, wiring.flipped(self.data))
        beat = self.i.payload
        m.d.comb += [
            header.i.payload.eq(beat.header),
            data.i.payload.eq(beat.data),
            header.i.valid.eq(self.i.valid & beat.first & data.i.ready),
            data.i.valid.eq(self.i.valid & (~beat.first | header.i.ready)),
            self.i.ready.eq(data.i.ready & (~beat.first | header.i.ready)),
        ]
        return m
