# SPDX-License-Identifier: BSD-2-Clause
"""A file of everything that crossed between guest and RTL, one JSON object a line, with cycle stamps: it replays as an RTL test."""

import json

__all__ = ["AccessTrace"]


class AccessTrace:
    """Writes one line per access; without a path it does nothing.

    Every line has ``cycle`` (when the access ended) and ``op``: ``config_read``, ``config_write``, ``bar_read``, ``bar_write``
    (``offset``, ``size``, ``value`` little-endian; ``bar``), ``map``, ``unmap``, ``irqs``, ``interrupt``, ``reset``, ``to_mac``,
    ``from_mac`` (``frame`` in hex), ``note``. ``by`` is ``bridge`` for accesses the guest did not ask for.
    """

    def __init__(self, path=None):
        self._file = open(path, "w", buffering=1 << 16) if path else None

    def __call__(self, cycle, op, **fields):
        if self._file:
            self._file.write(json.dumps({"cycle": cycle, "op": op, **fields}) + "\n")

    def close(self):
        """Flush and close."""
        if self._file:
            self._file.close()
            self._file = None
