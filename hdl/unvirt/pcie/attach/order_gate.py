# SPDX-License-Identifier: BSD-2-Clause
"""Holds a header back until the posted write it must not pass has gone."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ...stream.ring import wrap_sub

__all__ = ["OrderGate"]


class OrderGate(wiring.Component):
    """Compares the ``order`` of a presented header with the number of the last posted write sent.

    Numbers are modulo 256; ``order`` counts as sent when it is at most 127 behind. That is safe
    since the gate looks from the first cycle in which the header is presented, and remembers: a
    header may then be stalled for any number of posted writes. **Latency** none: ``open`` is a
    combinational function of all inputs but ``taken``. **Reset** forgets a header that was let
    through and not taken.

    Members
    -------
    valid : ``In(1)``
        A header is presented; it stays until ``taken``.
    order : ``In(8)``
        Number of the posted write it must not pass.
    posted_done : ``In(8)``
        Number of the last posted write sent.
    taken : ``In(1)``
        The header goes in this cycle; the next one is compared anew.
    open : ``Out(1)``
        The header may go. Only with ``valid``.

    Spec
    ----
    [PCIe 2.4.1] Transaction Ordering Rules, entries B2a, C2a, D2a
    """

    valid: In(1)
    order: In(8)
    posted_done: In(8)
    taken: In(1)
    open: Out(1)

    def elaborate(self, platform):
        m = Module()
        passed = Signal()
        m.d.comb += self.open.eq(
            self.valid & (passed | ~wrap_sub(self.posted_done, self.order)[7]))
        m.d.sync += passed.eq(self.open & ~self.taken)
        return m
