# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: each point a plain description, independent of all others."""

from dataclasses import dataclass

from unvirt.config import preset

from .rows import LABELS, LATENCY_TARGET

__all__ = ["COMPARED_WIDTHS", "IN_FLIGHT", "Point", "QUEUES", "WIDTHS", "choose"]

WIDTHS = {64: "default", 256: "wide", 512: "wide512"}
"""Widths that are measured, and the preset of each."""

IN_FLIGHT = {64: {"data_tags": 112, "chain_slots": 256, "queue_window": 128}}
"""What a device of a width has beyond its preset, which is for small FPGAs: enough in flight for a host that takes a microsecond."""

LATENCIES = (0, 62, 250)
"""Cycles of the host: none, 250 ns, 1 us."""

SIZES = (64, 256, 1500, 9000)
COMPARED_WIDTHS = (64, 256)
"""Those for which the host model is compared with a root complex."""

RINGS = ("split", "packed")
WAYS = ("tx", "rx", "both")
BURSTS = (1, 2, 4, 8, 16, 32)

QUEUES = {
    1: ({}, 1024),
    2: ({"queue_pairs": 2}, 1024),
    8: ({"rows": 32, "queue_pairs": 8, "chain_slots": 2048, "queue_window": 128}, 256),
    255: ({"rows": 512, "queue_pairs": 255, "chain_slots": 8192, "queue_window": 16, "meta_contexts": 128}, 64),
}
"""By queue pairs: what a device has for them beyond its preset, and the size of each ring."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement. ``kind`` names it among those of :func:`~unvirt_sim.bench.grid.measure`."""

    kind: str
    width: int
    ring: str = "split"
    queues: int = 1               # pairs
    way: str = "tx"
    frame: int = 64
    latency: int = 0              # of the host, cycles
    wide_link: bool = False       # wider than the device
    hard: bool = False            # completions cut at 64 bytes, buffers at any address
    feature: str = ""             # negotiated too
    burst: int = 0                # packets given at once; 0: as many as there is room for
    what: str = ""                # is wrong with the other queue
    quick: bool = False
    seed: int = 1

    @property
    def name(self):
        """What is shown while it is measured."""
        parts = [f"{self.width} bits", self.kind]
        if self.kind in ("throughput", "latency", "batch", "root complex"):
            parts += [LABELS[self.way], self.ring]
        if self.kind == "root complex":
            parts.append(f"{self.frame} B")
        if self.kind == "byte shares":
            parts.append(f"{self.queues} pairs")
        if self.kind == "throughput":
            parts += [f"{self.queues} pairs" if self.queues > 1 else "", f"{self.frame} B, latency {self.latency}",
                      "wide link" if self.wide_link else "", "cut and unaligned" if self.hard else ""]
        parts += [self.feature, f"{self.burst} at once" if self.burst else "", self.what]
        return ", ".join(part for part in parts if part)

    @property
    def config(self):
        """The device that is measured."""
        return preset(WIDTHS[self.width]).with_options(**IN_FLIGHT.get(self.width, {}) | QUEUES[self.queues][0])

    @property
    def ring_size(self):
        """Entries of each ring."""
        return QUEUES[self.queues][1]

    @property
    def packets(self):
        """How many packets make a steady state: several times what the device takes in before the first has left.

        While it takes them in it reads more descriptors than it sends packets, which is over before the window of the figures begins.
        """
        taken_in = self.queues * min(self.config.queue_window, self.ring_size)
        return max(400 if self.quick else 1500, (8 if self.frame <= 256 and not self.quick else 4) * taken_in)


def choose(*, widths=tuple(WIDTHS), extent="usual", seed=1):
    """Return the points of an ``extent`` in their order: "quick" (minutes less), "usual", "full" (the whole grid), or "root-complex"."""
    points = []
    if extent == "root-complex":
        points = [{"kind": "root complex", "width": width, "frame": frame, "way": way}
                  for width in widths if width in COMPARED_WIDTHS for frame in (64, 1500) for way in ("tx", "rx")]
        widths = ()
    for width in widths:
        points += _one_packet(width, extent)
        points += _alone(width, extent)
        if extent != "quick":
            points += _others(width, extent)
        points += _beside(width, extent)
    return [Point(**{**point, "quick": extent == "quick", "seed": seed}) for point in points]


def _one_packet(width, extent):
    """Return the latencies of one packet."""
    return [{"kind": "latency", "width": width, "way": way, "ring": ring, "feature": feature}
            for way, ring, feature in LATENCY_TARGET if extent != "quick" or (ring, feature) == ("split", "")]


def _alone(width, extent):
    """Return the split ring of one queue pair, which every extent has."""
    sizes, latencies = ((64,), (0, 250)) if extent == "quick" else (SIZES, LATENCIES)
    common = {"kind": "throughput", "width": width}
    points = [{**common, "frame": frame, "latency": latency, "way": way}
              for frame in sizes for latency in latencies if frame == 64 or latency != 62 or extent == "full" for way in WAYS]
    if width == 64 and extent != "quick":
        points += [{**common, "way": way, "wide_link": True} for way in WAYS]
    return points


def _others(width, extent):
    """Return the packed ring, several queue pairs, and a host that makes it hard."""
    points = []
    for ring in RINGS:
        for queues in (1, 8, 255):
            if (ring, queues) == ("split", 1):
                continue
            for frame in SIZES:
                for latency in LATENCIES:
                    usual = latency != 62 and frame == 64 or (latency == 0 and frame == 1500 and queues == 1)
                    if queues == 255:
                        usual = latency == 0 and frame == 64
                    if usual or extent == "full":
                        points += [{"width": width, "ring": ring, "queues": queues, "frame": frame, "latency": latency, "way": way}
                                   for way in WAYS]
    for ring in RINGS:
        for frame in SIZES if extent == "full" else (64, 1500):
            points += [{"width": width, "ring": ring, "frame": frame, "way": way, "hard": True} for way in WAYS
                       if extent == "full" or ring == "split"]
    points = [{"kind": "throughput", **point} for point in points]
    if width == 256 or extent == "full":
        points += [{"kind": "batch", "width": width, "ring": ring, "way": way, "burst": burst}
                   for ring in RINGS for way in ("tx", "rx") for burst in BURSTS]
    return points


def _beside(width, extent):
    """Return what queues do to each other."""
    points = []
    if width == 256:
        points += [{"kind": "dead queue", "width": width, "queues": 2, "latency": 250, "what": what} for what in ("data", "rings")]
        points += [{"kind": "stalled MAC", "width": width}, {"kind": "flooding queue", "width": width, "queues": 2}]
    if width == 256 or extent == "full":
        points += [{"kind": "byte shares", "width": width, "queues": queues} for queues in (8, 255) if queues == 8 or extent == "full"]
    return points
