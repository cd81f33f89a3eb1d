# SPDX-License-Identifier: BSD-2-Clause
"""A figure, and the targets that figures are held to."""

from dataclasses import asdict, dataclass

__all__ = ["CYCLES_TARGET", "DEPENDENT_READS_TARGET", "LATENCY_TARGET", "LABELS", "Row"]

CYCLES_TARGET = {(512, "tx"): 3.0, (512, "rx"): 3.0, (512, "both"): 4.8, (256, "tx"): 4.5, (256, "rx"): 4.5,
                 (256, "both"): 6.5, (64, "tx"): 13.5, (64, "rx"): 13.5, (64, "both"): 17.0}
"""Cycles of a packet of 64 bytes at no host latency, by width and direction."""

LATENCY_TARGET = {("tx", "split", ""): 72, ("tx", "split", "NOTIFICATION_DATA"): 58, ("tx", "packed", ""): 45,
                  ("rx", "split", ""): 45, ("rx", "split", "EVENT_IDX"): 45, ("rx", "packed", "EVENT_IDX"): 45}
"""Cycles of the device alone for one packet, by direction, ring, and the feature that is negotiated too."""

DEPENDENT_READS_TARGET = {("split", ""): 4, ("split", "NOTIFICATION_DATA"): 3, ("packed", ""): 2}

LABELS = {"tx": "TX", "rx": "RX", "both": "both each"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. ``target`` and ``limit`` are in the unit of ``value``; ``met`` is None without a target."""

    quantity: str
    width: int
    ring: str = "split"
    queues: int = 1                # pairs in use
    frame_size: int | None = None
    host_latency_cycles: int = 0
    batch: float | None = None
    given: int | None = None       # packets given to the device at once, if not as many as it takes
    value: float
    unit: str
    peer: float | None = None
    target: float | None = None
    limit: float | None = None
    link: str = ""
    note: str = ""
    at_least: bool = False         # the target is a floor, not a ceiling

    @property
    def met(self):
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def as_json(self):
        """Return the row as it stands in ``bench.json``."""
        out = asdict(self) | {"met": self.met}
        del out["at_least"]
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in out.items()}
