# SPDX-License-Identifier: BSD-2-Clause
"""Rotation of a word by whole bytes, in logarithmic stages of multiplexers."""

from amaranth import *

__all__ = ["rotate_left", "rotate_right"]


def _check(value, amount):
    value, amount = Value.cast(value), Value.cast(amount)
    lanes = len(value) // 8
    if len(value) % 8 or lanes & (lanes - 1) or not lanes:
        raise ValueError(f"Width of a rotated value must be a power of two of bytes, "
                         f"not {len(value)} bits")
    if len(amount) > (lanes - 1).bit_length() and lanes > 1:
        raise ValueError(f"Rotation of {lanes} bytes must have an amount of at most "
                         f"{(lanes - 1).bit_length()} bits, not {len(amount)}")
    return value, amount


def rotate_left(value, amount_bytes):
    """Return ``value`` with byte ``k`` moved to lane ``(k + amount_bytes) % lanes``.

    One level of two-input multiplexers for each bit of ``amount_bytes``.

    Raises
    ------
    ValueError
        If the width is not a power of two of bytes, or the amount can exceed it.
    """
    value, amount = _check(value, amount_bytes)
    for bit in range(len(amount) if len(value) > 8 else 0):
        value = Mux(amount[bit], value.rotate_left(8 << bit), value)
    return value


def rotate_right(value, amount_bytes):
    """Return ``value`` with byte ``k`` moved to lane ``(k - amount_bytes) % lanes``; see rotate_left."""
    value, amount = _check(value, amount_bytes)
    for bit in range(len(amount) if len(value) > 8 else 0):
        value = Mux(amount[bit], value.rotate_right(8 << bit), value)
    return value
