# SPDX-License-Identifier: BSD-2-Clause
"""Tags of read requests: who owns which, and a pool of those that are free [PCIe 2.2.6.2]."""

from dataclasses import dataclass

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.free_list import FreeList

__all__ = ["SHORT_TAGS", "TagRange", "split_tags", "TagPool"]

SHORT_TAGS = 32
"""Tags that may be used while Extended Tag Field Enable is clear."""


@dataclass(frozen=True)
class TagRange:
    """Tags of one client: some below ``SHORT_TAGS`` and some above."""

    low_base: int
    low_count: int
    high_base: int
    high_count: int

    @property
    def count(self):
        """Number of tags."""
        return self.low_count + self.high_count


def split_tags(meta, data):
    """Return the ranges of two clients that own ``meta`` and ``data`` tags, from tag 0 up.

    Of the tags below ``SHORT_TAGS`` each gets at least half, or all it asks for.

    Raises
    ------
    ValueError
        If a count is below 1 or both together exceed 256.
    """
    if meta < 1 or data < 1 or meta + data > 256:
        raise ValueError(f"Tags must be at least 1 a client and at most 256 together, "
                         f"not {meta!r} and {data!r}")
    low_meta = min(meta, max(SHORT_TAGS // 2, SHORT_TAGS - data))
    low_data = min(data, SHORT_TAGS - low_meta)
    high = low_meta + low_data
    return (TagRange(0, low_meta, high, meta - low_meta),
            TagRange(low_meta, low_data, high + meta - low_meta, data - low_data))


class TagPool(wiring.Component):
    """Free tags of one client.

    One tag out and one back per cycle. Tags above 31 are preferred when they may be used, so that
    the low ones are at hand if that changes. Reset fills the pool.

    Parameters
    ----------
    tags : TagRange
        The client's tags.

    Members
    -------
    alloc : ``Out(stream.Signature(8))``
        A free tag.
    free_valid, free_tag : ``In``
        A tag comes back.
    extended_tags : ``In(1)``
        Tags above 31 may be used.
    exhausted : ``Out(1)``
        Not one usable tag in the pool.
    """

    def __init__(self, tags):
        self._tags = tags
        super().__init__({
            "alloc": Out(stream.Signature(8)),
            "free_valid": In(1),
            "free_tag": In(8),
            "extended_tags": In(1),
            "exhausted": Out(1),
        })

    @property
    def tags(self):
        return self._tags

    def elaborate(self, platform):
        m = Module()
        tags = self._tags
        m.submodules.low = low = FreeList(tags.low_count)
        m.d.comb += [
            low.free.payload.eq(self.free_tag - tags.low_base),
            self.alloc.payload.eq(low.alloc.payload + tags.low_base),
        ]
        if not tags.high_count:
            m.d.comb += [
                low.free.valid.eq(self.free_valid),
                self.alloc.valid.eq(low.alloc.valid),
                low.alloc.ready.eq(self.alloc.ready),
                self.exhausted.eq(low.count == 0),
            ]
            return m

        m.submodules.high = high = FreeList(tags.high_count)
        is_high = Signal()
        use_high = Signal()
        m.d.comb += [
            is_high.eq(self.free_tag >= tags.high_base),
            low.free.valid.eq(self.free_valid & ~is_high),
            high.free.valid.eq(self.free_valid & is_high),
            high.free.payload.eq(self.free_tag - tags.high_base),
            use_high.eq(high.alloc.valid & self.extended_tags),
            self.alloc.valid.eq(low.alloc.valid | use_high),
            low.alloc.ready.eq(self.alloc.ready & ~use_high),
            high.alloc.ready.eq(self.alloc.ready & use_high),
            self.exhausted.eq((low.count == 0) & ((high.count == 0) | ~self.extended_tags)),
        ]
        with m.If(use_high):
            m.d.comb += self.alloc.payload.eq(high.alloc.payload + tags.high_base)
        return m
