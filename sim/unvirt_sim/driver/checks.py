# SPDX-License-Identifier: BSD-2-Clause
"""What a driver can see of a device that breaks the rules.

The functions raise :class:`CheckFailed` with a sentence; the driver calls them at the place where an operating system would trust
the device. They see only what a driver sees: rings, buffers and interrupts.
"""

import random

from . import spec
from .spec import Feature

__all__ = ["CheckFailed", "DriverTimeout", "check", "pattern", "used_advance", "used_element", "used_flags", "used_flag_bits",
           "event_mode", "untouched", "receive_header", "merged_fill", "InterruptWatch"]


class CheckFailed(AssertionError):
    """The device did something the specification forbids."""


class DriverTimeout(CheckFailed):
    """The device did not do in time what it has to do."""


def check(condition, message):
    """Raise :class:`CheckFailed` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise CheckFailed(message)


def pattern(seed, size):
    """Return ``size`` reproducible bytes that no frame is likely to hold; what a buffer is filled with before it is given away."""
    return random.Random(f"pattern {seed}").randbytes(size)


def used_advance(queue, new, last, outstanding):
    """Check that the used index moved by no more buffers than the device has [2.7.8]."""
    step = (new - last) & 0xFFFF
    check(step <= outstanding,
          f"Queue {queue}: used idx went from {last} to {new}, which is {step} buffers, with {outstanding} outstanding")
    return step


def used_element(queue, slot, identity, length, outstanding):
    """Check one used element and return its chain: a head that is outstanding, a length that fits what may be written."""
    check(identity in outstanding,
          f"Queue {queue}: used slot {slot} names head {identity}, which is not outstanding")
    chain = outstanding[identity]
    check(length <= chain.writable,
          f"Queue {queue}: used slot {slot} claims {length} bytes written, the chain has room for {chain.writable}")
    return chain


def used_flags(queue, flags, features):
    """Check the flags of the used ring: 0 or 1, and 0 with EVENT_IDX [2.7.10]."""
    if features >> Feature.EVENT_IDX & 1:
        check(flags == 0, f"Queue {queue}: used flags {flags:#x} with EVENT_IDX negotiated")
    else:
        check(flags in (0, spec.USED_NO_NOTIFY), f"Queue {queue}: used flags {flags:#x}")


def used_flag_bits(queue, slot, flags, length, *, strict):
    """Check the flags of a used descriptor, AVAIL and USED apart: WRITE alone, and just when something was written [2.8.4]."""
    check(flags & ~spec.DescFlag.WRITE == 0, f"Queue {queue}: used slot {slot} has flags {flags:#x}")
    if strict:
        check(bool(flags) == bool(length), f"Queue {queue}: used slot {slot} has flags {flags:#x} and a length of {length}")


def event_mode(queue, mode, features):
    """Check the mode of the device event suppression structure [2.8.10]."""
    allowed = (0, 1, 2) if features >> Feature.EVENT_IDX & 1 else (0, 1)
    check(mode in allowed, f"Queue {queue}: event suppression mode {mode:#x} of the device")


def untouched(what, found, expected, base=0):
    """Check that memory still holds what the driver put there; names the first byte that differs."""
    if found != expected:
        at = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        count = sum(a != b for a, b in zip(found, expected, strict=True))
        raise CheckFailed(f"{what}: {count} bytes were overwritten, the first at offset {base + at} "
                          f"({expected[at]:#04x} became {found[at]:#04x})")


def receive_header(header, features, *, counted=True):
    """Check the header of a received packet and return num_buffers [5.1.6.4].

    Bits that only offloads may set are 0 unless the offload was negotiated; num_buffers is at least 1, and exactly 1
    without MRG_RXBUF. ``counted`` says whether the device keeps to the last.
    """
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers = spec.NET_HEADER.unpack(
        header[:spec.NET_HEADER.size])
    if not features >> Feature.GUEST_CSUM & 1:
        check(flags == 0, f"Received header has flags {flags:#x} without GUEST_CSUM")
    receive_gso = spec.mask(Feature.GUEST_TSO4, Feature.GUEST_TSO6, Feature.GUEST_UFO, Feature.GUEST_USO4, Feature.GUEST_USO6)
    if not features & receive_gso:
        check(gso_type == 0, f"Received header has gso_type {gso_type:#x} without a receive GSO feature")
    if flags == 0 and gso_type == 0:
        # Not demanded by the text, but a device that leaves these undefined leaks old data to the driver.
        rest = (hdr_len, gso_size, csum_start, csum_offset)
        check(rest == (0, 0, 0, 0), f"Received header has hdr_len, gso_size, csum_start, csum_offset {rest} without an offload")
    if not features >> Feature.MRG_RXBUF & 1:
        check(num_buffers == 1 or not counted, f"Received header has num_buffers {num_buffers} without MRG_RXBUF")
        return 1
    check(num_buffers >= 1, "Received header has num_buffers 0")
    return num_buffers


def merged_fill(used):
    """Check that every buffer of a packet but the last is full and the last is not empty [5.1.6.4]."""
    for position, entry in enumerate(used[:-1]):
        check(entry.length == entry.chain.writable,
              f"Buffer {position} of a packet of {len(used)} holds {entry.length} of {entry.chain.writable} bytes")
    check(len(used) == 1 or used[-1].length > 0, f"The last of {len(used)} buffers of a packet is empty")


class InterruptWatch:
    """Counts the interrupts that arrive during a stretch in which none is allowed."""

    def __init__(self, host, vectors):
        self._host = host
        self._before = {vector: host.interrupt_count(vector) for vector in vectors}

    def quiet(self, why):
        """Check that none arrived since the watch was made."""
        for vector, before in self._before.items():
            count = self._host.interrupt_count(vector) - before
            check(count == 0, f"{count} interrupts of vector {vector} arrived {why}")
