# SPDX-License-Identifier: BSD-2-Clause
"""What a walk remembers from one line of descriptors to the next, and how it reads a descriptor."""

from amaranth import *
from amaranth.lib import data

from ..contract import row_width
from .contract import CHAIN_LENGTH_WIDTH, LENGTH_WIDTH
from .descriptors import Descriptor

__all__ = ["WalkState", "as_in_a_split_ring", "saturated"]


class WalkState(data.StructLayout):
    """Where a walk is in its chain, and what the chain consists of so far."""

    def __init__(self, *, rows, slots, groups, max_chain):
        super().__init__({
            "row": row_width(rows),
            "position": 16,
            "slot": range(slots),
            "base": 64,                     # of the table being walked
            "entries": 16,                  # descriptors in it
            "index": 16,                    # of the descriptor at hand
            "indirect": 1,
            "count": range(max_chain + 2),
            "segments": range(8 * groups + 1),
            "readable_segments": range(8 * groups + 1),
            "readable": LENGTH_WIDTH,
            "writable": LENGTH_WIDTH,
            "wrote": 1,
            "group": range(groups),         # first
            "tail": range(groups),          # last
            "groups": range(groups + 1),
            "id": 16,                       # of the packed chain, once in its table
            "ring_slots": CHAIN_LENGTH_WIDTH,
        })


def saturated(length):
    """Cut a length to LENGTH_WIDTH bits, saturating."""
    return Mux(length[LENGTH_WIDTH:].any(), (1 << LENGTH_WIDTH) - 1, length[:LENGTH_WIDTH])


def as_in_a_split_ring(m, descriptor, state, packed):
    """Return ``descriptor``, the one at hand of a walk in ``state``, as the split ring would have it: flags, and ``next``."""
    arrived = Signal(Descriptor)
    m.d.comb += arrived.eq(descriptor)
    ends = state.index + 1 == state.entries
    with m.If(packed):
        with m.If(state.indirect):
            # A table ends with its last entry; of the flags only WRITE means something there.
            m.d.comb += [arrived.flags.next.eq(~ends), arrived.flags.indirect.eq(0)]
        with m.If(arrived.flags.next):
            m.d.comb += arrived.next.eq(Mux(ends, 0, state.index + 1))
    return arrived
