# SPDX-License-Identifier: BSD-2-Clause
"""The device behind four pins, so that it can be placed on any part and timed from register to register.

    pin_in ---> shift register ---> register ---> core ---> register ---> exclusive or, in two steps ---> pin_out
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from unvirt.verilog import flat_ports

__all__ = ["CORE", "MODULE", "RegisteredTop"]

CORE = "core"
"""Name of the instance that is measured."""

MODULE = "unvirt"
"""Name of its module, the :class:`~unvirt.verilog.FlatTop` of the same device, whose ports keep their names by being elaborated apart."""

_GROUP = 16


class RegisteredTop(wiring.Component):
    """The flat device with every port registered and nothing that synthesis could remove.

    Inputs come from a shift register through a register that is free for the router to place; outputs go through a register into an
    exclusive or of all of them, registered after each group of 16 bits.

    Members
    -------
    pin_in : ``In(1)``
        Feeds the shift register.
    pin_out : ``Out(1)``
        Depends on every output of the core.
    """

    pin_in: In(1)
    pin_out: Out(1)

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        inputs, outputs, ports = [], [], {}
        for name, member in flat_ports(self._config).items():
            taken = member.flow == In
            port = Signal(member.shape, name=name)
            (inputs if taken else outputs).append(port)
            ports[f"{'i' if taken else 'o'}_{name}"] = port
        m.submodules[CORE] = Instance(MODULE, **ports, i_clk=ClockSignal(), i_rst=ResetSignal())

        width = sum(len(port) for port in inputs)
        shifted = Signal(width, reset_less=True)
        driven = Signal(width, reset_less=True)
        m.d.sync += [shifted.eq(Cat(self.pin_in, shifted)), driven.eq(shifted)]
        m.d.comb += Cat(*inputs).eq(driven)

        seen = Signal(sum(len(port) for port in outputs), reset_less=True)
        m.d.sync += seen.eq(Cat(*outputs))
        level = seen
        while len(level) > 1:
            groups = [level[start:start + _GROUP].xor() for start in range(0, len(level), _GROUP)]
            level = Signal(len(groups), name=f"folded_{len(groups)}", reset_less=True)
            m.d.sync += level.eq(Cat(*groups))
        m.d.comb += self.pin_out.eq(level)
        return m
