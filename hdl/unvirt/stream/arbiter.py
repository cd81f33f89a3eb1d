# SPDX-License-Identifier: BSD-2-Clause
"""Round-robin merging of packet streams."""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .ring import round_robin

__all__ = ["PacketArbiter"]


class PacketArbiter(wiring.Component):
    """Merges streams of packets, whole packets at a time, round robin.

    A port once shown at the output keeps it until its beat with ``last`` has gone. No latency, one
    beat per cycle, no gap between packets. Combinational paths: from ``i[n].valid`` and
    ``i[n].payload`` to ``o``, from ``o.ready`` to ``i[n].ready``. Reset forgets which port was
    locked.

    Parameters
    ----------
    shape : layout with fields ``first`` and ``last``
        Shape of the payload.
    ports : int
        Number of inputs, at least 1.
    patient : int, optional
        A port whose packets go behind all others', and ahead of them while ``urgent``: it is up to whoever drives it that something is left for them.

    Members
    -------
    i : ``In(stream.Signature(shape)).array(ports)``
        Packets in.
    o : ``Out(stream.Signature(shape))``
        Packets out.
    grant : ``Out(range(ports))``
        The port at the output, valid with ``o.valid``.
    urgent : ``In(1)``
        There is one with ``patient`` only.
    """

    def __init__(self, shape, ports, *, patient=None):
        if ports < 1:
            raise ValueError(f"Number of ports must be at least 1, not {ports!r}")
        if patient is not None and not 0 <= patient < ports:
            raise ValueError(f"Patient port must be one of 0 to {ports - 1}, not {patient!r}")
        probe = Signal(shape)
        for field in ("first", "last"):
            if not hasattr(probe, field):
                raise TypeError(f"Shape of an arbitrated stream must have a field {field!r}: "
                                f"{shape!r}")
        self._shape = shape
        self._ports = ports
        self._patient = patient
        super().__init__({
            "i": In(stream.Signature(shape)).array(ports),
            "o": Out(stream.Signature(shape)),
            "grant": Out(range(max(2, ports))),
        } | ({} if patient is None else {"urgent": In(1)}))

    @property
    def ports(self):
        return self._ports

    def elaborate(self, platform):
        m = Module()
        held = Signal(range(max(2, self._ports)))   # port that is locked, or that went last
        locked = Signal()
        valids, patient = Cat(port.valid for port in self.i), self._patient
        turn = held
        if patient is not None:
            others = valids & ~(1 << patient)
            turn = Signal.like(held)                # of the others, who went last
            with m.If(self.o.valid & (self.grant != patient)):
                m.d.sync += turn.eq(self.grant)
            valids = Mux(self.urgent & valids[patient] | ~others.any(), 1 << patient, others)
        m.d.comb += self.grant.eq(round_robin(valids, turn))
        with m.If(locked):
            m.d.comb += self.grant.eq(held)
        with m.Switch(self.grant):
            for index, port in enumerate(self.i):
                with m.Case(index):
                    m.d.comb += [
                        self.o.payload.eq(port.payload),
                        self.o.valid.eq(port.valid),
                        port.ready.eq(self.o.ready & port.valid),
                    ]
        with m.If(self.o.valid):
            # Also locked while stalled: a shown beat must not be replaced by another port's.
            m.d.sync += [
                held.eq(self.grant),
                locked.eq(~(self.o.ready & self.o.payload.last)),
            ]
        return m
