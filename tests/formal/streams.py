# SPDX-License-Identifier: BSD-2-Clause
"""What the proofs on streams have in common: sources, sinks, a watched word."""

from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume

__all__ = ["WatchedWord", "assert_steady", "assume_steady", "drive", "moves"]


def moves(stream):
    """Return whether a word goes over ``stream`` in this cycle."""
    return stream.valid & stream.ready


def _steady(m, stream, claim):
    stalled = Signal(name="stalled")
    before = Signal(len(Value.cast(stream.payload)), name="before", reset_less=True)
    payload = Value.cast(stream.payload)
    m.d.sync += [stalled.eq(stream.valid & ~stream.ready), before.eq(payload)]
    with m.If(stalled):
        m.d.comb += claim(stream.valid & (payload == before))


def assert_steady(m, stream):
    """A word once shown stays until it is taken."""
    _steady(m, stream, Assert)


def assume_steady(m, stream):
    """The same of an input."""
    _steady(m, stream, Assume)


def drive(m, stream, meant=-1):
    """Let the solver be the source of ``stream``, one that keeps to the rules; bits of the payload that are clear in ``meant`` are 0."""
    width = len(Value.cast(stream.payload))
    m.d.comb += [stream.valid.eq(AnySeq(1)), Value.cast(stream.payload).eq(AnySeq(width) & (meant & ((1 << width) - 1)))]
    assume_steady(m, stream)


class WatchedWord:
    """One word on its way from ``i`` to ``o``, chosen by the solver: it comes out unchanged behind just those words that went in before it.

    Members
    -------
    held : words inside; ``inside``: the watched one is; ``ahead``: words before it; ``value``: what it is.
    """

    def __init__(self, m, i, o, most):
        self.held = Signal(range(most + 1))
        self.inside = Signal()
        self.ahead = Signal(range(most + 1))
        self.value = Signal(len(Value.cast(i.payload)))
        put, get = moves(i), moves(o)
        m.d.sync += self.held.eq(self.held + put - get)
        with m.If(self.inside & get):
            m.d.sync += self.ahead.eq(self.ahead - 1)
            with m.If(self.ahead == 0):
                m.d.comb += Assert(Value.cast(o.payload) == self.value)
                m.d.sync += self.inside.eq(0)
        with m.If(~self.inside & put & AnySeq(1)):
            m.d.sync += [self.inside.eq(1), self.ahead.eq(self.held - get), self.value.eq(i.payload)]
        m.d.comb += [
            Assert(self.held <= most),
            Assert(~o.valid | (self.held != 0)),
            Assert(~self.inside | (self.ahead < self.held)),
        ]
