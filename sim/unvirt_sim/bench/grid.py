# SPDX-License-Identifier: BSD-2-Clause
"""What is measured: the points of the grid, each giving rows of the table."""

from dataclasses import asdict, dataclass, replace

from unvirt.config import preset

from . import peer
from .figures import cycles_per_packet, reads_in_flight, traffic
from .isolation import beside_dead_queue, receive_beside_stalled_mac
from .latency import own_cycles, receive_latency, transmit_latency
from .limits import limit
from .link import LINKS, WIDE_64
from .session import Load, Session, at_highest_rate

__all__ = ["Bench", "Point", "Row", "WIDTHS", "points", "with_ratios"]

WIDTHS = {64: "default", 256: "wide", 512: "wide512"}
"""Widths that are measured, and the preset of each."""

LATENCIES = (0, 62, 250)
"""Cycles of the host: none, 250 ns, 1 us."""

SIZES = (64, 256, 1500, 9000)

CYCLES_TARGET = {(512, "tx"): 3.0, (512, "rx"): 3.0, (512, "both"): 4.8, (256, "tx"): 4.5, (256, "rx"): 4.5,
                 (256, "both"): 6.5, (64, "tx"): 13.5, (64, "rx"): 13.5, (64, "both"): 17.0}
LATENCY_TARGET = {"tx": 72, "rx": 45}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. ``target`` and ``limit`` are in the unit of ``value``; ``met`` is None without a target."""

    quantity: str
    width: int
    ring: str = "split"
    queues: int = 1
    frame_size: int | None = None
    host_latency_cycles: int = 0
    batch: float | None = None
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


def _packets(frame, quick):
    """Return how many packets make a steady state: fewer if they are long."""
    return max(40, (400 if quick else 1500) * 64 // max(64, frame // 2))


@dataclass(frozen=True)
class Point:
    """A place of the grid: a method of :class:`Bench` and its arguments."""

    name: str
    method: str
    arguments: tuple = ()


def points(widths, quick):
    """Return every :class:`Point` to measure, in order.

    Parameters
    ----------
    widths : sequence of int
    quick : bool
        Only frames of 64 bytes.
    """
    out = []
    sizes, latencies = ((64,), (0, 250)) if quick else (SIZES, LATENCIES)
    for width in widths:
        for way in ("tx", "rx"):
            out.append(Point(f"{width} bits, {way} latency", "latency", (width, way)))
        for frame in sizes:
            for latency in latencies if frame == 64 else (0, 250):
                for way in ("tx", "rx", "both"):
                    out.append(Point(f"{width} bits, {way}, {frame} B, latency {latency}", "throughput", (width, way, frame, latency)))
        if width == 64 and not quick:
            for way in ("tx", "rx", "both"):
                out.append(Point(f"64 bits on {WIDE_64.name}, {way}", "throughput", (64, way, 64, 0, WIDE_64)))
        if width == 256:
            out.append(Point("a queue without answers beside another", "dead_queue"))
            out.append(Point("a stalled MAC beside a receive queue", "stalled_mac"))
    return out


def with_ratios(rows):
    """Return the rows, and behind each rate at 1 us how it compares with that at 0."""
    out, alone = [], {}
    for row in rows:
        out.append(row)
        direction, rate, _ = row.quantity.partition(" cycles per packet")
        if not rate or row.link != LINKS[row.width].name:
            continue
        place = direction, row.width, row.frame_size
        if row.host_latency_cycles == 0:
            alone[place] = row.value
        elif row.host_latency_cycles == 250 and row.frame_size == 64:
            out.append(replace(row, quantity=f"{direction} at 1 us against 0", value=row.value / alone[place], unit="times", target=1.10,
                               limit=None, peer=None, note=""))
    return out


class Bench:
    """Measures one :class:`Point`; leaves ``rows`` of the table and the ``stages`` of a packet, if they were the question.

    Parameters
    ----------
    library : callable
        Gives the simulation library of a preset name and further options.
    quick : bool
        Short runs.
    seed : int
    """

    def __init__(self, library, *, quick=False, seed=1):
        self.library, self.quick, self.seed = library, quick, seed
        self.rows = []
        self.stages = []

    def measure(self, point):
        """Measure a point and return the bench."""
        getattr(self, point.method)(*point.arguments)
        return self

    def _library(self, width, **options):
        return self.library(WIDTHS[width], **options)

    def _session(self, width, latency, link=None):
        return Session(self._library(width), width=width, link=link, latency=latency, seed=self.seed)

    # --- one packet ---

    def latency(self, width, way):
        """The way of one packet through an idle device."""
        measure = transmit_latency if way == "tx" else receive_latency
        self.stages = stages = measure(self._session(width, 0))
        name = {"tx": "TX doorbell to MAC, less round trips",
                "rx": "RX last beat to MSI-X, less round trip"}[way]
        self.rows.append(Row(quantity=name, width=width, frame_size=64, value=own_cycles(stages), unit="cycles",
                             batch=1.0, peer=peer.LATENCY.get((width, way)), target=LATENCY_TARGET[way],
                             link=LINKS[width].name))
        if way == "tx":
            reads = sum(stage.host for stage in stages)
            self.rows.append(Row(quantity="TX dependent reads, data included", width=width, frame_size=64,
                                 value=reads, unit="reads", target=4, link=LINKS[width].name))

    # --- many ---

    def _load(self, width, way, frame):
        count = _packets(frame, self.quick)
        # One more is coming in.
        room = preset(WIDTHS[width]).rx_buffer_size // (frame + 12 + width // 8)
        return Load(frame=frame, transmit=count if way != "rx" else 0, receive=count if way != "tx" else 0,
                    reach=max(1, min(64, room - 1)))

    def _run(self, width, way, frame, latency, link):
        """Run a load at the highest rate of received frames at which none is lost, to 2 %."""
        load = self._load(width, way, frame)

        def run(period):
            again = Load(**(asdict(load) | {"period": period}))
            return self._session(width, latency, link).run(again)

        result, period = at_highest_rate(run, frame * 8 / width)
        return result, f"RX offered one in {period:.1f}" if period else ""

    def throughput(self, width, way, frame, latency, link=None):
        """Frames of one size, as many as the device takes."""
        run, note = self._run(width, way, frame, latency, link)
        names = ("tx", "rx") if way == "both" else (way,)
        cycles = max(cycles_per_packet(run, name) for name in names)
        least = limit(run)
        name = run.link.name
        common = {"width": width, "frame_size": frame, "host_latency_cycles": latency, "batch": least.batch,
                  "link": name}
        ratio = 1.10 if frame < 1500 else 1.03
        target = CYCLES_TARGET[width, way] if frame == 64 and latency == 0 else ratio * least.cycles
        label = {"tx": "TX", "rx": "RX", "both": "both each"}[way]
        self.rows.append(Row(quantity=f"{label} cycles per packet", value=cycles, unit="cycles", limit=least.cycles,
                             peer=peer.CYCLES.get((width, way, latency), {}).get(frame), target=target, note=note,
                             **common))
        if link is not None:
            return
        if way == "both":
            return
        if frame == 64 and latency == 0:
            size = sum(traffic(run, way).bytes.values())
            self.rows.append(Row(quantity=f"{label} PCIe bytes per packet", value=size, unit="bytes", limit=least.bytes,
                                 target=1.03 * least.bytes, peer=frame + peer.OVERHEAD[way], **common))
        if way == "tx" and latency == 250 and frame == 64:
            mean, most = reads_in_flight(run, "tx")
            self.rows.append(Row(quantity="TX data reads in flight, mean", value=mean, unit="reads", target=16,
                                 at_least=True, note=f"{most} at most", **common))

    # --- queues beside each other ---

    def dead_queue(self):
        """A queue beside another whose reads are not answered."""
        library = self._library(256, queue_pairs=2)
        for what in ("data", "rings"):
            alone, beside = beside_dead_queue(library, width=256, what=what, seed=self.seed,
                                              packets=600 if self.quick else 1200)
            self.rows.append(Row(quantity=f"TX beside a queue with dead {what} reads", width=256,
                                 queues=2, frame_size=64, host_latency_cycles=250, value=alone / beside, unit="of alone",
                                 target=0.9, at_least=True, link=LINKS[256].name))

    def stalled_mac(self):
        """A receive queue beside a transmit queue that the MAC holds up."""
        alone, beside = receive_beside_stalled_mac(self._library(256), width=256, seed=self.seed,
                                                   packets=600 if self.quick else 1200)
        self.rows.append(Row(quantity="RX beside TX at a stalled MAC", width=256, queues=2,
                             frame_size=64, value=alone / beside, unit="of alone", target=0.9, at_least=True,
                             link=LINKS[256].name))
