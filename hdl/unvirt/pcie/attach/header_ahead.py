# SPDX-License-Identifier: BSD-2-Clause
"""Shows the header of the next TLP while the data of the one before it is still being sent."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...stream.buffer import SkidBuffer
from ..tlp import TlpBeat

__all__ = ["HeaderAhead"]


class HeaderAhead(wiring.Component):
    """Splits a stream of TLPs that all have data into headers and data, the next header ahead of its data.

    A header is shown as soon as it is presented and may be taken before, or in the cycle in which, its beat finds room among the data. Latency of the
    data one cycle, of headers none; one beat per cycle. ``i.ready`` never depends on ``data.ready``. Reset empties it.

    Members
    -------
    i : ``In(stream.Signature(TlpBeat(header, data_width)))``
    headers : ``Out(stream.Signature(header))``
    data : ``Out(stream.Signature(data_width))``
        Data of the headers taken, in their order.
    """

    def __init__(self, header, data_width):
        self._data_width = data_width
        super().__init__({
            "i": In(stream.Signature(TlpBeat(header, data_width))),
            "headers": Out(stream.Signature(header)),
            "data": Out(stream.Signature(data_width)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.slice = data = SkidBuffer(self._data_width)
        wiring.connect(m, data.o, wiring.flipped(self.data))
        beat = self.i.payload
        gone = Signal()                # the header of the beat on show was taken
        taken, moved = Signal(), Signal()
        m.d.comb += [
            self.headers.payload.eq(beat.header),
            self.headers.valid.eq(self.i.valid & beat.first & ~gone),
            taken.eq(self.headers.valid & self.headers.ready),
            data.i.payload.eq(beat.data),
            data.i.valid.eq(self.i.valid & (~beat.first | gone | taken)),
            moved.eq(data.i.valid & data.i.ready),
            self.i.ready.eq(moved),
        ]
        m.d.sync += gone.eq((gone | taken) & ~moved)
        return m
