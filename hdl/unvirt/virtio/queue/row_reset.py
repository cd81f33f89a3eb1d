# SPDX-License-Identifier: BSD-2-Clause
"""The reset of one queue while the others run [virtio 2.6.1].

    in_reset ---> fetch ends ---> store is emptied ---> used elements written ---> nobody is told ---> rows swept ---> done
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..contract import QueueConfigPort, row_width
from .contract import RowDrain
from .rows import Sweep

__all__ = ["RowReset"]


class RowReset(wiring.Component):
    """Takes rows that are to be reset one after the other through the stages of :class:`~unvirt.virtio.queue.contract.RowDrain`.

    Each stage begins when the one before it holds nothing of the row any more, and only what the host answers may make it wait: ring and descriptor
    reads first, then data reads, then a suppression read. So the reset ends within the completion timeout, whatever the MAC and the other
    queues do. What of the row was used before is written and told. When the engine as a whole is ``quiet`` there is nothing to wait for; when it is
    ``cleared`` every reset is void.

    Parameters
    ----------
    rows : int
        A power of two.
    settle : int
        Cycles for which ``row_rest`` must stand: longer than anything takes between two stages.

    Members
    -------
    config : ``Out(QueueConfigPort)``
        Every row is looked at in turn, one a cycle, also while one is reset: whether it is ``in_reset``, and so not enabled.
    seen_row : ``Out(row)``
        Whose configuration is there.
    drain : ``Out(RowDrain)``
    used_mark : ``Out(1)``
        No more used elements of the row will come.
    row_rest, services_clean, used_passed, notify_clean : ``In(1)``
        The stages hold nothing of the row: fetch side, the service it belongs to, used writer, notification decision.
    quiet, cleared : ``In(1)``
    sweep : ``Out(Sweep)``
    done : ``Out(stream.Signature(row))``
        The row is at rest and its state cleared.
    """

    def __init__(self, *, rows, settle=32):
        self._rows = rows
        self._settle = settle
        width = row_width(rows)
        super().__init__({
            "config": Out(QueueConfigPort(rows)),
            "seen_row": Out(width),
            "drain": Out(RowDrain(rows)),
            "used_mark": Out(1),
            "row_rest": In(1),
            "services_clean": In(1),
            "used_passed": In(1),
            "notify_clean": In(1),
            "quiet": In(1),
            "cleared": In(1),
            "sweep": Out(Sweep(rows)),
            "done": Out(stream.Signature(width)),
        })

    def elaborate(self, platform):
        m = Module()
        row, following = Signal(row_width(self._rows)), Signal(row_width(self._rows))
        m.d.comb += self.config.row.eq(following)
        m.d.sync += self.seen_row.eq(following)
        rest = Signal(range(self._settle + 1))
        fetch, services, notify = Signal(), Signal(), Signal()
        m.d.comb += [
            self.drain.row.eq(row), self.sweep.row.eq(row), self.done.payload.eq(row),
            self.drain.fetch.eq(fetch), self.drain.services.eq(services), self.drain.notify.eq(notify),
        ]
        with m.If(~self.row_rest | ~self.drain.fetch):
            m.d.sync += rest.eq(0)
        with m.Elif(rest != self._settle):
            m.d.sync += rest.eq(rest + 1)

        def until(condition, following, *levels):
            with m.If(self.cleared):
                m.next = "IDLE"
            with m.Elif(self.quiet):
                m.d.sync += [fetch.eq(1), services.eq(1), notify.eq(1)]
                m.next = "SWEEP"
            with m.Elif(condition):
                m.d.sync += [level.eq(1) for level in levels]
                m.next = following

        with m.FSM(name="row_reset") as fsm:
            with m.State("IDLE"):
                # Between two rows all levels fall, for a cycle at least: the stages forget the first one.
                m.d.sync += [fetch.eq(0), services.eq(0), notify.eq(0), row.eq(following)]
                with m.If(self.config.config.in_reset & ~fetch & ~self.cleared):
                    m.d.sync += [fetch.eq(1), row.eq(row)]
                    m.next = "FETCH"
            with m.State("FETCH"):
                until(rest == self._settle, "SERVICES", services)
            with m.State("SERVICES"):
                until(self.services_clean, "USED")
            with m.State("USED"):
                m.d.comb += self.used_mark.eq(1)
                until(self.used_passed, "NOTIFY", notify)
            with m.State("NOTIFY"):
                until(self.notify_clean, "SWEEP")
            with m.State("SWEEP"):
                m.d.comb += self.sweep.valid.eq(1)
                with m.If(self.cleared):
                    m.next = "IDLE"
                with m.Elif(self.sweep.done):
                    m.d.sync += rest.eq(0)
                    m.next = "SETTLE"
            with m.State("SETTLE"):
                # Who looked the row up before the sweep does not write it any more.
                with m.If((rest == self._settle) | self.quiet | self.cleared):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready | self.cleared):
                    m.next = "IDLE"
        # Rows are taken up again behind the one that was reset: each has its turn.
        m.d.comb += following.eq(Mux(fsm.ongoing("IDLE"), row, self.seen_row) + 1)
        return m
