# SPDX-License-Identifier: BSD-2-Clause
"""Decoded TLP headers as they cross the attachment contract, and the beat that carries them.

The wire formats (DW layouts) live in :mod:`unvirt.pcie.wire`; nothing above an attachment sees them.
"""

from amaranth import unsigned
from amaranth.lib import data, enum

__all__ = ["CompletionStatus", "Pasid", "RequestHeader", "CompletionHeader", "PostedHeader",
           "NonPostedHeader", "TxCompletionHeader", "TlpBeat"]


class CompletionStatus(enum.Enum, shape=3):
    """Completion Status field [PCIe 2.2.9.1]."""

    SUCCESS = 0
    UNSUPPORTED_REQUEST = 1
    CONFIGURATION_RETRY = 2
    COMPLETER_ABORT = 4


class Pasid(data.Struct):
    """Process address space of a request; ``valid`` clear means none [PCIe 6.20]."""

    valid: 1
    value: 20


class RequestHeader(data.Struct):
    """A memory request of the host that hit a BAR [PCIe 2.2.7]."""

    write:        1
    address:      64             # bytes, dword aligned
    length:       11             # DWs, 1..1024
    first_be:     4
    last_be:      4
    bar:          3
    function:     8
    requester_id: 16
    tag:          10
    tc:           3
    attr:         3
    poisoned:     1


class CompletionHeader(data.Struct):
    """A completion of one of our reads [PCIe 2.2.9]."""

    tag:           10
    status:        CompletionStatus
    byte_count:    13            # bytes left including this completion, 1..4096
    lower_address: 7
    length:        11            # DWs of payload; 0 without data
    function:      8
    poisoned:      1


class PostedHeader(data.Struct):
    """A memory write of ours."""

    function: 8
    address:  64                 # bytes, dword aligned
    length:   11                 # DWs, 1..1024
    first_be: 4
    last_be:  4
    pasid:    Pasid


class NonPostedHeader(data.Struct):
    """A memory read of ours."""

    function: 8
    address:  64                 # bytes, dword aligned
    length:   11
    first_be: 4
    last_be:  4
    tag:      10
    order:    8                  # number of the last posted write it must not pass
    pasid:    Pasid


class TxCompletionHeader(data.Struct):
    """Our completion of a host request."""

    function:      8
    requester_id:  16
    tag:           10
    tc:            3
    attr:          3
    status:        CompletionStatus
    byte_count:    13
    lower_address: 7
    length:        11            # DWs of payload; 0 without data
    order:         8


class TlpBeat(data.StructLayout):
    """One beat of a TLP: decoded header beside the payload; payload from lane 0 of the first beat."""

    def __init__(self, header, data_width):
        if data_width not in (32, 64, 128, 256, 512):
            raise ValueError(f"Data width must be one of 32, 64, 128, 256, 512, not {data_width!r}")
        self._data_width = data_width
        super().__init__({"header": header, "data": unsigned(data_width), "first": 1, "last": 1})

    @property
    def data_width(self):
        return self._data_width
