# SPDX-License-Identifier: BSD-2-Clause
"""Which buffers a driver gave to the device: ring and features, shape of the chain, alignment, and how the host cut completions, crossed."""

import itertools
from collections import Counter
from contextlib import contextmanager

from unvirt_sim.driver.packed import PackedQueue
from unvirt_sim.driver.split import SplitQueue

__all__ = ["ALIGNMENTS", "CUTS", "RINGS", "SHAPES", "cell", "cells", "recorded"]

RINGS = tuple(" ".join(parts) for parts in itertools.product(("split", "packed"), ("flags", "events"), ("any order", "in order")))
SHAPES = ("one descriptor", "chain", "table", "chain and table")
ALIGNMENTS = ("64 bytes", "8 bytes", "4 bytes", "2 bytes", "odd")
CUTS = ("large", "rcb", "random")


def cells():
    """Return every (ring, role, shape, alignment, cut) that a driver may make: in a packed ring no chain ends in a table."""
    return [cell for cell in itertools.product(RINGS, ("to read", "to write"), SHAPES, ALIGNMENTS, CUTS)
            if not (cell[0].startswith("packed") and cell[2] == "chain and table")]


def cell(queue, elements, indirect_from):
    """Return the cell of a buffer: its role is that of its first element, its alignment that of the first that has bytes."""
    ring = " ".join(("packed" if isinstance(queue, PackedQueue) else "split", "events" if queue.event_idx else "flags",
                     "in order" if queue.in_order else "any order"))
    if indirect_from is None or indirect_from >= len(elements):
        shape = SHAPES[len(elements) > 1]
    else:
        shape = SHAPES[3 if indirect_from else 2]
    address = next((element.address for element in elements if element.length), 0)
    reached = sum(address % (1 << bits) == 0 for bits in (6, 3, 2, 1))
    return ring, "to write" if elements[0].writable else "to read", shape, ALIGNMENTS[4 - reached], queue.host.simulation.link.cut


@contextmanager
def recorded():
    """For the time of a ``with`` count what is put into any queue: give a Counter of cells."""
    counts, kinds = Counter(), (SplitQueue, PackedQueue)
    originals = [kind.add for kind in kinds]

    def counted(add):
        async def count(queue, elements, *, indirect_from=None, **options):
            chain = await add(queue, elements, indirect_from=indirect_from, **options)
            counts[cell(queue, elements, indirect_from)] += 1
            return chain
        return count

    for kind, add in zip(kinds, originals, strict=True):
        kind.add = counted(add)
    try:
        yield counts
    finally:
        for kind, add in zip(kinds, originals, strict=True):
            kind.add = add
