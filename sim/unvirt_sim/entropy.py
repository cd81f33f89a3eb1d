# SPDX-License-Identifier: BSD-2-Clause
"""What the harness feeds an entropy device: the same bytes as ``cpp/entropy.hpp`` makes, computed here anew."""

__all__ = ["EntropyStream"]

_MASK = (1 << 64) - 1


def _word(seed, number):
    """Return a word of the sequence SplitMix64, any of them at once."""
    z = (seed + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31


class EntropyStream:
    """The bytes that a source of entropy with this seed gives, by their place.

    Parameters
    ----------
    seed : int
        That of the :class:`~unvirt_sim.harness.Simulation`.
    """

    def __init__(self, seed):
        self._seed = seed or 1
        self._bytes = b""

    def read(self, start, size):
        """Return ``size`` bytes from place ``start`` on."""
        missing = start + size - len(self._bytes)
        if missing > 0:
            have = len(self._bytes) // 8
            self._bytes += b"".join(_word(self._seed, have + n).to_bytes(8, "little") for n in range(-(-missing // 8) + 512))
        return self._bytes[start:start + size]

    def runs(self, data, end, *, start=0, shortest=8):
        """Cut ``data`` into runs that lie in the stream one behind the other, between ``start`` and ``end``.

        Returns
        -------
        list or None
            ``(place, size)`` of each; None if there is no such cut. All but the last are at least ``shortest`` bytes, too many to be there by chance.
        """
        stream, out, at = self.read(0, end), [], 0
        while at < len(data):
            place = stream.find(data[at:at + shortest], start)
            if place < 0:
                return None
            size = min(shortest, len(data) - at)
            while at + size < len(data) and place + size < end and stream[place + size] == data[at + size]:
                size += 1
            out.append((place, size))
            at, start = at + size, place + size
        return out
