# SPDX-License-Identifier: BSD-2-Clause
"""Structural floors: what only an engine with many reads in flight and without shared waiting reaches. Cycle counts, not timings."""

from dataclasses import replace

import pytest

from unvirt_sim.bench.figures import cycles_per_packet, reads_in_flight
from unvirt_sim.bench.isolation import beside_dead_queue, receive_beside_stalled_mac
from unvirt_sim.bench.latency import ONE_AT_A_TIME, own_cycles, receive_latency, transmit_latency
from unvirt_sim.bench.limits import limit
from unvirt_sim.bench.load import Load
from unvirt_sim.bench.session import Session


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("way", ["tx", "rx"])
def test_a_microsecond_is_hidden(library, seed, way, packed):
    """With 250 cycles of host read latency one queue needs at most 10 % more cycles than the link, for packets of 64 bytes."""
    run = Session(library("wide"), width=256, latency=250, seed=seed).run(Load(packed=packed, **{"transmit" if way == "tx" else "receive": 3000}))
    cycles, least = cycles_per_packet(run, way), limit(run).cycles
    print(f"{cycles:.2f} cycles a packet, limit {least:.2f}")
    assert cycles <= 1.1 * least
    if way == "tx":
        mean, _ = reads_in_flight(run, "tx")
        print(f"{mean:.1f} reads in flight")
        assert mean >= 16


def test_neither_direction_crowds_out_the_other(library, seed):
    """Both ways at once, packets of 64 bytes: one direction is as fast as the other within 5 %, and near the link's limit."""
    run = Session(library("wide"), width=256, seed=seed).run(Load(packed=True, transmit=2000, receive=2000))
    sent, received, least = cycles_per_packet(run, "tx"), cycles_per_packet(run, "rx"), limit(run).cycles
    print(f"{sent:.2f} and {received:.2f} cycles a packet, limit {least:.2f}")
    assert 0.95 <= sent / received <= 1.05
    assert max(sent, received) <= 1.1 * least


@pytest.mark.parametrize("way, latency", [("tx", 0), ("tx", 250), ("rx", 0)])
def test_long_frames_fill_the_link(library, seed, way, latency):
    """Frames of 9,000 bytes take at most 3 % more than the link needs, with buffers of 32 KB: the next one is read while one is sent, and told of
    while the next is written.
    """
    load = Load(frame=9000, reach=3, **{"transmit" if way == "tx" else "receive": 40})
    run = Session(library("default"), width=64, latency=latency, seed=seed).run(load)
    cycles, least = cycles_per_packet(run, way), limit(run).cycles
    print(f"{cycles:.1f} cycles a packet, limit {least:.1f}")
    assert cycles <= 1.03 * least


@pytest.mark.parametrize("way", ["tx", "rx"])
def test_short_frames_at_256_bits(library, seed, way):
    """Frames of 64 bytes come every 4.5 cycles, none of which the attachment adds to the beats of their TLPs."""
    load = Load(**{"transmit" if way == "tx" else "receive": 1500})
    cycles = cycles_per_packet(Session(library("wide"), width=256, seed=seed).run(load), way)
    print(f"{cycles:.2f} cycles a packet")
    assert cycles <= 4.5


@pytest.mark.parametrize("what", ["data", "rings"])
def test_a_queue_without_answers_holds_up_no_other(library, seed, what):
    """A transmit queue whose reads are never answered leaves a second one 90 % of its rate."""
    alone, beside = beside_dead_queue(library("wide", queue_pairs=2), width=256, what=what, seed=seed)
    print(f"alone {alone:.2f}, beside {beside:.2f} cycles a packet")
    assert alone / beside >= 0.9


def test_a_stalled_mac_does_not_hold_up_reception(library, seed):
    """A full transmit queue before a stalled MAC leaves the receive queue 90 % of its rate."""
    alone, beside = receive_beside_stalled_mac(library("wide"), width=256, seed=seed)
    print(f"alone {alone:.2f}, beside {beside:.2f} cycles a packet")
    assert alone / beside >= 0.9


@pytest.mark.parametrize("measure, packed, most", [(transmit_latency, False, 72), (transmit_latency, True, 45), (receive_latency, False, 45)])
def test_latency_of_one_packet(library, seed, measure, packed, most):
    """One packet of 64 bytes through an idle device, round trips to the host subtracted."""
    stages = measure(Session(library("wide"), width=256, seed=seed), replace(ONE_AT_A_TIME, packed=packed))
    print(", ".join(f"{stage.name} {stage.cycles}" for stage in stages))
    assert own_cycles(stages) <= most
