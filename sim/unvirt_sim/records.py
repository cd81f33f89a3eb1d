# SPDX-License-Identifier: BSD-2-Clause
"""What went by on the link and at the Ethernet port."""

import ctypes
import struct
from enum import IntEnum
from typing import NamedTuple

__all__ = ["Record", "Seen", "unpack_records"]


class Seen(IntEnum):
    """What a :class:`Record` is of."""

    UP_READ = 0
    UP_WRITE = 1
    UP_COMPLETION = 2
    UP_MESSAGE = 3
    DOWN_COMPLETION = 4
    DOWN_READ = 5
    DOWN_WRITE = 6
    DOWN_CONFIG = 7
    FRAME_OUT = 8
    FRAME_IN = 9


class Record(NamedTuple):
    """A TLP or an Ethernet frame that went by.

    A TLP is stamped with the cycle of its last beat. ``address`` and ``bytes`` are those of a request, ``data`` the first four bytes
    written; of a completion ``address`` is the payload in bytes and ``bytes`` what was left of the request before it.
    """

    first: int
    last: int
    address: int
    bytes: int
    data: int
    tag: int
    kind: int


_RECORD = struct.Struct("<3Q4I")      # as in cpp/harness.cpp


def unpack_records(place, count):
    """Return ``count`` records that lie at an address, as a list of :class:`Record`."""
    raw = ctypes.string_at(place, count * _RECORD.size) if count else b""
    return [Record(*entry) for entry in _RECORD.iter_unpack(raw)]
