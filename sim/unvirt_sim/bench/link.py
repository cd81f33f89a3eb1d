# SPDX-License-Identifier: BSD-2-Clause
"""Links as the simulation charges them, and what a TLP costs on them."""

from dataclasses import dataclass

from ..link import DLLP_BYTES, LinkConfig
from ..records import Seen

__all__ = ["LINKS", "PcieLink", "WIDE_64", "wire_bytes", "beats"]

FRAMING = 8
"""Bytes of framing, sequence number and LCRC of a TLP."""

_CYCLE = 4.0
"""Nanoseconds of a core cycle."""


@dataclass(frozen=True, kw_only=True)
class PcieLink:
    """A link at a core clock of 250 MHz, MPS 256, MRRS 512."""

    generation: int
    lanes: int
    rate: float                    # bytes a cycle each way
    dllp_interval: int             # cycles

    @property
    def name(self):
        return f"Gen{self.generation} x{self.lanes}"

    def cycles(self, size, kinds):
        """Return the cycles that TLPs of ``size`` bytes take at least while TLPs of so many kinds come the other way.

        The kinds are posted, non-posted and completions. Each latency timer costs an Ack or an UpdateFC of a kind; those of ``size`` bytes come
        together, so that the next TLP that starts it again is that of the next ``size`` bytes.
        """
        cycles = size / self.rate
        for _ in range(8):
            period = max(self.dllp_interval + cycles / 2, cycles)
            cycles = size / (self.rate - (1 + kinds) * DLLP_BYTES / period * bool(kinds))
        return cycles

    def config(self, *, latency, cut="large"):
        """Return the host model with this link: reads answered in order after ``latency`` cycles, nothing at random."""
        return LinkConfig(latency=latency, latency_spread=0, posted_spread=0, tear=False, cut=cut,
                          reorder=False, rate=self.rate, dllp_interval=self.dllp_interval,
                          flight=3, credits=(64, 1024, 64, 64, 64, 1024))


def _link(generation, lanes, factor):
    """Return a link with the latency timer of Acks and of UpdateFCs for a payload of 256 bytes [PCIe 3.5.2.1, 2.6.1.2]."""
    symbol, delay = {2: (2.0, 70), 3: (130 / 128, 115)}[generation]     # nanoseconds, symbols
    timer = ((256 + 28) * factor / lanes + delay) * symbol / _CYCLE
    return PcieLink(generation=generation, lanes=lanes, rate=lanes * _CYCLE / symbol, dllp_interval=round(timer))


LINKS = {32: _link(2, 2, 1.4), 64: _link(2, 4, 1.4), 128: _link(3, 4, 1.4), 256: _link(3, 8, 2.5),
         512: _link(3, 16, 3.0)}
"""The link of each data width."""

WIDE_64 = _link(3, 4, 1.4)
"""A link wider than a 64-bit core, which is then bound by its own beats."""


def _payload(address, size):
    return ((address & 3) + size + 3) // 4 * 4


def _header(address):
    return 16 if address >> 32 else 12


def wire_bytes(kind, address, size):
    """Return what a TLP occupies on the link; ``size`` bytes at ``address``, or the payload of a completion."""
    if kind in (Seen.UP_READ, Seen.DOWN_READ):
        return _header(address) + FRAMING
    if kind in (Seen.UP_WRITE, Seen.DOWN_WRITE):
        return _header(address) + _payload(address, size) + FRAMING
    return 12 + (size + 3) // 4 * 4 + FRAMING


def beats(kind, address, size, width):
    """Return the beats of a TLP on the attachment contract, where the header is beside the data."""
    if kind in (Seen.UP_READ, Seen.DOWN_READ):
        return 1
    payload = _payload(address, size) if kind in (Seen.UP_WRITE, Seen.DOWN_WRITE) else (size + 3) // 4 * 4
    return max(1, -(-8 * payload // width))
