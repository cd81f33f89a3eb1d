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

    Members
    -------
    i : ``In(stream.Signature(shape)).array(ports)``
        Packets in.
    o : ``Out(stream.Signature(shape))``
        Packets out.
    grant : ``Out(range(ports))``
        The port at the output, valid with ``o.valid``.
    """

    def __init__(self, shape, ports):
        if ports < 1:
            raise ValueError(f"Number of ports must be at least 1, not {ports!r}")
        probe = Signal(shape)
        for field in ("first", "last"):
            if not hasattr(probe, field):
                raise TypeError(f"Shape of an arbitrated stream must have a field {field!r}: "
                                f"{shape!r}")
        self._shape = shape
        self._ports = ports
        super().__init__({
            "i": In(stream.Signature(shape)).array(ports),
            "o": Out(stream.Signature(shape)),
            "grant": Out(range(max(2, ports))),
        })

    @property
    def ports(self):
        return self._ports

    def elaborate(self, platform):
        m = Module()
        held = Signal(range(max(2, self._ports)))   # port that is locked, or that went last
        locked = Signal()
        valids = Cat(port.valid for port in self.i)
        m.d.comb += self.grant.eq(Mux(locked, held, round_robin(valids, held)))
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
