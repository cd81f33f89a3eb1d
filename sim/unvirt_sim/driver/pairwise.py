# SPDX-License-Identifier: BSD-2-Clause
"""Feature words that hold every legal pair of features, each on or off, and the scenario that uses whatever a word has.

Two features that are wrong together are wrong in one of these words, whatever else is in it: a dozen words instead of one for each of
the combinations that there are.
"""

import itertools
import random

from .checks import check
from .net import NetDriver
from .scenarios import exchange
from .spec import DEPENDENCIES, Ctrl, CtrlAck, Feature, NetConfig, dependencies_met, mask

__all__ = ["combinations", "combined", "legal_pairs", "pairs_of"]

TRIES = 40
"""Words tried for each that is taken."""


def pairs_of(word, features):
    """Return the pairs ((feature, on), (feature, on)) that a word holds."""
    settings = [(feature, bool(word >> feature & 1)) for feature in sorted(features)]
    return set(itertools.combinations(settings, 2))


def legal_pairs(features):
    """Return the pairs of ``features`` that some legal word of them holds, found by trying all that can matter."""
    bound = {feature for feature in features if feature in DEPENDENCIES or any(
        feature in group for groups in DEPENDENCIES.values() for group in groups)}
    found = set()
    for pair in itertools.combinations(sorted(features), 2):
        # Features that depend on nothing, and nothing on them, make no word legal or illegal.
        touched = sorted(bound | set(pair))
        for settings in itertools.product((False, True), repeat=len(touched)):
            word = mask(*itertools.compress(touched, settings))
            if dependencies_met(word):
                found |= pairs_of(word, pair)
    return found


def _random_word(rng, features, pair):
    """Return a random legal word that holds ``pair``."""
    fixed = dict(pair)
    while True:
        word = mask(*(feature for feature in features if fixed.get(feature, rng.random() < 0.5)))
        if dependencies_met(word):
            return word


def combinations(features, seed):
    """Return legal words of ``features`` that together hold every legal pair: greedily, each the best of some that hold a pair still missing."""
    rng, features = random.Random(f"pairwise {seed}"), sorted(features)
    missing, words = legal_pairs(features), []
    while missing:
        wanted = sorted(missing)
        tried = [_random_word(rng, features, rng.choice(wanted)) for _ in range(TRIES)]
        words.append(max(tried, key=lambda word: len(pairs_of(word, features) & missing)))
        missing -= pairs_of(words[-1], features)
    return words


def _frames(rng, *sizes):
    """Return frames of a protocol that nothing looks into."""
    return [b"\x02" * 12 + b"\x88\xb5" + rng.randbytes(size - 14) for size in sizes]


async def _both_ways(host, driver, rng):
    """Frames both ways in every shape that the features allow, more than the rings hold at once."""
    device = driver.device
    long = 1514 if device.has(Feature.MTU) else 4000
    table = {"indirect_from": 0} if device.has(Feature.INDIRECT_DESC) else {}
    merged = [[300]] * -(-(12 + long) // 300) if device.has(Feature.MRG_RXBUF) else [[12, 1000, 4000]]
    for _ in range(3):
        await exchange(host, driver, out=_frames(rng, 60, 61, 300), incoming=_frames(rng, 60, 777))
        (frame,) = _frames(rng, 200)
        await exchange(host, driver, out=[frame], lengths=[5, 100, 107], **table)
        await exchange(host, driver, incoming=_frames(rng, 400), post=[{"lengths": [13, 100, 400], **table}])
    await exchange(host, driver, out=_frames(rng, long))
    await exchange(host, driver, incoming=_frames(rng, long), post=merged)


async def _commands(driver):
    """What the control queue can do with the features there are; returns what a queue that comes back is to coalesce: {queue: (packets, us)}."""
    device, control, kept = driver.device, driver.control, {0: (0, 0), 1: (0, 0)}
    check(await control.command((255, 255)) == CtrlAck.ERR, "A command of no class is not refused")
    if device.has(Feature.NOTF_COAL):
        for queue, kind, packets in ((0, Ctrl.NOTF_COAL_RX_SET, 2), (1, Ctrl.NOTF_COAL_TX_SET, 3)):
            check(await control.coalesce(kind, packets, 20) == CtrlAck.OK, "Coalescing is refused")
            kept[queue] = packets, 20
    if device.has(Feature.VQ_NOTF_COAL):
        check(await control.coalescing(1) == (CtrlAck.OK, kept[1]), "What all queues coalesce is not what one has")
        check(await control.coalesce_queue(0, 5, 10) == CtrlAck.OK, "Coalescing of one queue is refused")
        check(await control.coalescing(0) == (CtrlAck.OK, (5, 10)), "What a queue coalesces does not read back")
    return kept


async def combined(host, seed, word, *, interrupts="msix"):
    """Bring the device up with exactly ``word`` and use every feature in it: frames both ways, commands, queues that are reset, a suspension."""
    rng = random.Random(f"combined {seed} {word:x}")
    driver = await NetDriver.find(host, seed=seed)
    device, pairs = driver.device, 1
    if word >> Feature.MQ & 1:
        pairs = min(2, await device.config(NetConfig.MAX_VIRTQUEUE_PAIRS, 2))
    await driver.start(wanted=word, required=word, queue_size=64, interrupts=interrupts, pairs=pairs)
    check(device.features == word, "Other features were negotiated than asked for")
    if device.has(Feature.MAC):
        check(any(await driver.mac()), "There is no MAC address")
    check(await driver.link_up(), "The link is down")
    if device.has(Feature.MTU):
        check(await device.config(NetConfig.MTU, 2) == 1500, "The MTU is another")
    await _both_ways(host, driver, rng)
    kept = await _commands(driver) if device.has(Feature.CTRL_VQ) else {}
    for number in reversed(range(pairs)):                # frames of one flow: they come to the pair that sent last
        await _both_ways(host, driver.pair(number), rng)
    if device.has(Feature.RING_RESET):
        for role in ("rx", "tx"):
            await driver.reset_queue(role)
            await driver.restart_queue(role, size=32)
        if device.has(Feature.VQ_NOTF_COAL):
            for queue, settings in kept.items():
                check(await driver.control.coalescing(queue) == (CtrlAck.OK, settings), f"Queue {queue} came back with other coalescing")
        await _both_ways(host, driver, rng)
    if device.has(Feature.SUSPEND):
        (frame,) = _frames(rng, 100)
        await device.suspend()
        await driver.transmit(frame)                      # found by the device itself when it runs again
        await device.resume()
        await driver.wait_transmitted(1)
        check(await host.receive_frame() == frame, "What was made available to the suspended device was not sent")
        await _both_ways(host, driver, rng)
    await driver.stop()
