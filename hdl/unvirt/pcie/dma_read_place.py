# SPDX-License-Identifier: BSD-2-Clause
"""Back of the read engine: from payload beats to byte lanes of the clients' memories."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..stream.rotate import rotate_left
from .dma import GRANULE_SIZE, LaneWriteSignature

__all__ = ["LanePlacer"]

_GRANULE_BITS = (GRANULE_SIZE - 1).bit_length()


class LanePlacer(wiring.Component):
    """Rotates payload beats into place and follows a buffer from granule to granule.

    One beat per cycle; ``write`` comes one cycle after the beat. Byte lanes that hold nothing of
    the read are never enabled.

    Parameters
    ----------
    data_width : int
        Bits of a beat.
    buffer_width : int
        Bits of a buffer address, the wider of both clients.

    Members
    -------
    valid, first, data : ``In``
        A beat.
    skip : ``In(2)``
        On the first beat: bytes of its first DW that precede the data.
    start : ``In(buffer_width)``
        On the first beat: buffer address of the first byte of data.
    end : ``In(10)``
        On the first beat: bytes of the completion up to the last one wanted, the skipped ones included.
    enable : ``In(1)``
        Write the beat.
    granule, granule_next : ``Out``/``In``
        Look-up of the granule that follows, combinational.
    position : ``Out(buffer_width)``
        Buffer address behind this beat's last byte.
    complete : ``Out(1)``
        This beat has the last byte wanted.
    write : ``Out(LaneWriteSignature)``
        The write, to both clients' memories; enables are zero if the beat was not ``enable``.
    """

    def __init__(self, *, data_width, buffer_width):
        self._data_width = data_width
        self._granule_width = buffer_width - _GRANULE_BITS
        super().__init__({
            "valid": In(1),
            "first": In(1),
            "data": In(data_width),
            "skip": In(2),
            "start": In(buffer_width),
            "end": In(10),
            "enable": In(1),
            "granule": Out(self._granule_width),
            "granule_next": In(self._granule_width),
            "position": Out(buffer_width),
            "complete": Out(1),
            "write": Out(LaneWriteSignature(data_width, buffer_width)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._data_width // 8
        lane_bits = (lanes - 1).bit_length()

        position = Signal(len(self.start), reset_less=True)   # of later beats
        left = Signal(10, reset_less=True)

        here = Signal(len(self.start))
        skip = Signal(2)
        end = Signal(10)
        taken = Signal(range(lanes + 1))   # of this beat, skipped bytes included
        m.d.comb += [
            here.eq(Mux(self.first, self.start, position)),
            skip.eq(Mux(self.first, self.skip, 0)),
            end.eq(Mux(self.first, self.end, left)),
            self.complete.eq(end <= lanes),
            taken.eq(Mux(self.complete, end, lanes)),
            self.granule.eq(here[_GRANULE_BITS:]),
        ]

        # Lane 0 lies at buffer offset `base`, which is before the granule if the skipped bytes
        # would be.
        offset = here[:_GRANULE_BITS]
        base = Signal(signed(_GRANULE_BITS + 1))
        word = Signal(_GRANULE_BITS - lane_bits)
        amount = Signal(lane_bits)
        m.d.comb += [
            base.eq(offset - skip),
            amount.eq(base[:lane_bits]),
            word.eq(base[lane_bits:_GRANULE_BITS]),
        ]
        crosses = word.all() & ~base[_GRANULE_BITS]
        enables = Signal(lanes)
        m.d.comb += enables.eq(Cat((C(lane, lane_bits + 1) >= skip) & (lane < taken)
                                   for lane in range(lanes)))
        placed = rotate_left(m, enables, amount, unit=1)
        turned = rotate_left(m, self.data, amount)
        high = Cat(C(lane, lane_bits + 1) < amount for lane in range(lanes))
        with m.If(self.valid):
            m.d.sync += [
                self.write.data.eq(turned),
                self.write.high.eq(high),
                self.write.address_low.eq(Cat(word, self.granule)),
                self.write.address_high.eq(Cat((word + 1)[:len(word)],
                                               Mux(crosses, self.granule_next, self.granule))),
            ]
        m.d.sync += self.write.enable.eq(Mux(self.valid & self.enable, placed, 0))

        next_offset = Signal(_GRANULE_BITS + 1)
        m.d.comb += [
            next_offset.eq(base + taken),
            self.position.eq(Cat(next_offset[:_GRANULE_BITS],
                                 Mux(next_offset[_GRANULE_BITS], self.granule_next,
                                     self.granule))),
        ]
        with m.If(self.valid):
            m.d.sync += [position.eq(self.position), left.eq(end - lanes)]
        return m
