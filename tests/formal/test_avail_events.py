# SPDX-License-Identifier: BSD-2-Clause
"""Proof: events of split rings overlap, but never two of one row, and no read is forgotten."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import data

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register, state  # noqa: E402
from streams import drive, moves  # noqa: E402

from unvirt.virtio.queue.avail import AvailController
from unvirt.virtio.queue.avail_plan import AvailRow

ROWS, LINES = 2, 2
_FREE = ("event_idx", "drain", "hold", "notified_valid", "notified", "rung", "index_free", "ring_free", "retired", "coming_row", "free_slots",
         "unused", "added")


class AvailEventsSpec(Elaboratable):
    """A row's state says how many of its lines, and whether its index, are being read, whenever no event of it is at hand.

    The solver chooses all inputs. Answers and lines come of reads that were asked for, and one row at a time is reset; what is swept is not part of
    it.
    """

    def elaborate(self, platform):
        m = Module()
        dut = AvailController(data_width=64, rows=ROWS, slots=64, window=32, lines=LINES)
        m.submodules.dut = inner = opened(dut)
        plan, plan_inside, cells = inner._named_submodules["plan"][0], opened_inside(inner, "plan"), opened_inside(inner, "state").submodules.cells
        for port in (dut.visits, dut.index_answers, dut.finished):
            drive(m, port)
        m.d.comb += [Value.cast(port).eq(AnySeq(len(Value.cast(port)))) for port in (
            *(getattr(dut, name) for name in _FREE), dut.config.config, dut.index_reads.ready, dut.ring_reads.ready, dut.again.ready,
            dut.flags.ready)]
        reset = dut.row_drain
        m.d.comb += [reset.row.eq(AnySeq(len(reset.row))), reset.fetch.eq(AnySeq(1))]
        was, of = Signal(), Signal.like(reset.row)
        m.d.sync += [was.eq(reset.fetch), of.eq(reset.row)]
        # Rows keep what they hold when the device is reset, until they are swept.
        m.d.comb += [Assume(~was | ~reset.fetch | (reset.row == of)), Assume(~ResetSignal())]

        row, is_answer, is_finished = (register(inner, name) for name in ("row", "is_answer", "is_finished"))
        now, planned_now = plan.tasks.payload.now, data.View(AvailRow, register(plan_inside, "now"))
        loads, later = state(inner, "avail", "LOAD"), state(inner, "avail", "JUDGE", "PLAN", "WRITE_FLAGS")
        stored_already = state(plan_inside, "plan", "AGAIN")
        old = register(inner, "old")
        # A row in reset is not enabled.
        m.d.comb += [Assume(~(loads & reset.fetch & (row == reset.row)) | ~dut.config.config.enabled),
                     Cover(reset.fetch & plan.row_clean & dut.visits.ready)]
        m.d.comb += [Assert(~is_answer | ~is_finished),
                     Assert(~(later | (loads & ~old)) | ~plan.busy | (row != plan.row)), Cover(later & plan.busy & is_answer),
                     Assert(~state(plan_inside, "plan", "RING") | ~register(plan_inside, "some") | (planned_now.lines != LINES)),
                     Cover(loads & old), Cover(later & plan.busy & is_finished)]

        for number in range(ROWS):
            asked, lines = Signal(name=f"asked{number}"), Signal(3, name=f"lines{number}")
            answered = moves(dut.index_answers) & (dut.index_answers.payload.row == number)
            finished = moves(dut.finished) & (dut.finished.payload == number)
            read = moves(dut.ring_reads) & (dut.ring_reads.payload.row == number)
            with m.If(moves(dut.index_reads) & (dut.index_reads.payload.row == number)):
                m.d.comb += Assert(~asked)
                m.d.sync += asked.eq(1)
            with m.Elif(answered):
                m.d.sync += asked.eq(0)
            m.d.sync += lines.eq(lines + read - finished)
            m.d.comb += [
                Assume(~dut.index_answers.valid | (dut.index_answers.payload.row != number) | asked),
                Assume(~dut.finished.valid | (dut.finished.payload != number) | (lines != 0)),
            ]

            port = cells.read_port(domain="comb")
            stored = data.View(AvailRow, port.data)
            mine = row == number
            m.d.comb += [Assert(lines + (is_finished & loads & mine) <= LINES), Assert(~(is_answer & loads & mine) | ~asked)]
            at_hand = (loads | later) & mine
            planned = plan.busy & ~stored_already & (plan.row == number)
            m.d.comb += [
                port.addr.eq(number),
                Assert(at_hand | planned | ((stored.index_pending == asked) & (stored.lines == lines))),
                Assert(planned | ~(loads & mine) | ((stored.index_pending == (asked | is_answer)) & (stored.lines == lines + is_finished))),
                Assert(~(later & mine) | ((now.index_pending == asked) & (now.lines == lines))),
                # A row that was seen at rest stays so until its reset has ended, whatever holds up the others.
                Assert(~(reset.fetch & was & plan.row_clean & (reset.row == number)) | ~(asked | (lines != 0) | (later & mine) | planned)),
                # One that is at hand as well waits for this one to be stored.
                Assert(~planned | ((planned_now.index_pending == (asked | (is_answer & loads & mine)))
                                   & (planned_now.lines == lines + (is_finished & loads & mine)))),
            ]
        return m


def test_no_event_overtakes_another_of_its_row(tmp_path):
    """What an event finds is what the one before of the same row has left, and every read is accounted for; by induction."""
    prove(AvailEventsSpec(), tmp_path, mode="prove", depth=3, map_memories=True)


def test_events_of_two_rows_overlap(tmp_path):
    """The proof speaks of something: an answer and an end of a line are looked at while another row reads and stores, and a row waits for itself."""
    prove(AvailEventsSpec(), tmp_path, mode="cover", depth=20, map_memories=True)
