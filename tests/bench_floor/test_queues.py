# SPDX-License-Identifier: BSD-2-Clause
"""Several queue pairs, both ring formats: nobody is better than the limit, everybody gets on, and shares are counted right."""

import pytest

from unvirt_sim.bench.fairness import Shares, byte_shares
from unvirt_sim.bench.figures import cycles_per_packet, traffic
from unvirt_sim.bench.limits import limit
from unvirt_sim.bench.load import Load, flow_frame
from unvirt_sim.bench.points import QUEUES
from unvirt_sim.bench.session import Session, at_highest_rate

PAIRS = 8


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("way", ["tx", "rx"])
def test_many_queues_are_within_the_limit(library, seed, way, packed):
    """More active queues than there are contexts for their rings all get on, hardly slower than the limit and never faster, each with its own frames.
    """
    count = {"transmit": 4800} if way == "tx" else {"receive": 4800}

    def measure(period):
        load = Load(ring=QUEUES[PAIRS][1], queues=PAIRS, packed=packed, period=period, **count)
        return Session(library("wide", **QUEUES[PAIRS][0]), width=256, seed=seed).run(load)

    run, _ = at_highest_rate(measure, Load.frame * 8 / 256)
    least, cycles = limit(run), cycles_per_packet(run, way)
    print(f"{cycles:.2f} cycles a packet, limit {least.cycles:.2f}; {sum(traffic(run, way).bytes.values()):.1f} bytes, {least.bytes:.1f}")
    assert 0.995 * least.cycles <= cycles <= 1.12 * least.cycles
    assert sum(traffic(run, way).bytes.values()) >= 0.99 * least.bytes
    assert traffic(run, way).requests[way, "descriptors"] <= 0.25, "descriptors are read a few at a time"
    assert all(ring.done >= 4800 / PAIRS / 4 for ring in run.rings[way]), "a queue stands still, or gets on much too late"


@pytest.mark.parametrize("latency", [0, 250])
@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
def test_reception_beside_full_transmit_queues(library, seed, packed, latency):
    """Frames that go to eight receive queues in turn, beside eight full transmit queues: both get their share of a full link however late the host
    answers, and no frame is lost however fast they come, for buffers are fetched in time.
    """
    load = Load(ring=QUEUES[PAIRS][1], queues=PAIRS, packed=packed, transmit=3200, receive=3200)
    run = Session(library("wide", **QUEUES[PAIRS][0]), width=256, seed=seed, latency=latency).run(load)      # raises if a frame is lost
    rates = [cycles_per_packet(run, way) for way in ("rx", "tx")]
    print("{:.2f} and {:.2f} cycles a packet".format(*rates), f"limit {limit(run).cycles:.2f}")
    assert max(rates) < 6.6


@pytest.mark.parametrize("way", ["tx", "rx", "both"])
def test_a_packed_ring_is_within_the_limit(library, seed, way):
    """What the device moves with a packed ring never beats the limit, in cycles or in bytes."""
    load = Load(transmit=1600 if way != "rx" else 0, receive=1600 if way != "tx" else 0, packed=True)
    run = Session(library("wide"), width=256, seed=seed).run(load)
    least = limit(run)
    assert max(cycles_per_packet(run, name) for name in (("tx", "rx") if way == "both" else (way,))) >= 0.995 * least.cycles
    if way != "both":
        assert sum(traffic(run, way).bytes.values()) >= 0.995 * least.bytes


def test_one_packet_at_a_time_of_a_packed_ring(library, seed):
    """At a batch of one the limit of reception is what passes: descriptor, data, used descriptor, event structure."""
    run = Session(library("wide"), width=256, seed=seed).run(Load(receive=200, packed=True, reach=1))
    assert sum(traffic(run, "rx").bytes.values()) == pytest.approx(limit(run).bytes, rel=0.01)


@pytest.mark.parametrize("packed, latency", [(False, 0), (False, 250), (True, 0), (True, 250)])
def test_byte_shares(library, seed, packed, latency):
    """Eight queues with frames of 64, 256, 576 and 1,500 bytes get the same within 5 %; what is counted is what left, of the whole."""
    shares = byte_shares(library("wide", **QUEUES[PAIRS][0]), width=256, queues=PAIRS, ring=QUEUES[PAIRS][1], packed=packed, latency=latency,
                         rounds=400, seed=seed)
    print([f"{part:.3f}" for part in shares.fair], f"{shares.rate:.2f} bytes a cycle")
    assert all(0.95 <= part <= 1.05 for part in shares.fair)
    assert sum(shares.fair) == pytest.approx(PAIRS)
    assert all(size % mine == 0 for size, mine in zip(shares.bytes, shares.sizes, strict=True))
    assert 19 <= shares.rate <= 32


def test_shares_are_of_an_equal_part():
    """Twice the bytes are twice the share."""
    assert Shares([300, 100], [64, 64], 40).fair == [1.5, 0.5]
    assert Shares([300, 100], [64, 64], 40).rate == 10


@pytest.mark.parametrize("pairs", [2, 8, 255])
def test_flows_lead_to_their_pairs(pairs):
    """Each queue pair has a flow that an untouched steering table spreads to it."""
    for pair in range(pairs):
        frame = flow_frame(pair, pairs, 5, 64)
        assert frame[12:15] == b"\x08\x00\x45" and len(frame) == 64
        assert frame[29] * pairs >> 8 == pair


def test_reception_beside_a_flood(library, seed):
    """Sixteen packed transmit queues that are never empty, at a width where the device itself is the bound, leave receive queues their turns.

    A frame every 300 cycles must find a buffer. The windows are so small that each queue has to read anew after four frames.
    """
    pairs = 16
    flooded = library("default", data_width=512, rows=64, queue_pairs=pairs, chain_slots=512, queue_window=8, meta_contexts=128)
    load = Load(ring=64, queues=pairs, packed=True, transmit=4000, receive=16 * pairs, period=300)
    run = Session(flooded, width=512, seed=seed).run(load)       # raises if a frame is lost
    assert run.counters["rx_dropped"] == 0
    assert cycles_per_packet(run, "tx") < 12
