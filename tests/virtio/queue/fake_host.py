# SPDX-License-Identifier: BSD-2-Clause
"""A host and a read engine in Python, for unit tests of the queue engine in the Amaranth simulator.

The read engine here is instant in bandwidth and slow in latency: pieces are answered after a random number of cycles, in any order.
"""

import random
import struct


class FakeMemory:
    """Host memory by 4 KiB pages; reading what was never mapped fails the test."""

    def __init__(self):
        self.pages = {}

    def write(self, address, value):
        for offset, byte in enumerate(value):
            page = self.pages.setdefault((address + offset) >> 12, bytearray(4096))
            page[(address + offset) & 4095] = byte

    def read(self, address, size):
        return bytes(self.pages[(address + i) >> 12][(address + i) & 4095] for i in range(size))


class FakeQueue:
    """The driver's side of a split virtqueue, memory only."""

    def __init__(self, memory, base, size):
        self.memory, self.size = memory, size
        self.desc, self.driver, self.device = base, base + 0x10000, base + 0x20000
        memory.write(self.desc, bytes(16 * size))
        memory.write(self.driver, bytes(6 + 2 * size))
        memory.write(self.device, bytes(6 + 8 * size))
        self.index = 0

    def set_descriptor(self, number, address, length, flags=0, following=0, table=None):
        self.memory.write((table or self.desc) + 16 * number,
                          struct.pack("<QIHH", address, length, flags, following))

    def publish(self, heads):
        for head in heads:
            self.memory.write(self.driver + 4 + 2 * (self.index % self.size),
                              struct.pack("<H", head))
            self.index = (self.index + 1) & 0xFFFF
        self.memory.write(self.driver + 2, struct.pack("<H", self.index))


class PostedWrites:
    """Writes of the device on their way: visible late, in order; a fenced read waits for them."""

    def __init__(self, memory, rng, latency):
        self.memory, self.rng, self.latency = memory, rng, latency
        self.waiting = []
        self.last = 0

    def post(self, cycle, address, value):
        self.last = max(self.last + 1, cycle + self.rng.randint(*self.latency))
        self.waiting.append((self.last, address, value))

    def settle(self, cycle):
        while self.waiting and self.waiting[0][0] <= cycle:
            _, address, value = self.waiting.pop(0)
            self.memory.write(address, value)


async def serve_reads(ctx, client, memory, *, data_width, rng, latency, pieces, never=(),
                      posted=None):
    """Answer the pieces of one read client for ever.

    ``pieces`` collects what was asked for; addresses in ``never`` are not answered. A fenced piece sees every write that was
    in ``posted`` before it.
    """
    lanes = data_width // 8
    waiting, cycle = [], 0
    ctx.set(client.requests.ready, 1)
    while True:
        ready = [entry for entry in waiting if entry[0] <= cycle]
        if ready:
            entry = rng.choice(ready)
            waiting.remove(entry)
            _, request, buffer = entry
            chunk = memory.read(request["address"], request["length"])
            position, offset = buffer, 0
            while offset < len(chunk):
                # One word a cycle, never past a granule: simple, and enough for the client.
                room = min(lanes - position % lanes, 128 - position % 128, len(chunk) - offset)
                mask, word = 0, 0
                for lane in range(room):
                    mask |= 1 << (position % lanes + lane)
                    word |= chunk[offset + lane] << 8 * (position % lanes + lane)
                ctx.set(client.write.enable, mask)
                ctx.set(client.write.high, 0)
                ctx.set(client.write.address_low, position // lanes)
                ctx.set(client.write.data, word)
                offset += room
                ctx.set(client.lookup, position // 128)
                following = ctx.get(client.lookup_next)
                position += room
                if position % 128 == 0 and offset < len(chunk):
                    position = following * 128
                cycle += await tick(ctx, client, cycle, waiting, rng, latency, pieces, never, posted)
            ctx.set(client.write.enable, 0)
            ctx.set(client.done_valid, 1)
            ctx.set(client.done_handle, request["handle"])
            cycle += await tick(ctx, client, cycle, waiting, rng, latency, pieces, never, posted)
            ctx.set(client.done_valid, 0)
        else:
            cycle += await tick(ctx, client, cycle, waiting, rng, latency, pieces, never, posted)


async def tick(ctx, client, cycle, waiting, rng, latency, pieces, never, posted):
    """Let a cycle pass and take a piece if one is offered."""
    _, _, valid, payload = await ctx.tick().sample(client.requests.valid, client.requests.payload)
    if valid:
        request = {name: payload[name] for name in ("address", "length", "handle", "fence")}
        pieces.append(request)
        if request["address"] not in never:
            due = cycle + rng.randint(*latency)
            if posted and request["fence"]:
                due = max(due, posted.last + 1)
            waiting.append((due, request, payload["buffer"]))
    return 1


def seeded(seed):
    """Return a generator and print its seed, so that a failure can be repeated."""
    print(f"seed {seed}")
    return random.Random(seed)
