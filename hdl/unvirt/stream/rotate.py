# SPDX-License-Identifier: BSD-2-Clause
"""Rotation of a word by whole bytes, in logarithmic stages of multiplexers."""

from amaranth import *

__all__ = ["rotate_left", "rotate_right"]


def _rotate(m, value, amount, unit, left):
    value, amount = Value.cast(value), Value.cast(amount)
    lanes = len(value) // unit
    if len(value) % unit or lanes & (lanes - 1) or not lanes:
        raise ValueError(f"Width of a rotated value must be a power of two of lanes of {unit} "
                         f"bits, not {len(value)} bits")
    if len(amount) > (lanes - 1).bit_length():
        raise ValueError(f"Rotation of {lanes} lanes must have an amount of at most "
                         f"{(lanes - 1).bit_length()} bits, not {len(amount)}")
    for bit in range(len(amount)):
        step = unit << bit
        # A signal for each stage: nested expressions would be emitted once for every use.
        stage = Signal(len(value), name=f"rotated_{1 << bit}")
        moved = value.rotate_left(step) if left else value.rotate_right(step)
        m.d.comb += stage.eq(Mux(amount[bit], moved, value))
        value = stage
    return value


def rotate_left(m, value, amount, *, unit=8):
    """Return ``value`` with lane ``k`` moved to lane ``(k + amount) % lanes``; combinational.

    One level of two-input multiplexers for each bit of ``amount``.

    Parameters
    ----------
    m : Module
        Takes the multiplexers.
    value, amount : Value
        The word, and by how many lanes it is turned; a power of two of lanes.
    unit : int
        Bits of a lane.

    Raises
    ------
    ValueError
        If the number of lanes is not a power of two, or the amount can exceed it.
    """
    return _rotate(m, value, amount, unit, True)


def rotate_right(m, value, amount, *, unit=8):
    """Return ``value`` with lane ``k`` moved to lane ``(k - amount) % lanes``; see rotate_left."""
    return _rotate(m, value, amount, unit, False)
