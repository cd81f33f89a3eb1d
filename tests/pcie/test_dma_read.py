# SPDX-License-Identifier: BSD-2-Clause
"""The read engine: data, order, rates, fences, tags."""

import pytest
from dma_read_bench import Bench

STALLS = [(0, 0), (0.5, 0), (0, 0.5), (0.4, 0.4)]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("width, data", [(32, 24), (64, 40), (128, 40), (256, 60), (512, 60)])
def test_random(width, data, stall):
    bench = Bench(width, data=data, seed=str(stall), stall=stall, rcb=64 if stall[0] else 128,
                  gap=0.3 if stall[1] else 0, tags=(4, 9))
    bench.run()
    assert not any(piece.done[0] for piece in bench.pieces())
    assert not bench.stats["stat_unexpected"] and not bench.stats["stat_failed"]


@pytest.mark.parametrize("rcb", [64, 128])
@pytest.mark.parametrize("width", [32, 64, 256, 512])
def test_edges(width, rcb):
    """Alignments of source and buffer, lengths around DWs, beats and granules."""
    lanes = width // 8

    def pieces(name, some):
        lengths = [1, 2, 3, 4, 5, lanes - 1, lanes, lanes + 1, 63, 64, 65, 127,
                   128, 129, 255, 511, 512]
        for n, piece in enumerate(some):
            limit = piece.length if name == "meta" else len(piece.buffer)
            piece.length = min(lengths[n % len(lengths)], limit)
            piece.address = piece.address & ~63 | (n * 5 + n // 16) & 63
            piece.address = min(piece.address, (piece.address | 4095) + 1 - piece.length)
            del piece.buffer[piece.length:]

    bench = Bench(width, meta=16, data=60, seed=rcb, rcb=rcb, pieces=pieces)
    bench.run()
    assert not any(piece.done[0] for piece in bench.pieces())


def sized(length, offset=0, shift=0):
    """Give every piece of a client the same length and alignment, aligned buffers first."""
    def apply(name, some):
        order = None
        for n, piece in enumerate(some):
            piece.length = length
            piece.address = 0x10000 + n * 512 + offset
            order = order or apply.order[name]
            at = n * (-(-(length + shift) // 128) * 128) + shift
            piece.buffer = [order[(k >> 7) % len(order)] << 7 | k % 128
                            for k in range(at, at + length)]
    return apply


def bench_of(width, length, *, offset=0, shift=0, **options):
    apply = sized(length, offset, shift)
    apply.order = {"meta": list(range(128)), "data": list(range(256))}
    bench = Bench(width, pieces=apply, **options)
    for name, order in apply.order.items():
        for here in order:
            bench.harness.init[name][here] = (here + 1) % len(order)
    return bench


def test_request_rate_and_latency():
    """One request per cycle from both clients together and from one; the first after one cycle."""
    for meta, data in ((16, 32), (0, 40)):
        bench = bench_of(64, 32, meta=meta, data=data, delay=0)
        bench.host.hold = True
        source = bench.clients[1].source
        queue, source.queue = source.queue, []
        others = bench.clients[0].source
        queue_0, others.queue = others.queue, []

        def start(ctx, cycle, others=others, queue_0=queue_0, source=source, queue=queue,
                  bench=bench):
            if cycle == 80:      # tag tables are swept by then
                others.queue, source.queue = queue_0, queue
            bench.host.hold = cycle < 200

        bench.hooks.append(start)
        bench.run()
        times = bench.host.sink.times
        assert times[-1] - times[0] == meta + data - 1
        first = min(client.source.sent[0] for client in bench.clients if client.source.sent)
        assert times[0] - first == 1


def test_small_reads_go_first():
    """If both clients have requests, three of ``meta`` go for one of ``data``; no more, however many there are."""
    bench = bench_of(64, 32, meta=60, data=40, tags=(64, 48), delay=0, stall=(0, 0.5))
    bench.run()
    clients = "".join("d" if header.function >= 4 else "m" for header, _, _ in bench.host.headers)
    both = clients[8:clients.rindex("m")]
    assert len(both) > 60
    assert all(both[k:k + 4].count("d") == 1 for k in range(len(both) - 3))


@pytest.mark.parametrize("width, length, offset, shift, rcb", [
    (32, 256, 0, 0, 64), (64, 256, 3, 5, 64), (256, 512, 1, 30, 64), (512, 512, 0, 0, 64),
    (512, 512, 63, 17, 64), (512, 256, 64, 127, 128), (512, 64, 0, 0, 64)])
def test_completion_rate(width, length, offset, shift, rcb):
    """Completion beats without a gap, one tag's behind each other too, are all taken and placed."""
    bench = bench_of(width, length, offset=offset, shift=shift, meta=0, data=40, rcb=rcb, delay=0,
                     reorder=False)
    bench.host.hold = True
    bench.hooks.append(lambda ctx, cycle: setattr(bench.host, "hold", cycle < 140))
    bench.run()
    assert not any(piece.done[0] for piece in bench.pieces())
    # After 1024 beats the sweep of the time-outs takes a cycle.
    sent = bench.host.source.sent
    assert sent[-1] - sent[0] == len(sent) - 1 + len(sent) // 1024
    # From the last beat in: the write two cycles later, `done` three.
    last = max(piece.done[1] for piece in bench.pieces())
    assert bench.clients[1].write_time == sent[-1] + 2
    assert last == sent[-1] + 3


@pytest.mark.parametrize("tags, extended", [((16, 48), 0), ((16, 48), 1), ((8, 24), 0),
                                            ((4, 28), 1), ((40, 60), 0)])
def test_tags(tags, extended):
    """Each client's tags are its own; without extended tags none is above 31."""
    bench = Bench(64, meta=60, data=100, tags=tags, longest=64, seed=f"{tags} {extended}")
    bench.signals["extended_tags"] = extended
    bench.host.hold = True
    most = {}

    def hook(ctx, cycle):
        bench.host.hold = cycle < 400
        if cycle == 390:
            for client in bench.clients:
                most[client.name] = {piece.tag for piece in client.pieces.values()
                                     if piece.tag is not None}

    bench.hooks.append(hook)
    bench.run()
    total = sum(tags)
    low = min(tags[0], max(16, 32 - tags[1]))
    counts = tags if extended or total <= 32 else (low, min(tags[1], 32 - low))
    assert (len(most["meta"]), len(most["data"])) == tuple(map(min, counts, (60, 100)))
    assert not most["meta"] & most["data"]
    assert max(most["meta"] | most["data"]) < (total if extended else 32)


def test_floor():
    """With every tag of one client unanswered the other goes on at its pace."""
    bench = Bench(64, meta=50, data=60, seed=1)
    for piece in bench.clients[1].pieces.values():
        piece.fault = "lost"
    bench.run(wait_for=("meta",), at_rest=False)
    assert bench.host.sink.times[-1] < 2000
    assert sum(piece.tag is not None for piece in bench.clients[1].pieces.values()) == 48


def test_fences():
    """A fenced read waits for the writes accepted before and carries their number; others pass."""
    bench = Bench(64, meta=30, data=80, longest=32, fence=0.5, seed=3, delay=4)
    rng = bench.rng
    state = {"accepted": 250, "numbered": 250, "posted": 249, "done": 245}
    log, taken, marks = [], [], {}

    def hook(ctx, cycle):
        # Commands come in bursts; each takes one or two posted numbers when it is numbered.
        if rng.random() < 0.15 and state["accepted"] - state["numbered"] < 20:
            state["accepted"] += 1
        if cycle % 300 > 150 and state["numbered"] < state["accepted"] and rng.random() < 0.3:
            state["numbered"] += 1
            state["posted"] += rng.randint(1, 2)
        if state["done"] < state["posted"] and rng.random() < 0.3:
            state["done"] += 1
        log.append(dict(state))
        bench.signals.update(writes_accepted=state["accepted"] % 256,
                             writes_numbered=state["numbered"] % 256,
                             posted_number=state["posted"] % 256, posted_done=state["done"] % 256)

    bench.hooks.append(hook)
    client = bench.clients[0]
    sample = client.source.sample

    def watch(ctx, cycle):
        before = len(client.source.sent)
        sample(ctx, cycle)
        if len(client.source.sent) > before:
            marks[len(taken)] = log[-1]["accepted"]
            taken.append(cycle)

    client.source.sample = watch
    bench.run()
    fenced = list(client.pieces.values())
    waits = 0
    for header, piece, cycle in bench.host.headers:
        loaded = log[cycle - 2]      # what the engine saw when it made the header
        if piece.fence:
            assert loaded["numbered"] >= marks[fenced.index(piece)]
            assert header.order == loaded["posted"] % 256
            waits += cycle - taken[fenced.index(piece)] > 20
        else:
            assert header.order == loaded["done"] % 256
    assert waits, "no fence had to wait"
    # Meanwhile the other client was through.
    last = {header.function >= 4: cycle for header, _, cycle in bench.host.headers}
    assert last[True] < last[False] - 100


def test_fence_passed_long_ago():
    """A fence that was passed while no tag was free stays so, however many writes are numbered meanwhile: 8-bit numbers come round."""
    bench = Bench(64, meta=8, data=3, fence=1, seed=4, tags=(4, 4))
    writes = {"count": 0}

    def hook(ctx, cycle):
        bench.host.hold = cycle < 600
        if 100 < cycle < 600 and writes["count"] < 200:
            writes["count"] += 1
        bench.signals.update(dict.fromkeys(("writes_accepted", "writes_numbered", "posted_number", "posted_done"), writes["count"]))

    bench.hooks.append(hook)
    bench.run()
    assert writes["count"] == 200
    assert not any(piece.done[0] for piece in bench.pieces())
