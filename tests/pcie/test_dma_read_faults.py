# SPDX-License-Identifier: BSD-2-Clause
"""The read engine: what bad, late and missing completions get."""

import pytest
from dma_read_bench import Bench

FAULTS = ("error", "poisoned", "count", "lower", "long")


def mixed(*faults, rate=0.4):
    return lambda rng: rng.choice(faults) if rng.random() < rate else ""


def check_errors(bench, bad):
    """Those that the host spoilt ended in an error, and those for which no tag was left."""
    for piece in bench.pieces():
        assert piece.done[0] == (piece.fault in bad or piece.tag is None), piece


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("width", [32, 64, 512])
def test_bad_completion(width, fault):
    """The piece ends in an error, its neighbours do not, nothing is written outside."""
    bench = Bench(width, meta=40, data=30, seed=fault, fault=mixed(fault), tags=(16, 32))
    bench.run()
    check_errors(bench, FAULTS)
    wrong = sum(piece.fault != "" and piece.tag is not None for piece in bench.pieces())
    assert bench.stats["stat_failed"] == wrong
    # Completions that follow a contradictory one find their tag in quarantine: not unexpected.
    assert not bench.stats["stat_unexpected"] and not bench.stats["stat_timeout"]


def test_all_faults_come_back():
    """More bad reads than tags; later, at the latest by the time-out, all tags are good again."""
    bench = Bench(64, meta=60, data=60, seed=7, fault=mixed(*FAULTS, rate=1), tags=(4, 4), delay=10,
                  timeout=1000)
    kept = []
    for client in bench.clients:
        kept.append(client.source.queue[-10:])
        del client.source.queue[-10:]
        for piece in list(client.pieces.values())[-10:]:
            piece.fault = ""

    def hook(ctx, cycle):
        if cycle == 3500:
            assert all(client.missing == 10 for client in bench.clients)
            for client, queue in zip(bench.clients, kept, strict=True):
                client.source.queue += queue
        if cycle == 3600:
            bench.host.hold = False
            tags = {header.tag for header, _, cycle in bench.host.headers if cycle > 3500}
            assert len(tags) == 8
        elif cycle > 3400:
            bench.host.hold = cycle < 3600
            bench.host.in_use.clear() if cycle == 3401 else None

    bench.hooks.append(hook)
    bench.run()
    check_errors(bench, FAULTS)
    assert all(piece.tag is not None for piece in bench.pieces() if piece.handle >= 50)


@pytest.mark.parametrize("width", [64, 512])
def test_wrong_function(width):
    """Such a completion is dropped and counted; the read times out."""
    bench = Bench(width, meta=6, data=10, seed=2, fault=mixed("function"), timeout=500, delay=5)
    bench.run()
    check_errors(bench, ("function",))
    wrong = sum(piece.fault != "" for piece in bench.pieces())
    assert bench.stats["stat_unexpected"] == wrong
    # Unless a later completion of the same read came first and did not fit.
    assert bench.stats["stat_timeout"] + bench.stats["stat_failed"] == wrong


def test_unknown_tags():
    """Completions nobody asked for, of tags never used and of tags that do not exist."""
    bench = Bench(64, meta=10, data=20, seed=4, tags=(16, 48))
    host, count = bench.host, 0

    def hook(ctx, cycle):
        nonlocal count
        if cycle % 7 == 0 and not host.sending and count < 40:
            tag = bench.rng.choice([t for t in (0, 15, 16, 31, 32, 63, 64, 255, 256, 272, 1023)
                                    if t not in host.in_use])
            header = host.rubbish()["header"] | {"tag": tag, "function": 0, "lower_address": 0,
                                                 "byte_count": 16, "length": 4}
            if cycle > 90 and not host.source.queue:
                host.send(header, b"\xbb" * 16)
                count += 1

    bench.hooks.append(hook)
    bench.run(after=400)
    check_errors(bench, ())
    # A tag may have come into use between the choice and the arrival; that is rare.
    assert bench.stats["stat_unexpected"] == count


@pytest.mark.parametrize("timeout", [64, 700])
def test_timeout(timeout):
    """Unanswered reads end in an error in time; their tags stay away."""
    bench = Bench(64, meta=10, data=30, seed=timeout, fault=mixed("lost", rate=0.3),
                  timeout=timeout, delay=3, rcb=128)
    bench.run()
    check_errors(bench, ("lost",))
    lost = {p.tag: p for p in bench.pieces() if p.fault}
    times = {piece: cycle for _, piece, cycle in
             [(h, id(p), c) for h, p, c in bench.host.headers]}
    for piece in lost.values():
        waited = piece.done[1] - times[id(piece)]
        assert timeout <= waited <= timeout * 8 / 7 + 300
    assert len(lost) == bench.stats["stat_timeout"]
    # The host model fails if one of these tags is used again.


def test_no_false_timeout():
    """A tag that has just been issued is never taken for an old one."""
    bench = Bench(64, meta=50, data=50, seed=6, tags=(4, 4), timeout=64, delay=2, stall=(0.95, 0),
                  longest=32)
    bench.run()
    check_errors(bench, ())


def test_late_completions():
    """Completions after the time-out write nothing and bring the tags back one by one."""
    bench = Bench(64, meta=30, data=30, seed=9, tags=(4, 4), fault=lambda rng: "lost", timeout=100,
                  delay=2)
    bench.signals["extended_tags"] = 1
    host, answered = bench.host, []

    def hook(ctx, cycle):
        for piece in list(host.in_use.values()):
            if piece.done and not piece.late:
                piece.late, piece.fault = True, ""
                answered.append(piece)
                host.answer(piece, cycle)

    bench.hooks.append(hook)
    memory = {client.name: bytes(client.memory) for client in bench.clients}
    bench.run()
    assert all(piece.done[0] for piece in bench.pieces())
    # The last completions may still be on their way; all others were retired quietly. A piece for which no tag was left was never sent.
    sent = sum(piece.tag is not None for piece in bench.pieces())
    assert len(answered) >= sent - 8 > 40
    assert not bench.stats["stat_unexpected"]
    assert memory == {client.name: bytes(client.memory) for client in bench.clients}


def test_all_tags_quarantined():
    """Pieces do not wait for tags that may never come back, and the other client is not harmed."""
    bench = Bench(64, meta=30, data=30, seed=10, tags=(4, 16), timeout=200, delay=2)
    for piece in bench.clients[0].pieces.values():
        piece.fault = "lost"
    bench.run()
    assert all(p.done[0] for p in bench.clients[0].pieces.values())
    assert not any(p.done[0] for p in bench.clients[1].pieces.values())
    assert sum(p.tag is not None for p in bench.clients[0].pieces.values()) == 4


@pytest.mark.parametrize("seed", range(4))
def test_bus_master_off(seed):
    """Pieces end in an error without a TLP; those already under way are unharmed."""
    bench = Bench(64, meta=40, data=60, seed=seed, fence=0.2, stall=(0.2, 0.3), delay=8)

    def hook(ctx, cycle):
        bench.signals["bus_master_enable"] = cycle // 97 % 2 == 0

    bench.hooks.append(hook)
    bench.run()
    # No request after the switch but the one that was presented.
    for piece in bench.pieces():
        assert piece.done[0] == (piece.tag is None)
    assert 10 < sum(piece.done[0] for piece in bench.pieces()) < 90
    assert all(cycle % 194 < 97 + 10 for _, _, cycle in bench.host.headers)


def test_bus_master_off_beats_fence():
    """A piece that waits for its fence is let go when bus mastering ends."""
    bench = Bench(64, meta=3, data=2, seed=1, fence=1)

    def hook(ctx, cycle):
        bench.signals.update(writes_accepted=1, bus_master_enable=cycle < 200)

    bench.hooks.append(hook)
    bench.run()
    assert [p.done[0] for p in bench.clients[0].pieces.values()] == [1, 1, 1]
    assert [p.done[0] for p in bench.clients[1].pieces.values()] == [0, 0]
    assert min(p.done[1] for p in bench.clients[0].pieces.values()) > 200


@pytest.mark.parametrize("width", [64, 512])
@pytest.mark.parametrize("seed", range(4))
def test_link_reset(seed, width):
    """Reads under way end in errors, quarantined tags are free again."""
    bench = Bench(width, meta=50, data=70, seed=seed, tags=(4, 8), timeout=300, delay=30,
                  fault=mixed("lost", rate=0.15), stall=(0.3, 0.2))
    host = bench.host
    first = bench.rng.randrange(150, 260)

    def hook(ctx, cycle):
        down = first <= cycle < first + 30 or first + 500 <= cycle < first + 530
        bench.signals["link_reset"] = down
        host.hold = down or first + 30 <= cycle < first + 60
        if down:
            # Whatever was on its way is lost, the tail of a completion perhaps not.
            host.queues.clear()
            host.in_use.clear()
            if host.sending and bench.rng.random() < 0.1:
                host.source.queue.clear()
                host.sending = None

    sample = host.sample

    def forget(ctx, cycle):
        if host.sending and host.sending[0] not in host.queues:
            host.queues[host.sending[0]] = []
        sample(ctx, cycle)

    host.sample = forget
    bench.hooks.append(hook)
    bench.run()
    for piece in bench.pieces():
        if piece.fault == "lost":
            assert piece.done[0]
    good = sum(not piece.done[0] for piece in bench.pieces())
    assert 30 < good < 118


def test_link_reset_spares_presented():
    """A request that has not left when the link goes down belongs to the next link."""
    bench = Bench(64, meta=4, data=0, seed=3, tags=(4, 4))
    host = bench.host

    def hook(ctx, cycle):
        host.sink.blocked = cycle < 300
        bench.signals["link_reset"] = 100 <= cycle < 130
        client = bench.clients[0]
        if cycle == 0:
            hook.later, client.source.queue = client.source.queue, []    # one is shown already
        if cycle == 250:
            assert client.missing == 4
            client.source.queue = hook.later

    bench.hooks.append(hook)
    bench.run()
    check_errors(bench, ())


@pytest.mark.parametrize("tail", ["dropped", "later"])
def test_link_reset_within_completion(tail):
    """The tail of a completion that a link reset has cut is nobody's."""
    bench = Bench(64, meta=0, data=2, seed=3, tags=(4, 4), delay=0)
    host = bench.host
    first, second = bench.clients[1].pieces.values()
    first.address, first.length = 0x1000, 120
    first.buffer = first.buffer[:1] if len(first.buffer) < 120 else first.buffer[:120]
    while len(first.buffer) < 120:
        first.buffer.append(first.buffer[-1] + 1)
    cut = None

    def hook(ctx, cycle):
        nonlocal cut
        if cycle == 0:
            hook.later = hook.queue.pop()
        if host.sending and len(host.source.sent) == 6 and cut is None:
            cut = cycle
            host.source.blocked = True
            hook.memory = bytes(bench.clients[1].memory)
        if cut is not None:
            bench.signals["link_reset"] = cut < cycle < cut + 20
            if cycle == cut + 15:
                assert first.done and first.done[0]
                host.in_use.clear()
                host.queues.clear()
                hook.memory = bytes(bench.clients[1].memory)
                if tail == "dropped":
                    host.source.queue.clear()
                    host.sending = None
                else:
                    host.sending = (first.tag, False)
                    host.queues[first.tag] = []
            if cycle == cut + 40:
                host.source.blocked = False
            if cycle == cut + 80:
                assert hook.memory == bytes(bench.clients[1].memory)
                host.sending = None
                hook.queue.append(hook.later)

    hook.queue = bench.clients[1].source.queue
    hook.queue[0].update(address=0x1000, length=120, buffer=first.buffer[0])
    bench.hooks.append(hook)
    bench.run()
    assert (first.done[0], second.done[0]) == (1, 0)
