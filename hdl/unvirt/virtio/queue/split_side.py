# SPDX-License-Identifier: BSD-2-Clause
"""The available side of split rings.

    visits -> avail -> index, ring reads
                ^ lines finished
    ring lines -+-> ring parser -> chains, descriptor reads
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..contract import QueueConfigPort
from .avail import AvailController
from .reads import ContextFree, LineAnswer, LinePortSignature, LineRead, SmallAnswer, SmallRead
from .ring import RingParser
from .ring_side import RingSideSignature
from .rows import connect_sweep

__all__ = ["SplitSide"]


class SplitSide(wiring.Component):
    """From doorbells to chains and reads of their descriptors [virtio 2.7.6].

    Members
    -------
    side : ``Out(RingSideSignature)``
    index_reads, index_answers : ``Out``/``In`` streams
    ring_reads, ring_answers : ``Out``/``In`` streams
    port, free : ``Out``
        Bytes of a line of ring entries, and its way back to the pool.
    config : ``Out(QueueConfigPort)``
        A second reader.
    """

    def __init__(self, *, data_width, rows, contexts, slots, window):
        self._sizes = {"data_width": data_width, "rows": rows}
        self._contexts = contexts
        self._slots = slots
        self._window = window
        super().__init__({
            "side": Out(RingSideSignature(data_width, rows, slots)),
            "index_reads": Out(stream.Signature(SmallRead(rows))),
            "index_free": In(1),
            "ring_free": In(1),
            "index_answers": In(stream.Signature(SmallAnswer(rows))),
            "ring_reads": Out(stream.Signature(LineRead(rows))),
            "ring_answers": In(stream.Signature(LineAnswer(rows, contexts))),
            "port": Out(LinePortSignature(data_width, contexts)),
            "free": Out(ContextFree(rows, contexts)),
            "config": Out(QueueConfigPort(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.avail = avail = AvailController(**self._sizes, slots=self._slots, window=self._window,
                                                       lines=max(1, 3 * self._contexts // 64))
        m.submodules.ring = ring = RingParser(**self._sizes, contexts=self._contexts)
        side = self.side
        connect(m, flipped(side.visits), avail.visits)
        connect(m, avail.again, flipped(side.again))
        connect(m, avail.flags, flipped(side.flags))
        connect(m, avail.config, flipped(side.config))
        connect_sweep(m, side.sweep, (avail, ring))
        connect(m, avail.index_reads, flipped(self.index_reads))
        connect(m, flipped(self.index_answers), avail.index_answers)
        connect(m, avail.ring_reads, flipped(self.ring_reads))
        connect(m, flipped(self.ring_answers), ring.answers)
        connect(m, ring.port, flipped(self.port))
        connect(m, ring.free, flipped(self.free))
        connect(m, ring.config, flipped(self.config))
        connect(m, ring.chains, flipped(side.chains))
        connect(m, ring.reads, flipped(side.reads))
        connect(m, ring.finished, avail.finished)
        m.d.comb += [
            avail.event_idx.eq(side.event_idx),
            avail.drain.eq(side.drain),
            avail.hold.eq(side.hold),
            avail.index_free.eq(self.index_free),
            avail.ring_free.eq(self.ring_free),
            ring.drain.eq(side.drain),
            avail.row_drain.eq(side.row_drain),
            ring.row_drain.eq(side.row_drain),
            side.row_clean.eq(avail.row_clean),
            avail.notified_valid.eq(side.notified_valid),
            avail.notified.eq(side.notified),
            side.rung_row.eq(avail.rung_row),
            avail.rung.eq(side.rung),
            side.rung_clear.eq(avail.rung_clear),
            side.retired_row.eq(avail.retired_row),
            avail.retired.eq(side.retired),
            avail.coming_row.eq(side.coming_row),
            side.coming.eq(avail.coming),
            avail.free_slots.eq(side.free_slots),
            avail.unused.eq(ring.unused),
            avail.added.eq(ring.chains.valid & ring.chains.ready),
            side.room_row.eq(ring.room_row),
            ring.room.eq(side.room),
            side.violation.eq(avail.violation | ring.violation),
            side.idle.eq(avail.idle & ring.idle),
        ]
        return m
