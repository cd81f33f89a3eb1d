# SPDX-License-Identifier: BSD-2-Clause
"""Block RAM as it is, for whoever needs nothing of what is being written in the same cycle.

A synchronous read port of Amaranth shows the old value then. Block RAM of most FPGAs does not, so that yosys puts registers,
comparators and multiplexers around it, one set per read port, behind the slow output of the RAM.
"""

from typing import NamedTuple

from amaranth import *
from amaranth.lib import memory

__all__ = ["SettledRead", "read_settled", "settled_memory"]


class SettledRead(NamedTuple):
    """A read port, named as those of :mod:`amaranth.lib.memory` are: ``data`` follows ``addr`` by a cycle."""

    addr: Value
    data: Value


def settled_memory(shape, depth, *, block=True):
    """Return a :class:`~amaranth.lib.memory.Memory` for :func:`read_settled`: in block RAM, or where the tool wants it without ``block``."""
    return memory.Memory(shape=shape, depth=depth, init=[], attrs={"no_rw_check": 1} | ({"ram_style": "block"} if block else {}))


def read_settled(m, cells, *, enable=1):
    """Add a synchronous read port to a :func:`settled_memory`; return it as :class:`SettledRead`.

    What it shows of an address that is written in the cycle of the read is undefined in hardware (in simulation it is the old value): the user
    reads again or does not look. Without ``enable`` it shows what it did.
    """
    port = cells.read_port(domain="comb")
    shown = Signal(cells.shape, reset_less=True)
    with m.If(enable):
        m.d.sync += shown.eq(port.data)
    return SettledRead(port.addr, shown)
