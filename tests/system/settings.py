# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of whole devices have in common."""

from unvirt_sim.driver.net import IN_ORDER, PACKED, WANTED
from unvirt_sim.driver.spec import Feature, mask

TIMEOUT = 4000
"""Cycles after which the small device gives up on a read."""

BY_FLAGS = WANTED & ~mask(Feature.EVENT_IDX)
"""Notifications and interrupts are suppressed by flags instead of indices."""

RINGS = {"events": WANTED, "flags": BY_FLAGS, "in order": BY_FLAGS | IN_ORDER, "packed events": PACKED,
         "packed flags": PACKED & ~mask(Feature.EVENT_IDX), "packed in order": PACKED | IN_ORDER}
"""Feature words of both kinds of virtqueue, with either way of suppression, and with buffers used in order."""

ANY_LENGTH = ~mask(Feature.MTU)
"""Without MTU negotiated, frames are as long as the device can take: what is left of a feature word."""

PAIRS = 4


def several_pairs(preset="default"):
    """Return the options of the device with :data:`PAIRS` queue pairs: one for each preset, as each takes a minute to build."""
    return {"queue_pairs": PAIRS, "rows": 16, "msix_vectors": 12, "queue_window": 64 if preset == "wide" else 16}
