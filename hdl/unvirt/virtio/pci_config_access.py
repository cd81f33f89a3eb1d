# SPDX-License-Identifier: BSD-2-Clause
"""The PCI configuration access capability [virtio 4.1.4.9]: registers through a window in configuration space."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import BAR0_SIZE, RegisterBusSignature
from ..pcie.contract import ConfigSignature

__all__ = ["PciConfigAccess"]

_BAR, _OFFSET, _LENGTH, _DATA = 1, 2, 3, 4


class PciConfigAccess(wiring.Component):
    """Gives the fields ``bar``, ``offset``, ``length`` and ``pci_cfg_data`` of the capability.

    An access to the data field is a register access of ``length`` bytes at ``offset`` of BAR ``bar``, with all its side effects. A window that is
    not 1, 2 or 4 aligned bytes inside BAR 0 reads 0 and changes nothing. Other fields answer in one cycle, the data field two cycles behind its
    register.

    Parameters
    ----------
    capability : int
        Byte offset of the capability in configuration space.

    Members
    -------
    config : ``In(ConfigSignature)``
    bus : ``Out(RegisterBusSignature)``
    clear : ``In(1)``
        Function reset: the fields return to 0.
    """

    def __init__(self, *, capability):
        if capability % 4:
            raise ValueError(f"Capability offset must be a multiple of 4, not {capability!r}")
        self._first = capability // 4
        super().__init__({
            "config": In(ConfigSignature()),
            "bus": Out(RegisterBusSignature()),
            "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        request = self.config.request.payload
        bar, offset, length = Signal(8), Signal(32), Signal(32)
        low = offset[:2]
        legal = Signal()
        enables = Signal(4)
        answer = Signal(32)
        byte = Signal()     # a length of 1
        half = Signal()     # a length of 2

        m.d.comb += [byte.eq(length == 1), half.eq(length == 2)]
        with m.If(byte):
            m.d.comb += [legal.eq(1), enables.eq(1 << low)]
        with m.Elif(half):
            m.d.comb += [legal.eq(~low[0]), enables.eq(3 << low)]
        with m.Elif(length == 4):
            m.d.comb += [legal.eq(low == 0), enables.eq(0xF)]

        # What the fields say, and the request on show, are made an access a cycle before there is one.
        inside = Signal()
        narrow = Signal(2)      # without the second byte, without the upper half
        bus = self.bus.request
        m.d.sync += [
            inside.eq(legal & (bar == 0) & (offset < BAR0_SIZE)), narrow.eq(Cat(byte, byte | half)),
            bus.payload.function.eq(request.function),
            bus.payload.address.eq(Cat(C(0, 2), offset[2:16])),
            bus.payload.write.eq(request.write),
            bus.payload.byte_enables.eq(enables),
            bus.payload.data.eq((request.data << (low << 3))[:32]),
        ]
        m.d.comb += self.config.data.eq(answer)

        def write(register):
            for byte in range(len(register) // 8):
                with m.If(request.byte_enables[byte]):
                    m.d.sync += register.word_select(byte, 8).eq(request.data.word_select(byte, 8))

        with m.FSM(name="pci_config_access"):
            with m.State("IDLE"):
                with m.If(self.config.request.valid):
                    m.d.sync += answer.eq(0)
                    m.next = "ACK"
                    with m.Switch(request.address):
                        with m.Case(self._first + _DATA):
                            with m.If(inside & request.byte_enables.any()):
                                m.next = "ACCESS"
                        for field, register in ((_BAR, bar), (_OFFSET, offset), (_LENGTH, length)):
                            with m.Case(self._first + field):
                                with m.If(request.write):
                                    write(register)
                                with m.Else():
                                    m.d.sync += answer.eq(register)
            with m.State("ACCESS"):
                m.d.comb += bus.valid.eq(1)
                with m.If(bus.ready):
                    m.next = "ANSWER"
                    with m.If(request.write):
                        m.next = "ACK"
            with m.State("ANSWER"):
                with m.If(self.bus.response_valid):
                    m.d.sync += answer.eq(self.bus.response_data)
                    m.next = "SHIFT"
            with m.State("SHIFT"):
                # The field's first bytes are the first bytes of the register.
                value = answer >> (low << 3)
                m.d.sync += answer.eq(Cat(value[:8], value[8:16] & ~narrow[0].replicate(8), value[16:] & ~narrow[1].replicate(16)))
                m.next = "ACK"
            with m.State("ACK"):
                m.d.comb += [self.config.ack.eq(1), self.config.request.ready.eq(1)]
                m.next = "IDLE"
        with m.If(self.clear):
            m.d.sync += [bar.eq(0), offset.eq(0), length.eq(0)]
        return m
