# SPDX-License-Identifier: BSD-2-Clause
"""Whole devices on the harness, driven by the reference driver."""

import functools

import pytest

from settings import TIMEOUT

from unvirt.config import preset
from unvirt_sim.build import build_library
from unvirt_sim.harness import Simulation
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import HarnessHost


@functools.cache
def library(name, **options):
    """Build (or find) the library of a preset with other options."""
    config = preset(name).with_options(**options) if options else preset(name)
    return build_library(config)


@pytest.fixture
def device():
    """Return a maker of (simulation, host); at the end no checker may have complained."""
    made = []

    def make(name="default", *, link=None, seed=1, random_init=True, settle=3000, **options):
        print(f"preset {name} {options} seed {seed}")
        simulation = Simulation(library(name, **options), link=link or LinkConfig(), seed=seed,
                                random_init=random_init)
        simulation.run(settle)
        made.append(simulation)
        return simulation, HarnessHost(simulation)

    yield make
    for simulation in made:
        assert simulation.violations == []


@pytest.fixture
def small(device):
    """Return a maker of the smallest device, with a completion timeout that tests can wait for."""
    return functools.partial(device, "minimal", completion_timeout=TIMEOUT)
