# SPDX-License-Identifier: BSD-2-Clause
"""Layouts of the engine's small reads, of their answers, and of the access to a line that has arrived."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import GRANULE_SIZE
from ..contract import row_width

__all__ = ["SmallRead", "LineRead", "WalkRead", "SmallAnswer", "LineAnswer", "LineRecord", "ContextFree", "LinePortSignature", "LineClientSignature"]


class SmallRead(data.StructLayout):
    """A read of one 16-bit value, 2-byte aligned, or (``wide``) of one of 32 bits, 4-byte aligned."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "address": 64, "wide": 1, "fence": 1})


class LineRead(data.StructLayout):
    """A read of ``count`` consecutive entries that lie in one 128-byte line."""

    def __init__(self, rows):
        super().__init__({
            "row": row_width(rows),
            "address": 64,
            "length": 8,                 # bytes, 2..128
            "position": 16,              # of the first entry
            "count": 7,                  # entries
            "fence": 1,
        })


class WalkRead(data.StructLayout):
    """A read of up to 128 bytes of a descriptor table for a walk, any alignment."""

    def __init__(self, rows, walks):
        super().__init__({
            "walk": range(walks), "address": 64, "length": 8, "count": 4,
        })


class SmallAnswer(data.StructLayout):
    """The value that a :class:`SmallRead` found; the upper half means something only if it was ``wide``."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "value": 32, "error": 1})


class LineAnswer(data.StructLayout):
    """A line has arrived; its bytes wait in the context's granule."""

    def __init__(self, rows, contexts):
        super().__init__({
            "context": range(contexts),
            "row": row_width(rows),
            "position": 16,
            "count": 7,
            "walk": 1,                   # belongs to a walk: row, position are meaningless
            "error": 1,
        })


class LineRecord(data.StructLayout):
    """What is remembered of a line while it is read; a walk has no row and no position."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "position": 16, "count": 7})


def ContextFree(rows, contexts):
    """A context goes back, and the row it served."""
    return wiring.Signature({"valid": Out(1), "context": Out(range(contexts)), "row": Out(row_width(rows))})


def LinePortSignature(data_width, contexts):
    """Reading of the granules, as the reader sees it.

    ``valid`` with a context and a word number asks; when ``ready`` was high the word is in ``data`` in
    the next cycle.
    """
    words = GRANULE_SIZE * 8 // data_width
    return wiring.Signature({
        "valid": Out(1),
        "ready": In(1),
        "context": Out(range(contexts)),
        "word": Out(range(words)),
        "data": In(data_width),
    })


def LineClientSignature(data_width, rows, contexts):
    """Who has lines read, works on their bytes and gives the contexts back, as it sees it."""
    return wiring.Signature({
        "reads": Out(stream.Signature(LineRead(rows))),
        "answers": In(stream.Signature(LineAnswer(rows, contexts))),
        "port": Out(LinePortSignature(data_width, contexts)),
        "free": Out(ContextFree(rows, contexts)),
    })
