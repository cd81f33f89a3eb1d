# SPDX-License-Identifier: BSD-2-Clause
"""How transmit queues with frames of different sizes divide the port among themselves."""

from dataclasses import dataclass

from .load import HEADER, Load
from .session import BenchFailed, Session

__all__ = ["ROUNDS", "Shares", "byte_shares"]

ROUNDS = 1000
"""Rounds that are observed: so many frames for each queue."""

MIXED = (64, 256, 576, 1500)
"""Sizes of frames; each queue has its own, in turn."""

_STEP = 64


@dataclass(frozen=True)
class Shares:
    """Bytes that left in the time observed.

    ``bytes`` and ``sizes`` are of each queue, what left and its frames; ``cycles`` how long it took.
    """

    bytes: list
    sizes: list
    cycles: int

    @property
    def fair(self):
        """Return the bytes of each queue over its fair share: an equal part of all, as every queue always has more to send."""
        part = sum(self.bytes) / len(self.bytes)
        return [size / part for size in self.bytes]

    @property
    def rate(self):
        """Return the bytes a cycle of all queues."""
        return sum(self.bytes) / self.cycles


def byte_shares(library, *, width, queues, ring, packed=False, sizes=MIXED, latency=0, rounds=ROUNDS, seed=1, progress=lambda part: None):
    """Return the :class:`Shares` of ``queues`` transmit queues that are kept full; queue n has frames of the n-th of ``sizes``, in turn.

    What leaves while the first of ten parts of the rounds go by does not count.
    """
    session = Session(library, width=width, latency=latency, seed=seed)
    sim = session.simulation
    load = Load(frame=max(sizes), transmit=rounds * queues, queues=queues, ring=ring, packed=packed)
    mine = [sizes[pair % len(sizes)] for pair in range(queues)]
    rings = session.start(load, length=lambda queue: HEADER + mine[queue.index // 2])["tx"]
    for one in rings:
        one.publish(one.size)
    warm_up, frames, quiet = rounds * queues // 10, 0, 0
    sent, first, last = [0] * queues, None, sim.cycle
    counts = [0] * queues
    while frames < warm_up + rounds * queues:
        sim.run(_STEP)
        for one in rings:
            session.reap(one)
            if one.size - one.backlog >= load.refill:
                one.publish(one.size - one.backlog)
        seen = sim.take_frames()
        for cycle, data, aborted in seen:
            pair = int.from_bytes(data[38:40], "little")
            if aborted or data != session.transmitted(load, rings[pair], counts[pair] % ring, mine[pair]):
                raise BenchFailed(f"Transmitted frame {counts[pair]} of queue pair {pair} is not what was given")
            counts[pair] += 1
            frames += 1
            if frames > warm_up:
                first = first or last
                sent[pair] += len(data)
            last = cycle
        progress(frames / (warm_up + rounds * queues))
        quiet = 0 if seen else quiet + _STEP
        if quiet > 20_000 + 8 * latency:
            raise BenchFailed(f"Nothing was sent for {quiet} cycles after {frames} frames")
    if sim.violations:
        raise BenchFailed(f"A checker complained: {sim.violations[0]}")
    return Shares(sent, mine, last - first)
