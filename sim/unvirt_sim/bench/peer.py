# SPDX-License-Identifier: BSD-2-Clause
"""What the best open NIC reaches on a host model with the same link: Corundum (commit 1ca0151b), measured by this project.

Measured with Verilator and cocotbext-pcie.
Gen3 x16 and a 512-bit port, or Gen3 x8 and a 64-bit port (256 bits wide on the PCIe side); 250 MHz; MPS 256, MRRS 512.
"""

from dataclasses import dataclass

from .link import LINKS

__all__ = ["CYCLES", "LATENCY", "OVERHEAD", "PUBLISHED", "ratio_to_limit"]

CYCLES = {
    # (width, direction, host latency): {frame: cycles per packet}
    (512, "tx", 0): {64: 7.0, 256: 7.0, 1500: 27.4, 9000: 156.5},
    (512, "rx", 0): {64: 12.3, 256: 12.3, 1500: 27.8, 9000: 160.1},
    (512, "both", 0): {64: 15.5, 256: 14.9, 1500: 31.9, 9000: 170.6},
    (512, "tx", 62): {64: 9.0, 1500: 27.7},
    (512, "rx", 62): {64: 12.2, 1500: 27.8},
    (512, "tx", 250): {64: 21.1, 1500: 29.3},
    (512, "rx", 250): {64: 25.1, 1500: 28.9},
    (256, "tx", 0): {64: 9.0},
    (256, "rx", 0): {64: 12.2},
}
LATENCY = {(512, "tx"): 146, (512, "rx"): 204}
"""Cycles of the core alone at 64 bytes: doorbell to first beat, last beat to MSI-X."""

OVERHEAD = {"tx": 200, "rx": 176}
"""Bytes on the link beyond a frame of 64."""


@dataclass(frozen=True)
class _Published:
    """A throughput figure with the bytes that went with it."""

    direction: str
    frame: int
    cycles: float
    up: int
    down: int


PUBLISHED = (
    _Published("tx", 64, 7.0, 92, 172), _Published("tx", 256, 7.0, 92, 384),
    _Published("tx", 1500, 27.4, 132, 1708), _Published("tx", 9000, 156.5, 432, 9808),
    _Published("rx", 64, 12.3, 156, 84), _Published("rx", 256, 12.3, 348, 84),
    _Published("rx", 1500, 27.8, 1692, 84), _Published("rx", 9000, 160.1, 9792, 84),
)
"""512 bits, host latency 0; transmit in one segment."""


def ratio_to_limit(figure, *, link=LINKS[512]):
    """Return how much of the limit a published figure is, by the ruler that this device is held to.

    The port runs at 3.102 ns a beat of 64 bytes.
    """
    port = -(-figure.frame // 64) * 3.102 / 4
    # Up go reads and writes, down completions.
    wire = max(link.cycles(figure.up, 1), link.cycles(figure.down, 2))
    return max(wire, port) / figure.cycles
