# SPDX-License-Identifier: BSD-2-Clause
"""The PCIe attachment: the contract between the device core and any way of reaching PCIe.

See ``docs/contracts.md`` section 2 for the rules that bind both sides.
"""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .tlp import (CompletionHeader, NonPostedHeader, PostedHeader, RequestHeader, TlpBeat,
                  TxCompletionHeader)

__all__ = ["ConfigRequest", "ConfigSignature", "ControlSignature", "AttachmentSignature"]


class ConfigRequest(data.Struct):
    """Access to one dword of the configuration space that user logic owns."""

    write:        1
    function:     8
    address:      10             # dword number
    byte_enables: 4
    data:         32


def ConfigSignature():
    """Configuration accesses: ``request`` is answered by one ``ack`` (with ``data`` for a read)."""
    return wiring.Signature({
        "request": Out(stream.Signature(ConfigRequest)),
        "ack": In(1),
        "data": In(32),
    })


def ControlSignature():
    """State of link and function that the attachment owns, and what it wants to know of us."""
    return wiring.Signature({
        "link_up": Out(1),
        "requester_id": Out(16),          # bus and device of function 0
        "bus_master_enable": Out(1),
        "memory_enable": Out(1),
        "max_payload_size": Out(3),       # encoded: 128 << n bytes
        "max_read_request_size": Out(3),  # encoded
        "rcb_128": Out(1),
        "extended_tags": Out(1),
        "msix_enable": Out(1),
        "msix_function_mask": Out(1),
        "interrupt_disable": Out(1),
        "flr": Out(1),                    # level, until flr_done
        "flr_done": In(1),                # pulse
        "hot_reset": Out(1),              # level
        "intx": In(1),                    # level: assert INTA
        "transactions_pending": In(1),
    })


def AttachmentSignature(data_width):
    """The attachment as an attachment implements it; a device uses the flipped signature.

    Members are described in ``docs/contracts.md`` section 2. ``posted_done`` is the number of the last
    posted write that no later TLP can overtake.
    """
    return wiring.Signature({
        "rx_requests": Out(stream.Signature(TlpBeat(RequestHeader, data_width))),
        "rx_completions": Out(stream.Signature(TlpBeat(CompletionHeader, data_width))),
        "tx_posted": In(stream.Signature(TlpBeat(PostedHeader, data_width))),
        "tx_nonposted": In(stream.Signature(TlpBeat(NonPostedHeader, data_width))),
        "tx_completions": In(stream.Signature(TlpBeat(TxCompletionHeader, data_width))),
        "posted_done": Out(8),
        "config": Out(ConfigSignature()),
        "control": Out(ControlSignature()),
    })
