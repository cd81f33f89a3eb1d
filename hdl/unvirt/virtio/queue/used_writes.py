# SPDX-License-Identifier: BSD-2-Clause
"""Bursts of used elements on their way to the write engine, while the next one is being gathered."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ...pcie.dma import WriteBeat
from ..contract import QueueConfigPort
from .contract import Published
from .rows import Sweep
from .used_inputs import BURST, UsedPortSignature

__all__ = ["UsedBurst", "UsedBurstPortSignature", "UsedBurstsSignature", "UsedWrites"]

_PATIENCE = 8192
"""Bits that go by while a write waits for a busy write engine and more elements gather behind it: about ten of the shortest frames."""


class UsedBurst(data.StructLayout):
    """One write of used elements: ``length`` bytes from ``base + offset`` on.

    With ``publish`` it ends what becomes visible together, and ``published`` tells of it; in the split ring ``published.place`` is written behind it.
    """

    def __init__(self, rows):
        super().__init__({"base": 64, "offset": 20, "length": 10, "publish": 1, "published": Published(rows)})


def UsedBurstPortSignature(rows):
    """What makes a burst, as its maker sees it.

    ``put``: 64 bits of ``content`` are its next ones, or with ``replace`` its last ones; only with ``room``, unless they replace. ``give``: what was
    put before is a ``burst``, and the next begins; only while ``free``, and not with ``put``.
    """
    return wiring.Signature({
        "content": Out(64),
        "put": Out(1),
        "replace": Out(1),
        "room": In(1),
        "burst": Out(UsedBurst(rows)),
        "give": Out(1),
        "free": In(1),
    })


def UsedBurstsSignature(rows):
    """What gathers used elements into bursts, in either ring format.

    Members
    -------
    port : ``Out(UsedPortSignature)``
    config : ``Out(QueueConfigPort)``
    burst : ``Out(UsedBurstPortSignature)``
    in_order : ``In(1)``
        VIRTIO_F_IN_ORDER was negotiated.
    discard : ``In(1)``
        Elements vanish, and what was gathered of a burst.
    idle : ``Out(1)``
        Nothing is held; a burst that was given is not held any more.
    sweep : ``In``
        Where a row is, is forgotten, while everything is quiet.
    """
    return wiring.Signature({
        "port": Out(UsedPortSignature(rows)),
        "config": Out(QueueConfigPort(rows)),
        "burst": Out(UsedBurstPortSignature(rows)),
        "in_order": In(1),
        "discard": In(1),
        "idle": Out(1),
        "sweep": In(Sweep(rows)),
    })


class UsedWrites(wiring.Component):
    """Writes one burst while the contents of the next are put behind it.

    **Latency**: one cycle from ``give`` to the first beat. **Throughput**: a burst takes its beats, one for its index, and one to be told of, in
    which the next may be given. **Ordering**: elements, index, then ``published``, each after the one before was accepted by the write engine, which
    keeps their order on the link; the next burst after ``published`` was. **Reset**: only with the device; a burst given is always written. What was
    put and not given is forgotten by ``forget``.

    Parameters
    ----------
    data_width, rows : int

    Members
    -------
    packed : ``In(1)``
        Contents are every other 64 bits of a write, the others zero: second halves of descriptors; constant except while everything is quiet.
    forget : ``In(1)``
    port : ``In(UsedBurstPortSignature)``
    writes : ``Out(stream.Signature(WriteBeat))``
    published : ``Out(stream.Signature(Published))``
    urgent : ``Out(1)``
        A burst has waited for 8192 / ``data_width`` cycles, or its index is all that is left.
    done, idle : ``Out(1)``
        There is no burst, and all are told of.
    """

    def __init__(self, *, data_width, rows):
        self._data_width = data_width
        self._rows = rows
        super().__init__({
            "packed": In(1),
            "forget": In(1),
            "port": In(UsedBurstPortSignature(rows)),
            "writes": Out(stream.Signature(WriteBeat(data_width))),
            "published": Out(stream.Signature(Published(rows))),
            "urgent": Out(1),
            "done": Out(1),
            "idle": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._data_width
        lanes = max(1, width // 64)                # contents in a word of the memory, half as many of a packed ring
        lane_bits, words = lanes.bit_length() - 1, BURST // max(1, lanes // 2)
        word_bits = words.bit_length() - 1
        m.submodules.cells = cells = memory.Memory(shape=64 * lanes, depth=words, init=[])
        write, read = cells.write_port(granularity=64), cells.read_port(domain="comb")
        port = self.port

        # Positions in 64 bits: where the next contents go, where those of this burst began; words are read one after the other.
        position, start = Signal(word_bits + lane_bits + 1), Signal(word_bits + lane_bits + 1)
        reading = Signal(word_bits + 1)
        # One of a packed ring takes two lanes, if there are.
        step = 1 + (self.packed if lanes > 1 else 0)
        into = Signal.like(position)
        m.d.comb += [
            into.eq(Mux(port.replace, position - step, position)),
            write.addr.eq(into[lane_bits:-1]),
            write.data.eq(port.content.replicate(lanes)),
            write.en.eq(Mux(port.put, 1 << into[:lane_bits] if lanes > 1 else 1, 0)),
            read.addr.eq(reading[:-1]),
            port.room.eq(position[lane_bits:] != reading ^ words),
        ]
        m.d.sync += position.eq(Mux(port.put & ~port.replace, position + step, position))
        with m.If(port.give):
            # The next burst begins in a word of its own.
            following = Signal.like(position)
            m.d.comb += following.eq((((position + (lanes - 1)) >> lane_bits) << lane_bits)[:len(position)])
            m.d.sync += [position.eq(following), start.eq(following)]
        with m.If(self.forget):
            m.d.sync += position.eq(start)

        # What goes with each beat is ready before it. The address of the index lies `back` from where the burst began.
        out = self.writes.payload
        address, back, length = Signal(64), Signal(signed(21)), Signal(len(port.burst.length))
        first, last, rest = Signal(), Signal(), Signal(len(port.burst.length))     # bytes from this beat on
        publish, telling = Signal(), Signal(Published(self._rows))
        beat = Signal(range(BURST * 128 // width + 1))
        is_content, ends_word = self._layout(beat)
        word = read.data.word_select(beat[0], 32) if width == 32 else read.data
        if lanes > 1:
            word = Cat(word.word_select(lane, 64) & (~self.packed).replicate(64) if lane & 1 else word.word_select(lane, 64) for lane in range(lanes))
        free, index, told = Signal(), Signal(), Signal()
        bytes_per_beat = width // 8
        m.d.comb += [
            out.header.address.eq(address),
            out.header.length.eq(length),
            out.data.eq(Mux(index, telling.place, Mux(is_content, word, 0))),
            out.first.eq(first),
            out.last.eq(last),
            out.empty.eq(Mux(last, (-rest)[:len(out.empty)], 0)),
            self.published.valid.eq(told),
            self.done.eq(free & ~told),
            self.idle.eq(self.done),
            port.free.eq(free),
        ]
        moved = Signal(64)
        m.d.comb += moved.eq(Mux(free, port.burst.base, address) + Mux(free, port.burst.offset, back))

        def tell():
            """The driver sees what was written; the next burst may begin to wait until that is told."""
            m.d.sync += [told.eq(1), self.published.payload.eq(telling)]
            m.next = "IDLE"

        waited = Signal(range(_PATIENCE // width + 1))
        m.d.comb += self.urgent.eq(index | waited[-1])
        with m.If(self.published.ready):
            m.d.sync += told.eq(0)
        with m.FSM(name="used_writes"):
            with m.State("IDLE"):
                m.d.comb += free.eq(1)
                m.d.sync += [
                    address.eq(moved), back.eq(2 - port.burst.offset), length.eq(port.burst.length),
                    first.eq(1), last.eq(port.burst.length <= bytes_per_beat), rest.eq(port.burst.length),
                    publish.eq(port.burst.publish), telling.eq(port.burst.published), beat.eq(0), waited.eq(0),
                ]
                with m.If(port.give):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.writes.valid.eq(~told)
                m.d.sync += waited.eq(waited + ~waited[-1])
                with m.If(self.writes.valid & self.writes.ready):
                    m.d.sync += [beat.eq(beat + 1), reading.eq(reading + ends_word), first.eq(0), rest.eq(rest - bytes_per_beat),
                                 last.eq(rest <= 2 * bytes_per_beat)]
                    with m.If(last):
                        m.d.sync += [address.eq(moved), length.eq(2), rest.eq(2), first.eq(1), last.eq(1)]
                        m.next = "INDEX"
                        with m.If(~publish):
                            m.next = "IDLE"
                        with m.Elif(self.packed):
                            tell()
            with m.State("INDEX"):
                m.d.comb += [index.eq(1), self.writes.valid.eq(1)]
                with m.If(self.writes.ready):
                    tell()
        return m

    def _layout(self, beat):
        """Return whether a beat has contents, and whether it is the last one of its word of the memory."""
        if self._data_width == 32:
            is_content = ~self.packed | ~beat[1]
            return is_content, is_content & beat[0]
        if self._data_width == 64:
            is_content = ~self.packed | ~beat[0]
            return is_content, is_content
        return Const(1), Const(1)
