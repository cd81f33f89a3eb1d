# SPDX-License-Identifier: BSD-2-Clause
"""When the engine runs, drains, is at rest and clears its rows, and when it is suspended."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .rows import Sweep

__all__ = ["EngineControl"]


class EngineControl(wiring.Component):
    """Start-up, drain, suspension and reset of the engine.

    ``drain`` follows the transport's ``driver_ok`` one cycle late. At power-up, and at a reset once the engine has been at rest for ``settle`` cycles
    running (longer than anything takes between two stages), every row is swept, one per cycle; then ``reset_done`` is high until ``reset`` falls.

    ``hold`` follows ``suspend`` one cycle late while ``driver_ok``: nothing further is taken from the driver, what is in progress goes its way,
    and what waits stays where it is. After ``settle`` cycles in which all is ``still`` the engine is ``suspended``. If that has not come about after
    ``patience`` cycles or somewhat more (a MAC takes no frame) it is ``overdue``.

    Members
    -------
    driver_ok, reset, suspend : ``In(1)``
        From the transport.
    at_rest : ``In(1)``
        Every pool is full, every stage and DMA engine idle.
    still : ``In(1)``
        Nothing moves between stages and no DMA engine is busy; pools may have given out something.
    hold, suspended, overdue : ``Out(1)``
        Levels.
    reset_done, drain : ``Out(1)``
    quiet : ``Out(1)``
        Draining, and at rest for ``settle`` cycles.
    cleared : ``Out(1)``
        Rows are being swept, or were since ``reset`` rose.
    sweep : ``Out(Sweep)``
    """

    def __init__(self, *, rows, patience, settle=32):
        self._rows = rows
        self._patience = patience
        self._settle = settle
        super().__init__({
            "driver_ok": In(1),
            "reset": In(1),
            "suspend": In(1),
            "at_rest": In(1),
            "still": In(1),
            "hold": Out(1),
            "suspended": Out(1),
            "overdue": Out(1),
            "reset_done": Out(1),
            "drain": Out(1, init=1),
            "quiet": Out(1),
            "cleared": Out(1),
            "sweep": Out(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        settled = Signal(range(self._settle + 1))
        row = Signal(range(self._rows + 1))
        m.d.comb += self.sweep.row.eq(row)
        waited = Signal(self._patience.bit_length() + 1)   # with `hold`; the top bit stays
        next_hold = Signal()
        m.d.comb += next_hold.eq(self.suspend & self.driver_ok)
        m.d.sync += [self.drain.eq(~self.driver_ok), self.hold.eq(next_hold)]
        # From one kind of rest to the other it begins again.
        with m.If(~Mux(self.drain, self.at_rest, self.still & next_hold)):
            m.d.sync += settled.eq(0)
        with m.Elif(settled != self._settle):
            m.d.sync += settled.eq(settled + 1)
        m.d.comb += [
            self.quiet.eq(self.drain & (settled == self._settle)),
            self.suspended.eq(self.hold & (settled == self._settle)),
            self.overdue.eq(waited[-1] & ~self.suspended),
        ]
        with m.If(~self.hold | self.suspended):
            m.d.sync += waited.eq(0)
        with m.Elif(~waited[-1]):
            m.d.sync += waited.eq(waited + 1)

        with m.FSM(name="engine_control"):
            with m.State("CLEAR"):
                m.d.comb += [self.sweep.valid.eq(1), self.cleared.eq(1)]
                with m.If(self.sweep.done):
                    m.d.sync += row.eq(row + 1)
                    with m.If(row == self._rows - 1):
                        m.d.sync += row.eq(0)
                        m.next = "CLEARED"
            with m.State("CLEARED"):
                m.d.comb += [self.reset_done.eq(self.reset), self.cleared.eq(1)]
                with m.If(~self.reset):
                    m.next = "RUN"
            with m.State("RUN"):
                with m.If(self.reset & self.quiet):
                    m.next = "CLEAR"
        return m
