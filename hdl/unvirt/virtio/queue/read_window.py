# SPDX-License-Identifier: BSD-2-Clause
"""How much packet data may be under way from the host."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Arrival", "PacketBegin", "ReadWindow"]

_ROUNDS = 1024
"""Round trips after which the shortest one is measured anew."""

_TIME_WIDTH = 12
"""Width of times, in cycles. No answer is waited for longer than they can tell."""

_SLACK = 4096
"""Bytes that the sum may lie below zero: what was forgotten may be answered after all."""


class PacketBegin(data.StructLayout):
    """The reads of a packet of so many bytes begin."""

    def __init__(self, slots):
        super().__init__({"slot": range(slots), "bytes": 14})


class Arrival(data.StructLayout):
    """A piece of a packet has arrived. ``bytes`` of all pieces add up to those of the packet; a single one may be off."""

    def __init__(self, slots):
        super().__init__({"slot": range(slots), "bytes": signed(15)})


class ReadWindow(wiring.Component):
    """Keeps as many bytes under way as the host's round trip needs, and not many more.

    What is asked for beyond that waits in the host or on the link, so that every round trip takes longer, those of rings and descriptors as well:
    then a queue of short packets, of which only so many can be under way, gets less than its share, however fairly the reads are issued.

    ``open`` while less than a limit is under way. The round trip of one packet at a time is measured, to its first piece. If a packet had to wait
    and the round trip is below five quarters of the shortest, the limit is raised by an eighth; above six quarters, or if it does not end within
    four of the shortest, it is lowered by a quarter; it begins at a quarter of ``most`` and stays between ``least`` and that. Reads that are never
    answered stay in the sum, which the limit then grows beyond; if they are all there is, they are forgotten after four of the shortest round
    trips, or 4,095 cycles, without any answer, so that others can go on. Round trips beyond 4,095 cycles are not followed: the limit stays as it
    began.

    Parameters
    ----------
    slots : int
    least, most : int
        Bytes.

    Members
    -------
    begins, begun : ``In(1)``, ``In(PacketBegin)``
    arrives, arrived : ``In(1)``, ``In(Arrival)``
    wanted : ``In(1)``
        A packet could begin if ``open``.
    open : ``Out(1)``
        Counts what began and arrived in the cycles before; so it is low in the cycle after a packet began.
    clear : ``In(1)``
        Nothing was under way before this cycle, as after a reset; what was learnt of the host stays.
    """

    def __init__(self, *, slots, least, most):
        self._slots, self._least, self._most = slots, least, most
        super().__init__({
            "begins": In(1),
            "begun": In(PacketBegin(slots)),
            "arrives": In(1),
            "arrived": In(Arrival(slots)),
            "wanted": In(1),
            "open": Out(1),
            "clear": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = (2 * self._most).bit_length()
        under_way = Signal(signed(width + 1))
        change = Signal(signed(width + 2))
        limit = Signal(width, init=max(self._least, self._most // 4))
        # Whether a packet begins is known late: it counts in the cycle after.
        began = Signal()
        begun = Signal.like(self.begun)
        below = Signal(init=1)
        m.d.comb += [
            change.eq(under_way + Mux(began, begun.bytes, 0) - Mux(self.arrives, self.arrived.bytes, 0)),
            self.open.eq(below & ~began),
        ]
        m.d.sync += [
            began.eq(self.begins), begun.eq(self.begun),
            under_way.eq(Mux(change < -_SLACK, -_SLACK, change)), below.eq(change < limit),
        ]

        # One packet at a time is timed.
        longest = (1 << _TIME_WIDTH) - 1
        timing = Signal()
        slot = Signal(range(self._slots))
        time = Signal(_TIME_WIDTH)
        shortest = Signal(_TIME_WIDTH, init=longest)
        waited = Signal()                   # one did since the last packet was timed
        rounds = Signal(range(_ROUNDS))
        back, late = Signal(), Signal()
        # Those that follow from `limit` and `shortest` are a cycle old, which is less than any round trip; so is what was decided.
        raised, lowered = (Signal(width, init=limit.init, name=name) for name in ("raised", "lowered"))
        five, six = Signal(_TIME_WIDTH + 1), Signal(_TIME_WIDTH + 1)
        grow, shrink, waits = Signal(), Signal(), Signal()
        eighth, quarter = limit >> 3, limit >> 2
        m.d.comb += [
            back.eq(timing & self.arrives & (self.arrived.slot == slot)),
            late.eq(timing & (~(time - (shortest << 2))[-1] | (time == longest))),
        ]
        m.d.sync += [
            raised.eq(Mux(limit + eighth > self._most, self._most, limit + eighth)),
            lowered.eq(Mux(limit - quarter < self._least, self._least, limit - quarter)),
            five.eq(shortest + (shortest >> 2)), six.eq(shortest + (shortest >> 1)),
            time.eq(time + 1), waits.eq(self.wanted & ~self.open), waited.eq((waited & ~back) | waits),
            grow.eq(0), shrink.eq(0),
        ]
        with m.If(~timing & began):
            m.d.sync += [timing.eq(1), slot.eq(begun.slot), time.eq(0)]
        with m.If(back | late):
            m.d.sync += timing.eq(0)
            with m.If(late | (time > six)):
                # Of a host that has not answered yet nothing is known.
                m.d.sync += shrink.eq(shortest != longest)
            with m.Else():
                m.d.sync += grow.eq(waited & (time < five))
        with m.If(back):
            m.d.sync += rounds.eq(rounds + 1)
            with m.If(time < shortest):
                m.d.sync += shortest.eq(time)
            with m.If(rounds == _ROUNDS - 1):
                # Perhaps the host has become slower: with less under way its round trip shows.
                m.d.sync += [shortest.eq(Mux(shortest[-1], longest, five)), shrink.eq(1)]
        with m.If(shrink):
            m.d.sync += limit.eq(lowered)
        with m.Elif(grow):
            m.d.sync += limit.eq(raised)

        # No answer at all, while packets wait.
        quiet = Signal(_TIME_WIDTH)
        m.d.sync += quiet.eq(Mux(self.arrives | self.open, 0, quiet + 1))
        with m.If(~self.open & (~(quiet - (shortest << 2))[-1] | quiet.all())):
            m.d.sync += [under_way.eq(0), timing.eq(0), quiet.eq(0), began.eq(0), below.eq(1)]
        # What begins in this very cycle counts, in the next one.
        with m.If(self.clear):
            m.d.sync += [under_way.eq(0), timing.eq(0), below.eq(1)]
        return m
