# SPDX-License-Identifier: BSD-2-Clause
"""Proof: a driver never sleeps beside used buffers of which no interrupt will tell it."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import enum

sys.path.insert(0, str(Path(__file__).parent))
from prove import prove  # noqa: E402
from streams import assert_steady, assume_steady, moves  # noqa: E402

from unvirt.virtio.queue.notify_decision import NotifyDecision
from unvirt.virtio.spec import EventMode

SIZE = 4
"""Entries of the queue."""


class Driver(enum.Enum, shape=2):
    """What the driver does: looks at the ring when it likes; has asked for an interrupt and not looked again yet; waits for it."""

    AWAKE = 0
    ARMED = 1
    ASLEEP = 2


class NotifySpec(Elaboratable):
    """The device, a driver and the memory between them, for one row of two; of the other row anything may be asked and answered.

    Positions begin about the wrap of the index. A publication becomes visible to the driver at any time before a read that was issued behind it
    fetches its value, and before an interrupt. A read fetches its value at any time between its issue and its answer. The driver writes what it
    waits for, looks at the ring once more, and sleeps if there is nothing new; an interrupt wakes it then, and is forgotten while it is awake. It is
    proved: when nothing is under way in the device, the driver does not sleep with something new in the ring [DER-RACE-02].
    """

    def __init__(self, *, packed, event_idx):
        self._packed = packed
        self._event_idx = event_idx

    def place(self, base, count):
        """Return the place behind ``count`` entries as the device and the driver write it."""
        position = base + count
        return Cat(position[:2], C(0, 13), ~position[2]) if self._packed else position[:16]

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = NotifyDecision(rows=2)
        row = AnyConst(1)
        base = Signal(16)
        config = dut.config.config
        m.d.comb += [
            # After a reset the engine sweeps the rows before anything is published.
            Assume(~ResetSignal()),
            base.eq(Cat(AnyConst(3), AnyConst(1).replicate(13))),
            dut.packed.eq(self._packed), dut.event_idx.eq(self._event_idx), dut.msix_enable.eq(1),
            config.size.eq(SIZE), config.vector.eq(0), config.driver.eq(0x40), config.enabled.eq(1),
            dut.reads.ready.eq(AnySeq(1)), dut.interrupts.ready.eq(AnySeq(1)),
        ]

        # How many entries were published, how many of them are visible, how many the driver has seen.
        told, visible, seen = Signal(4), Signal(4), Signal(4)
        published = dut.published.payload
        mine = published.row == row
        m.d.comb += [
            dut.published.valid.eq(AnySeq(1)), published.row.eq(AnySeq(1)), published.count.eq(AnySeq(2)),
            published.place.eq(Mux(mine, self.place(base, told + published.count), 0)),
            Assume((published.count != 0) & (~mine | (told - seen + published.count <= SIZE))),
            Assume(told < 8),
        ]
        assume_steady(m, dut.published)
        with m.If(moves(dut.published) & mine):
            m.d.sync += told.eq(told + published.count)

        # Reads: one of each row is under way at most.
        asked, fetched, other = Signal(), Signal(), Signal()
        needed, value = Signal(4), Signal(32)
        read = dut.reads.payload
        about_me = read.row == row
        with m.If(moves(dut.reads)):
            m.d.comb += [Assert(~Mux(about_me, asked | fetched, other)), Assert(read.wide == self._packed),
                         Assert(read.address == 0x40 + (4 + 2 * SIZE if self._event_idx and not self._packed else 0))]
            with m.If(about_me):
                m.d.sync += [asked.eq(1), needed.eq(Mux(read.fence, told, 0))]
            with m.Else():
                m.d.sync += other.eq(1)
        event = Signal(32)
        with m.If(asked & AnySeq(1) & (visible >= needed)):
            m.d.sync += [asked.eq(0), fetched.eq(1), value.eq(event)]
        answer = dut.answers
        pick = AnySeq(2)
        with m.If(~answer.valid | answer.ready):
            m.d.sync += answer.valid.eq(0)
            with m.If(pick[0] & fetched):
                m.d.sync += [answer.valid.eq(1), answer.payload.row.eq(row), answer.payload.value.eq(value), fetched.eq(0)]
            with m.Elif(pick[1] & other):
                m.d.sync += [answer.valid.eq(1), answer.payload.row.eq(~row), answer.payload.value.eq(AnySeq(32)), other.eq(0)]

        interrupted = moves(dut.interrupts) & (dut.interrupts.payload.row == row)
        with m.If(interrupted | AnySeq(1)):
            m.d.sync += visible.eq(told)

        # The driver.
        does = Signal(Driver)
        quietly, loudly = self._suppression(self.place(base, seen), event)
        act = AnySeq(2)
        with m.Switch(does):
            with m.Case(Driver.AWAKE):
                with m.If(act == 1):
                    m.d.sync += seen.eq(visible)
                with m.Elif(act == 2):
                    m.d.sync += [event.eq(loudly), does.eq(Driver.ARMED)]
            with m.Case(Driver.ARMED):
                with m.If(interrupted | ((act == 1) & (visible != seen))):
                    m.d.sync += [event.eq(quietly), does.eq(Driver.AWAKE)]
                with m.Elif(act == 1):
                    m.d.sync += does.eq(Driver.ASLEEP)
            with m.Case(Driver.ASLEEP):
                with m.If(interrupted):
                    m.d.sync += [event.eq(quietly), does.eq(Driver.AWAKE)]
        quiet = dut.idle & ~asked & ~fetched
        asleep = does == Driver.ASLEEP
        m.d.comb += [
            Assert(~(quiet & asleep & (seen != told))),
            Cover(quiet & asleep & (seen == 3)),
        ]
        assert_steady(m, dut.interrupts)
        assert_steady(m, dut.reads)
        return m

    def _suppression(self, place, event):
        """Return what the driver writes so as not to be told, and to be told of the next entry."""
        if self._packed:
            wanted = Cat(place, C(EventMode.DESCRIPTOR.value if self._event_idx else EventMode.ENABLE.value, 2))
            return C(EventMode.DISABLE.value << 16, 32), wanted
        # With used_event the driver leaves it where it was, behind what is published.
        return (event, place) if self._event_idx else (C(1, 32), C(0, 32))


FORMATS = {"flags": (False, False), "used_event": (False, True), "packed_flags": (True, False), "packed_event": (True, True)}


@pytest.mark.parametrize("packed, event_idx", FORMATS.values(), ids=FORMATS.keys())
def test_no_driver_sleeps_beside_used_buffers(packed, event_idx, tmp_path):
    """Bounded: 13 cycles, for used_event 14."""
    prove(NotifySpec(packed=packed, event_idx=event_idx), tmp_path, mode="bmc", depth=14 if event_idx and not packed else 13, map_memories=True)


@pytest.mark.slow
@pytest.mark.parametrize("packed, event_idx", [FORMATS["flags"], FORMATS["packed_flags"]], ids=["flags", "packed_flags"])
def test_no_driver_sleeps_beside_used_buffers_for_longer(packed, event_idx, tmp_path):
    """Bounded: 16 cycles."""
    prove(NotifySpec(packed=packed, event_idx=event_idx), tmp_path, mode="bmc", depth=16, map_memories=True)


def test_drivers_sleep_and_wake(tmp_path):
    """The proof speaks of something: a driver was woken, saw three entries, and sleeps again."""
    prove(NotifySpec(packed=False, event_idx=True), tmp_path, mode="cover", depth=25, map_memories=True)
