# SPDX-License-Identifier: BSD-2-Clause
"""Where the tokens of a pool are."""

from amaranth import *
from amaranth.hdl import Assert
from prove import opened_inside, register

from unvirt.stream.fifo import MemoryQueue

__all__ = ["token_places"]


def token_places(m, pool, depth):
    """Return for each token of an opened :class:`~unvirt.stream.free_list.FreeList` of ``depth`` tokens at how many places in it the token is.

    Adds to ``m`` that what counts these places is sound.
    """
    component = pool._named_submodules["returned"][0]
    returned = opened_inside(pool, "returned")
    fresh, fresh_left = register(pool, "fresh"), register(pool, "fresh_left")
    latch = isinstance(component, MemoryQueue)
    if latch:
        returned = opened_inside(returned, "words")
    cells = returned.submodules.cells
    entries = []
    for entry in range(cells.depth):
        port = cells.read_port(domain="comb")
        m.d.comb += port.addr.eq(entry)
        entries.append(port.data)
    stored = component.level - component.o.valid if latch else component.level
    consume = register(returned, "consume") if depth > 1 else C(0)
    m.d.comb += Assert(~fresh_left | (fresh < depth))
    if latch:
        m.d.comb += [Assert((register(returned, "produce") - consume)[:len(consume)] == stored), Assert(component.o.valid | (stored <= 1)),
                     Assert(component.level <= depth)]
    elif depth > 1:
        ahead = consume + component.level
        m.d.comb += [Assert((consume < depth) & (component.level <= depth)),
                     Assert(register(returned, "produce") == Mux(ahead >= depth, ahead - depth, ahead))]

    tokens = [(component.o.valid, component.o.payload)] if latch else []
    for step in range(depth):
        place = consume + step
        place = place[:len(consume)] if latch else Mux(place >= depth, place - depth, place)
        tokens.append((step < stored, Array(entries)[place]))
    m.d.comb += [Assert(~there | (token < depth)) for there, token in tokens]
    return [sum([fresh_left & (fresh <= number), *(there & (token == number) for there, token in tokens)]) for number in range(depth)]
