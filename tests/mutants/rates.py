# SPDX-License-Identifier: BSD-2-Clause
"""Cases of the suite that are loads of the bench: the device has to be as fast as the original, and to go on until every index has wrapped.

A mutant that does all that it should, but later, fails by its budget of cycles: see :data:`SLACK`.
"""

from dataclasses import replace
from functools import partial
from itertools import product

from unvirt_sim.bench.latency import ONE_AT_A_TIME, own_cycles, receive_latency, transmit_latency
from unvirt_sim.bench.link import LINKS
from unvirt_sim.bench.load import Load
from unvirt_sim.bench.session import Session

__all__ = ["RATES", "SLACK", "WRAPS"]

SLACK = 1.02
"""How much longer than the original a mutant may take for a case of :data:`RATES`."""

WIDTH, RING, PACKETS, PAIRS = 64, 256, 1500, 4

WAYS = {"tx": {"transmit": PACKETS}, "rx": {"receive": PACKETS}, "both": {"transmit": PACKETS, "receive": PACKETS}}

PERIODS = {("rx", False): 33, ("rx", True): 22, ("both", False): 72, ("both", True): 40}
"""Cycles between frames to all pairs with a host at 250 cycles: few buffers are fetched ahead for each, and none may be lost."""

MOST = {(transmit_latency, False): 72, (transmit_latency, True): 45, (receive_latency, False): 45, (receive_latency, True): 45}
"""Cycles of the device for one packet of 64 bytes, by the ring: packed or not; those of the design."""


class _Session(Session):
    """On what ``make`` gives: a mutant."""

    def __init__(self, make, *, latency=0):
        link, options = LINKS[WIDTH], {"latency": latency, "cut": "large"}
        self._attach(*make(link=link.config(**options), random_init=False), width=WIDTH, link=link, seed=1, **options)


def _load(way, packed, queues, latency, make):
    period = PERIODS.get((way, packed), 0) if queues > 1 and latency else 0
    _Session(make, latency=latency).run(Load(ring=RING, packed=packed, queues=queues, period=period, **WAYS[way]))


def _wrap(packed, events, make):
    """Both queues of a pair, beyond 16 bits of their indices, with interrupts."""
    _Session(make).run(Load(ring=RING, packed=packed, interrupts=True, event_idx=events, transmit=67_000, receive=67_000, frame=60, period=23))


def _one_packet(measure, packed, make):
    stages = measure(_Session(make), replace(ONE_AT_A_TIME, packed=packed))
    assert own_cycles(stages) <= MOST[measure, packed], stages


def _rates():
    rings = {"split": False, "packed": True}
    for (ring, packed), queues, latency, way in product(rings.items(), (1, PAIRS), (0, 250), WAYS):
        yield f"rates: {way}, {ring}, {queues} pairs, host at {latency}", partial(_load, way, packed, queues, latency)
    for (ring, packed), measure in product(rings.items(), (transmit_latency, receive_latency)):
        yield f"rates: one packet, {measure.__name__}, {ring}", partial(_one_packet, measure, packed)


RATES = dict(_rates())
"""Cases by name: functions of what makes a device."""

WRAPS = {f"wraps: all bits of an index, {ring}, {told}": partial(_wrap, ring == "packed", told == "events")
         for ring, told in product(("split", "packed"), ("flags", "events"))}
"""Cases that take long, by name."""
