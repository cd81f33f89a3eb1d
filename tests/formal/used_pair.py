# SPDX-License-Identifier: BSD-2-Clause
"""A maker of bursts of used elements together with what writes them, for proofs of both."""

from amaranth.lib.wiring import connect
from prove import opened

from unvirt.virtio.queue.used_writes import UsedWrites

__all__ = ["add_pair"]


def add_pair(m, maker, *, packed):
    """Add ``maker`` of rows 0 and 1 and its writer, 64 bits wide, to a module; return the opened maker and the writer."""
    m.submodules.maker = inner = opened(maker)
    m.submodules.writer = writer = UsedWrites(data_width=64, rows=2)
    connect(m, maker.burst, writer.port)
    m.d.comb += [writer.packed.eq(packed), writer.forget.eq(maker.discard)]
    return inner, writer
