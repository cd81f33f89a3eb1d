# SPDX-License-Identifier: BSD-2-Clause
"""When the engine runs, drains, is at rest and clears its rows."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .rows import Sweep

__all__ = ["EngineControl"]


class EngineControl(wiring.Component):
    """Start-up, drain and reset of the engine.

    ``drain`` follows the transport's ``driver_ok`` one cycle late. At power-up, and at a reset once the engine has been at rest for ``settle`` cycles
    running (longer than anything takes between two stages), every row is swept, one per cycle; then ``reset_done`` is high until ``reset`` falls.

    Members
    -------
    driver_ok, reset : ``In(1)``
        From the transport.
    at_rest : ``In(1)``
        Every pool is full, every stage and DMA engine idle.
    reset_done, drain : ``Out(1)``
    quiet : ``Out(1)``
        Draining, and at rest for ``settle`` cycles.
    cleared : ``Out(1)``
        Rows are being swept, or were since ``reset`` rose.
    sweep : ``Out(Sweep)``
    """

    def __init__(self, *, rows, settle=32):
        self._rows = rows
        self._settle = settle
        super().__init__({
            "driver_ok": In(1),
            "reset": In(1),
            "at_rest": In(1),
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
        m.d.sync += self.drain.eq(~self.driver_ok)
        with m.If(~self.at_rest | ~self.drain):
            m.d.sync += settled.eq(0)
        with m.Elif(settled != self._settle):
            m.d.sync += settled.eq(settled + 1)
        m.d.comb += self.quiet.eq(settled == self._settle)

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
