# SPDX-License-Identifier: BSD-2-Clause
"""Random traffic by the reference driver: any frame, any chain, both ways at once."""

import random

SIZES = (14, 15, 59, 60, 64, 127, 128, 243, 244, 600, 1500, 1514, 9018)


def cut(rng, total, parts):
    """Return ``parts`` positive lengths that sum to ``total`` (fewer if it is too small)."""
    places = sorted(rng.sample(range(1, total), min(parts, total - 1) - 1))
    return [b - a for a, b in zip([0, *places], [*places, total])]


def transmit_shape(rng, length):
    """Return (lengths, indirect_from, shuffle) of a packet of ``length`` bytes."""
    kind = rng.choice(("single", "chain", "indirect", "mixed"))
    parts = 1 if kind == "single" else rng.choice((2, 3, 14, 18))
    lengths = cut(rng, length, parts)
    if kind == "chain" and rng.random() < 0.3:
        lengths.insert(rng.randrange(len(lengths) + 1), 0)
    start = {"indirect": 0, "mixed": rng.randrange(len(lengths))}.get(kind)
    return lengths, start, rng.random() < 0.5


async def both_ways(simulation, host, driver, *, rng, count, receive, outstanding, sizes=SIZES):
    """Send ``count`` frames each way and compare; ``receive`` gives the lengths of receive buffers."""
    await driver.fill(receive, limit=outstanding)
    simulation.run(4000)
    sent, received, out = [], [], []
    spread = -(-(max(sizes) + driver.header_size) // min(receive))    # buffers that a frame may need
    returned = 0
    while len(sent) < count or len(out) < count:
        # Not more at once than the buffers posted can hold: dropping is for other tests.
        burst = 1 if max(sizes) > 2000 else 3
        for _ in range(rng.randrange(burst + 1)):
            if len(sent) < count and (len(sent) - len(received)) * spread <= outstanding - spread:
                sent.append(rng.randbytes(rng.choice(sizes)))
                await host.send_frame(sent[-1])
        for _ in range(rng.randrange(4)):
            frame = rng.randbytes(rng.choice(sizes))
            lengths, start, shuffle = transmit_shape(rng, driver.header_size + len(frame))
            slots = len(lengths) if start is None else start + 1
            if len(out) < count and driver.tx.free_slots >= slots:
                await driver.transmit(frame, lengths=lengths, indirect_from=start,
                                      shuffle=shuffle, publish=False)
                out.append(frame)
        await driver.tx.publish()
        simulation.run(rng.randrange(3000 if max(sizes) > 2000 else 600))
        received += await driver.collect()
        await driver.fill(receive, limit=outstanding)
        returned += await driver.reap()
    for _ in range(400):
        if returned == len(out) and len(received) == len(sent):
            break
        simulation.run(1000)
        received += await driver.collect()
        returned += await driver.reap()
    simulation.run(20_000)
    frames = [frame for _, frame, aborted in simulation.take_frames() if not aborted]
    assert simulation.counters["rx_dropped"] == 0, "frames were dropped"
    assert received == sent, f"{len(received)} of {len(sent)} frames came, or not as sent"
    assert frames == out, f"{len(frames)} of {len(out)} frames left, or not as given"
    assert returned == len(out)


def seeded(seed):
    """Return a generator and print its seed."""
    print(f"traffic seed {seed}")
    return random.Random(seed)
