# SPDX-License-Identifier: BSD-2-Clause
"""Transaction layer packets as they are on the wire, and the raw beat that carries them.

A header is three or four DWs. The layouts below list each DW from bit 0 upward as the figures of
[PCIe 2.2] draw it: the byte that is sent first is the most significant one. A raw beat has the
first byte of each DW at the bottom, so a header DW is byte-swapped between layout and beat, which
:func:`swap_bytes` does; payload is in memory order on both sides.
"""

from amaranth import *
from amaranth.lib import data, enum

__all__ = ["Fmt", "TlpType", "MessageCode", "MessageRoute", "CommonDw", "RequestDw", "ConfigDw",
           "MessageDw", "CompleterDw", "CompletionDw", "RawBeat", "CreditLimits", "swap_bytes",
           "header_to_beats", "access_bytes", "lowest_enabled"]


class Fmt(enum.IntEnum, shape=3):
    """Fmt field: bit 0 = four header DWs, bit 1 = with data, bit 2 = prefix [PCIe 2.2.1]."""

    SHORT = 0b000
    LONG = 0b001
    SHORT_DATA = 0b010
    LONG_DATA = 0b011


class TlpType(enum.IntEnum, shape=5):
    """Type field; messages are ``0b10rrr`` with the route in ``rrr`` [PCIe 2.2.1 table 2-3]."""

    MEMORY = 0b00000
    MEMORY_LOCKED = 0b00001
    IO = 0b00010
    CONFIG0 = 0b00100
    CONFIG1 = 0b00101
    COMPLETION = 0b01010
    COMPLETION_LOCKED = 0b01011
    FETCH_ADD = 0b01100
    SWAP = 0b01101
    COMPARE_SWAP = 0b01110
    MESSAGE = 0b10000
    DEFERRABLE_WRITE = 0b11011


class MessageRoute(enum.IntEnum, shape=3):
    """Low bits of the Type of a message [PCIe 2.2.8]."""

    ROOT = 0b000
    LOCAL = 0b100


class MessageCode(enum.IntEnum, shape=8):
    """Message Code field [PCIe 2.2.8]."""

    ASSERT_INTA = 0x20
    DEASSERT_INTA = 0x24
    ERR_COR = 0x30
    ERR_NONFATAL = 0x31
    ERR_FATAL = 0x33
    SET_SLOT_POWER_LIMIT = 0x50
    VENDOR_TYPE_0 = 0x7E
    VENDOR_TYPE_1 = 0x7F


class CommonDw(data.Struct):
    """First DW of every header [PCIe 2.2.1]."""

    length:      10              # DWs, 0 = 1024
    address_type: 2
    attr_low:     2              # no snoop, relaxed ordering
    poisoned:     1
    digest:       1              # one more DW follows the payload
    hints:        1
    lightweight:  1
    attr_high:    1              # ID-based ordering
    tag_8:        1
    tc:           3
    tag_9:        1
    type:         5
    fmt:          3


class RequestDw(data.Struct):
    """Second DW of memory, I/O and configuration requests [PCIe 2.2.4, 2.2.5]."""

    first_be:     4
    last_be:      4
    tag:          8
    requester_id: 16


class ConfigDw(data.Struct):
    """Third DW of configuration requests [PCIe 2.2.7]."""

    _reserved0:   2
    register:     10
    _reserved1:   4
    function:     3
    bus_device:   13


class MessageDw(data.Struct):
    """Second DW of messages [PCIe 2.2.8]."""

    code:         8
    tag:          8
    requester_id: 16


class CompleterDw(data.Struct):
    """Second DW of completions [PCIe 2.2.9]."""

    byte_count:   12             # 0 = 4096
    modified:     1
    status:       3
    completer_id: 16


class CompletionDw(data.Struct):
    """Third DW of completions [PCIe 2.2.9]."""

    lower_address: 7
    _reserved0:    1
    tag:           8
    requester_id:  16


class RawBeat(data.StructLayout):
    """One beat of a raw TLP: payload from lane 0, the header beside it on the first beat.

    DW 0 of the header is in bits 31:0; the fourth DW of a header of three means nothing. Format and length in the header say how many DWs of
    payload there are, so how many of the last beat count; a TLP without payload is one beat.

    Parameters
    ----------
    data_width : int
        Bits of payload per beat: 32, 64, 128, 256 or 512.
    """

    def __init__(self, data_width):
        if data_width not in (32, 64, 128, 256, 512):
            raise ValueError(f"Data width must be one of 32, 64, 128, 256, 512, not {data_width!r}")
        self._data_width = data_width
        super().__init__({"header": 128, "data": data_width, "first": 1, "last": 1})

    @property
    def data_width(self):
        return self._data_width


class CreditLimits(data.Struct):
    """Transmit credit limits as the peer advertised them, cumulative [PCIe 2.6.1.2].

    A credit is one header, or 16 bytes of data. ``infinite`` has a bit for each of the other
    fields, in their order.
    """

    ph:       8
    pd:       12
    nph:      8
    npd:      12
    cplh:     8
    cpld:     12
    infinite: 6


def swap_bytes(dword):
    """Return a DW with its four bytes in the opposite order."""
    dword = Value.cast(dword)
    return Cat(dword.word_select(byte, 8) for byte in reversed(range(4)))


def header_to_beats(fields):
    """Return header DWs, given as views or values of 32 bits, in the byte order of raw beats."""
    return Cat(swap_bytes(dword) for dword in fields)


def lowest_enabled(byte_enables):
    """Return the number of the lowest enabled byte; 0 if there is none."""
    return Mux(byte_enables[0], C(0, 2), Mux(byte_enables[1], C(1, 2),
               Mux(byte_enables[2], C(2, 2), Mux(byte_enables[3], C(3, 2), C(0, 2)))))


def access_bytes(length, first_be, last_be):
    """Return the bytes from the first to the last enabled one of a read [PCIe 2.3.1.1].

    ``length`` is in DWs, 1 to 1024; a read of one DW without enabled bytes counts as one byte.
    """
    def highest(enables):
        return Mux(enables[3], C(3, 2), Mux(enables[2], C(2, 2), Mux(enables[1], C(1, 2),
                                                                     C(0, 2))))
    several = (length << 2) - lowest_enabled(first_be) - 3 + highest(last_be)
    single = highest(first_be) - lowest_enabled(first_be) + 1
    return Mux(length == 1, single, several)[:13]
