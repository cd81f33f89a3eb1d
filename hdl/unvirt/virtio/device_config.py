# SPDX-License-Identifier: BSD-2-Clause
"""The device-specific configuration structure: bytes that the personality gives."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import RegisterBusSignature

__all__ = ["DeviceConfigSpace"]


class DeviceConfigSpace(wiring.Component):
    """Read-only registers; writes have no effect, bytes beyond the structure read 0.

    A read answers in one cycle with the value of the cycle in which it was taken. ``changed`` pulses in the first cycle in which a read sees
    a new value [DER-CFG-03]. While ``freeze`` reads see the value from before; what changed meanwhile is seen, and told, when it falls.

    Members
    -------
    bus : ``In(RegisterBusSignature)``
    freeze : ``In(1)``
    value : ``In(size)``
        The structure, byte 0 lowest.
    changed : ``Out(1)``
    """

    def __init__(self, *, size):
        self._size = size
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "freeze": In(1),
            "value": In(8 * size),
            "changed": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        words = -(-self._size // 4)
        shown = Signal(32 * words)
        primed = Signal()
        access = self.bus.request.payload
        with m.If(~self.freeze):
            m.d.sync += shown.eq(self.value)
        m.d.sync += [
            primed.eq(1),
            self.changed.eq(primed & ~self.freeze & (shown != self.value)),
            self.bus.response_valid.eq(self.bus.request.valid & ~access.write),
            self.bus.response_data.eq(0),
        ]
        m.d.comb += self.bus.request.ready.eq(1)
        with m.Switch(access.address[2:12]):
            for word in range(words):
                with m.Case(word):
                    m.d.sync += self.bus.response_data.eq(shown.word_select(word, 32))
        return m
