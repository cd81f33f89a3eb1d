# SPDX-License-Identifier: BSD-2-Clause
"""The reference driver's scenarios on the harness; other hosts run the same ones (tests/bench, tests/qtest)."""

import os

import pytest

from unvirt_sim.driver.net import PACKED, WANTED
from unvirt_sim.driver.scenarios import SCENARIOS, SPLIT_ONLY
from unvirt_sim.harness_host import run_driver

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@pytest.mark.parametrize("preset", ["default", "wide"])
@pytest.mark.parametrize("ring,name", [("split", name) for name in SCENARIOS]
                         + [("packed", name) for name in SCENARIOS if name not in SPLIT_ONLY])
def test_scenario(device, preset, ring, name):
    """Enumeration, negotiation, chains of every shape, interrupts of every kind, resets."""
    _, host = device(preset, seed=SEED)
    run_driver(SCENARIOS[name](host, SEED, {"split": WANTED, "packed": PACKED}[ring]))
