# SPDX-License-Identifier: BSD-2-Clause
"""A chain store in Python that answers ``ChainPortSignature``, and a model of the buffers behind it.

What is not to be looked at (slots not walked, rows and groups nobody owns) reads as noise, so a stage that uses it fails. Every byte the
device may write has one address; bytes around it are guarded, since a write anywhere else fails the test.
"""

from dataclasses import dataclass, field

from amaranth import *

NOISE_BITS = {"address": 64, "readable": 20, "writable": 20, "single": 1}


@dataclass
class Chain:
    """A chain as the driver made it: ``segments`` of (address, length)."""

    row: int
    position: int
    slot: int
    head: int
    segments: list
    walked: bool = False
    groups: list = field(default_factory=list)
    single: bool = True

    @property
    def writable(self):
        return min(sum(length for _, length in self.segments), (1 << 20) - 1)


class FakeChains:
    """Adds chains, answers look-ups, takes releases back and checks them."""

    def __init__(self, config, rng):
        self.config, self.rng = config, rng
        self.parsed = [0] * config.rows
        self.order = {}                    # (row, position) -> chain
        self.owned = {}                    # slot -> chain
        self.segments, self.links = {}, {}
        self.free_slots = list(range(config.chain_slots))
        self.free_groups = list(range(config.segment_groups))
        self.released = []
        self.base = 0x1_0000
        rng.shuffle(self.free_slots)
        rng.shuffle(self.free_groups)

    def can_add(self, row, parts):
        in_window = sum(chain.row == row for chain in self.owned.values())
        return (self.free_slots and in_window < self.config.queue_window
                and (parts <= 1 or len(self.free_groups) >= -(-parts // 8)))

    def add(self, row, lengths, walked=True):
        """Add a chain with segments of these lengths somewhere in memory."""
        places = []
        for length in lengths:
            self.base += self.rng.randrange(1, 80)
            places.append((self.base, length))
            self.base += length
        chain = Chain(row, self.parsed[row], self.free_slots.pop(), self.rng.randrange(1 << 16), places)
        # A chain of one segment may or may not have been walked as one of several descriptors.
        chain.single = len(lengths) < 2 and (self.rng.random() < 0.7 or not self.free_groups)
        self.order[row, chain.position % self.config.queue_window] = chain
        self.owned[chain.slot] = chain
        self.parsed[row] = (self.parsed[row] + 1) & 0xFFFF
        if walked:
            self.walk(chain)
        return chain

    def walk(self, chain):
        if not chain.single and chain.segments:
            count = -(-len(chain.segments) // 8)
            if len(self.free_groups) < count:
                return
            chain.groups = [self.free_groups.pop() for _ in range(count)]
            for number, segment in enumerate(chain.segments):
                self.segments[chain.groups[number // 8], number % 8] = segment
            self.links.update(zip(chain.groups, chain.groups[1:]))
        chain.walked = True

    def noise(self, shape):
        return self.rng.randrange(1 << shape)

    def record(self, slot):
        chain = self.owned.get(slot)
        groups = self.config.segment_groups
        value = {name: self.noise(bits) for name, bits in NOISE_BITS.items()}
        value |= {"group": self.rng.randrange(groups), "groups": self.rng.randrange(groups + 1),
                  "segments": self.rng.randrange(8 * groups), "readable_segments": 0}
        if chain is not None and chain.walked:
            value |= {"single": chain.single, "writable": chain.writable, "readable": 0}
            if chain.single:
                value["address"] = chain.segments[0][0] if chain.segments else 0
            else:
                value |= {"segments": len(chain.segments), "groups": len(chain.groups)}
                if chain.groups:
                    value["group"] = chain.groups[0]
        return value

    def release(self, slot, group, groups):
        chain = self.owned.pop(slot, None)
        assert chain is not None, f"slot {slot} released but not out"
        assert groups == len(chain.groups), f"{groups} groups released, {len(chain.groups)} held"
        if groups:
            assert group == chain.groups[0]
        self.free_slots.append(slot)
        self.free_groups += chain.groups
        self.released.append(chain)

    async def serve(self, ctx, port, stall):
        """Synchronous look-ups and releases, for ever."""
        while True:
            ctx.set(port.release.ready, self.rng.random() >= stall)
            sampled = await ctx.tick().sample(
                port.parsed_row, port.order_row, port.order_position, port.chain_slot,
                port.segment_group, port.segment_index, port.release.valid & port.release.ready,
                port.release.payload)
            _, _, parsed_row, row, position, slot, group, index, transfer, release = sampled
            # What was asked for is answered from the state before this cycle's changes.
            ctx.set(port.parsed, self.parsed[parsed_row])
            chain = self.order.get((row, position % self.config.queue_window))
            ctx.set(port.slot, chain.slot if chain else self.rng.randrange(self.config.chain_slots))
            ctx.set(port.chain, self.record(slot))
            owner = self.owned.get(slot)
            ctx.set(port.head, owner.head if owner else self.noise(16))
            address, length = self.segments.get((group, index), (self.noise(64), self.noise(20)))
            ctx.set(port.segment, {"address": address, "length": min(length, (1 << 20) - 1)})
            if transfer:
                self.release(release.slot, release.group, release.groups)
            self.answer(ctx)

    def answer(self, ctx):
        ctx.set(self.walked_bits, sum(1 << slot for slot, chain in self.owned.items()
                                      if chain.walked))
        ctx.set(self.link_bits, sum(after << 16 * group for group, after in self.links.items()))

    def wrap(self, dut, port):
        """Return a module around ``dut`` that answers the combinational look-ups of ``port``."""
        m = Module()
        m.submodules.dut = dut
        self.walked_bits = Signal(self.config.chain_slots)
        self.link_bits = Signal(16 * self.config.segment_groups)
        m.d.comb += [port.walked.eq(self.walked_bits.bit_select(port.walked_slot, 1)),
                     port.next_group.eq(self.link_bits.word_select(port.next_group_of, 16))]
        return m


class HostWrites:
    """Collects write commands byte by byte; a byte is written once, and only where allowed."""

    def __init__(self, rng, lanes):
        self.rng, self.lanes = rng, lanes
        self.bytes = {}
        self.beats = 0
        self.commands = []                 # (address, bytes)
        self.allowed = None                # set of addresses, or None

    async def serve(self, ctx, port, stall):
        current, held = None, None
        while True:
            ctx.set(port.ready, self.rng.random() >= stall)
            _, _, valid, ready, beat = await ctx.tick().sample(port.valid, port.ready, port.payload)
            if held is not None:
                assert valid and beat == held, "valid or payload changed while stalled"
            held = beat if valid and not ready else None
            if not (valid and ready):
                continue
            self.beats += 1
            if beat.first:
                assert current is None
                current = (beat.header.address, bytearray(), beat.header.length)
                assert beat.header.function == 0
            assert current is not None
            count = self.lanes - beat.empty
            assert beat.last or not beat.empty
            current[1].extend(beat.data.to_bytes(self.lanes, "little")[:count])
            if beat.last:
                address, content, length = current
                assert len(content) == length
                self.post(address, bytes(content))
                current = None

    def post(self, address, content):
        self.commands.append((address, content))
        for offset, byte in enumerate(content):
            if self.allowed is not None:
                assert address + offset in self.allowed, f"stray write at {address + offset:x}"
                assert address + offset not in self.bytes, "a byte is written twice"
            self.bytes[address + offset] = byte
