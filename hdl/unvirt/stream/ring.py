# SPDX-License-Identifier: BSD-2-Clause
"""Small pure functions on ring positions and request vectors."""

from amaranth import *

__all__ = ["wrap_sub", "lowest_one", "round_robin"]


def wrap_sub(a, b):
    """Return ``a - b`` modulo two to the width of the wider operand.

    Plain subtraction is one bit wider and signed, which gives wrong answers in comparisons of ring
    positions; every difference of positions in the project goes through here.
    """
    a, b = Value.cast(a), Value.cast(b)
    return (a - b)[:max(len(a), len(b))]


def lowest_one(value):
    """Return the index of the lowest set bit of ``value``; the highest index if there is none."""
    value = Value.cast(value)
    width = max(1, (len(value) - 1).bit_length())
    index = C(len(value) - 1, width)
    for bit in reversed(range(len(value) - 1)):
        index = Mux(value[bit], C(bit, width), index)
    return index


def round_robin(requests, last):
    """Return the index of the requester that follows ``last`` in a ring; combinational.

    The nearest set bit above ``last`` wins, then the lowest; ``last`` itself comes after all
    others. Meaningless if no bit of ``requests`` is set.
    """
    requests = Value.cast(requests)
    if len(requests) == 1:
        return C(0, 1)
    above = Cat(requests[bit] & (last < bit) for bit in range(len(requests)))
    return Mux(above.any(), lowest_one(above), lowest_one(requests))
