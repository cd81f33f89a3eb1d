# SPDX-License-Identifier: BSD-2-Clause
"""What both ring formats have in common towards the fetch side, and the choice between them."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ..contract import Doorbell, QueueConfigPort, row_width
from .chains import ChainAdd
from .contract import RowDrain
from .reads import LineRead
from .rows import Sweep, connect_sweep

__all__ = ["RingSelect", "RingSideSignature"]


def RingSideSignature(data_width, rows, slots):
    """The available side of a ring format, as it sees itself: from doorbells to chains and reads of their descriptors.

    Members
    -------
    drain : ``In(1)``
        Nothing new is asked for; what comes is given back.
    hold : ``In(1)``
        Nothing new is asked for; what comes becomes chains. Once it has fallen each row is to be notified of.
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset, which is not enabled; nothing of its ring is under way. It is to be visited until then.
    event_idx : ``In(1)``
        VIRTIO_F_EVENT_IDX was negotiated.
    visits, again : streams
        Rows to serve, and those that could not go on for want of room: back to the scheduler's tail.
    turn, others : ``In(1)``
        The row on show comes from the scheduler, so that it is its turn; some other row waits there.
    notified_valid, notified : ``In``, ``In(Doorbell)``
        The doorbells themselves, never stalled.
    rung_row, rung, rung_clear : ``Out``/``In``/``Out``
        Whether that row was notified (synchronous), and that this was seen.
    reads : ``Out(stream.Signature(LineRead))``
        Of descriptors; ``room_row``, ``room``: whether that row may have another (synchronous).
    chains : ``Out(stream.Signature(ChainAdd))``
        Heads, in ring order.
    flags : ``Out(stream.Signature(WriteBeat))``
        Notification suppression.
    retired_row, retired : ``Out``/``In``
        Position after the last chain given back (synchronous).
    coming_row, coming : ``In``/``Out``
        Whether entries of that row may be on their way (synchronous). It falls only when the last of them has become a chain.
    free_slots : ``In``
        Slots in the pool.
    config : ``Out(QueueConfigPort)``
    violation, idle : ``Out(1)``
    sweep : ``In``
    """
    row = row_width(rows)
    return wiring.Signature({
        "drain": In(1),
        "hold": In(1),
        "row_drain": In(RowDrain(rows)),
        "row_clean": Out(1),
        "event_idx": In(1),
        "visits": In(stream.Signature(row)),
        "turn": In(1),
        "others": In(1),
        "again": Out(stream.Signature(row)),
        "notified_valid": In(1),
        "notified": In(Doorbell(rows)),
        "rung_row": Out(row),
        "rung": In(1),
        "rung_clear": Out(1),
        "reads": Out(stream.Signature(LineRead(rows))),
        "room_row": Out(row),
        "room": In(1),
        "chains": Out(stream.Signature(ChainAdd(rows))),
        "flags": Out(stream.Signature(WriteBeat(data_width))),
        "retired_row": Out(row),
        "retired": In(16),
        "coming_row": In(row),
        "coming": Out(1),
        "free_slots": In(range(slots + 1)),
        "config": Out(QueueConfigPort(rows)),
        "violation": Out(1),
        "idle": Out(1),
        "sweep": In(Sweep(rows)),
    })


class RingSelect(wiring.Component):
    """One of two sides; combinational.

    Members
    -------
    packed : ``In(1)``
        The second one; constant except while everything is quiet.
    split_side, packed_side : ``In(RingSideSignature)``
    o : ``Out(RingSideSignature)``
        The one that is chosen. The other sees no visit, no doorbell and no answer.
    """

    def __init__(self, *, data_width, rows, slots):
        side = RingSideSignature(data_width, rows, slots)
        super().__init__({"packed": In(1), "split_side": In(side), "packed_side": In(side), "o": Out(side)})

    def elaborate(self, platform):
        m = Module()
        sides = self.split_side, self.packed_side
        connect_sweep(m, self.o.sweep, sides)
        for side, mine in zip(sides, (~self.packed, self.packed)):
            for name in ("drain", "hold", "row_drain", "event_idx", "turn", "others", "notified", "rung", "room", "retired", "coming_row",
                         "free_slots"):
                m.d.comb += getattr(side, name).eq(getattr(self.o, name))
            m.d.comb += [
                side.notified_valid.eq(self.o.notified_valid & mine),
                side.config.config.eq(self.o.config.config),
                side.visits.payload.eq(self.o.visits.payload),
                side.visits.valid.eq(self.o.visits.valid & mine),
            ]
            for name in ("again", "reads", "chains", "flags"):
                m.d.comb += getattr(side, name).ready.eq(getattr(self.o, name).ready & mine)
            with m.If(mine):
                for name in ("again", "reads", "chains", "flags"):
                    m.d.comb += [getattr(self.o, name).valid.eq(getattr(side, name).valid),
                                 getattr(self.o, name).payload.eq(getattr(side, name).payload)]
                m.d.comb += [
                    self.o.visits.ready.eq(side.visits.ready),
                    self.o.config.row.eq(side.config.row),
                    self.o.rung_row.eq(side.rung_row),
                    self.o.rung_clear.eq(side.rung_clear),
                    self.o.room_row.eq(side.room_row),
                    self.o.retired_row.eq(side.retired_row),
                    self.o.coming.eq(side.coming),
                    self.o.row_clean.eq(side.row_clean),
                ]
        m.d.comb += [
            self.o.violation.eq(Cat(side.violation for side in sides).any()),
            self.o.idle.eq(Cat(side.idle for side in sides).all()),
        ]
        return m
