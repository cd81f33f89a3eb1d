# SPDX-License-Identifier: BSD-2-Clause
"""Signatures of the DMA engines; the rules are in ``docs/contracts.md`` section 4."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream.packet import PacketBeat

__all__ = ["GRANULE_SIZE", "ReadPiece", "LaneWriteSignature", "ReadClientSignature",
           "WriteHeader", "WriteBeat", "InterruptRequest"]

GRANULE_SIZE = 128
"""Bytes of buffer space that are allocated as one."""


class ReadPiece(data.StructLayout):
    """A read of one TLP: within one 4 KiB page, and its DWs have at most as many bytes as MRRS, and at most 512."""

    def __init__(self, handle_width, buffer_width):
        super().__init__({
            "function": 8,
            "address": 64,            # bytes, any alignment
            "length": 10,             # bytes, 1..512
            "fence": 1,
            "handle": handle_width,
            "buffer": buffer_width,   # byte address in the client's lane memory
        })


def LaneWriteSignature(data_width, buffer_width):
    """Write port of a memory of byte lanes, as the engine drives it.

    Lane ``i`` is written with ``data[8*i:8*i+8]`` where ``enable[i]``; its word address is ``address_high`` where
    ``high[i]`` is set and ``address_low`` elsewhere. A word holds ``data_width // 8`` bytes.
    """
    lanes = data_width // 8
    word_width = buffer_width - (lanes - 1).bit_length()
    return wiring.Signature({
        "enable": Out(lanes),
        "high": Out(lanes),
        "address_low": Out(word_width),
        "address_high": Out(word_width),
        "data": Out(data_width),
    })


def ReadClientSignature(data_width, handle_width, buffer_width):
    """A client of the read engine, as the client sees it.

    ``requests`` are pieces; ``write`` is the engine's port into the client's memory; ``done_valid`` pulses once a piece after its
    last byte was written, with ``done_handle`` and ``done_error``. ``lookup`` is the number of a granule (128 bytes) and
    ``lookup_next`` the granule that follows it in the client's buffer, answered combinationally.
    """
    granule_width = buffer_width - (GRANULE_SIZE - 1).bit_length()
    return wiring.Signature({
        "requests": Out(stream.Signature(ReadPiece(handle_width, buffer_width))),
        "write": In(LaneWriteSignature(data_width, buffer_width)),
        "done_valid": In(1),
        "done_handle": In(handle_width),
        "done_error": In(1),
        "lookup": In(granule_width),
        "lookup_next": Out(granule_width),
    })


class WriteHeader(data.Struct):
    """Where a write command goes."""

    function: 8
    address:  64                  # bytes, any alignment
    length:   16                  # bytes, 1..65535


class WriteBeat(PacketBeat):
    """One beat of a write command; bytes packed from lane 0 of the first beat."""

    def __init__(self, data_width):
        super().__init__(data_width, header=WriteHeader)


class InterruptRequest(data.Struct):
    """A request for one MSI-X message."""

    function: 8
    vector:   11
