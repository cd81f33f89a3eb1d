# SPDX-License-Identifier: BSD-2-Clause
"""A sink with a chain store, a personality, a host and a driver in Python around it."""

from functools import partial

from amaranth.back import rtlil
from amaranth.sim import Simulator
from fake_chains import FakeChains, HostWrites
from fake_host import seeded

from unvirt.config import DeviceConfig
from unvirt.virtio.queue.sink import Sink

SIZE = 16384


def make_config(width, **options):
    return DeviceConfig(data_width=width, rows=4, queue_pairs=2, chain_slots=64, queue_window=32,
                        segment_groups=32, max_chain=32, rx_buffer_size=SIZE, **options)


class Rig:
    """One sink with everything around it; packets are byte strings for a row."""

    def __init__(self, width, seed, *, stall=0.0, mergeable=True, cut=False):
        self.rng = seeded(seed)
        self.config, self.lanes, self.stall = make_config(width), width // 8, stall
        self.dut = self.top = Sink(self.config, is_sink=lambda row: ~row[0], size=SIZE, cut=cut)
        self.chains = FakeChains(self.config, self.rng)
        self.host = HostWrites(self.rng, self.lanes)
        self.memory = bytearray(self.rng.randbytes(SIZE))
        self.mergeable = mergeable
        self.coming = set()                # rows with chains on their way to the store
        self.waiting = []                  # (row, address, bytes) at the device, oldest first
        self.used = []
        self.dropped = self.cycle = 0
        self.taken = []
        self.end = 0

    def offer(self, row, content, aligned=False):
        """Put a packet into the personality's memory."""
        address = (self.end + (0 if aligned else self.rng.randrange(self.lanes))) % SIZE
        if aligned:
            address = -(-address // self.lanes) * self.lanes % SIZE
        for offset, byte in enumerate(content):
            self.memory[(address + offset) % SIZE] = byte
        self.end = (address + len(content)) % SIZE
        self.waiting.append((row, address, content))

    async def personality(self, ctx):
        """Packets in order; the word asked for in one cycle is shown in the next, bytes 10 and 11 being the count."""
        dut = self.dut
        ctx.set(dut.mergeable, self.mergeable)
        hidden, known = 0, 1               # for how long those that were not shown yet stay hidden, and how many were
        while True:
            visible = self.waiting
            if hidden and self.waiting:
                visible, hidden = self.waiting[:max(1, known)], hidden - 1
            packet = {}
            if visible:
                packet = dict(zip(("row", "address"), visible[0])) | {"length": len(visible[0][2])}
            packet["behind"] = [{"valid": 1, "row": row, "address": address, "length": len(content)}
                                for row, address, content in visible[1:1 + len(dut.packets.payload.behind)]]
            known = min(len(visible), 1 + len(packet["behind"]))
            ctx.set(dut.packets.payload, packet)
            ctx.set(dut.packets.valid, bool(visible))
            _, _, taken, word, dropped = await ctx.tick().sample(
                dut.packets.valid & dut.packets.ready, dut.read_word, dut.stat_dropped)
            self.cycle += 1
            shown = bytearray(self.memory[word * self.lanes:][:self.lanes])
            if self.waiting:
                _, address, content = self.waiting[0]
                for offset in (10, 11):
                    place = (address + offset) % SIZE
                    if place // self.lanes == word:
                        count = ctx.get(dut.buffers)
                        shown[place % self.lanes] = count >> 8 * (offset - 10) & 255
            ctx.set(dut.read_data, int.from_bytes(shown, "little"))
            if taken:
                self.taken.append((self.cycle, self.waiting.pop(0)))
                known -= 1
                hidden = self.rng.choice([0, 0, 3]) if self.stall else 0
            self.dropped += dropped

    async def show_coming(self, ctx):
        while True:
            _, _, row = await ctx.tick().sample(self.dut.coming_row)
            ctx.set(self.dut.coming, row in self.coming)

    async def take_used(self, ctx):
        port, held = self.dut.used, None
        while True:
            ctx.set(port.ready, self.rng.random() >= self.stall)
            _, _, valid, ready, element = await ctx.tick().sample(port.valid, port.ready,
                                                                  port.payload)
            if held is not None:
                assert valid and element == held
            held = element if valid and not ready else None
            if valid:
                # Its bytes are with the write engine before it is even offered.
                chain = self.used_chain(element.row)
                assert chain.head == element.head, "used elements out of ring order"
                missing = element.written
                for address, length in chain.segments:
                    here = min(length, missing)
                    assert here == 0 or address + here - 1 in self.host.bytes
                    missing -= here
                assert missing == 0
            if valid and ready:
                self.used.append((chain, element.written, element.more))
                self.next_used[element.row] += 1

    def used_chain(self, row):
        return self.added[row][self.next_used[row]]

    def add(self, row, lengths, walked=True):
        chain = self.chains.add(row, lengths, walked)
        self.added[row].append(chain)
        for address, length in chain.segments:
            self.host.allowed.update(range(address, address + min(length, 10000)))
        return chain

    def run(self, *benches, cycles=60000):
        self.added = [[] for _ in range(self.config.rows)]
        self.next_used = [0] * self.config.rows
        self.host.allowed = set()
        rtlil.convert(self.top, ports=[])
        simulator = Simulator(self.chains.wrap(self.top, self.dut.chains))
        simulator.add_clock(1e-9)

        async def watchdog(ctx):
            for _ in range(cycles):
                await ctx.tick()
            raise AssertionError("not through in time")

        async def sweep(ctx):
            # Rows hold noise at power-up; the engine clears them before it lets anything run.
            for row in range(self.config.rows):
                ctx.set(self.dut.sweep.row, row)
                ctx.set(self.dut.sweep.valid, 1)
                await ctx.tick()
            ctx.set(self.dut.sweep.valid, 0)
            self.swept = True

        self.swept = False
        for bench in (sweep, *benches):
            simulator.add_testbench(bench)
        for bench in (self.personality, self.take_used, self.show_coming, watchdog,
                      partial(self.chains.serve, port=self.dut.chains, stall=self.stall),
                      partial(self.host.serve, port=self.dut.writes, stall=self.stall)):
            simulator.add_testbench(bench, background=True)
        simulator.run()

    async def settle(self, ctx, cycles=60):
        """Wait until nothing has moved for a while."""
        last, since = None, 0
        while since < cycles:
            await ctx.tick()
            now = (len(self.waiting), len(self.used), len(self.chains.released),
                   self.host.beats, self.dropped)
            since = since + 1 if now == last else 0
            last = now

    def delivered(self):
        """Reassemble packets from the used elements; return {row: [bytes]}."""
        result, row_parts = {}, {}
        for chain, written, more in self.used:
            parts = row_parts.setdefault(chain.row, [])
            assert not more or written == chain.writable, "only the last chain may have room left"
            content, left = bytearray(), written
            for address, length in chain.segments:
                for offset in range(min(length, left)):
                    content.append(self.host.bytes[address + offset])
                left -= min(length, left)
            parts.append(bytes(content))
            if not more:
                whole = b"".join(parts)
                assert int.from_bytes(whole[10:12], "little") == len(parts)
                result.setdefault(chain.row, []).append(whole[:10] + b"##" + whole[12:])
                row_parts[chain.row] = []
        assert not any(row_parts.values())
        total = sum(written for _, written, _ in self.used)
        assert total == len(self.host.bytes), "bytes were written that belong to no used chain"
        return result


def masked(content):
    return content[:10] + b"##" + content[12:]


def random_lengths(rng, kind):
    if kind == "single":
        return [rng.choice([1536, 2048, 3000])]
    if kind == "small":
        return [rng.choice([1, 12, 13, 64, 100, 200])]
    if kind == "segments":
        return [rng.choice([1, 2, 5, 12, 64, 150]) for _ in range(rng.randrange(1, 20))]
    if kind == "empty":
        return []
    return random_lengths(rng, rng.choice(["single", "small", "small", "segments", "segments", "empty"]))
