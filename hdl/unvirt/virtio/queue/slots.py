# SPDX-License-Identifier: BSD-2-Clause
"""How many chain slots a row may still reserve."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["SlotBudget"]


class SlotBudget(wiring.Component):
    """Reservations of chain slots: entries are requested only if there is a slot for each, so that their chains never wait for one.

    The last quarter of the slots is for rows that hold few positions (less than an eighth of the slots). A change counts in the second
    cycle after it; ``held`` at once.

    Parameters
    ----------
    slots : int

    Members
    -------
    reserve : ``In(7)``
        Slots reserved in this cycle.
    added : ``In(1)``
        A reserved slot was taken in this cycle.
    unused : ``In(7)``
        Reserved slots given back in this cycle.
    free_slots : ``In``
        Slots in the pool.
    held : ``In(16)``, spare : ``Out``
        What a row that holds ``held`` positions may reserve.
    """

    def __init__(self, *, slots):
        self._slots = slots
        super().__init__({
            "reserve": In(7),
            "added": In(1),
            "unused": In(7),
            "free_slots": In(range(slots + 1)),
            "held": In(16),
            "spare": Out(range(slots + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        reserved = Signal(range(self._slots + 1))
        left = Signal(range(self._slots + 1))
        keep = self._slots // 4
        m.d.sync += [
            reserved.eq(reserved + self.reserve - self.unused - self.added),
            left.eq(Mux(self.free_slots > reserved, self.free_slots - reserved, 0)),
        ]
        m.d.comb += [
            self.spare.eq(Mux(self.held < self._slots // 8, left, Mux(left > keep, left - keep, 0))),
        ]
        return m
