# SPDX-License-Identifier: BSD-2-Clause
"""Buffers cut into elements, with patterns that show every byte written where none should be."""

from . import checks
from .virtqueue import Element

__all__ = ["ScatterBuffer", "cut", "random_lengths"]


def cut(total, *positions):
    """Return the lengths of ``total`` bytes cut at ``positions`` (equal positions give zero-length elements)."""
    edges = [0, *sorted(positions), total]
    if any(not 0 <= edge <= total for edge in edges):
        raise ValueError(f"Cuts must lie between 0 and {total}, not at {positions}")
    return [b - a for a, b in zip(edges, edges[1:], strict=False)]


def random_lengths(rng, total, pieces):
    """Return ``pieces`` (fewer if there are not as many bytes) non-zero lengths that sum to ``total``."""
    pieces = min(pieces, total)
    return cut(total, *rng.sample(range(1, total), pieces - 1))


class ScatterBuffer:
    """One allocation holding elements of given lengths at odd alignments, with guard bytes between and around them.

    For the device to read: :meth:`store` the data. For the device to write: everything is a pattern until the device writes, and
    :meth:`load` checks that nothing outside the first ``length`` bytes changed.

    With ``page_offset`` the first element begins there in a page of 4 KiB and the others follow it without a gap.
    """

    GUARD = 32  # bytes before, between and after elements, at least

    def __init__(self, host, lengths, *, writable, rng, page_offset=None):
        self.host, self.lengths, self.writable = host, list(lengths), writable
        self.total = sum(lengths)
        offsets, at = [], page_offset or 0
        for length in self.lengths:
            if page_offset is None:
                at += self.GUARD + rng.randrange(64)
            offsets.append(at)
            at += length
        self.size = at + self.GUARD
        self._offsets = offsets
        align = 1 << rng.randrange(13) if page_offset is None else 4096
        self.base = host.alloc(self.size, align, writable=writable)
        self._seed = rng.getrandbits(32)
        self._image = bytearray(checks.pattern(self._seed, self.size))

    def elements(self):
        """Return the elements to put in a descriptor chain."""
        return [Element(self.base + offset, length, self.writable)
                for offset, length in zip(self._offsets, self.lengths, strict=True)]

    def _spread(self, data, into):
        position = 0
        for offset, length in zip(self._offsets, self.lengths, strict=True):
            piece = data[position:position + length]
            into[offset:offset + len(piece)] = piece
            position += length

    def _gather(self, image):
        return b"".join(bytes(image[offset:offset + length])
                        for offset, length in zip(self._offsets, self.lengths, strict=True))

    async def store(self, data=b""):
        """Write ``data`` over the elements, first byte first, and the pattern everywhere else."""
        self._spread(data, self._image)
        await self.host.write(self.base, bytes(self._image))

    async def load(self, length, *, exact=True):
        """Return the first ``length`` bytes; check that the rest of the allocation still is what :meth:`store` left.

        ``exact=False`` allows the device to write the elements beyond ``length``, as the text does [2.7.8.2].
        """
        found = await self.host.read(self.base, self.size)
        data = self._gather(found)
        expected = bytearray(self._image)
        self._spread(data if not exact else data[:length], expected)
        checks.untouched(f"Buffer at {self.base:#x} of {self.lengths}", found, bytes(expected))
        return data[:length]

    async def check_unchanged(self):
        """Check that the device wrote nothing at all."""
        checks.untouched(f"Buffer at {self.base:#x}", await self.host.read(self.base, self.size), bytes(self._image))

    def free(self):
        """Return the memory to the host."""
        self.host.free(self.base)
