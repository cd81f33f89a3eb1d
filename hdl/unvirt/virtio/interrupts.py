# SPDX-License-Identifier: BSD-2-Clause
"""From events to interrupts: MSI-X messages, or the ISR status and INTx [virtio 4.1.4.5, 4.1.5.1.3]."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import RegisterBusSignature
from ..pcie.dma import InterruptRequest
from .contract import Notification, QueueConfigPort
from .spec import ISR_CONFIG, ISR_QUEUE

__all__ = ["Interrupts"]


class Interrupts(wiring.Component):
    """Decides how an event is told to the driver, and holds the ISR status.

    Queue events take three cycles, configuration events two; they are merged while one waits. With MSI-X enabled an event becomes a request for
    its vector, or nothing if it has none; otherwise it sets its ISR bit. A configuration event always sets its ISR bit, before any message is
    sent [PCI-ISR-02]. A read of the ISR returns and clears it in one cycle if its first byte is enabled; an event of the same cycle stays set
    [DER-RACE-05]. ``forget`` drops everything.

    Members
    -------
    bus : ``In(RegisterBusSignature)``
        The ISR region.
    events : ``In(stream.Signature(Notification))``
    config_event : ``In(1)``
        Pulse.
    config_vector : ``In(16)``
    configs : ``Out(QueueConfigPort)``
    msix_enable, forget : ``In(1)``
    requests : ``Out(stream.Signature(InterruptRequest))``
    intx : ``Out(1)``
        Level: some ISR bit is set and MSI-X is off.
    idle : ``Out(1)``
    """

    def __init__(self, *, rows):
        self._rows = rows
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "events": In(stream.Signature(Notification(rows))),
            "config_event": In(1),
            "config_vector": In(16),
            "configs": Out(QueueConfigPort(rows)),
            "msix_enable": In(1),
            "forget": In(1),
            "requests": Out(stream.Signature(InterruptRequest)),
            "intx": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        isr = Signal(2)
        set_isr, clear_isr = Signal(2), Signal()
        config_waits = Signal()
        vector = Signal(11)
        no_config_vector, no_vector = self.config_vector[15], self.configs.config.vector[15]     # no vector but NO_VECTOR is that large
        access = self.bus.request.payload

        m.d.comb += [
            self.bus.request.ready.eq(1),
            clear_isr.eq(self.bus.request.valid & ~access.write & access.byte_enables[0]
                         & (access.address[:12] == 0)),
            self.intx.eq(isr.any() & ~self.msix_enable),
            self.requests.payload.vector.eq(vector),
            self.configs.row.eq(self.events.payload.row),
        ]
        m.d.sync += [
            self.bus.response_valid.eq(self.bus.request.valid & ~access.write),
            self.bus.response_data.eq(Mux(access.address[:12] == 0, isr, 0)),
            isr.eq((Mux(clear_isr, 0, isr) | set_isr) & ~self.forget.replicate(2)),
        ]
        with m.If(self.config_event):
            m.d.sync += config_waits.eq(1)

        with m.FSM(name="interrupts"):
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(~config_waits & ~self.events.valid & ~self.config_event)
                with m.If(config_waits):
                    m.d.comb += set_isr[ISR_CONFIG].eq(1)
                    with m.If(~self.config_event):
                        m.d.sync += config_waits.eq(0)
                    m.d.sync += vector.eq(self.config_vector)
                    with m.If(self.msix_enable & ~no_config_vector):
                        m.next = "REQUEST"
                with m.Elif(self.events.valid):
                    # The row's vector is read in this cycle.
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += self.events.ready.eq(1)
                m.d.sync += vector.eq(self.configs.config.vector)
                m.next = "IDLE"
                with m.If(~self.msix_enable):
                    m.d.comb += set_isr[ISR_QUEUE].eq(1)
                with m.Elif(~no_vector):
                    m.next = "REQUEST"
            with m.State("REQUEST"):
                m.d.comb += self.requests.valid.eq(1)
                with m.If(self.requests.ready):
                    m.next = "IDLE"

        with m.If(self.forget):
            m.d.sync += config_waits.eq(0)
        return m
