# SPDX-License-Identifier: BSD-2-Clause
"""The reference driver on QEMU's own virtio-net-pci: driver and checks against a device that is not ours."""

import os

import pytest

from unvirt_sim.driver import run
from unvirt_sim.driver.net import IN_ORDER, PACKED
from unvirt_sim.driver.scenarios import NEEDS, SCENARIOS
from unvirt_sim.guest.packages import find_qemu
from unvirt_sim.hosts.qtest import FEATURES, QtestHost

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@pytest.fixture(scope="session")
def qemu():
    return find_qemu()


@pytest.fixture
def host(qemu):
    """Return a maker of hosts; at the end no memory outside what the device was given may have been written."""
    made = []

    def make(features="same"):
        print(f"QEMU {qemu.version} features {features} seed {SEED}")
        made.append(QtestHost(qemu, FEATURES[features]))
        return made[-1]

    yield make
    try:
        for one in made:
            one.check_freed()
            assert one.violations == []
    finally:
        for one in made:
            one.close()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in NEEDS])
def test_scenario(host, name):
    """Every scenario that QEMU's device can take, with the features that unvirt's device offers."""
    run(SCENARIOS[name](host(), SEED))


@pytest.mark.parametrize("name", ["chains", "mergeable", "wrap", "msix", "intx", "silence", "reset_again"])
@pytest.mark.parametrize("features", [name for name in FEATURES if name != "same"])
def test_further_features(host, features, name):
    """Ring features that the driver knows and QEMU offers."""
    run(SCENARIOS[name](host(features), SEED, PACKED | IN_ORDER))
