# SPDX-License-Identifier: BSD-2-Clause
"""The beat of a packet, used by every byte stream of the project."""

from amaranth.lib import data

__all__ = ["PacketBeat"]


class PacketBeat(data.StructLayout):
    """One beat of a packet; byte 0 of the packet is ``data[0:8]`` of the first beat.

    Every beat but the last is full. ``empty`` counts the unused bytes at the top of the last beat and
    is zero elsewhere.

    Parameters
    ----------
    data_width : int
        Bits per beat, a power of two of at least 8.
    header : shape-like, optional
        Side information, valid on the first beat.
    """

    def __init__(self, data_width, header=None):
        if not isinstance(data_width, int) or data_width < 8 or data_width & (data_width - 1):
            raise ValueError(f"Data width must be a power of two of at least 8, not {data_width!r}")
        self._data_width = data_width
        members = {"data": data_width, "empty": range(max(2, data_width // 8)),
                   "first": 1, "last": 1}
        if header is not None:
            members["header"] = header
        super().__init__(members)

    @property
    def data_width(self):
        return self._data_width
