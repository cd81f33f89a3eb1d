# SPDX-License-Identifier: BSD-2-Clause
"""Random traffic by the reference driver: any frame, any chain, both ways at once."""

import itertools
import random
from collections import deque

from unvirt_sim.driver.spec import Feature

SIZES = (14, 15, 59, 60, 64, 127, 128, 243, 244, 600, 1500, 1514, 9018)
SHORT = tuple(size for size in SIZES if size <= 1514)

WAITING_BYTES = 20_000
"""What the far end may have under way: less than the receive memory of any preset, so that nothing is dropped for want of it."""


def cut(rng, total, parts):
    """Return ``parts`` positive lengths that sum to ``total`` (fewer if it is too small)."""
    places = sorted(rng.sample(range(1, total), min(parts, total - 1) - 1))
    return [b - a for a, b in zip([0, *places], [*places, total])]


def split_header(header, total, number):
    """Return lengths with the header cut at byte ``number`` modulo its size; at 0 into its single bytes."""
    place = number % header
    return [1] * header + [total - header] if place == 0 else [place, total - place]


def shape(rng, header, total, number, *, zero=True):
    """Return (lengths, indirect_from, shuffle) for ``total`` bytes behind a header of ``header``; ``number`` counts the chains."""
    kind = rng.choice(("single", "header", "chain", "indirect", "mixed"))
    if kind == "single":
        lengths = [total]
    elif kind == "header":
        lengths = split_header(header, total, number)
    else:
        lengths = cut(rng, total, rng.choice((2, 3, 14, 18)))
    if zero and kind in ("chain", "mixed") and rng.random() < 0.3:
        lengths.insert(rng.randrange(len(lengths) + 1), 0)
    start = {"indirect": 0, "mixed": rng.randrange(len(lengths))}.get(kind)
    return lengths, start, rng.random() < 0.5


class Traffic:
    """Sends ``count`` frames each way over a started driver and compares them byte for byte, in order.

    The far end sends a frame only when the device has had time to fetch the buffers it needs: to drop frames is for other tests, and
    a drop ends the test at once, as does a driver or device that stands still.

    Parameters
    ----------
    rng : random.Random
    count : int
    sizes : sequence of int
        Of frames, in bytes.
    receive : sequence of int, optional
        Lengths of every receive buffer; by default they are of any shape, 64 bytes and more.
    outstanding : int
        Receive buffers given to the device at once.
    pause : int
        Cycles between two looks of the driver, at most.
    window : int
        Receive chains that the device fetches ahead of frames, all of them of one piece or a sixth in groups of eight pieces.
    """

    def __init__(self, simulation, host, driver, *, rng, count, sizes=SIZES, receive=None, outstanding=64, pause=600, window=48):
        self.simulation, self.host, self.driver, self.rng = simulation, host, driver, rng
        self.window = window
        self.count, self.sizes, self.receive, self.outstanding, self.pause = count, sizes, receive, outstanding, pause
        link = simulation.link
        slow = 1 + 4 * max(link.tx_stall, link.rx_gap)
        self.trip = int(slow * (50 + link.latency + link.latency_spread + link.posted_spread))
        self.patience = 1000 * self.trip + 200_000
        self.posted = deque()         # [cycle from which it counts, pieces, bytes] of buffers no frame was sent for yet
        self.groups, self.held = deque(), 0               # of the receive buffers the device has, in order; their sum
        self.sent, self.out = deque(), deque()            # frames under way
        self.sent_count = self.out_count = self.reaped = 0
        self.chains = 0
        self.moved = simulation.cycle                     # when something last came home

    async def run(self):
        """Run to the end; everything that was sent has come, and every buffer is back."""
        self.dropped = self.simulation.counters["rx_dropped"]
        while self.sent_count < self.count or self.out_count < self.count or self.sent or self.out \
                or self.reaped < self.out_count:
            await self._post()
            await self._send()
            await self._transmit()
            self.simulation.run(self.rng.randrange(self.pause))
            await self._take()
        self.simulation.run(20 * self.trip)
        assert not self.simulation.take_frames(), "a frame left the device twice"
        assert await self.driver.collect() == [], "a frame came twice"

    async def _post(self):
        ring = self.driver.rx
        while len(self.groups) > len(ring.outstanding):
            self.held -= self.groups.popleft()
        while len(ring.outstanding) < min(self.outstanding, ring.size):
            self.chains += 1
            lengths, start, shuffle = self._receive_shape()
            groups = -(-len(lengths) // 8) if len(lengths) > 1 else 0
            slots = len(lengths) if start is None else start + 1
            if groups + self.held > self.window // 6 or ring.free_slots < slots:
                lengths, start, groups = [1530], None, 0
            if not ring.free_slots:
                break
            await self.driver.post(lengths, indirect_from=start, shuffle=shuffle, publish=False)
            self.groups.append(groups)
            self.held += groups
            self.posted.append([None, len(lengths), sum(lengths)])
        await ring.publish()
        self._foresee()

    def _foresee(self):
        """Tell when the device will know the next receive buffers: those beyond what it prefetches only when others are gone."""
        ahead = max(self.window - sum(used for _, used in self.sent), 0)
        entries = list(itertools.islice(self.posted, ahead))
        fresh = [entry for entry in entries if entry[0] is None]
        # Index, ring and descriptor of all of them, behind the packets to send; then, one by one, what a chain or table has more.
        busy = 24 * sum(pieces for _, pieces in itertools.islice(self.out, 2 * self.window))
        ready = max((entry[0] for entry in entries if entry[0] is not None), default=0)
        ready = max(ready, self.simulation.cycle + 6 * self.trip + busy) + 24 * len(fresh)
        for entry in fresh:
            ready += (entry[1] - 1) * (self.trip // 2 + 80)
            entry[0] = ready

    def _receive_shape(self):
        if self.receive is not None:
            return list(self.receive), None, False
        total = self.rng.choice((64, 100, 777, 1530, 4096))
        return self._shape(total, self.chains)

    def _shape(self, total, number):
        lengths, start, shuffle = shape(self.rng, self.driver.header_size, total, number)
        # A list of the packed ring is in a table as a whole, or not at all.
        return lengths, 0 if start and self.driver.device.has(Feature.RING_PACKED) else start, shuffle

    async def _send(self):
        for _ in range(self.rng.randrange(4)):
            if self.sent_count == self.count:
                return
            frame = self.rng.randbytes(self.rng.choice(self.sizes))
            needed, buffers = len(frame) + self.driver.header_size, 0
            for ready, _, size in self.posted:
                if needed <= 0 or ready is None or ready > self.simulation.cycle:
                    break
                needed -= size
                buffers += 1
            if needed > 0 or sum(len(other) for other, _ in self.sent) + len(frame) > WAITING_BYTES:
                return
            for _ in range(buffers):
                self.posted.popleft()
            self.sent.append((frame, buffers))
            self.sent_count += 1
            await self.host.send_frame(frame)

    async def _transmit(self):
        driver = self.driver
        for _ in range(self.rng.randrange(4)):
            if self.out_count == self.count:
                break
            frame = self.rng.randbytes(self.rng.choice(self.sizes))
            lengths, start, shuffle = self._shape(driver.header_size + len(frame), self.out_count)
            if driver.tx.free_slots >= (len(lengths) if start is None else start + 1):
                await driver.transmit(frame, lengths=lengths, indirect_from=start, shuffle=shuffle, publish=False)
                self.out.append((frame, len(lengths)))
                self.out_count += 1
        await driver.tx.publish()

    async def _take(self):
        simulation = self.simulation
        assert simulation.counters["rx_dropped"] == self.dropped, "frames were dropped"
        before = len(self.sent) + len(self.out) - self.reaped
        for frame in await self.driver.collect():
            assert self.sent and frame == self.sent.popleft()[0], f"a frame of {len(frame)} bytes came that was not next"
        for _, frame, aborted in simulation.take_frames():
            assert not aborted, "a frame was aborted"
            assert self.out and frame == self.out.popleft()[0], f"a frame of {len(frame)} bytes left that was not next"
        self.reaped += await self.driver.reap()
        waiting = self.sent or self.out or self.reaped < self.out_count
        if len(self.sent) + len(self.out) - self.reaped != before or not waiting:
            self.moved = simulation.cycle
        if waiting and simulation.cycle - self.moved > self.patience:
            raise AssertionError(f"nothing moves: {len(self.sent)} frames to the driver and {len(self.out)} from it are "
                                 f"under way, status {await self.driver.device.status()!r}")


def seeded(seed):
    """Return a generator and print its seed."""
    print(f"traffic seed {seed}; UNVIRT_SEED={seed} repeats it")
    return random.Random(seed)
