# SPDX-License-Identifier: BSD-2-Clause
"""The ruler of the bench is right: nobody is better than the limit, and counting counts."""

import random

import pytest

from unvirt_sim.bench.figures import cycles_per_packet, reads_in_flight, traffic
from unvirt_sim.bench.grid import measure
from unvirt_sim.bench.limits import Cost, limit
from unvirt_sim.bench.link import LINKS, beats, wire_bytes
from unvirt_sim.bench.peer import PUBLISHED, ratio_to_limit
from unvirt_sim.bench.points import Point
from unvirt_sim.bench.load import Load
from unvirt_sim.bench.session import Session, at_highest_rate
from unvirt_sim.records import Seen


@pytest.mark.parametrize("figure", PUBLISHED, ids=lambda figure: f"{figure.direction}-{figure.frame}")
def test_the_peer_is_within_the_limit(figure):
    """The peer's published figures come out at or below 100 % of the limit on the same link."""
    assert ratio_to_limit(figure) <= 1.0


def test_the_peer_fills_the_link():
    """The ruler is tight: long frames of the peer come within half a percent of it."""
    best = max(ratio_to_limit(figure) for figure in PUBLISHED)
    assert best > 0.995


def test_cost_of_a_tlp():
    """Header, padding to DWs and eight bytes of framing; reads carry nothing; a header beside the data takes no beat."""
    assert wire_bytes(Seen.UP_READ, 0x1000, 512) == 20
    assert wire_bytes(Seen.UP_READ, 1 << 32, 512) == 24
    assert wire_bytes(Seen.UP_WRITE, 0x1002, 2) == 24
    assert wire_bytes(Seen.UP_WRITE, 0x1003, 2) == 28
    assert wire_bytes(Seen.DOWN_COMPLETION, 0, 76) == 96
    assert beats(Seen.DOWN_COMPLETION, 0, 76, 256) == 3
    assert beats(Seen.UP_READ, 0, 512, 64) == 1


@pytest.mark.parametrize("width", [64, 256, 512])
@pytest.mark.parametrize("move, unit", [("write", 8), ("write", 16), ("read", 2), ("read", 16)])
def test_no_batches_cost_less(width, move, unit, seed):
    """Whatever the batches are, one after the other they cost what the limit takes for their mean, or more; batches of one size cost just that."""
    rng = random.Random(f"{seed} {width} {move} {unit}")
    for _ in range(40):
        sizes = [rng.randint(1, rng.choice([3, 10, 64])) for _ in range(rng.randint(1, 12))]
        each, least = Cost(width, 256), Cost(width, 256)
        for number in sizes:
            getattr(each, move)(unit * number, 1 / sum(sizes))
        least.batches(move, sum(sizes) / len(sizes), lambda number: unit * number)
        for name in ("bytes", "beats"):
            for way in ("up", "down"):
                assert getattr(least, name)[way] <= getattr(each, name)[way] + 1e-9
                assert getattr(least, name)[way] > 0.5 * getattr(each, name)[way] or not getattr(each, name)[way]


def test_acks_and_credits_take_their_share():
    """A link with nothing coming the other way carries its rate; with traffic less, never below an Ack and an UpdateFC a latency timer."""
    link = LINKS[512]
    assert link.cycles(6300, 0) == 6300 / link.rate
    busy = link.cycles(6300, 1)
    assert 6300 / link.rate < busy < 6300 / (link.rate - 16 / link.dllp_interval)


@pytest.mark.parametrize("way", ["tx", "rx", "both"])
def test_the_device_is_within_the_limit(library, seed, way):
    """What the device moves on the simulated link never beats the limit, in cycles or in bytes; bytes seen agree with the counters."""
    before = {}

    def measure(period):
        # So many that what is under way at either end of the window, some ten packets, is below the tolerance.
        load = Load(transmit=1600 if way != "rx" else 0, receive=1600 if way != "tx" else 0, period=period)
        session = Session(library("wide"), width=256, seed=seed)
        before.update(session.simulation.counters)
        return session.run(load)

    run, _ = at_highest_rate(measure, Load.frame * 8 / 256)
    names = ("tx", "rx") if way == "both" else (way,)
    least = limit(run)
    # With both ways the limit is that of a packet each way: the slower one keeps to it.
    assert max(cycles_per_packet(run, name) for name in names) >= 0.995 * least.cycles
    if way != "both":
        assert sum(traffic(run, way).bytes.values()) >= least.bytes * 0.995
    seen = sum(wire_bytes(record.kind, record.address, record.bytes) for record in run.records
               if record.kind in (Seen.UP_READ, Seen.UP_WRITE))
    counted = sum(run.counters[f"{name}_bytes"] - before[f"{name}_bytes"] for name in ("read_requests", "writes"))
    assert 0.5 * counted < seen <= counted, "the records miss TLPs that the link counted"


def test_a_slow_link_is_felt(library, seed):
    """A link of a tenth of the rate slows the device to a tenth: the simulation charges what the limit charges."""
    from dataclasses import replace
    link = replace(LINKS[256], rate=3.15)
    run = Session(library("wide"), width=256, link=link, seed=seed).run(Load(transmit=300))
    seen = traffic(run, "tx")
    wire = max(link.cycles(seen.bytes["down"], 2), link.cycles(seen.bytes["up"], 1))
    assert 0.97 * wire <= cycles_per_packet(run, "tx") <= 1.05 * wire


def test_reads_in_flight_follow_the_latency(library, seed):
    """Reads in flight are rate times round trip (Little), and what a read waits for the answers of those issued with it."""
    run = Session(library("wide"), width=256, latency=250, seed=seed).run(Load(transmit=1600))
    mean, most = reads_in_flight(run, "tx")
    trip = 250 + 6 + 2
    each = cycles_per_packet(run, "tx")
    # Reads go in bursts, a line of the ring at a time: on the average half of the longest one is ahead.
    assert 0.9 * trip <= mean * each <= trip + most * each / 2
    assert mean <= most


@pytest.mark.parametrize("frame", [1500, 9000])
def test_long_frames_reach_a_steady_state(frame):
    """There are more packets than the device takes in at first, so that reads of the ring are seen among them and the limit knows their batches."""
    (row,) = measure(Point(kind="throughput", width=256, frame=frame)).rows
    assert row.limit <= row.value < 1.03 * row.limit
