# SPDX-License-Identifier: BSD-2-Clause
"""The receive side of the raw attachment against TLPs that cocotbext-pcie packed."""

import random
import sys
from functools import partial
from pathlib import Path

import pytest
from cocotbext.pcie.core.tlp import CplStatus, Tlp, TlpType
from cocotbext.pcie.core.utils import PcieId

sys.path.insert(0, str(Path(__file__).parents[1] / "stream"))
from stream_bench import STALLS, send, simulate  # noqa: E402

from unvirt.pcie.attach.raw_receive import RawReceive  # noqa: E402
from unvirt.pcie.tlp import CompletionStatus  # noqa: E402

BAR0, BAR_SIZE = 0x12_3456_0000, 1 << 16
DIGEST = b"\xd1\x9e\x57\x00"
KINDS = ("write", "write", "read", "completion", "completion", "completion", "no data", "elsewhere", "config read", "config write", "io write",
         "message", "poisoned write", "poisoned completion", "atomic")
REFUSED = ("elsewhere", "poisoned write", "io write", "atomic")
OTHER_TYPE = {"message": 0x74, "atomic": 0x6D}
"""First byte of what cocotbext-pcie does not pack: a message with data to the root complex, a swap."""


def make(kind, rng):
    """Return a TLP and the output that it belongs to, None if nothing is to be seen of it."""
    tlp = Tlp()
    tlp.requester_id, tlp.tag, tlp.tc = PcieId(rng.randrange(256), rng.randrange(32), rng.randrange(8)), rng.randrange(256), rng.randrange(8)
    dws = rng.choice((1, 1, 2, 3, 4, 5, 8, 15, 16, 17, 64))
    tlp.first_be, tlp.last_be = rng.randrange(1, 16), rng.randrange(1, 16) if dws > 1 else 0
    tlp.ep, out = kind.startswith("poisoned"), None
    if kind in ("write", "read", "poisoned write", "elsewhere", *OTHER_TYPE):
        tlp.fmt_type = TlpType.MEM_READ_64 if kind == "read" else TlpType.MEM_WRITE_64
        tlp.address = BAR0 + 4 * rng.randrange(BAR_SIZE // 4)
        if kind == "elsewhere":
            tlp.address ^= 1 << rng.choice((16, 20, 33, 40))
        out = {"write": "requests", "read": "requests", "atomic": "local"}.get(kind)
    elif kind in ("completion", "poisoned completion", "no data"):
        tlp.fmt_type = TlpType.CPL if kind == "no data" else TlpType.CPL_DATA
        tlp.completer_id, tlp.status = PcieId(1, 2, 3), CplStatus.UR if kind == "no data" else CplStatus.SC
        tlp.byte_count, tlp.lower_address = rng.choice((1, 4 * dws, 4096)), rng.randrange(128)
        out = "completions"
    elif kind.startswith("config"):
        tlp.fmt_type, dws, tlp.last_be = TlpType.CFG_READ_0 if kind == "config read" else TlpType.CFG_WRITE_0, 1, 0
        tlp.completer_id, tlp.address = PcieId(5, 6, 0), 4 * rng.randrange(1024)
        out = "local"
    elif kind == "io write":
        tlp.fmt_type, dws, tlp.last_be, tlp.address, out = TlpType.IO_WRITE, 1, 0, 0x100, "local"
    if tlp.has_data():
        tlp.set_data(rng.randbytes(4 * dws))
    else:
        tlp.length = dws if kind != "no data" else 0
    return tlp, out


def beats_of(tlp, kind, lanes, digest, rng):
    """Return the beats of a TLP; ``digest`` is behind its payload. Where the header means nothing it is there all the same, or noise."""
    tlp.td = int(bool(digest))
    packed = bytearray(tlp.pack())
    packed[0] = OTHER_TYPE.get(kind, packed[0])
    size = 16 if packed[0] & 0x20 else 12
    header, payload = packed[:size], packed[size:] + digest
    parts = [payload[at:at + lanes] for at in range(0, len(payload), lanes)] or [b""]
    headers = [header if not at else rng.choice((header, rng.randbytes(16))) for at in range(len(parts))]
    return [{"header": int.from_bytes(shown, "little"), "data": int.from_bytes(part, "little"), "first": at == 0, "last": at == len(parts) - 1}
            for at, (shown, part) in enumerate(zip(headers, parts))]


def expected(tlp, out):
    """Return the fields of a header that must be seen."""
    if out == "requests":
        return {"write": tlp.has_data(), "address": tlp.address, "length": tlp.length, "first_be": tlp.first_be, "last_be": tlp.last_be,
                "requester_id": int(tlp.requester_id), "tag": tlp.tag, "tc": tlp.tc, "poisoned": tlp.ep}
    if out == "completions":
        return {"tag": tlp.tag, "status": CompletionStatus(tlp.status), "byte_count": tlp.byte_count, "lower_address": tlp.lower_address,
                "length": tlp.length if tlp.has_data() else 0, "poisoned": tlp.ep}
    config = tlp.fmt_type in (TlpType.CFG_READ_0, TlpType.CFG_WRITE_0)
    wanted = {"unsupported": not config, "requester_id": int(tlp.requester_id), "tag": tlp.tag, "byte_enables": tlp.first_be, "tc": tlp.tc}
    if config:
        wanted |= {"write": tlp.has_data(), "register": tlp.address >> 2, "function": 0, "bus_device": int(tlp.completer_id) >> 3}
        if tlp.has_data():
            wanted["data"] = int.from_bytes(tlp.get_data(), "little")
    return wanted


@pytest.mark.parametrize("stalls", STALLS)
@pytest.mark.parametrize("width", [32, 64, 128, 256, 512])
def test_tlps_of_all_kinds(width, stalls):
    """Headers and payloads arrive whole, in order and where they belong; of digests, and of what is dropped, nothing is seen. Without stalls no
    cycle is lost.
    """
    seed = f"{width} {stalls}"
    print(f"seed {seed}")
    rng, lanes = random.Random(seed), width // 8
    kinds = [rng.choice(KINDS) for _ in range(150)]
    sent = [make(kind, rng) for kind in kinds]
    beats = [beat for kind, (tlp, _) in zip(kinds, sent) for beat in beats_of(tlp, kind, lanes, rng.choice((b"", b"", DIGEST)), rng)]
    dut, seen, cycles, refused = RawReceive(data_width=width, bar_size=BAR_SIZE), {"requests": [], "completions": [], "local": []}, [], []

    async def take(ctx, name):
        port = getattr(dut, name)
        while True:
            ctx.set(port.ready, rng.random() >= stalls[1])
            _, _, valid, ready, payload = await ctx.tick().sample(port.valid, port.ready, port.payload)
            if valid and ready:
                seen[name].append(payload)

    async def count(ctx):
        while True:
            _, _, pulse, moved = await ctx.tick().sample(dut.unsupported, dut.rx.valid & dut.rx.ready)
            refused.append(pulse)
            cycles.append(moved)

    async def give(ctx):
        ctx.set(dut.memory_enable, 1)
        ctx.set(dut.bar0, BAR0)
        await send(dut.rx, beats, stall=stalls[0], random=rng)(ctx)
        await ctx.tick().repeat(20)

    simulate(dut, give, background=[partial(take, name=name) for name in seen] + [count])
    if stalls == (0, 0):
        first = cycles.index(1)
        assert all(cycles[first:first + len(beats)])
    for name, found in seen.items():
        for tlp, out in sent:
            if out != name:
                continue
            if name == "local":
                assert {key: found[0][key] for key in expected(tlp, name)} == expected(tlp, name)
                found = found[1:]
                continue
            count_of = max(1, -(-4 * tlp.length // lanes)) if tlp.has_data() else 1
            mine, found = found[:count_of], found[count_of:]
            assert [(beat.first, beat.last) for beat in mine] == [(at == 0, at == count_of - 1) for at in range(count_of)]
            assert {key: getattr(mine[0].header, key) for key in expected(tlp, name)} == expected(tlp, name)
            data = b"".join(beat.data.to_bytes(lanes, "little") for beat in mine)
            assert not tlp.has_data() or data[:4 * tlp.length] == bytes(tlp.get_data())
        assert not found, f"more on {name} than was sent"
    assert sum(refused) == sum(kind in REFUSED for kind in kinds)
