# SPDX-License-Identifier: BSD-2-Clause
"""Layouts and signatures between the stages of the queue engine.

A *chain* is one buffer of a virtqueue: it is found in the ring at a *position* (the free-running 16-bit ring index), lives in a
*slot* of the shared chain store while the device holds it, and leaves as a *used element*. Positions carry the order: for each row

    known >= fetched >= parsed >= issued >= retired      (modulo 2**16)

each kept in a memory of its own by the one stage that advances it.
"""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import row_width

__all__ = ["CHAIN_LENGTH_WIDTH", "GROUP_SEGMENTS", "LENGTH_WIDTH", "Segment", "ChainRecord", "ChainPortSignature",
           "Published", "Release", "RowDrain", "UsedElement", "worth_fetching"]

GROUP_SEGMENTS = 8
"""Segments in one group of the segment store."""

LENGTH_WIDTH = 20
"""Bits of a length in the engine; longer segments and sums saturate at 2**20 - 1."""

CHAIN_LENGTH_WIDTH = 12
"""Bits of a number of descriptors in one chain."""


def worth_fetching(window):
    """Return for how many chains together a row with a nearly full ``window`` fetches more: an eighth of it, but not bit by bit."""
    return min(max(4, window // 8), window // 2)


class Segment(data.Struct):
    """One piece of contiguous host memory of a chain."""

    address: 64
    length:  LENGTH_WIDTH        # bytes, never 0


class ChainRecord(data.StructLayout):
    """What is known of a chain once it was walked.

    ``single``: the chain has at most one segment of non-zero length, given here by ``address`` and by ``readable`` or ``writable``.
    Otherwise its ``segments`` segments (readable ones first) lie in ``groups`` groups of eight, linked from ``group``.
    """

    def __init__(self, groups):
        super().__init__({
            "address": 64,
            "readable": LENGTH_WIDTH,     # sum of device-readable bytes, saturated
            "writable": LENGTH_WIDTH,     # sum of device-writable bytes, saturated
            "single": 1,
            "group": range(groups),
            "groups": range(groups + 1),
            "segments": range(8 * groups + 1),
            "readable_segments": range(8 * groups + 1),
            "id": 16,                     # packed ring: the driver's name of the chain
            "ring_slots": CHAIN_LENGTH_WIDTH,   # packed ring: how many it takes
        })


class Release(data.StructLayout):
    """A chain slot and its segment groups go back to the pools; the position of its row is retired not later than that."""

    def __init__(self, rows, slots, groups):
        super().__init__({
            "row": row_width(rows),
            "position": 16,
            "slot": range(slots),
            "group": range(groups),
            "groups": range(groups + 1),   # 0 for a single chain
        })


def ChainPortSignature(rows, slots, groups):
    """A consumer's view of the chain store, as the consumer sees it.

    All look-ups but ``walked`` and ``next_group`` are synchronous: inputs of one cycle, output in the next. A chain may be used when its
    position differs from ``parsed`` of its row (positions below it are in the store) and ``walked`` of its slot is set.
    """
    return wiring.Signature({
        "parsed_row": Out(row_width(rows)),
        "parsed": In(16),                       # position after the last one in the store
        "order_row": Out(row_width(rows)),
        "order_position": Out(16),
        "slot": In(range(slots)),               # of that row and position
        "walked_slot": Out(range(slots)),
        "walked": In(1),                        # combinational
        "chain_slot": Out(range(slots)),
        "chain": In(ChainRecord(groups)),
        "head": In(16),                         # what names the chain of that slot: index of its head, or buffer id
        "segment_group": Out(range(groups)),
        "segment_index": Out(range(GROUP_SEGMENTS)),
        "segment": In(Segment),
        "next_group_of": Out(range(groups)),
        "next_group": In(range(groups)),        # combinational
        "release": Out(stream.Signature(Release(rows, slots, groups))),
    })


class RowDrain(data.StructLayout):
    """A row that is being reset while the others run; each level stays until the reset has ended.

    ``fetch``: nothing more of it is fetched, what is under way comes home. ``services``: then what is in the store is given back unused.
    ``notify``: then nobody is told of it any more.
    """

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "fetch": 1, "services": 1, "notify": 1})


class UsedElement(data.StructLayout):
    """A chain the device is done with.

    ``more``: further elements of the same row follow that must become visible together with this one. ``full``: every byte of the chain was used,
    so that with IN_ORDER a later element may stand for this one.
    """

    def __init__(self, rows):
        super().__init__({
            "row": row_width(rows),
            "head": 16,
            "written": LENGTH_WIDTH,     # bytes the device wrote
            "ring_slots": CHAIN_LENGTH_WIDTH,
            "more": 1,
            "full": 1,
        })


class Published(data.StructLayout):
    """The driver sees ``count`` more used entries of a row, which are ``packets`` things of whatever the device type moves.

    ``place`` is behind the last of them: the used index, or the slot of the packed ring with the wrap counter in bit 15.
    """

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "place": 16, "count": 16, "packets": 16})
