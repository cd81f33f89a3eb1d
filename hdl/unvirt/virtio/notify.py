# SPDX-License-Identifier: BSD-2-Clause
"""Available buffer notifications: doorbells, and the look at every ring when the device starts."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import RegisterBusSignature
from .contract import Doorbell, row_width

__all__ = ["Notify"]


class Notify(wiring.Component):
    """Turns writes to the notify region into notifications [virtio 4.1.4.4].

    A doorbell is a write of at least 16 bits, with ``notification_data`` of 32, at 4 x row whose lower half is the row. It is passed on in the next
    cycle, one per cycle, if the queue is enabled and ``driver_ok`` is set then, and ignored otherwise. Reads give 0 after one cycle.
    When ``driver_ok``
    rises (also after a suspension), and when a queue is enabled after it, the queue is notified of without a doorbell [DER-INIT-01], in cycles
    without one.

    Members
    -------
    bus : ``In(RegisterBusSignature)``
    notification_data : ``In(1)``
        VIRTIO_F_NOTIFICATION_DATA was negotiated: the upper half is a hint.
    driver_ok, started, started_row : ``In``
    test_row, enabled : ``Out``/``In``
        Whether a queue is enabled (combinational).
    notifications : ``Out(stream.Signature(Doorbell))``
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "notification_data": In(1),
            "driver_ok": In(1),
            "started": In(1),
            "started_row": In(row_width(rows)),
            "test_row": Out(row_width(rows)),
            "enabled": In(1),
            "notifications": Out(stream.Signature(Doorbell(rows))),
        })

    def elaborate(self, platform):
        m = Module()
        access = self.bus.request.payload
        row = access.address[2:12]
        sweeping, sweep_row = Signal(), Signal(row_width(self._rows))
        was_ok = Signal()
        late, late_row = Signal(), Signal(row_width(self._rows))
        doorbell, rung_row, hint = Signal(), Signal(row_width(self._rows)), Signal(16)     # as it was written in the cycle before
        out = self.notifications

        m.d.comb += [
            self.bus.request.ready.eq(1),
            self.test_row.eq(Mux(doorbell, rung_row, Mux(late, late_row, sweep_row))),
            out.payload.row.eq(self.test_row),
            out.payload.hinted.eq(doorbell & self.notification_data),
            out.payload.hint.eq(hint),
            out.valid.eq((doorbell | late | sweeping) & self.enabled & self.driver_ok),
        ]
        m.d.sync += [
            self.bus.response_valid.eq(self.bus.request.valid & ~access.write),
            was_ok.eq(self.driver_ok),
            doorbell.eq(self.bus.request.valid & access.write & access.byte_enables[:2].all()
                        & (access.byte_enables[2:].all() | ~self.notification_data) & (access.data[:16] == row) & (row < self._rows)),
            rung_row.eq(row), hint.eq(access.data[16:]),
        ]
        with m.If(self.driver_ok & ~was_ok):
            m.d.sync += [sweeping.eq(1), sweep_row.eq(0)]
        with m.Elif(sweeping & ~doorbell & ~late):
            m.d.sync += sweep_row.eq(sweep_row + 1)
            with m.If((sweep_row == self._rows - 1) | ~self.driver_ok):
                m.d.sync += sweeping.eq(0)
        with m.If(self.started & self.driver_ok):
            m.d.sync += [late.eq(1), late_row.eq(self.started_row)]
        with m.Elif(late & ~doorbell):
            m.d.sync += late.eq(0)
        return m
