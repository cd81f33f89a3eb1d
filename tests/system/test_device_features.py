# SPDX-License-Identifier: BSD-2-Clause
"""Every pair of features, on and off, on the harness; QEMU's device gets the same words in tests/qtest."""

import itertools
import os
import random

import pytest
from settings import several_pairs

from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.pairwise import combinations, combined, legal_pairs, pairs_of
from unvirt_sim.driver.spec import DEPENDENCIES, Feature, dependencies_met, mask, names
from unvirt_sim.harness_host import run_driver as go

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
F = Feature
FEATURES = {F.MTU, F.MAC, F.MRG_RXBUF, F.STATUS, F.CTRL_VQ, F.MQ, F.INDIRECT_DESC, F.EVENT_IDX, F.ACCESS_PLATFORM, F.RING_PACKED, F.IN_ORDER,
            F.ORDER_PLATFORM, F.NOTIFICATION_DATA, F.NOTIF_CONFIG_DATA, F.RING_RESET, F.SUSPEND, F.VQ_NOTF_COAL, F.NOTF_COAL}
WORDS = combinations(FEATURES, SEED)


def test_all_that_is_offered_is_combined(device):
    """The features combined here are those that the device offers, beside VERSION_1, which it must have."""
    _, host = device("default", seed=SEED, **several_pairs())
    found = go(VirtioDevice.find(host))
    go(found.start_negotiation())
    assert names(go(found.offered())) == names(mask(F.VERSION_1, *FEATURES))


def test_every_legal_pair_is_there():
    """Of two features all four settings are in some word, but for one without what it depends on."""
    assert all(dependencies_met(word) for word in WORDS)
    held = set().union(*(pairs_of(word, FEATURES) for word in WORDS))
    assert held == legal_pairs(FEATURES)
    pairs = itertools.combinations(sorted(FEATURES), 2)
    all_pairs = {((a, on), (b, also)) for a, b in pairs for on in (False, True) for also in (False, True)}
    needing = (F.MQ, F.VQ_NOTF_COAL, F.NOTF_COAL)
    assert all_pairs - held == {((F.CTRL_VQ, False), (feature, True)) for feature in needing}
    print(f"seed {SEED}: {len(WORDS)} words hold {len(held)} pairs of {len(FEATURES)} features")


@pytest.mark.parametrize("seed", range(20))
def test_pairs_of_other_features(seed):
    """Whatever the features and the seed: every pair that a legal word holds, found by trying all words, is in those chosen."""
    rng = random.Random(seed)
    features = sorted(rng.sample(sorted({F.STATUS, F.MAC, *DEPENDENCIES, F.CSUM, F.CTRL_VQ, F.OUT_NET_HEADER}), 7))
    words = [mask(*itertools.compress(features, settings)) for settings in itertools.product((0, 1), repeat=len(features))]
    possible = set().union(*(pairs_of(word, features) for word in words if dependencies_met(word)))
    assert legal_pairs(features) == possible
    assert set().union(*(pairs_of(word, features) for word in combinations(features, seed))) == possible


@pytest.mark.parametrize("preset", ["default", "wide"])
@pytest.mark.parametrize("number", range(len(WORDS)))
def test_combination(device, number, preset):
    """Frames both ways, commands and resets of queues with the features of one word, waiting in each way that there is in turn."""
    word, interrupts = WORDS[number] | mask(F.VERSION_1), ("msix", "shared", "poll", "intx")[number % 4]
    print(interrupts, *names(word))
    _, host = device(preset, seed=SEED, **several_pairs(preset))
    go(combined(host, SEED, word, interrupts=interrupts))
