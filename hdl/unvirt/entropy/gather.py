# SPDX-License-Identifier: BSD-2-Clause
"""The entropy personality: random bytes wait in memory until the sink finds a buffer for them.

    entropy --> pieces of 32 bits --> memory of two halves: | chunk, offered | gathered .. free |
                                                               |                       ^ end
                                                               +--> sink reads
"""

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..virtio.queue.sink import SinkPacket
from .spec import ENTROPY_WIDTH

__all__ = ["CHUNK_SIZE", "STORE_SIZE", "Gather"]

CHUNK_SIZE = 64
"""Most bytes that one buffer gets: what Linux asks for at a time."""

STORE_SIZE = 2 * CHUNK_SIZE
"""Bytes of memory: one chunk is read while the next is gathered."""


class Gather(wiring.Component):
    """Gathers bytes and offers them to the sink in chunks of 64, to be cut to the buffer [virtio 5.4.6.2].

    A buffer gets the first 1 to 64 bytes of a chunk of its own, as many as it has room for, in the order in which they came; the rest of the chunk is
    lost. So no byte is ever given twice, and none before 64 are there. A chunk that found no buffer stays and is offered again.

    **Latency**: a chunk is offered one cycle after its last piece came. **Throughput**: a piece per cycle. **Back-pressure**: ``entropy`` waits
    while a chunk and nearly another are held, and outside of the time in which a driver uses the device. **Reset**: while ``drain`` everything
    held is forgotten, a chunk the sink has begun with once that is done with it; memory contents never show.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    entropy : ``In(stream.Signature(32))``
        Random bits, the lowest byte first.
    drain : ``In(1)``
        Forget everything.
    packets : ``Out(stream.Signature(SinkPacket))``
        The chunk, for queue 0.
    dropped : ``In(1)``
        Pulse, at least a cycle before the chunk is taken: it found no buffer.
    read_word, read_data : ``In``/``Out``
        Synchronous read; still good in the cycle after the chunk was taken.

    Spec
    ----
    [virtio 5.4.6] Entropy Device, Device Operation
    """

    def __init__(self, config):
        self._width = config.data_width
        super().__init__({
            "entropy": In(stream.Signature(ENTROPY_WIDTH)),
            "drain": In(1),
            "packets": Out(stream.Signature(SinkPacket(config, STORE_SIZE))),
            "dropped": In(1),
            "read_word": In(range(STORE_SIZE * 8 // config.data_width)),
            "read_data": Out(config.data_width),
        })

    def elaborate(self, platform):
        m = Module()
        pieces, per_word = STORE_SIZE * 8 // ENTROPY_WIDTH, self._width // ENTROPY_WIDTH
        part_bits = (per_word - 1).bit_length()
        m.submodules.store = store = memory.Memory(shape=self._width, depth=pieces // per_word, init=[])
        write, read = store.write_port(granularity=ENTROPY_WIDTH), store.read_port()

        half = Signal()                        # of the memory, in which the chunk lies
        end = Signal(range(pieces))            # piece behind the last one held; one place stays empty
        held = Signal(range(pieces))
        refused = Signal()                     # the chunk being offered found no buffer
        packet, taken = self.packets.payload, Signal()
        m.d.comb += [
            held.eq(end - half * (pieces // 2)),
            self.entropy.ready.eq(~self.drain & (held != pieces - 1)),
            write.addr.eq(end >> part_bits),
            write.en.eq((self.entropy.valid & self.entropy.ready) << end[:part_bits]),
            write.data.eq(self.entropy.payload.replicate(per_word)),
            read.addr.eq(self.read_word),
            self.read_data.eq(read.data),
            # What is held never becomes less but by being taken, so an offer stands.
            self.packets.valid.eq(held >= pieces // 2),
            packet.address.eq(half * CHUNK_SIZE),
            packet.length.eq(CHUNK_SIZE),
            taken.eq(self.packets.valid & self.packets.ready),
        ]
        with m.If(self.entropy.valid & self.entropy.ready):
            m.d.sync += end.eq(end + 1)
        m.d.sync += refused.eq((refused | self.dropped) & ~taken)
        with m.If(taken & ~refused):
            m.d.sync += half.eq(~half)
        with m.If(self.drain & (taken | ~self.packets.valid)):
            # A chunk that the sink knows of stands until it is taken.
            m.d.sync += [half.eq(0), end.eq(0)]
        return m
