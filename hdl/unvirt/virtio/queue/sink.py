# SPDX-License-Identifier: BSD-2-Clause
"""The sink service: packets of the personality go into the buffers that drivers made available.

    packets --> scan --> chains --> move --> read commands --> cut --> byte reader --> writes
                 |                    | chains begun                | chain written
                 v loose chains       v                             v
                 +----------------> waiting chains ---> used elements, slots back
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ...pcie.dma import WriteBeat
from ...stream.buffer import HalfBuffer
from ...stream.fifo import Queue
from ..contract import row_width
from .contract import CHAIN_LENGTH_WIDTH, GROUP_SEGMENTS, ChainPortSignature, RowDrain, UsedElement
from .rows import RowMemory, Sweep, connect_sweep
from .sink_cut import CommandCut
from .sink_read import ByteReader, fits_word
from .sink_scan import SinkPacket, SinkScan

__all__ = ["SinkPacket", "Sink"]

CHAINS_MOVING = 8
"""Chains whose bytes are on their way to the write engine."""


class Sink(wiring.Component):
    """Puts packets into buffers.

    The chains that hold a packet are all found before the first is used; if the queue has too few of them, or without ``mergeable`` the
    first is too small, the packet is dropped and none is used: an empty queue never holds another up. A packet whose queue has buffers on their way
    to the store waits for them, for ``PATIENCE`` cycles at most and only while its memory is not ``crowded`` and no packet of another row is
    behind it. Every chain but the last is filled. A used element and the chain's slot go once the write engine took the last byte of that chain;
    all but the last of a packet have ``more`` set.

    With ``cut`` the first chain that has room for a byte takes as much of the packet as it holds; the rest is let go.

    **Latency**: five cycles from packet to its first beat (six if the packet before went to another row), one from a chain's last beat to its used
    element.
    **Throughput**: a packet of one chain of one segment takes as many cycles as it has beats, or two and a half if these are fewer: while one
    packet is moved the next is looked at. A packet of n > 1 chains takes 4 n cycles or its beats; a segment that does not begin at a word boundary
    of the memory costs a cycle more, a chain of several segments one. **Ordering**: packets in their order, chains in that of their ring.
    **Back-pressure**: everything waits for ``writes``, ``used`` and ``release``; packets then pile up in the personality's memory. **Reset**
    forgets everything but the rows, which a sweep clears.

    While ``drain`` packets that were given their chains are still written, others are let go silently, and every chain in the store of every sink
    row is given back. ``idle`` rises when all this has an end. ``sweep`` clears a row while everything is quiet.

    Parameters
    ----------
    config : DeviceConfig
    is_sink : callable
        Tells from a row (a Value) whether the device writes its buffers.
    size : int
        Bytes of the personality's memory, a power of two.
    cut : bool
        Packets are cut to their buffer; needs ``mergeable``.

    Members
    -------
    packets : ``In(stream.Signature(SinkPacket))``
        Taken (memory given back) in the cycle in which its last word is asked for, or when dropped.
    buffers : ``Out(16)``
        Number of chains that the packet in ``read_data`` was given.
    read_word, read_data : ``Out``/``In``
        The memory shows the word of one cycle in the next.
    chains : ``Out(ChainPortSignature)``
    writes : ``Out(stream.Signature(WriteBeat))``
    used : ``Out(stream.Signature(UsedElement))``
    retired_row, retired : ``In``/``Out`` arrays
        Synchronous; [0]: position after the last chain given back, [1]: after the last one that was given to a packet.
    starved : ``Out(stream.Signature(row))``
        The packet at hand waits for more buffers of this row; told again and again.
    coming_row, coming : ``Out``/``In``
        Whether buffers of a row are on their way to the store (synchronous).
    crowded : ``In(1)``
        The personality's memory is about to be full: no packet waits for buffers.
    mergeable, drain : ``In(1)``
    hold : ``In(1)``, still : ``Out(1)``
        Packets are dropped, chains kept; no chain is being filled or on its way to be used.
    row_drain : ``In(RowDrain)``, row_clean : ``Out(1)``
        A row in reset: it gets no packet any more, its chains are given back; none of them is left.
    flush : ``In(1)``, flushed : ``Out(1)``
        While ``flush``: every packet that had been taken when it rose has its used elements.
    stat_dropped, idle : ``Out(1)``
    sweep : ``In``
    """

    def __init__(self, config, *, is_sink, size, cut=False):
        self._config = config
        self._is_sink = is_sink
        self._size = size
        self._cut = cut
        rows = config.rows
        lanes = config.data_width // 8
        super().__init__({
            "drain": In(1),
            "hold": In(1),
            "row_drain": In(RowDrain(rows)),
            "row_clean": Out(1),
            "mergeable": In(1),
            "packets": In(stream.Signature(SinkPacket(config, size))),
            "buffers": Out(16),
            "read_word": Out(range(size // lanes)),
            "read_data": In(config.data_width),
            "chains": Out(ChainPortSignature(rows, config.chain_slots, config.segment_groups)),
            "writes": Out(stream.Signature(WriteBeat(config.data_width))),
            "used": Out(stream.Signature(UsedElement(rows))),
            "retired_row": In(row_width(rows)).array(2),
            "retired": Out(16).array(2),
            "starved": Out(stream.Signature(row_width(rows))),
            "coming_row": Out(row_width(rows)),
            "coming": In(1),
            "crowded": In(1),
            "flush": In(1),
            "flushed": Out(1),
            "stat_dropped": Out(1),
            "idle": Out(1),
            "still": Out(1),
            "sweep": In(Sweep(rows)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.retired = retired = RowMemory(16, rows=config.rows, readers=1)
        m.submodules.chosen = chosen = RowMemory(16, rows=config.rows, readers=2)
        m.submodules.scan = scan = SinkScan(config, is_sink=self._is_sink, size=self._size, cut=self._cut)
        m.submodules.buffer = buffer = HalfBuffer(scan.o.payload.shape())
        m.submodules.cut = cut = CommandCut(size=self._size, lanes=config.data_width // 8)
        m.submodules.reader = reader = ByteReader(data_width=config.data_width, size=self._size)
        waiting_shape = data.StructLayout({
            "row": row_width(config.rows), "position": 16, "slot": range(config.chain_slots),
            "group": range(config.segment_groups), "groups": range(config.segment_groups + 1),
            "head": 16, "written": 14, "ring_slots": CHAIN_LENGTH_WIDTH,
            "more": 1,
            "full": 1,
            "use": 1,                    # gets a used element
            "data": 1,                   # has bytes to wait for
        })
        m.submodules.waiting = waiting = Queue(waiting_shape, CHAINS_MOVING)
        connect(m, scan.o, buffer.i)
        connect(m, cut.o, reader.commands)
        connect(m, reader.writes, flipped(self.writes))
        connect_sweep(m, self.sweep, (retired, chosen))

        chains = self.chains
        forget = Signal()                      # a dropped packet goes
        m.d.comb += [
            self.read_word.eq(reader.read_word),
            reader.read_data.eq(self.read_data),
            self.buffers.eq(reader.buffers),
            self.packets.ready.eq(reader.packet_read | forget | scan.discard),
            scan.drain.eq(self.drain),
            scan.hold.eq(self.hold),
            scan.forget.eq(self.sweep.valid),
            scan.row_drain.eq(self.row_drain),
            scan.mergeable.eq(self.mergeable),
            scan.packet_valid.eq(self.packets.valid),
            scan.packet.eq(self.packets.payload),
            scan.popped.eq(self.packets.valid & self.packets.ready),
            scan.behind_empty.eq(~buffer.o.valid & ~waiting.o.valid & reader.idle),
            self.stat_dropped.eq(scan.stat_dropped),
            self.idle.eq(scan.idle & scan.behind_empty),
            # Packets that are dropped do not count: they may follow each other for ever.
            self.still.eq(~(scan.o.valid & ~scan.o.payload.drop) & ~(buffer.o.valid & ~buffer.o.payload.drop) & ~waiting.o.valid & reader.idle),
            chains.parsed_row.eq(scan.parsed_row),
            scan.parsed.eq(chains.parsed),
            self.coming_row.eq(scan.parsed_row),
            scan.coming.eq(self.coming),
            scan.crowded.eq(self.crowded),
            chains.order_row.eq(scan.order_row),
            chains.order_position.eq(scan.order_position),
            scan.slot.eq(chains.slot),
            chains.walked_slot.eq(chains.slot),
            scan.walked.eq(chains.walked),
            chains.chain_slot.eq(scan.chain_slot),
            scan.chain.eq(chains.chain),
            scan.head.eq(chains.head),
            chosen.read_row[0].eq(scan.state_row),
            scan.state.eq(chosen.read_value[0]),
            chosen.write_valid.eq(scan.store_valid),
            chosen.write_row.eq(scan.store_row),
            chosen.write_value.eq(scan.store_position),
            retired.read_row[0].eq(self.retired_row[0]),
            self.retired[0].eq(retired.read_value[0]),
            chosen.read_row[1].eq(self.retired_row[1]),
            self.retired[1].eq(chosen.read_value[1]),
        ]
        # From here it goes far, and it is told again.
        m.d.sync += [self.starved.valid.eq(scan.starved), self.starved.payload.eq(scan.parsed_row)]
        # Chains that were chosen for a packet go first.
        mine_ahead = buffer.o.valid & (buffer.o.payload.place.row == self.row_drain.row)
        loose_goes = scan.loose.valid & ~buffer.o.valid
        level = waiting.level + (waiting.i.valid & waiting.i.ready)
        left = Signal(range(CHAINS_MOVING + 1))        # of what waits, all up to the row's last chain
        with m.If(~scan.row_empty | mine_ahead):
            m.d.sync += left.eq(level - waiting.o.ready)
        with m.Elif((left != 0) & waiting.o.ready):
            m.d.sync += left.eq(left - 1)
        m.d.comb += self.row_clean.eq(scan.row_empty & ~mine_ahead & (left == 0))
        # All chains of a packet that was taken wait, or waited, here.
        before = Signal(range(CHAINS_MOVING + 1))      # of what waits, all that did when `flush` rose
        with m.If(~self.flush):
            m.d.sync += before.eq(level - waiting.o.ready)
        with m.Elif((before != 0) & waiting.o.ready):
            m.d.sync += before.eq(before - 1)
        m.d.comb += self.flushed.eq(self.flush & (before == 0))
        self._elaborate_move(m, scan, buffer, cut.i, reader.reading, waiting.i, forget, loose_goes)
        self._elaborate_retire(m, waiting.o, reader.chain_written, retired)
        return m

    def _elaborate_move(self, m, scan, buffer, command, reading, waiting, forget, loose_goes):
        """Make commands of the bytes of each chain, or of its segments."""
        item = buffer.o
        now, chain = item.payload, item.payload.chain
        give = Signal()                            # the chain is passed on
        record = waiting.payload
        loose = scan.loose.payload
        m.d.comb += [
            item.ready.eq(give | forget),
            record.row.eq(now.place.row), record.position.eq(now.position),
            record.slot.eq(now.slot), record.head.eq(now.head), record.group.eq(chain.group),
            record.groups.eq(Mux(chain.single, 0, chain.groups)),
            record.written.eq(now.amount), record.more.eq(~now.last), record.ring_slots.eq(chain.ring_slots),
            record.full.eq(now.full),
            record.use.eq(1), record.data.eq(~now.empty),
            waiting.valid.eq(give),
        ]
        with m.If(loose_goes):
            m.d.comb += [
                scan.loose.ready.eq(waiting.ready),
                record.row.eq(loose.place.row), record.position.eq(loose.position),
                record.slot.eq(loose.slot), record.group.eq(loose.chain.group),
                # A chain that was not walked has no groups.
                record.groups.eq(Mux(loose.chain.single | ~scan.loose_walked, 0,
                                     loose.chain.groups)),
                record.use.eq(0), record.data.eq(0),
                waiting.valid.eq(1),
            ]

        piece, piece_valid, piece_taken = Signal(command.payload.shape()), Signal(), Signal()
        m.d.comb += [
            command.payload.eq(piece),
            # As well "no byte is left", but for a packet that is cut to its chain.
            command.payload.ends_packet.eq(command.payload.ends_chain & now.last),
            command.payload.buffers.eq(now.buffers),
            piece_taken.eq(command.ready & (waiting.ready | ~piece.ends_chain)),
        ]
        with m.If(now.pieces):
            m.d.comb += [
                command.valid.eq(item.valid & piece_valid & (waiting.ready | ~piece.ends_chain)),
                give.eq(item.valid & piece_valid & piece.ends_chain & waiting.ready & command.ready),
            ]
        with m.Else():
            m.d.comb += [
                command.payload.source.eq(now.source), command.payload.length.eq(now.amount), command.payload.address.eq(chain.address),
                command.payload.short.eq(now.short), command.payload.direct.eq(now.direct), command.payload.ends_chain.eq(1),
                command.valid.eq(item.valid & ~now.drop & ~now.empty & waiting.ready),
                give.eq(item.valid & ~now.drop & waiting.ready & (now.empty | command.ready)),
                # Not before the packets ahead of it.
                forget.eq(item.valid & now.drop & ~reading),
            ]
        self._elaborate_segments(m, buffer.i, piece, piece_valid, piece_taken)

    def _elaborate_segments(self, m, begun, piece, piece_valid, piece_taken):
        """Find the pieces of a chain of several segments, one ahead of the one that is commanded; a chain begins as it is ``begun``."""
        chains = self.chains
        lanes = self._config.data_width // 8
        segment = chains.segment
        wanted, fire, last = Signal(), Signal(), Signal()     # segments of the chain are missing
        source, left = Signal.like(piece.source), Signal(14)
        segments_left = Signal.like(begun.payload.chain.segments)
        group, index = Signal.like(chains.segment_group), Signal.like(chains.segment_index)
        holds = Signal()                           # the segment has room for what is left
        segment_short, segment_inside = fits_word(source, segment.length, lanes)
        left_short, left_inside = fits_word(source, left, lanes)
        m.d.comb += [
            fire.eq(wanted & (~piece_valid | piece_taken)),
            holds.eq(segment.length >= left),
            last.eq(holds | (segments_left == 1)),
            # What is asked for now is there in the next cycle, and stays while it is asked for.
            chains.segment_group.eq(group), chains.segment_index.eq(index),
            chains.next_group_of.eq(group),
        ]
        with m.If(piece_taken):
            m.d.sync += piece_valid.eq(0)
        with m.If(fire):
            m.d.comb += chains.segment_index.eq(index + 1)
            with m.If(index == GROUP_SEGMENTS - 1):
                m.d.comb += chains.segment_group.eq(chains.next_group)
            m.d.sync += [
                piece.source.eq(source), piece.address.eq(segment.address), piece.length.eq(Mux(holds, left, segment.length)),
                piece.short.eq(segment_short | left_short),
                piece.direct.eq((source[:(lanes - 1).bit_length()] == 0) | (segment_short & segment_inside) | (left_short & left_inside)),
                piece.ends_chain.eq(last), piece_valid.eq(1),
                source.eq(source + segment.length), left.eq(left - segment.length), segments_left.eq(segments_left - 1),
                wanted.eq(~last),
            ]
        with m.If(begun.ready):
            # Nothing of the chain before is missing.
            chain = begun.payload.chain
            m.d.comb += [chains.segment_group.eq(chain.group), chains.segment_index.eq(0)]
            m.d.sync += [
                source.eq(begun.payload.source), left.eq(begun.payload.amount), segments_left.eq(chain.segments),
                wanted.eq(begun.valid & begun.payload.pieces),
            ]
        m.d.sync += [group.eq(chains.segment_group), index.eq(chains.segment_index)]

    def _elaborate_retire(self, m, waiting, chain_written, retired):
        """Used element and slot of each chain, once its bytes are with the write engine."""
        chain = waiting.payload
        written = Signal(range(CHAINS_MOVING + 1))   # chains behind which no byte is missing
        due = Signal()
        used_given = Signal()
        used, release = self.used, self.chains.release
        done = Signal()
        m.d.comb += [
            due.eq(waiting.valid & (~chain.data | (written != 0))),
            used.valid.eq(due & chain.use & ~used_given),
            used.payload.row.eq(chain.row),
            used.payload.head.eq(chain.head),
            used.payload.written.eq(chain.written),
            used.payload.ring_slots.eq(chain.ring_slots),
            used.payload.full.eq(chain.full),
            used.payload.more.eq(chain.more),
            release.valid.eq(due & (~chain.use | used_given | used.ready)),
            release.payload.row.eq(chain.row),
            release.payload.position.eq(chain.position),
            release.payload.slot.eq(chain.slot),
            release.payload.group.eq(chain.group),
            release.payload.groups.eq(chain.groups),
            done.eq(release.valid & release.ready),
            waiting.ready.eq(done),
            retired.write_valid.eq(done),
            retired.write_row.eq(chain.row),
            retired.write_value.eq(chain.position + 1),
        ]
        m.d.sync += [
            used_given.eq(~done & (used_given | (used.valid & used.ready))),
            written.eq(written + chain_written - (done & chain.data)),
        ]
