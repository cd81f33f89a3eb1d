# SPDX-License-Identifier: BSD-2-Clause
"""Cycle counts that must not regress: the structural floors, measured by the bench itself."""

import functools
import os

import pytest

from unvirt.config import preset
from unvirt_sim.build import build_library

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@functools.cache
def _build(name, options):
    return build_library(preset(name).with_options(**dict(options)))


@pytest.fixture
def library():
    """Return a maker of simulation libraries by preset and options."""
    return lambda name, **options: _build(name, tuple(sorted(options.items())))


@pytest.fixture
def seed():
    """Return the seed of the host model, printed."""
    print(f"seed {SEED}")
    return SEED
