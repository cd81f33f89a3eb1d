# SPDX-License-Identifier: BSD-2-Clause
"""How host and link behave: what a simulation is told, and what the driver's configuration writes make of it."""

import ctypes
from dataclasses import dataclass, fields

__all__ = ["DLLP_BYTES", "LinkConfig", "LinkRules"]

DLLP_BYTES = 8
"""Of a DLLP on the link, framing included."""

_DEFAULT_CONTROL = 0x2010     # Device Control after reset: MRRS 512, MPS 128, relaxed ordering
_READ_COMPLETION_BOUNDARY = 64


@dataclass(frozen=True, kw_only=True)
class LinkConfig:
    """Host and link. Rates are in bytes per core cycle (0: no limit), probabilities in parts of 1."""

    latency: int = 20             # cycles from a read's arrival to its first completion
    latency_spread: int = 20      # and at random up to that many more
    posted_spread: int = 20       # cycles a write takes to become visible, at random up to
    tear: bool = True             # every 64-byte line of a read is sampled at its own time
    cut: str = "random"           # completions: "large", "rcb", "random"
    reorder: bool = True
    rate: float = 0.0             # each way
    dllp_interval: int = 43       # an Ack, and an UpdateFC of each kind of TLPs, go back so many cycles after one, gathered meanwhile
    flight: int = 2               # cycles
    tx_stall: float = 0.0
    rx_gap: float = 0.0
    mac_tx_stall: float = 0.0
    mac_rx_gap: float = 0.0
    credits: tuple = (64, 1024, 32, 32, 64, 1024)
    drop: float = 0.0
    unsupported: float = 0.0
    abort: float = 0.0
    poison: float = 0.0

    def fill(self, parameters):
        """Put everything into the fixed-point numbers of :class:`~unvirt_sim.binding.Parameters`."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "credits":
                parameters.credits = (ctypes.c_uint32 * 6)(*value)
            elif field.name == "rate":
                parameters.up_rate = parameters.down_rate = int(value * 1024)
            elif field.name == "cut":
                parameters.cut = ("large", "rcb", "random").index(value)
            elif field.name in ("drop", "unsupported", "abort", "poison"):
                setattr(parameters, field.name, int(value * 65536))
            elif isinstance(value, float):
                setattr(parameters, field.name, int(value * 1024))
            else:
                setattr(parameters, field.name, int(value))


class LinkRules:
    """The limits that configuration writes to function 0 set for the device: sizes, extended tags, bus mastering.

    What a write allows more holds from the write on, what it allows less from its completion on: :meth:`before` and :meth:`after` go around it.

    Parameters
    ----------
    apply : callable
        Told of the limits: ``(max_payload, max_read_request, read_completion_boundary, bus_master, extended_tags)``.
    """

    def __init__(self, apply):
        self._apply = apply
        self._express = None          # offset of the PCI Express capability
        self.forget()

    def forget(self):
        """Go back to what holds after a reset."""
        self._command, self._control = 0, _DEFAULT_CONTROL
        self.after()

    def before(self, offset, size, value, config_read):
        """Note a write of configuration space that is about to be made; return whether it changes the limits.

        ``config_read`` reads configuration space: ``(offset, size) -> value``.
        """
        if self._express is None and offset >= 0x40:
            self._find_express(config_read)

        def merge(old, start):
            for byte in range(size):
                place = offset + byte - start
                if 0 <= place < 2:
                    old = old & ~(0xFF << 8 * place) | (value >> 8 * byte & 0xFF) << 8 * place
            return old

        command, control = merge(self._command, 4), self._control
        if self._express is not None:
            control = merge(control, self._express + 8)
        changed = (command, control) != (self._command, self._control)
        function_level_reset = control >> 15 & 1
        master = (command | self._command) & 4
        self._command, self._control = command, control & 0x7FFF
        if function_level_reset:
            self._command, self._control = 0, _DEFAULT_CONTROL
        if changed:
            self.after(bus_master=bool(master))
        return changed

    def after(self, bus_master=None):
        """The write is completed: apply the limits as they are now."""
        if bus_master is None:
            bus_master = bool(self._command & 4)
        self._apply(128 << (self._control >> 5 & 7), 128 << (self._control >> 12 & 7), _READ_COMPLETION_BOUNDARY,
                    bus_master, self._control >> 8 & 1)

    def _find_express(self, config_read):
        offset = config_read(0x34, 1)
        while offset:
            if config_read(offset, 1) == 0x10:
                self._express = offset
                return
            offset = config_read(offset + 1, 1)
