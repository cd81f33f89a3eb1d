# SPDX-License-Identifier: BSD-2-Clause
"""Measures a point of the grid, and puts the rows of many together."""

from dataclasses import dataclass, field, replace

from ..build import build_library
from . import peer
from .fairness import byte_shares
from .figures import cycles_per_packet, reads_in_flight, traffic
from .isolation import beside_dead_queue, receive_beside_stalled_mac
from .latency import ONE_AT_A_TIME, own_cycles, receive_latency, transmit_latency
from .limits import limit
from .link import LINKS, WIDE_64
from .load import HEADER, Load
from .rows import CYCLES_TARGET, DEPENDENT_READS_TARGET, LABELS, LATENCY_TARGET, Row
from .session import Session, at_highest_rate

__all__ = ["Outcome", "assemble", "measure"]

_libraries = {}
"""Those that this process has looked up, by configuration."""


@dataclass
class Outcome:
    """What came of a point: rows, and the stages of one packet."""

    rows: list
    stages: list = field(default_factory=list)


def measure(point, *, say=lambda text: None):
    """Measure one point by itself; return its :class:`Outcome`. ``say`` is told before something that takes long.

    Raises
    ------
    BenchFailed, BuildError
    """
    if point.config not in _libraries:
        _libraries[point.config] = build_library(point.config, say=say)
    return _MEASURES[point.kind](point, _libraries[point.config])


def assemble(points, outcomes):
    """Return all rows of the outcomes of ``points``, and those that follow from two of them."""
    rows, at_zero = [], {}
    for point, outcome in zip(points, outcomes, strict=True):
        rows += outcome.rows
        if point.kind != "throughput" or point.frame != 64:
            continue
        alike, cycles = replace(point, latency=0), outcome.rows[0]
        if point.latency == 0:
            at_zero[alike] = cycles.value
        elif point.latency == 250 and alike in at_zero:
            place = len(rows) - len(outcome.rows) + 1
            rows.insert(place, replace(cycles, quantity=f"{LABELS[point.way]} at 1 us against 0", value=cycles.value / at_zero[alike],
                                       unit="times", target=1.10, limit=None, peer=None, note=""))
    return rows


def _row(point, **values):
    """Return a row with what it has of its point."""
    link = WIDE_64 if point.wide_link else LINKS[point.width]
    return Row(**({"width": point.width, "ring": point.ring, "queues": point.queues, "frame_size": point.frame,
                   "host_latency_cycles": point.latency, "link": link.name} | values))


def _session(point, library):
    return Session(library, width=point.width, link=WIDE_64 if point.wide_link else None, latency=point.latency,
                   cut="rcb" if point.hard else "large", seed=point.seed)


# --- one packet ---

def _latency(point, library):
    way, feature, packed = point.way, point.feature, point.ring == "packed"
    load = replace(ONE_AT_A_TIME, packed=packed, event_idx=feature == "EVENT_IDX", notification_data=feature == "NOTIFICATION_DATA")
    stages = (transmit_latency if way == "tx" else receive_latency)(_session(point, library), load)
    name = {"tx": "TX doorbell to MAC, less round trips", "rx": "RX last beat to MSI-X, less round trip"}[way]
    suffix = f", {feature}" if feature else ""
    rows = [_row(point, quantity=name + suffix, value=own_cycles(stages), unit="cycles", batch=1.0,
                 peer=peer.LATENCY.get((point.width, way)), target=LATENCY_TARGET[way, point.ring, feature])]
    if way == "tx":
        rows.append(_row(point, quantity="TX dependent reads, data included" + suffix, value=sum(stage.host for stage in stages),
                         unit="reads", target=DEPENDENT_READS_TARGET[point.ring, feature]))
    return Outcome(rows, stages)


# --- many ---

def _load(point):
    way = point.way
    # The one that is coming in is among them.
    room = point.config.rx_buffer_size // (point.frame + HEADER + point.width // 8)
    return Load(frame=point.frame, transmit=point.packets if way != "rx" else 0, receive=point.packets if way != "tx" else 0,
                ring=point.ring_size, packed=point.ring == "packed", queues=point.queues, unaligned=point.hard,
                reach=max(1, min(64, room)))


def _run(point, library):
    """Run a load at the highest rate of received frames at which none is lost, to 2 %."""
    load = _load(point)
    result, period = at_highest_rate(lambda period: _session(point, library).run(replace(load, period=period)),
                                     point.frame * 8 / point.width)
    return result, f"RX offered one in {period:.1f}" if period else ""


def _throughput(point, library):
    run, note = _run(point, library)
    way, frame, width, latency = point.way, point.frame, point.width, point.latency
    names = ("tx", "rx") if way == "both" else (way,)
    cycles = max(cycles_per_packet(run, name) for name in names)
    least = limit(run)
    usual = point.ring == "split" and point.queues == 1 and not point.hard
    ratio = 1.10 if frame < 1500 else 1.03
    fixed = frame == 64 and latency == 0 and not point.hard
    target = CYCLES_TARGET[width, way] if fixed else ratio * least.cycles
    label, hard = LABELS[way], ", cut at 64 B, unaligned" if point.hard else ""
    rows = [_row(point, quantity=f"{label} cycles per packet{hard}", value=cycles, unit="cycles", limit=least.cycles, target=target,
                 peer=peer.CYCLES.get((width, way, latency), {}).get(frame) if usual else None, note=note, batch=least.batch)]
    if point.wide_link or way == "both":
        return Outcome(rows)
    if frame == 64 and latency == 0:
        rows.append(_bytes_row(point, run, least, hard, peer=frame + peer.OVERHEAD[way] if usual else None))
    if way == "tx" and latency == 250 and frame == 64:
        mean, most = reads_in_flight(run, "tx")
        rows.append(_row(point, quantity="TX data reads in flight, mean", value=mean, unit="reads", target=16,
                         at_least=True, note=f"{most} at most", batch=least.batch))
    return Outcome(rows)


def _bytes_row(point, run, least, suffix="", **values):
    size = sum(traffic(run, point.way).bytes.values())
    return _row(point, quantity=f"{LABELS[point.way]} PCIe bytes per packet{suffix}", value=size, unit="bytes", limit=least.bytes,
                target=1.03 * least.bytes, batch=least.batch, **values)


def _batch(point, library):
    """So many packets at once that the device makes batches of that size."""
    load = _load(point)
    if point.way == "tx":
        load = replace(load, burst=point.burst)
    else:
        load = replace(load, reach=point.burst)
    run = _session(point, library).run(load)
    return Outcome([_bytes_row(point, run, limit(run), f", {point.burst} at once", given=point.burst)])


# --- queues beside each other ---

def _dead_queue(point, library):
    alone, beside = beside_dead_queue(library, width=point.width, what=point.what, seed=point.seed,
                                      packets=600 if point.quick else 1200)
    return Outcome([_row(point, quantity=f"TX beside a queue with dead {point.what} reads", value=alone / beside, unit="of alone",
                         target=0.9, at_least=True)])


def _stalled_mac(point, library):
    alone, beside = receive_beside_stalled_mac(library, width=point.width, seed=point.seed,
                                               packets=600 if point.quick else 1200)
    return Outcome([_row(point, quantity="RX beside TX at a stalled MAC", queues=2, value=alone / beside, unit="of alone",
                         target=0.9, at_least=True)])


def _shares(point, library, **options):
    return byte_shares(library, width=point.width, queues=point.queues, ring=point.ring_size, packed=point.ring == "packed",
                       latency=point.latency, seed=point.seed, **options)


def _byte_shares(point, library):
    shares = _shares(point, library, **({"rounds": 100} if point.quick else {}))
    fair, rate = shares.fair, shares.rate / point.queues
    by_size = {size: [share for share, mine in zip(fair, shares.sizes, strict=True) if mine == size] for size in shares.sizes}
    note = ", ".join(f"{size} B: {min(some):.2f} to {max(some):.2f}" for size, some in sorted(by_size.items()))
    mixed = {"frame_size": None}
    return Outcome([
        _row(point, quantity="TX bytes of a queue, least", value=min(fair), unit="of its share", target=0.95, at_least=True, note=note,
             **mixed),
        _row(point, quantity="TX bytes of a queue, most", value=max(fair), unit="of its share", target=1.05, note=note, **mixed),
        _row(point, quantity="TX bytes of a queue, mean", value=rate, unit="a cycle", **mixed)])


def _flooding_queue(point, library):
    flood, mine = 1500, 256
    shares = _shares(point, library, sizes=(flood, mine), **({"rounds": 200} if point.quick else {}))
    return Outcome([_row(point, quantity=f"TX bytes beside a queue that floods with {flood} B", frame_size=mine, value=shares.fair[1],
                         unit="of its share", target=0.95, at_least=True)])


def _root_complex(point, library):
    # Its packages are needed for nothing else here.
    from .root_complex import compare, load_for
    found = compare(library, point.config, load_for(way=point.way, frame=point.frame), seed=point.seed)
    label = LABELS[point.way]

    def note(size):
        return ", ".join(f"{count:.1f} B {way}" for way, count in size.items())

    return Outcome([
        _row(point, quantity=f"{label} cycles per packet on a root complex", value=found.root_complex, unit="cycles",
             note=note(found.root_complex_bytes)),
        _row(point, quantity=f"{label} cycles per packet on the own host model", value=found.own, unit="cycles", note=note(found.own_bytes)),
        _row(point, quantity=f"{label} own host model against the root complex", value=abs(found.difference), unit="percent", target=2.0)])


_MEASURES = {"latency": _latency, "throughput": _throughput, "batch": _batch, "dead queue": _dead_queue, "stalled MAC": _stalled_mac,
             "byte shares": _byte_shares, "flooding queue": _flooding_queue, "root complex": _root_complex}
