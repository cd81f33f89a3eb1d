# SPDX-License-Identifier: BSD-2-Clause
"""Long runs of bytes in pieces: the same bytes, in the TLPs that there would have been, and room for others in between."""

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "stream"))
from stream_bench import STALLS, receive, send, simulate  # noqa: E402

from unvirt.virtio.queue.sink_cut import PIECE, CommandCut  # noqa: E402

SIZE, LANES = 1 << 15, 8
CASES = [(0, 1), (0, PIECE), (0, PIECE + 1), (4096 - 1, 2), (4095, 9012), (64, 9012), (3, PIECE), (3, 2 * PIECE - 1), (2, 2 * PIECE),
         (4096 - PIECE, 2 * PIECE), (4095, 2 * PIECE)]


def pieces_of(address, length):
    """Return [(address, bytes)] of the pieces of a command: as if ``PIECE`` were the largest payload, until less than two are left."""
    parts = payloads(address, length, PIECE)
    while len(parts) > 1 and parts[-1][1] + parts[-2][1] < 2 * PIECE:
        parts[-2:] = [(parts[-2][0], parts[-2][1] + parts[-1][1])]
    return parts


def word_flags(source, length):
    """Return what a command says of its bytes and the words of the memory."""
    return {"short": length <= LANES, "direct": source % LANES == 0 or source % LANES + length <= LANES}


def payloads(address, length, most):
    """Return [(address, bytes)] of the TLPs of a write: cut at pages, and by DWs at the largest payload [PCIe 2.2.2]."""
    out = []
    while length:
        part = min(length, most - address % 4, 4096 - address % 4096)
        out.append((address, part))
        address, length = address + part, length - part
    return out


@pytest.mark.parametrize("stalls", STALLS)
def test_pieces(stalls):
    """Each byte goes where it went; no piece holds more than its bytes; the TLPs of all pieces are those of the whole."""
    seed = 1
    rng = random.Random(seed)
    print(f"seed {seed}")
    cases = CASES + [(rng.randrange(8192), rng.randrange(1, 9013)) for _ in range(60)]
    commands = [{"source": rng.randrange(SIZE), "length": length, "address": (rng.getrandbits(40) << 13) + address,
                 "buffers": rng.getrandbits(16), "ends_chain": rng.getrandbits(1), "ends_packet": rng.getrandbits(1)}
                for address, length in cases]
    for command in commands:
        command |= word_flags(command["source"], command["length"])
    dut, found = CommandCut(size=SIZE, lanes=LANES), []
    wanted = [pieces_of(command["address"], command["length"]) for command in commands]
    total = sum(map(len, wanted))
    simulate(dut, send(dut.i, commands, stall=stalls[0], random=rng), receive(dut.o, total, found, stall=stalls[1], random=rng))
    for command, whole in zip(commands, wanted):
        pieces, found = found[:len(whole)], found[len(whole):]
        assert [(piece.address, piece.length) for piece in pieces] == whole
        assert [piece.source for piece in pieces] == [(command["source"] + place - command["address"]) % SIZE for place, _ in whole]
        for piece in pieces:
            flags = word_flags(piece.source, piece.length)
            if piece is not pieces[-1]:
                flags["direct"] = piece.source % LANES == 0
            assert {name: piece[name] for name in flags} == flags
        assert all(piece.buffers == command["buffers"] for piece in pieces)
        for name in ("ends_chain", "ends_packet"):
            assert [piece[name] for piece in pieces] == [0] * (len(pieces) - 1) + [command[name]]
        for most in (128, 256, 512, 1024):
            parts = [part for place, length in whole for part in payloads(place, length, most)]
            assert parts == payloads(command["address"], command["length"], most)
