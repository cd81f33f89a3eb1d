# SPDX-License-Identifier: BSD-2-Clause
"""The reference driver on QEMU's own virtio-net-pci: driver and checks against a device that is not ours."""

import os

import pytest

from unvirt_sim.driver import run
from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import IN_ORDER, PACKED
from unvirt_sim.driver.pairwise import combinations, combined, legal_pairs, pairs_of
from unvirt_sim.driver.scenarios import NEEDS, SCENARIOS
from unvirt_sim.driver.spec import Feature, mask, names
from unvirt_sim.guest.packages import find_qemu
from unvirt_sim.hosts.qtest import FEATURES, QtestHost

F = Feature
OFFERED = {F.MTU: ("host_mtu", "1500", "0"), F.MRG_RXBUF: ("mrg_rxbuf", "on", "off"), F.STATUS: ("status", "on", "off"),
           F.CTRL_VQ: ("ctrl_vq", "on", "off"), F.MQ: ("mq", "on", "off"), F.INDIRECT_DESC: ("indirect_desc", "on", "off"),
           F.EVENT_IDX: ("event_idx", "on", "off"), F.ACCESS_PLATFORM: ("iommu_platform", "on", "off"), F.RING_PACKED: ("packed", "on", "off"),
           F.IN_ORDER: ("in_order", "on", "off"), F.RING_RESET: ("queue_reset", "on", "off")}
"""What QEMU's device (11.1) can offer of unvirt's features: the option, and its values. MAC cannot be switched off."""

NOT_OFFERED = {F.ORDER_PLATFORM, F.NOTIFICATION_DATA, F.NOTIF_CONFIG_DATA, F.SUSPEND, F.VQ_NOTF_COAL, F.NOTF_COAL}
"""What it cannot offer at all: they are left out of the combinations."""

SEED = int(os.environ.get("UNVIRT_SEED", "1"))


@pytest.fixture(scope="session")
def qemu():
    return find_qemu()


@pytest.fixture
def host(qemu):
    """Return a maker of hosts; at the end no memory outside what the device was given may have been written."""
    made = []

    def make(features="same"):
        options = FEATURES[features] if isinstance(features, str) else features
        print(f"QEMU {qemu.version} features {features} seed {SEED}")
        made.append(QtestHost(qemu, options))
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


async def _offered(host):
    device = await VirtioDevice.find(host)
    await device.start_negotiation()
    return await device.offered()


def test_every_combination(host):
    """Every pair of the features that QEMU's device can offer, offered and not: a device for each word, driven as unvirt's is."""
    features = {F.MAC, *OFFERED}
    words = combinations(features, SEED)
    assert set().union(*(pairs_of(word, features) for word in words)) == legal_pairs(features)
    for number, word in enumerate(words):
        options = {option: on if word >> feature & 1 else off for feature, (option, on, off) in OFFERED.items()}
        made = host(options)
        offered = run(_offered(made))
        assert not offered & mask(*NOT_OFFERED), "QEMU has learnt a feature: it belongs to those combined here"
        assert offered & mask(*OFFERED) == word & mask(*OFFERED)
        run(combined(made, SEED, word | mask(F.VERSION_1), interrupts=("msix", "shared", "poll", "intx")[number % 4]))
        print(number, *names(word))
