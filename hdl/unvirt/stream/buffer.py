# SPDX-License-Identifier: BSD-2-Clause
"""Register slices for streams."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["HalfBuffer", "SkidBuffer"]


class HalfBuffer(wiring.Component):
    """One-entry register slice that registers payload and ``valid`` only.

    Latency one cycle, one beat per cycle. A combinational path remains from ``o.ready`` to
    ``i.ready``. Reset empties it.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        Beats in.
    o : ``Out(stream.Signature(shape))``
        The same beats, in order, one cycle later or more.
    """

    def __init__(self, shape):
        Shape.cast(shape)
        self._shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
        })

    @property
    def shape(self):
        return self._shape

    def elaborate(self, platform):
        m = Module()
        held = Signal(self._shape, reset_less=True)
        m.d.comb += [self.i.ready.eq(self.o.ready | ~self.o.valid), self.o.payload.eq(held)]
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), held.eq(self.i.payload)]
        return m


class SkidBuffer(wiring.Component):
    """Two-entry register slice.

    Registers payload, ``valid`` and ``ready``; latency one cycle, one beat per cycle. There is no
    combinational path between ``i`` and ``o``. Reset empties it.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
        Beats in.
    o : ``Out(stream.Signature(shape))``
        The same beats, in order, one cycle later or more.
    """

    def __init__(self, shape):
        Shape.cast(shape)
        self._shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
        })

    @property
    def shape(self):
        return self._shape

    def elaborate(self, platform):
        m = Module()
        held = Signal(self._shape, reset_less=True)
        spill = Signal(self._shape, reset_less=True)
        spill_valid = Signal()

        m.d.comb += [self.i.ready.eq(~spill_valid), self.o.payload.eq(held)]
        with m.If(self.o.ready | ~self.o.valid):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spill_valid),
                held.eq(Mux(spill_valid, spill, self.i.payload)),
                spill_valid.eq(0),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += spill_valid.eq(1)
        with m.If(self.i.ready):
            m.d.sync += spill.eq(self.i.payload)
        return m
