# SPDX-License-Identifier: BSD-2-Clause
"""Routes register accesses of BAR 0 to the blocks behind it."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..pcie.bus import Region, RegisterBusSignature

__all__ = ["RegisterHub"]

_REGIONS = {
    "common": Region.COMMON >> 12,
    "isr": Region.ISR >> 12,
    "device": Region.DEVICE >> 12,
    "notify": Region.NOTIFY >> 12,
}


class RegisterHub(wiring.Component):
    """Two initiators, five targets; one access at a time.

    The completer goes first and without latency; the PCI configuration access window (``window``) gets its turn, a cycle later, when the completer is
    quiet. An access to a hole is a read of zero or a write without effect. While a read waits for its response nothing else is started.
    """

    completer: In(RegisterBusSignature())
    window: In(RegisterBusSignature())
    common: Out(RegisterBusSignature())
    isr: Out(RegisterBusSignature())
    device: Out(RegisterBusSignature())
    notify: Out(RegisterBusSignature())
    msix: Out(RegisterBusSignature())

    def elaborate(self, platform):
        m = Module()
        targets = [getattr(self, name) for name in (*_REGIONS, "msix")]
        initiators = (self.completer, self.window)
        reading = Signal()
        hole_answers = Signal()

        # Whose turn it is: the window's until its access is over, for a request on show must not be replaced while its target makes it wait.
        chosen = Signal()
        valid = Mux(chosen, self.window.request.valid, self.completer.request.valid) & ~reading
        payload = Signal.like(self.completer.request.payload)
        m.d.comb += payload.eq(Mux(chosen, Value.cast(self.window.request.payload),
                                   Value.cast(self.completer.request.payload)))
        page = payload.address[12:]
        hits, waits = [], []
        for target in targets:
            m.d.comb += target.request.payload.eq(payload)
        for name, target in zip((*_REGIONS, "msix"), targets):
            if name == "msix":
                here = page[3] | (page == Region.MSIX_PBA >> 12)
            else:
                here = page == _REGIONS[name]
            if name == "common":
                here &= ~payload.address[6:12].any()
            m.d.comb += target.request.valid.eq(valid & here)
            hits.append(here)
            waits.append(here & ~target.request.ready)
        hit, ready = Signal(), Signal()
        m.d.comb += [hit.eq(Cat(hits).any()), ready.eq(~Cat(waits).any())]

        taken = Signal()
        m.d.comb += taken.eq(valid & ready)
        m.d.sync += hole_answers.eq(taken & ~hit & ~payload.write)
        responding = Signal()
        answer = Signal(32)
        m.d.comb += responding.eq(hole_answers
                                  | Cat(target.response_valid for target in targets).any())
        for target in targets:
            with m.If(target.response_valid):
                m.d.comb += answer.eq(target.response_data)
        with m.If(taken & ~payload.write):
            m.d.sync += reading.eq(1)
        with m.Elif(responding):
            m.d.sync += reading.eq(0)
        with m.If(~chosen):
            m.d.sync += chosen.eq(self.window.request.valid & ~self.completer.request.valid & ~reading)
        with m.Elif((taken & payload.write) | responding):
            m.d.sync += chosen.eq(0)
        for number, initiator in enumerate(initiators):
            m.d.comb += [
                initiator.request.ready.eq(ready & ~reading & (chosen == number)),
                initiator.response_valid.eq(responding & (chosen == number)),
                initiator.response_data.eq(answer),
            ]
        return m
