# SPDX-License-Identifier: BSD-2-Clause
"""A driver that breaks every rule it can: no stray access, no hang, and a reset cures all."""

import functools
from collections import Counter

import hypothesis
import pytest
from adversary import LINK, PLAY, Episode
from adversary_requests import ORDERS, SHAPES
from driver_rules import BREAKABLE, UNBREAKABLE, breakable, report
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from settings import TIMEOUT

from unvirt.config import preset
from unvirt_sim.build import build_library
from unvirt_sim.conformance.catalogue import load
from unvirt_sim.harness import Simulation
from unvirt_sim.harness_host import HarnessHost

SMALL, WIDE = st.integers(0, 15), st.integers(0, 0xFFFF)
NUMBERS = {
    "describe": (st.integers(0, 23), SMALL, st.integers(0, 255), SMALL, st.integers(0, 31), st.one_of(st.integers(0, 8), WIDE)),
    "entry": (SMALL, SMALL, st.one_of(st.integers(0, 8), WIDE)),
    "publish": (SMALL, st.one_of(st.integers(0, 9), WIDE, st.sampled_from((0x8000, 0xFFF8, 0xFFFF)))),
    "ring": (SMALL, WIDE, SMALL),
    "frame": (WIDE,),
    "run": (st.integers(0, 600),),
    "fault": (SMALL, st.integers(0, 4)),
    "poke": (SMALL, WIDE),
    "master": (st.integers(0, 1),),
    # The only shape that breaks SPLIT-IND-06, which asks for IN_ORDER as well, is made more often.
    "send": (SMALL, st.sampled_from((*range(len(SHAPES)), *[SHAPES.index("flags in a table")] * 4)), st.sampled_from(range(len(ORDERS))), SMALL,
             WIDE),
    "queue_reset": (SMALL, st.sampled_from(range(32)), st.one_of(st.just(0), st.integers(1, 300))),
    "restart": (SMALL, SMALL, st.one_of(st.sampled_from((0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 8, 16, 32, 64, 256)), st.integers(0, 1023))),
    "enable": (SMALL, SMALL),
    "status": (st.integers(0, 254),),
    "odd": (st.integers(0, 255), SMALL, st.integers(0, 1), WIDE),
    "isr": (SMALL,),
    "window": (SMALL, st.one_of(st.integers(0, 64), WIDE), SMALL, WIDE),
    "config": (st.integers(0, 59), SMALL, WIDE),
    "suspend": (SMALL, st.integers(0, 300)),
}
OFTEN = ("describe", "describe", "describe", "entry", "publish", "publish", "run", "frame", "send", "send", "send", "send", "restart", "restart",
         "restart", "poke", "run", "queue_reset", "suspend", "suspend", "suspend")
ACTION = st.sampled_from((*PLAY, *OFTEN)).flatmap(lambda name: st.tuples(st.just(name), *NUMBERS[name]))


def play(make, packed, events, seed, actions):
    """Play an episode; return whether the device asked for a reset, and how often which rule for drivers was broken."""
    episode = Episode(*make(link=LINK, seed=seed), packed=packed, events=events, timeout=TIMEOUT)
    for name, *numbers in actions:
        PLAY[name][1](episode, *numbers)
    return episode.recover(), +episode.broken


def episodes(make, count, packed, events, *, number=None, **options):
    """Play ``count`` random episodes with hypothesis; print what was done and how often the device asked for a reset.

    Parameters
    ----------
    make : callable
        Gives a simulation and its host for a ``link`` and a ``seed``.
    number : int, optional
        Seed of the choice, if it is to be the same every time.
    options
        Settings of hypothesis.
    """
    done = Counter()

    @settings(max_examples=count, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck), **options)
    @given(seed=st.integers(1, 1 << 30), actions=st.lists(ACTION, min_size=16, max_size=80))
    def run(seed, actions):
        asked, broken = play(make, packed, events, seed, actions)
        done["asked for a reset"] += asked
        done["episodes"] += 1
        done.update(broken)
        done.update(name for name, *_ in actions)

    (run if number is None else hypothesis.seed(number)(run))()
    print(dict(done))
    return done


@functools.cache
def library():
    """Build (or find) the small device, once for all episodes."""
    return build_library(preset("minimal").with_options(completion_timeout=TIMEOUT))


def make(*, link, seed):
    """Return a small device that has settled, and its host."""
    simulation = Simulation(library(), link=link, seed=seed, random_init=True)
    simulation.run(100)
    return simulation, HarnessHost(simulation)


RINGS = {"split-flags": (False, False), "split-events": (False, True), "packed-flags": (True, False), "packed-events": (True, True)}


@pytest.mark.parametrize("packed, events", RINGS.values(), ids=RINGS)
def test_episodes(packed, events):
    """500 episodes; ``--hypothesis-seed`` repeats a run. Covers: DER-ERR-01, DER-ERR-03"""
    done = episodes(make, 500, packed, events)
    print(report(done))
    assert done["asked for a reset"] > 50
    # Twenty times in all: the kinds of rings are tests of their own, which may run apart.
    kinds = Counter(rule for kind in RINGS.values() for rule in breakable(*kind))
    assert {rule: done[rule] for rule in breakable(packed, events) if done[rule] * kinds[rule] < 20} == {}


def test_every_rule_for_drivers():
    """Each is either broken by some action, or there is a reason why it cannot be."""
    rules = {name for name, row in load().items() if row.side == "driver"}
    assert len(rules) == 66 and BREAKABLE.keys() | UNBREAKABLE.keys() == rules and not BREAKABLE.keys() & UNBREAKABLE.keys()
    assert BREAKABLE == {rule: how for kind in RINGS.values() for rule, how in breakable(*kind).items()}
