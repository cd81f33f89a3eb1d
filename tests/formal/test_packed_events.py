# SPDX-License-Identifier: BSD-2-Clause
"""Proof: events of packed rings overlap, but never two of one row, and none is forgotten."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import data

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register, state  # noqa: E402
from streams import drive, moves  # noqa: E402

from unvirt.virtio.queue.packed import PackedController
from unvirt.virtio.queue.packed_lines import lines_of
from unvirt.virtio.queue.packed_plan import PackedRow, PackedTask

ROWS, CONTEXTS = 2, 16
LINES = lines_of(CONTEXTS)
_FREE = ("event_idx", "drain", "hold", "turn", "others", "rung", "room", "context_free", "contexts_free", "line_here", "line", "end_here", "end",
         "retired", "free_slots", "unused", "added")


class PackedEventsSpec(Elaboratable):
    """Of each row at most one line is looked at, as its state says whenever no event of it is at hand.

    The solver chooses all inputs. A result comes of a line that is looked at, and one row at a time is reset; what is swept is not part of it.
    """

    def elaborate(self, platform):
        m = Module()
        dut = PackedController(data_width=64, rows=ROWS, contexts=CONTEXTS, slots=16, window=8)
        m.submodules.dut = inner = opened(dut)
        plan, plan_inside, cells = inner._named_submodules["plan"][0], opened_inside(inner, "plan"), opened_inside(inner, "state").submodules.cells
        drive(m, dut.visits)
        drive(m, dut.results)
        m.d.comb += [Value.cast(port).eq(AnySeq(len(Value.cast(port)))) for port in (
            *(getattr(dut, name) for name in _FREE), dut.config.config, dut.reads.ready, dut.again.ready, dut.flags.ready, dut.jobs.ready)]
        reset = dut.row_drain
        m.d.comb += [reset.row.eq(AnySeq(len(reset.row))), reset.fetch.eq(AnySeq(1))]
        was, of = Signal(), Signal.like(reset.row)
        m.d.sync += [was.eq(reset.fetch), of.eq(reset.row)]
        # Rows keep what they hold when the device is reset, until they are swept.
        m.d.comb += [Assume(~was | ~reset.fetch | (reset.row == of)), Assume(~ResetSignal())]

        row, is_result = register(inner, "row"), register(inner, "is_result")
        now = plan.tasks.payload.now
        task = data.View(PackedTask(ROWS, LINES), register(plan_inside, "task"))
        stored_already = state(plan_inside, "packed_plan", "AGAIN")
        loads, judges = state(inner, "packed", "LOAD"), state(inner, "packed", "JUDGE")
        at_hand = loads | judges | state(inner, "packed", "END", "JOB", "PLAN")
        m.d.comb += [Assert(~at_hand | ~plan.busy | (row != plan.row)),
                     Cover(at_hand & plan.busy & is_result), Cover(reset.fetch & plan.row_clean & dut.visits.ready)]

        shown = data.View(PackedRow(LINES), cells.read_ports[0].data)
        for number in range(ROWS):
            looked_at = Signal(name=f"looked_at{number}")
            taken = moves(dut.results) & (dut.results.payload.row == number)
            with m.If(moves(dut.jobs) & (dut.jobs.payload.row == number)):
                m.d.comb += Assert(~looked_at)
                m.d.sync += looked_at.eq(1)
            with m.Elif(taken):
                m.d.sync += looked_at.eq(0)
            m.d.comb += Assume(~dut.results.valid | (dut.results.payload.row != number) | looked_at)

            port = cells.read_port(domain="comb")
            stored = data.View(PackedRow(LINES), port.data)
            mine, planned = at_hand & (row == number), plan.busy & ~stored_already & (plan.row == number)
            m.d.comb += [
                port.addr.eq(number),
                Assert(mine | planned | (stored.looking == looked_at)),
                Assert(~mine | ~(loads | judges) | (stored.looking == (looked_at | is_result))),
                Assert(~mine | ~loads | (shown.looking == stored.looking)),
                Assert(~mine | loads | (now.looking == looked_at)),
                Assert(~planned | (task.now.looking == looked_at)),
                # A row that was seen at rest stays so until its reset has ended.
                Assert(~(reset.fetch & was & plan.row_clean & (reset.row == number)) | (~looked_at & ~mine & ~planned)),
                Cover(taken & plan.busy & ~planned),
            ]
        return m


def test_no_event_overtakes_another_of_its_row(tmp_path):
    """What an event finds is what the one before of the same row has left, and every result is accounted for; by induction."""
    prove(PackedEventsSpec(), tmp_path, mode="prove", depth=3, map_memories=True)


def test_events_of_two_rows_overlap(tmp_path):
    """The proof speaks of something: a result is taken while another row reads and stores, and a row at rest is passed over."""
    prove(PackedEventsSpec(), tmp_path, mode="cover", depth=20, map_memories=True)
