# SPDX-License-Identifier: BSD-2-Clause
"""The transmit side of the raw attachment: order between kinds of TLP, and no cycle lost between TLPs."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stream"))
from stream_bench import STALLS, receive, send, simulate, watch  # noqa: E402

from unvirt.pcie.attach.raw_transmit import RawTransmit  # noqa: E402

INFINITE = 0x3F


def posted(number, dws, lanes):
    """Return the beats of a posted write of ``dws`` DWs to a page of its own."""
    words = [number << 16 | word for word in range(dws)]
    beats = [words[at:at + lanes] for at in range(0, dws, lanes)]
    header = {"address": number << 12, "length": dws, "first_be": 0xF, "last_be": 0xF if dws > 1 else 0}
    return [{"header": header, "data": sum(word << 32 * lane for lane, word in enumerate(beat)),
             "first": at == 0, "last": at == len(beats) - 1} for at, beat in enumerate(beats)]


def completion(tag, order):
    """Return the beat of a completion with one DW that must not pass posted write ``order``."""
    return {"header": {"tag": tag, "length": 1, "byte_count": 4, "order": order}, "data": tag, "first": 1, "last": 1}


def tlps(beats):
    """Put beats together; return (header in wire order, data of its beats) of each TLP."""
    out = []
    for beat in beats:
        if beat.first:
            out.append((beat.header, []))
        out[-1][1].append(beat.data)
    return out


def kind(tlp):
    """Return format and type of a TLP."""
    return tlp[0] & 0xFF


@pytest.mark.parametrize("stalls", STALLS)
def test_a_completion_never_passes_the_write_it_follows(stalls):
    """Of completions back to back each is held until the posted write it names has gone [PCIe 2.4.1]."""
    seed = 1
    rng = random.Random(seed)
    dut = RawTransmit(data_width=64)
    writes = [posted(number, 3, 2) for number in range(1, 9)]
    answers = [completion(tag, order) for tag, order in enumerate((0, 1, 1, 2, 4, 4, 5, 6, 8))]
    beats = []

    async def settings(ctx):
        ctx.set(dut.credits.infinite, INFINITE)

    async def late_writes(ctx):
        for write in writes:
            await ctx.tick().repeat(rng.randrange(1, 40))
            await send(dut.posted, write, stall=stalls[0], random=rng)(ctx)

    total = 8 * 2 + 9
    simulate(dut, settings, late_writes, send(dut.completions, answers, stall=stalls[0], random=rng),
             receive(dut.tx, total, beats, stall=stalls[1], random=rng), background=[watch(dut.tx)])
    written, seen = 0, 0
    for tlp in tlps(beats):
        if kind(tlp) == 0x40:
            written += 1
            continue
        order = answers[seen]["header"]["order"]
        assert written >= order, f"completion {seen} left after {written} writes and must follow write {order}"
        seen += 1
    assert (written, seen) == (8, 9)


@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
def test_no_cycle_is_lost_between_posted_writes(width):
    """Writes that wait leave without a gap, whole and in order."""
    dut = RawTransmit(data_width=width)
    lanes = width // 32
    writes = [posted(number, 2 + number, lanes) for number in range(1, 13)]
    beats, cycles = [], []

    async def settings(ctx):
        ctx.set(dut.credits.infinite, INFINITE)
        ctx.set(dut.tx.ready, 1)

    async def collect(ctx):
        cycle = 0
        while len(cycles) < total:
            _, _, valid, payload = await ctx.tick().sample(dut.tx.valid, dut.tx.payload)
            if valid:
                beats.append(payload)
                cycles.append(cycle)
            cycle += 1

    total = sum(-(-(2 + number) // lanes) for number in range(1, 13))
    simulate(dut, settings, collect, send(dut.posted, [beat for write in writes for beat in write]))
    data = []
    for header, payload in tlps(beats):
        length, _, address, _ = (int.from_bytes((header >> 32 * dw & 0xFFFF_FFFF).to_bytes(4, "little"), "big") for dw in range(4))
        words = [value >> 32 * lane & 0xFFFF_FFFF for value in payload for lane in range(lanes)]
        data.append((address >> 12, words[:length & 0x3FF]))
    assert data == [(number, [number << 16 | word for word in range(2 + number)]) for number in range(1, 13)]
    gaps = cycles[-1] - cycles[0] + 1 - total
    assert gaps == 0, f"{gaps} idle cycles among {total} beats"


def test_every_write_that_was_shown_counts_as_begun():
    """Of three that wait for the link one is being sent, one is seen ahead of its data, and one is still on show."""
    dut = RawTransmit(data_width=64)
    begun = []

    async def settings(ctx):
        ctx.set(dut.credits.infinite, INFINITE)
        await ctx.tick().repeat(20)
        begun.append(ctx.get(dut.posted_begun))
        ctx.set(dut.tx.ready, 1)

    simulate(dut, settings, send(dut.posted, [beat for number in range(3) for beat in posted(number, 2, 2)]))
    assert begun == [3]


def read(number, dws):
    """Return the beat of a read of ``dws`` DWs."""
    return {"header": {"address": number << 12, "length": dws, "first_be": 0xF, "last_be": 0xF, "tag": number & 0xFF}, "first": 1, "last": 1}


@pytest.mark.parametrize("cycles", [1, 2, 40])
def test_a_reset_of_the_link_forgets_what_is_under_way(cycles):
    """Neither the rest of a write that was cut off, nor what was on show and had no credits, nor an interrupt message comes when the link is back."""
    dut = RawTransmit(data_width=64)
    beats = []

    async def link(ctx):
        # Credits for one write of eight DWs, of which one beat goes.
        ctx.set(dut.credits, {"ph": 1, "pd": 2})
        ctx.set(dut.tx.ready, 1)
        await ctx.tick().until(dut.tx.valid)
        ctx.set(dut.tx.ready, 0)
        ctx.set(dut.intx, 1)
        await ctx.tick().repeat(40)
        assert ctx.get(dut.tx.valid)
        ctx.set(dut.intx, 0)
        ctx.set(dut.clear, 1)
        for _ in range(cycles):
            assert not ctx.get(dut.tx.valid)
            await ctx.tick()
        ctx.set(dut.clear, 0)
        ctx.set(dut.credits.infinite, INFINITE)
        ctx.set(dut.tx.ready, 1)

    async def writes(ctx):
        for number in (1, 2):
            await send(dut.posted, posted(number, 8, 2))(ctx)
        await ctx.tick().repeat(100)
        assert len(beats) == 1
        for stream in (dut.nonposted, dut.completions, dut.own_completions):
            assert not ctx.get(stream.valid)
        await send(dut.posted, posted(9, 2, 2))(ctx)
        await ctx.tick().repeat(20)

    async def watch_beats(ctx):
        async for *_, valid, ready, payload in ctx.tick().sample(dut.tx.valid, dut.tx.ready, dut.tx.payload):
            if valid and ready:
                beats.append(payload)

    simulate(dut, link, writes, send(dut.nonposted, [read(3, 4)]), send(dut.completions, [completion(4, 1)]),
             send(dut.own_completions, [completion(5, 2)]), background=[watch_beats])
    assert [beat.data for beat in beats] == [posted(1, 8, 2)[0]["data"], posted(9, 2, 2)[0]["data"]]


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("written,asked", [(20, 20), (20, 128), (64, 20), (16, 48)])
def test_writes_and_reads_share_by_what_they_move(width, written, asked):
    """While both wait, three quarters of the DWs read are as many as are written, whatever the sizes of TLPs; while one waits alone it goes."""
    dut, beats, number = RawTransmit(data_width=width), [], 120      # fewer than half of the order numbers
    writes = [beat for count in range(number) for beat in posted(count, written, width // 32)]

    async def settings(ctx):
        ctx.set(dut.credits.infinite, INFINITE)

    simulate(dut, settings, send(dut.posted, writes), send(dut.nonposted, [read(count, asked) for count in range(number)]),
             receive(dut.tx, len(writes) + number, beats), background=[watch(dut.tx)])
    sizes, moved = {0x40: written, 0x00: asked}, {0x40: 0, 0x00: 0}
    kinds = [kind(tlp) & 0x40 for tlp in tlps(beats)]
    assert sorted(kinds) == [0x00] * number + [0x40] * number
    # Until one of them has no more.
    for what in kinds[:min(len(kinds) - 1 - kinds[::-1].index(other) for other in sizes)]:
        moved[what] += sizes[what]
    assert min(moved.values()) > 1000
    assert 0.75 * moved[0x00] == pytest.approx(moved[0x40], abs=2 * max(sizes.values()))
