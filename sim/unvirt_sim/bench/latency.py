# SPDX-License-Identifier: BSD-2-Clause
"""The way of one packet through an idle device, stage by stage."""

from dataclasses import dataclass, replace

from ..records import Seen
from .figures import classify
from .load import Load, Run
from .session import BenchFailed

__all__ = ["ONE_AT_A_TIME", "Stage", "own_cycles", "receive_latency", "transmit_latency"]

_PACKETS = 5
_PAUSE = 1500
"""Cycles between packets, beside what the host takes."""
ONE_AT_A_TIME = Load(interrupts=True, ring=256)
"""How a device is loaded for its latency, but for the number of packets."""


@dataclass(frozen=True)
class Stage:
    """Cycles of the device (``host`` false) or of a round trip to the host."""

    name: str
    cycles: float
    host: bool = False


class _Way:
    """Follows a packet through the records, from one event to the next."""

    def __init__(self, run, start):
        self.run, self.at, self.stages = run, start, []

    def event(self, name, wanted, stamp=lambda record: record.last):
        """Go on to the first wanted record behind the present one."""
        for record in self.run.records:
            if stamp(record) >= self.at and wanted(record):
                self.stages.append(Stage(name, stamp(record) - self.at))
                self.at = stamp(record)
                return record
        raise BenchFailed(f"There is no {name} after cycle {self.at}")

    def request(self, name, kind, ring, purpose):
        return self.event(name, lambda record: record.kind == kind
                          and classify(self.run, record) == (ring, purpose))

    def round_trip(self, ring, purpose):
        """Read something of the host, to the last beat of the answer."""
        request = self.request(f"to the read of {purpose}", Seen.UP_READ, ring, purpose)
        answer = [record for record in self.run.records
                  if record.kind == Seen.DOWN_COMPLETION and record.tag == request.tag
                  and record.last > request.last and record.bytes <= record.address][0]
        self.stages.append(Stage(f"{purpose} round trip", answer.last - self.at, host=True))
        self.at = answer.last


def _observe(session, load, give):
    """Let ``give`` hand over one packet after the other; return what was seen and when each was given."""
    rings = session.start(load)
    sim = session.simulation
    sim.record()
    given = []
    for number in range(_PACKETS):
        given.append(sim.cycle)
        give(sim, rings, number)
        sim.run(_PAUSE + 6 * session.latency)
    run = Run(load, session.width, session.link, session.latency, sim.records(), rings, given[0], sim.cycle,
              sim.counters)
    if sim.violations:
        raise BenchFailed(f"A checker complained: {sim.violations[0]}")
    return run, given


def _typical(ways):
    """Return the stages of the way of median length in the device."""
    ways.sort(key=own_cycles)
    return ways[len(ways) // 2]


def own_cycles(stages):
    """Return the cycles of the device alone."""
    return sum(stage.cycles for stage in stages if not stage.host)


def transmit_latency(session, load=ONE_AT_A_TIME):
    """Return the stages from the doorbell's last beat to the first beat at the MAC."""
    run, given = _observe(session, replace(load, transmit=_PACKETS), lambda sim, rings, number: rings["tx"][0].publish(1))
    purposes = ["descriptors", "data"] if load.packed else ["entries", "descriptors", "data"]
    if not load.packed and not load.notification_data:
        purposes.insert(0, "index")
    ways = []
    for start in given:
        way = _Way(run, start)
        way.event("doorbell", lambda record: record.kind == Seen.DOWN_WRITE)
        way.stages.clear()
        for purpose in purposes:
            way.round_trip("tx", purpose)
        way.event("to the MAC", lambda record: record.kind == Seen.FRAME_OUT, lambda record: record.first)
        ways.append(way.stages)
    return _typical(ways)


def receive_latency(session, load=ONE_AT_A_TIME):
    """Return the stages from the frame's last beat to the MSI-X message."""
    def give(sim, rings, number):
        (ring,) = rings["rx"]
        ring.reap()
        ring.want_interrupt()
        sim.send_frame(bytes(load.frame))

    run, given = _observe(session, replace(load, receive=_PACKETS), give)
    ways = []
    for start in given:
        way = _Way(run, start)
        way.event("frame", lambda record: record.kind == Seen.FRAME_IN)
        way.stages.clear()
        way.request("to the data", Seen.UP_WRITE, "rx", "data")
        if load.packed:
            way.request("to the used descriptor", Seen.UP_WRITE, "rx", "used")
        else:
            way.request("to the used element", Seen.UP_WRITE, "rx", "used")
            way.request("to the used index", Seen.UP_WRITE, "rx", "used index")
        way.round_trip("rx", "flags")
        way.request("to the MSI-X message", Seen.UP_WRITE, "", "message")
        ways.append(way.stages)
    return _typical(ways)
