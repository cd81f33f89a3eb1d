# SPDX-License-Identifier: BSD-2-Clause
"""Proof: whatever completions come, a tag is given back once, and each read ends once."""

import sys
from pathlib import Path

from amaranth import *
from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register  # noqa: E402
from streams import drive  # noqa: E402

from unvirt.pcie.dma_read_complete import ReadCompleter, _Verdict
from unvirt.pcie.dma_read_issue import TagRecord
from unvirt.pcie.tlp import CompletionHeader, TlpBeat

TAGS = 3


class ReadTagSpec(Elaboratable):
    """Reads are issued with tags that are not out; that a pool gives out no others is proved in ``test_tags.py``, from what is proved here.

    A tag is out from its issue until it is released, and while it is out it is in use, in quarantine, or on its way back. A read lives from its issue
    until it ends, which it does once, with the handle that it was issued with. Completions are arbitrary, of known tags or not, but a TLP does not
    begin within another; the link may be reset at any time.
    """

    def elaborate(self, platform):
        m = Module()
        dut = ReadCompleter(data_width=64, tags=TAGS, timeout=7, handle_width=2, buffer_width=8)
        m.submodules.dut = inner = opened(dut)
        tables = {name: inner._named_submodules[name][0] for name in ("in_use", "begun", "quarantine")}
        drive(m, dut.completions)
        for port in (dut.issued_valid, dut.issued_tag, dut.issued, dut.presented_valid, dut.presented_tag, dut.link_reset, dut.granule_next):
            port = Value.cast(port)
            m.d.comb += port.eq(AnySeq(len(port)))

        out, living = Signal(TAGS), Signal(TAGS)
        issued, released, ended = Signal(TAGS), Signal(TAGS), Signal(TAGS)
        stage_tag, ends = register(inner, "stage_tag"), register(inner, "ends")
        flushed = Signal()
        m.d.sync += flushed.eq(dut.flushing)
        m.d.comb += [
            issued.eq(Mux(dut.issued_valid, 1 << dut.issued_tag, 0)),
            released.eq(Mux(dut.released_valid, 1 << dut.released_tag, 0)),
            ended.eq(Mux(ends, 1 << stage_tag, 0)),
            Assume(~dut.issued_valid | (dut.ready & ~flushed & ((issued & ~out) != 0))),
            Assume(~(dut.completions.valid & register(inner, "packet") & dut.completions.payload.first)),
        ]
        m.d.sync += [out.eq((out | issued) & ~released), living.eq((living | issued) & ~ended)]
        told = Signal()
        m.d.sync += told.eq(ends)
        m.d.comb += [
            Assert(~dut.released_valid | ((released & out) != 0)),
            Assert(~ends | ((ended & living) != 0)),
            Assert(dut.ended_valid == told),
            Assert((living & ~out) == 0),
            Cover(dut.released_valid & ~dut.ended_valid & ~dut.link_reset),
            Cover(out.all() & dut.released_valid & dut.ended_valid & ~dut.ended_error),
        ]

        # No table is told to set and to clear one flag in the same cycle, which it could not.
        flags = {}
        for name, table in tables.items():
            cells = opened_inside(inner, name)
            swept = register(cells, "swept")
            flags[name] = []
            for tag in range(TAGS):
                bits = []
                for side in (cells.submodules.set_bits, cells.submodules.clear_bits):
                    port = side.read_port(domain="comb")
                    m.d.comb += port.addr.eq(tag)
                    bits.append(port.data)
                flag = bits[0] ^ bits[1]
                m.d.comb += [Assert(table.ready == dut.ready), Assert(dut.ready | (swept <= tag) | ~flag), Assert(dut.ready | (swept < TAGS))]
                flags[name].append(dut.ready & flag)
            m.d.comb += [
                Assert(~(table.set_valid & table.clear_valid & (table.set_index == table.clear_index))),
                Assert(dut.ready | ~(table.set_valid | table.clear_valid)),
            ]
        for tag in range(TAGS):
            used, held = flags["in_use"][tag], flags["quarantine"][tag]
            m.d.comb += [Assert(out[tag] == (used | held | (dut.released_valid & (dut.released_tag == tag)))),
                         Assert(living[tag] == (used & ~held))]

        # Within a completion the verdict of its first beat still holds.
        valid, packet, sweep = inner._named_submodules["placer"][0].valid, register(inner, "packet"), Signal()
        m.d.sync += sweep.eq(register(inner, "visit"))
        payload = TlpBeat(CompletionHeader, 64)(register(inner, "payload"))
        kept = _Verdict()(register(inner, "kept"))
        known = register(inner, "stage_known")
        late = (valid & ~payload.first) | (packet & ~valid)
        m.d.comb += [
            Assert(~known | (stage_tag < TAGS)),
            Assert(~late | ~(kept.ends | kept.place) | (known & Array(living)[stage_tag])),
            Assert(~late | ~kept.retire | (known & Array(flags["quarantine"])[stage_tag])),
            Assert(~packet | ~sweep),
            Assert(~(valid & sweep)),
            Assert(~valid | (packet == ~payload.last)),
        ]

        # What is known of a read was looked up when it was there, or is that of another, which has ended.
        records = inner._named_submodules["records"][0]
        handles = Array(Signal(2, name=f"handle{tag}") for tag in range(TAGS))
        expected, looked_up = Signal(2), TagRecord(2, 8)(register(inner, "stage_record"))
        with m.If(dut.issued_valid):
            m.d.sync += handles[dut.issued_tag].eq(dut.issued.handle)
        m.d.sync += expected.eq(handles[stage_tag])
        for tag in range(TAGS):
            port = records.read_port(domain="comb")
            m.d.comb += [port.addr.eq(tag), Assert(~living[tag] | (port.data.record.handle == handles[tag]))]
        begins, goes_on, fresh = (valid & payload.first) | sweep, late & (kept.ends | kept.place), register(inner, "stage_fresh")
        m.d.comb += [
            Assert(~goes_on | ~fresh),
            Assert(~((begins | goes_on) & known & Array(living)[stage_tag]) | fresh | (looked_up.handle == handles[stage_tag])),
            Assert(~dut.ended_valid | (dut.ended_handle == expected)),
        ]
        return m


def test_tags_come_back_once(tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(ReadTagSpec(), tmp_path, mode="prove", depth=4, map_memories=True)


def test_tags_do_come_back(tmp_path):
    """The proof speaks of something: with all tags out a read ends without an error; a tag comes back from quarantine."""
    prove(ReadTagSpec(), tmp_path, mode="cover", depth=30, map_memories=True)
