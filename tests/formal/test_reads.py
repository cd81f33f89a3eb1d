# SPDX-License-Identifier: BSD-2-Clause
"""Proof: no read crosses 4 KiB or is larger than the host allows, and a request asks for just the bytes of its piece."""

import sys
from pathlib import Path

import pytest
from amaranth import *
from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cover

sys.path.insert(0, str(Path(__file__).parent))
from prove import opened, opened_inside, prove, register, state  # noqa: E402
from streams import assert_steady, drive, moves  # noqa: E402

from unvirt.pcie.dma import ReadPiece
from unvirt.pcie.dma_read_issue import ReadIssuer
from unvirt.pcie.tags import split_tags
from unvirt.virtio.queue.avail import AvailController
from unvirt.virtio.queue.meta import MetaReader
from unvirt.virtio.queue.ring import RingParser
from unvirt.virtio.queue.source import SourceIssue


def in_block(address, length, block):
    """Return whether ``length`` bytes, at least one, from ``address`` on lie in one aligned block of 2**``block`` bytes."""
    return (length != 0) & (address[:block] + length <= 1 << block)


def may_be_read(most, address, length):
    """Return whether a piece is as the contract says: in one page, its DWs at most as many bytes as may be read at once, and at most 512."""
    largest = 128 << most if isinstance(most, int) else Mux(most == 0, 128, Mux(most == 1, 256, 512))
    return in_block(address, length, 12) & (address[:2] + length <= largest)


def drive_inputs(m, *values):
    """Let the solver choose these at any time."""
    for value in values:
        value = Value.cast(value)
        m.d.comb += value.eq(AnySeq(len(value)))


class RequestSpec(Elaboratable):
    """Pieces of two clients that keep to the contract become requests that do, for the same bytes, each once and with its client's tag."""

    def elaborate(self, platform):
        m = Module()
        piece = ReadPiece(2, 8)
        tags = split_tags(2, 2)
        dut = ReadIssuer(data_width=64, tags=tags, handle_widths=(2, 2), buffer_widths=(8, 8))
        m.submodules.dut = inner = opened(dut)
        most = AnyConst(3)
        drive_inputs(m, dut.tx_nonposted.ready, dut.writes_accepted, dut.writes_numbered, dut.posted_number, dut.posted_done, dut.enable, dut.refuse,
                     dut.extended_tags, dut.released_valid, dut.released_tag, dut.ended_valid, dut.ended_client, dut.refused_0.ready,
                     dut.refused_1.ready)
        # The piece that each client handed over last, this cycle's included.
        pieces = []
        for index in range(2):
            requests = getattr(dut, f"requests_{index}")
            drive(m, requests)
            m.d.comb += Assume(~requests.valid | may_be_read(most, requests.payload.address, requests.payload.length))
            taken, last, owed = (Signal(shape, name=f"{name}{index}") for name, shape in (("taken", piece), ("last", piece), ("owed", 1)))
            held, held_valid = register(inner, f"held_{index}"), register(inner, f"held_valid_{index}")
            ends = register(inner, f"issue_{index}") + moves(getattr(dut, f"refused_{index}"))
            m.d.comb += last.eq(Mux(moves(requests), requests.payload.as_value(), taken.as_value()))
            m.d.sync += [taken.eq(last), owed.eq(owed + moves(requests) - ends)]
            # Each piece is issued or refused, once.
            m.d.comb += [
                Assert(ends <= owed + moves(requests)),
                Assert(~(owed & moves(requests)) | (ends != 0)),
                Assert(owed == held_valid),
                Assert(~held_valid | ((held == taken.as_value()) & may_be_read(most, taken.address, taken.length))),
            ]
            pieces.append(last)

        expected, client, goes = Signal(piece), Signal(), Signal()
        issues = [register(inner, f"issue_{index}") for index in range(2)]
        m.d.sync += goes.eq(issues[0] | issues[1])
        with m.If(issues[0] | issues[1]):
            m.d.sync += [expected.eq(Mux(issues[1], pieces[1].as_value(), pieces[0].as_value())), client.eq(issues[1])]
        # What is kept of a read is that of its piece, and is told as the request begins to show.
        told, kept = dut.issued_valid, dut.issued
        m.d.comb += [
            Assert(~(issues[0] & issues[1])),
            Assert(told == goes),
            Assert(~told | (dut.tx_nonposted.valid & (dut.issued_tag == dut.tx_nonposted.payload.header.tag) & (kept.client == client))),
            Assert(~told | ((kept.handle == expected.handle) & (kept.function == expected.function) & (kept.position == expected.buffer))),
            Assert(~told | ((kept.source == expected.address[:7]) & (kept.remaining == expected.length))),
        ]
        header = dut.tx_nonposted.payload.header
        end, first_be, last_be = Signal(13), Signal(4), Signal(4)
        m.d.comb += end.eq(expected.address[:2] + expected.length)
        # Plainly: a byte of the first DW is enabled if it is not before the piece, one of the last DW if it is not behind it.
        for lane in range(4):
            last_dw = (header.length - 1) << 2
            m.d.comb += [first_be[lane].eq((lane >= expected.address[:2]) & ((header.length != 1) | (lane < end))),
                         last_be[lane].eq((header.length != 1) & (last_dw + lane < end))]
        shows = dut.tx_nonposted.valid
        m.d.comb += [
            Assert(~shows | may_be_read(most, expected.address, expected.length)),
            Assert(~shows | (header.address == Cat(C(0, 2), expected.address[2:]))),
            Assert(~shows | ((header.length << 2 >= end) & ((header.length << 2) - 4 < end))),
            Assert(~shows | ((header.first_be == first_be) & (header.last_be == last_be) & (header.function == expected.function))),
            Assert(~shows | may_be_read(most, header.address, header.length << 2)),
            Cover(shows & client & (header.length == 128) & (header.first_be == 0xF)),
            Cover(shows & ~client & (header.length == 1) & (header.first_be == 0b0110)),
        ]
        assert_steady(m, dut.tx_nonposted)
        return m


class PieceSpec(Elaboratable):
    """The pieces that are cut from packets, whatever addresses and lengths the driver gave."""

    def elaborate(self, platform):
        m = Module()
        dut = SourceIssue(rows=2, slots=4, groups=2, granules=8, tags=4, short_tags=4, handle_width=2, buffer_width=10, start_offset=12,
                          header_size=0, shortest=12, longest=300, quantum=128)
        m.submodules.dut = inner = opened(dut)
        most = AnyConst(3)
        m.d.comb += dut.max_read_request_size.eq(most)
        chains = dut.chains
        drive_inputs(m, dut.drain, dut.visits.valid, dut.visits.payload, dut.again.ready, chains.parsed, chains.slot, chains.walked, chains.chain,
                     chains.segment, chains.next_group, dut.pieces.ready, dut.pool_head, dut.pool_count, dut.retired, dut.pieces_done,
                     dut.dropped.ready, dut.open)
        # A segment is never empty, and a chain that stands alone has as many bytes as it says.
        piece = dut.pieces.payload
        cut = opened_inside(inner, "cut")
        left, final, unsized, wide, single = (register(cut, name) for name in ("left", "final", "unsized", "wide", "single"))
        begins, pieces = state(inner, "source_issue", "BEGIN"), state(inner, "source_issue", "PIECES")
        alone = single & ~register(inner, "drop")
        cuts = state(cut, "source_cut", "PIECE") | (begins & alone & ~unsized)
        m.d.comb += [
            Assume(chains.segment.length != 0),
            # What was not cut yet is never nothing, however long the packet waits for granules, and a piece is what it may be before it goes.
            Assert(~unsized | (left != 0) | ~(begins | state(cut, "source_cut", "SIZE")) | (begins & register(inner, "drop"))),
            Assert(~state(cut, "source_cut", "PIECE") | ~unsized),
            Assert(~state(cut, "source_cut", "SIZE") | unsized),
            # A packet is cut while its pieces are waited for, and at no other time.
            Assert(pieces == ~state(cut, "source_cut", "REST")),
            Assert(~cuts | may_be_read(most, piece.address, piece.length)),
            Assert(~(begins | pieces | state(inner, "source_issue", "STORE_DROPPED", "DROPPED"))
                   | (wide == Cat(most != 0, most > 1))),
            # All but the last of a segment end at a block.
            Assert(~cuts | final | (left != 0)),
            Assert(~cuts | final | ~((piece.address + piece.length)[:9] & Cat(C(0x7F, 7), wide)).any()),
        ]
        m.d.comb += [
            Assert(~dut.pieces.valid | may_be_read(most, piece.address, piece.length)),
            Cover(moves(dut.pieces) & (piece.length == 128) & (most == 0)),
        ]
        assert_steady(m, dut.pieces)
        return m


class MetaSpec(Elaboratable):
    """Small reads, and reads of a table that a walk asks for at any alignment, are in one page and may be read at once, if those of lines are."""

    def elaborate(self, platform):
        m = Module()
        dut = MetaReader(data_width=64, rows=2, contexts=16, serves_requests=True)
        m.submodules.dut = inner = opened(dut)
        client = dut.client
        of_kind = {name: getattr(dut, f"{name}_reads") for name in ("index", "flag", "ring", "descriptor", "walk")}
        for name, reads in (of_kind | {"request": dut.requests.reads}).items():
            read = reads.payload
            drive(m, reads)
            if name in ("index", "flag"):
                m.d.comb += Assume(~reads.valid | Mux(read.wide, read.address[:2] == 0, read.address[0] == 0))
            elif name == "walk":
                m.d.comb += Assume(~reads.valid | ((read.length != 0) & (read.length <= 128)))
            else:
                m.d.comb += Assume(~reads.valid | may_be_read(0, read.address, read.length))
        drive_inputs(m, client.requests.ready, client.write.enable, client.write.address_low, client.done_valid, client.done_handle,
                     client.done_error, dut.index_answers.ready, dut.flag_answers.ready, dut.ring_free.valid, dut.ring_free.context,
                     dut.line_free.valid, dut.line_free.context, dut.requests.free.valid, dut.requests.free.context)
        piece = client.requests.payload
        tail_piece = piece.shape()(register(inner, "tail_piece"))
        pieces = opened_inside(inner, "pieces")
        spilled = piece.shape()(register(pieces, "spill"))
        m.d.comb += [
            Assert(~register(pieces, "spill_valid") | may_be_read(0, spilled.address, spilled.length)),
            Assert(~client.requests.valid | may_be_read(0, piece.address, piece.length)),
            Assert(register(inner, "last") < 6),
            Assert(~register(inner, "tail") | may_be_read(0, tail_piece.address, tail_piece.length)),
            Cover(moves(client.requests) & (piece.address[:12] == 0) & (piece.length == 100)),
            Cover(moves(client.requests) & (piece.address[:7] == 16) & (piece.length == 128)),
        ]
        assert_steady(m, client.requests)
        return m


class LineSpec(Elaboratable):
    """Reads of a split ring stay in a line of 128 bytes."""

    def elaborate(self, platform):
        m = Module()
        dut = AvailController(data_width=64, rows=2, slots=16, window=8, lines=2)
        m.d.comb += [dut.index_free.eq(1), dut.ring_free.eq(1)]
        m.submodules.dut = inner = opened(dut)
        drive_inputs(m, dut.event_idx, dut.drain, dut.hold, dut.visits.valid, dut.visits.payload, dut.rung, dut.notified_valid, dut.notified,
                     dut.index_answers.valid, dut.index_answers.payload, dut.finished.valid, dut.finished.payload, dut.index_reads.ready,
                     dut.ring_reads.ready, dut.again.ready, dut.flags.ready, dut.retired, dut.free_slots, dut.unused, dut.added, dut.config.config)
        config = dut.config.config.shape()(register(inner, "config"))
        plan = opened_inside(inner, "plan")
        driver, offset, address, line_left = (register(plan, name) for name in ("driver", "offset", "address", "line_left"))
        read = dut.ring_reads.payload
        m.d.comb += [
            # [virtio 2.7] the available ring is aligned to two bytes.
            Assume(~dut.config.config.driver[0]), Assert(~config.driver[0]),
            Assert(~state(plan, "plan", "LIMIT", "RING", "INDEX") | ~(driver[0] | offset[0])),
            Assert(~state(plan, "plan", "LIMIT") | (line_left == 64 - (driver + offset)[1:7])),
            Assert(~state(plan, "plan", "RING") | (~address[0] & (line_left == 64 - address[1:7]) & (register(plan, "count") <= line_left))),
            Assert(~dut.ring_reads.valid | in_block(read.address, read.length, 7)),
            Cover(moves(dut.ring_reads) & (read.length == 12) & (read.address[:7] == 128 - 12)),
        ]
        return m


class DescriptorSpec(Elaboratable):
    """Reads of the descriptors of a split ring are in one page and of a line's size at most, whatever heads the driver gave."""

    def elaborate(self, platform):
        m = Module()
        dut = RingParser(data_width=64, rows=2, contexts=16)
        m.submodules.dut = inner = opened(dut)
        drive_inputs(m, dut.drain, dut.answers.valid, dut.answers.payload, dut.port.ready, dut.port.data, dut.chains.ready, dut.reads.ready,
                     dut.room, dut.finished.ready)
        desc = Cat(C(0, 4), AnyConst(60))          # [virtio 2.7] the table is aligned to 16 bytes
        m.d.comb += [dut.config.config.desc.eq(desc), dut.config.config.size.eq(AnyConst(16))]
        first, following, count, few = (register(inner, name) for name in ("run_first", "run_next", "run_count", "few"))
        head, follows, line_start, page_start = (register(inner, name) for name in ("head", "follows", "line_start", "page_start"))
        place, config = Signal(8), dut.config.config.shape()(register(inner, "config"))
        read = dut.reads.payload
        m.d.comb += [
            place.eq(desc[4:12] + first[:8]),
            Assume(~ResetSignal()),
            Assert((config.desc == desc) | state(inner, "ring_parser", "IDLE", "START")),
            # What was compared is of the head at hand.
            Assert(~state(inner, "ring_parser", "HEADS", "READ_RUN") | (count == 0) | (follows == (head == following))),
            Assert(~state(inner, "ring_parser", "HEADS", "READ_RUN") | ((line_start == ((desc[4:7] + head[:3])[:3] == 0))
                                                                        & (page_start == ((desc[4:12] + head[:8])[:8] == 0)))),
            Assert((count <= 8) & ((count != 0) | ~state(inner, "ring_parser", "READ_RUN"))),
            Assert((count == 0) | (following == (first + count)[:16])),
            Assert((place + count <= 256) & (few | (place[:3] + count <= 8))),
            Assert(~dut.reads.valid | may_be_read(0, read.address, read.length)),
            Cover(moves(dut.reads) & (read.length == 128) & (read.address[4:7] == 3)),
            Cover(moves(dut.reads) & (read.length == 32) & (read.address[:12] == 4096 - 32)),
        ]
        return m


SPECS = {"requests": RequestSpec, "packets": PieceSpec, "small": MetaSpec, "lines": LineSpec, "descriptors": DescriptorSpec}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_no_read_is_too_large_or_crosses_a_page(spec, tmp_path):
    """By induction: for any number of cycles, with resets at any time."""
    prove(spec(), tmp_path, mode="prove", depth=3)


@pytest.mark.parametrize("spec, depth", [(RequestSpec, 14), (PieceSpec, 10), (MetaSpec, 5), (LineSpec, 14), (DescriptorSpec, 30)], ids=SPECS.keys())
def test_the_limits_are_reached(spec, depth, tmp_path):
    """The proofs speak of something: the longest reads, unaligned ones, the second part of one that was split."""
    prove(spec(), tmp_path, mode="cover", depth=depth)
