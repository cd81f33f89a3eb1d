# SPDX-License-Identifier: BSD-2-Clause
"""Figures out of what was seen of a run."""

from bisect import bisect
from collections import Counter
from dataclasses import dataclass

from ..link import DLLP_BYTES
from ..records import Seen
from .link import beats, wire_bytes

__all__ = ["Traffic", "classify", "cycles_per_packet", "packet_stamps", "reads_in_flight", "traffic",
           "window", "wire_left"]

_MESSAGES = 0xFEE0_0000
_REQUESTS = (Seen.UP_READ, Seen.UP_WRITE)
_DLLP_CAUSES = {
    # What starts the latency timers whose DLLPs go this way: of Acks, of credits for completions, for posted and for non-posted TLPs.
    "up": (range(Seen.DOWN_COMPLETION, Seen.FRAME_OUT), {Seen.DOWN_COMPLETION}, {Seen.DOWN_WRITE}, {Seen.DOWN_READ, Seen.DOWN_CONFIG}),
    "down": (range(Seen.DOWN_COMPLETION), {Seen.UP_COMPLETION}, {Seen.UP_WRITE, Seen.UP_MESSAGE}, {Seen.UP_READ}),
}


def window(run):
    """Return the first and last cycle of the steady state: from 30 % to 90 % of the run."""
    length = run.end - run.begin
    return run.begin + 3 * length // 10, run.begin + 9 * length // 10


def packet_stamps(run, name):
    """Return (cycle, packets done) of rings: frames at the MAC if they transmit, what was said to be used if they receive."""
    rings = run.rings[name]
    if not rings[0].writable:
        frames = (record for record in run.records if record.kind == Seen.FRAME_OUT)
        return [(record.last, number) for number, record in enumerate(frames, 1)]
    if rings[0].packed:
        return _used_descriptors(run, rings)
    indices, done, out = {ring.used + 2: 0 for ring in rings}, 0, []
    for record in run.records:
        if record.kind == Seen.UP_WRITE and record.address in indices:
            step = (record.data - indices[record.address]) & 0xFFFF
            indices[record.address] += step
            done += step
            out.append((record.last, done))
    return out


def _used_descriptors(run, rings):
    """Return (cycle, packets done) of packed rings; each write is of one descriptor or several side by side."""
    starts = sorted((ring.desc, ring.desc + 16 * ring.size) for ring in rings)
    done, out = 0, []
    for record in run.records:
        if record.kind == Seen.UP_WRITE:
            place = bisect(starts, record.address, key=lambda start: start[0]) - 1
            if place >= 0 and record.address < starts[place][1]:
                done += -(-record.bytes // 16)
                out.append((record.last, done))
    return out


def _ends(run, name):
    start, stop = window(run)
    inside = [stamp for stamp in packet_stamps(run, name) if start <= stamp[0] <= stop]
    return inside[0], inside[-1]


def cycles_per_packet(run, name):
    """Return the cycles from packet to packet in the steady state, from the first to the last event of the window."""
    (first, before), (last, after) = _ends(run, name)
    return (last - first) / (after - before)


def classify(run, record):
    """Return the rings and the purpose of a request of the device: ("tx", "data"), ("", "message") ..."""
    return run.area(record) or ("", "message" if _MESSAGES <= record.address < _MESSAGES + 0x1_0000 else "other")


@dataclass(frozen=True)
class Traffic:
    """What passed the link in the steady state, per packet of one direction."""

    requests: Counter              # (rings, purpose) -> TLPs of the device
    doorbells: float
    bytes: dict                    # "up", "down" -> wire bytes
    beats: dict                    # "up", "down" -> beats of the attachment contract

    def every(self, name, purpose):
        """Return the packets from one request of this kind to the next, at least 1."""
        rate = self.requests[name, purpose]
        return max(1.0, 1 / rate) if rate else float("inf")


def traffic(run, name):
    """Count TLPs, bytes and beats of the steady state per packet of the rings ``name``."""
    (first, before), (last, after) = _ends(run, name)
    number = after - before
    requests, size, beat = Counter(), Counter(), Counter()
    doorbells = 0
    for record in run.records:
        kind = record.kind
        if kind >= Seen.FRAME_OUT or not first < record.last <= last:
            continue
        way = "up" if kind <= Seen.UP_MESSAGE else "down"
        completion = kind == Seen.DOWN_COMPLETION
        address, length = (0, record.address) if completion else (record.address, record.bytes)
        if kind in _REQUESTS:
            requests[classify(run, record)] += 1 / number
        doorbells += kind == Seen.DOWN_WRITE
        size[way] += wire_bytes(kind, address, length)
        beat[way] += beats(kind, address, length, run.width)
    return Traffic(requests, doorbells / number, {way: size[way] / number for way in ("up", "down")},
                   {way: beat[way] / number for way in ("up", "down")})


def wire_left(run):
    """Return the bytes a cycle that Acks and credit updates left to TLPs in the steady state: {"up": ..., "down": ...}.

    Counted as the simulated link does: a TLP starts the latency timer of Acks and that of credits of its kind, and at their ends a DLLP goes the
    other way.
    """
    start, stop = window(run)
    out = {}
    for way, timers in _DLLP_CAUSES.items():
        number = 0
        for causes in timers:
            ends = 0
            for record in run.records:
                if record.kind in causes and record.last >= ends:
                    ends = record.last + run.link.dllp_interval
                    number += start <= ends < stop
        out[way] = run.link.rate - DLLP_BYTES * number / (stop - start)
    return out


def reads_in_flight(run, name, purpose="data"):
    """Return (mean, most) reads of a kind that wait for their last completion in the steady state."""
    start, stop = window(run)
    waiting = {}
    now = most = area = 0
    at = start
    for record in run.records:
        if record.kind == Seen.UP_READ and classify(run, record) == (name, purpose):
            waiting[record.tag] = record.address & 3
            change = 1
        elif record.kind == Seen.DOWN_COMPLETION and record.tag in waiting:
            # The byte count is of all that is left; the payload has padding before its first byte only.
            if record.bytes > record.address - waiting[record.tag]:
                waiting[record.tag] = 0
                continue
            del waiting[record.tag]
            change = -1
        else:
            continue
        if start <= record.last <= stop:
            area += now * (record.last - at)
            at = record.last
            most = max(most, now + change)
        now += change
    return area / max(1, at - start), most
