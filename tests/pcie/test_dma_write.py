# SPDX-License-Identifier: BSD-2-Clause
"""The write engine against a model of host memory."""

import random
from dataclasses import dataclass, field

import pytest
from dma_bench import Sink, Source, byte_enables, run_cycles

from unvirt.config import DeviceConfig
from unvirt.pcie.dma_write import DmaWrite


@dataclass
class Command:
    port: int
    address: int
    data: bytes
    function: int = 0
    tlps: list = field(default_factory=list)


def beats(command, width, rng):
    lanes, length = width // 8, len(command.data)
    for start in range(0, length, lanes):
        part = command.data[start:start + lanes]
        empty = lanes - len(part)
        # The unused bytes hold rubbish, and so does the header of later beats.
        word = int.from_bytes(part + rng.randbytes(empty), "little")
        header = {"function": command.function, "address": command.address, "length": length}
        if start:
            header = {"function": rng.getrandbits(8), "address": rng.getrandbits(64),
                      "length": rng.getrandbits(16)}
        yield {"data": word, "first": start == 0, "last": start + lanes >= length,
               "empty": empty if lanes > 1 else 0, "header": header}


def cuts(address, length, payload):
    """Yield (address, length) of the TLPs of a command."""
    while length:
        end = min(address // 4 * 4 + payload, (address // 4096 + 1) * 4096, address + length)
        yield address, end - address
        length, address = length - (end - address), end


class Bench:
    def __init__(self, width, ports, commands, *, mps=1, seed=0, stall=(0, 0), master=None):
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.width, self.mps, self.commands = width, mps, commands
        self.dut = DmaWrite(DeviceConfig(data_width=width), ports)
        self.sources = [Source(port, rng=self.rng, stall=stall[0]) for port in self.dut.commands]
        self.waiting = [[] for _ in range(ports)]      # not accepted yet
        for command in commands:
            self.sources[command.port].queue += list(beats(command, width, self.rng))
            self.waiting[command.port].append(command)
        self.sink = Sink(self.dut.tx_posted, self.accept, rng=self.rng, stall=stall[1])
        self.started, self.tlps, self.current = [], [], None
        self.accepted = []            # in the order of acceptance of the last beat
        self.master = master
        self.master_off = False

    def accept(self, beat, cycle):
        header = beat.header
        assert beat.first == (self.current is None)
        if beat.first:
            self.current = [header.function, header.address, header.length, header.first_be,
                            header.last_be, b""]
            assert not header.pasid.valid
        self.current[5] += beat.data.to_bytes(self.width // 8, "little")
        dws = self.current[2]
        assert beat.last == (len(self.current[5]) >= 4 * dws), "last is not where the length says"
        if beat.last:
            self.tlps.append((*self.current[:5], self.current[5][:4 * dws]))
            self.current = None

    def sample(self, ctx, cycle):
        dut = self.dut
        for port, waiting in zip(dut.commands, self.waiting, strict=True):
            if ctx.get(port.valid) and ctx.get(port.ready):
                if ctx.get(port.payload.last):
                    self.accepted.append(waiting.pop(0))
        self.counts = [ctx.get(s) for s in (dut.writes_accepted, dut.writes_numbered,
                                            dut.posted_number)]
        self.idle = ctx.get(dut.idle)

    def drive(self, ctx, cycle):
        ctx.set(self.dut.max_payload_size, self.mps)
        ctx.set(self.dut.bus_master_enable, self.master(cycle) if self.master else 1)

    def run(self, **options):
        total = len(self.commands)

        def done():
            return not any(self.waiting) and self.idle and self.counts[1] == total % 256

        self.idle, self.counts = 0, [0, 0, 0]
        self.checks = []
        cycles = run_cycles(self.dut, [*self.sources, self.sink, self], done, after=5, **options)
        assert self.counts[0] == total % 256
        assert self.counts[2] == len(self.tlps) % 256
        assert self.current is None
        return cycles

    def expect(self):
        """Compare with the TLPs the accepted commands must give, in their order."""
        want = []
        for command in self.accepted:
            start = command.address
            for address, length in cuts(start, len(command.data), 128 << self.mps):
                dws, first_be, last_be = byte_enables(address, length)
                want.append((command.function, address & ~3, dws, first_be, last_be,
                             address & 3, command.data[address - start:][:length]))
        assert len(self.tlps) == len(want)
        for tlp, (*header, skip, payload) in zip(self.tlps, want, strict=True):
            assert list(tlp[:5]) == header
            assert tlp[5][skip:skip + len(payload)] == payload
            assert tlp[2] * 4 <= 128 << self.mps
            assert tlp[1] % 4096 + tlp[2] * 4 <= 4096


def random_commands(rng, ports, count, limit):
    result = []
    for _ in range(count):
        length = rng.choice([rng.randint(1, 12), rng.randint(1, 140), rng.randint(1, limit)])
        page = rng.choice([0x1000, 0xFFFF_F000, 0x1_0000_0000, 0xFFFF_FFFF_FFF0_0000])
        offset = rng.choice([rng.randrange(4096), 4096 - rng.randrange(1, 80),
                             64 * rng.randrange(64)])
        result.append(Command(rng.randrange(ports), page + offset, rng.randbytes(length),
                              rng.randrange(256)))
    return result


@pytest.mark.parametrize("stall", [(0, 0), (0.5, 0), (0, 0.5), (0.4, 0.4)])
@pytest.mark.parametrize("width, count, limit", [(32, 30, 400), (64, 40, 600), (128, 40, 1500),
                                                 (256, 50, 3000), (512, 30, 5000)])
def test_random(width, count, limit, stall):
    seed = f"{width} {stall}"
    rng = random.Random(seed)
    bench = Bench(width, 3, random_commands(rng, 3, count, limit), mps=rng.choice([0, 1, 2]),
                  seed=seed, stall=stall)
    bench.run()
    bench.expect()


@pytest.mark.parametrize("width", [32, 64, 256])
def test_edges(width):
    """Every alignment with lengths around a beat, the payload limit and the page."""
    lanes, commands = width // 8, []
    rng = random.Random(width)
    for offset in range(4):
        for length in {1, 2, 3, 4, 5, lanes - 1, lanes, lanes + 1, 127, 128, 129, 257}:
            commands.append(Command(0, 0x2000 + offset, rng.randbytes(length)))
    for before in (1, 2, 3, 4, 5, lanes + 1, 2 * lanes - 1):
        for length in (before, before + 1, before + lanes, before + 130):
            commands.append(Command(0, 0x3000 - before, rng.randbytes(length)))
    bench = Bench(width, 1, commands, mps=0)
    bench.run()
    bench.expect()


@pytest.mark.parametrize("mps, limit", [(0, 128), (3, 1024), (5, 4096), (7, 4096)])
def test_payload_limits(mps, limit):
    rng = random.Random(mps)
    commands = [Command(0, address, rng.randbytes(4500)) for address in (0x1000, 0x1FFD, 0x1804)]
    bench = Bench(256, 1, commands, mps=min(mps, 5))
    bench.mps = mps
    bench.run()
    bench.mps = min(mps, 5)
    bench.expect()
    assert max(tlp[2] for tlp in bench.tlps) * 4 == limit


@pytest.mark.parametrize("width", [32, 64, 256, 512])
def test_full_rate(width):
    """Output beats follow each other without a gap: commands long or short, aligned or not."""
    lanes = width // 8
    rng = random.Random(width)
    for commands in ([Command(0, 0x1_0000 + offset, rng.randbytes(1024)) for offset in (0, 3)],
                     [Command(n % 2, 0x1000 + 64 * n, rng.randbytes(lanes)) for n in range(40)]):
        bench = Bench(width, 2, commands)
        bench.run()
        bench.expect()
        times = bench.sink.times
        assert times[-1] - times[0] == len(times) - 1
        assert times[0] - min(source.sent[0] for source in bench.sources if source.sent) == 2
    assert len(times) == 40


@pytest.mark.parametrize("seed", range(6))
def test_bus_master_off(seed):
    """Commands are swallowed, begun TLPs end; nothing is lost of what is sent whole."""
    rng = random.Random(seed)
    commands = random_commands(rng, 2, 40, 700)
    flips = sorted(rng.randrange(10, 900) for _ in range(12))

    def master(cycle):
        return sum(cycle >= flip for flip in flips) % 2 == 0

    bench = Bench(64, 2, commands, mps=0, seed=seed, stall=(0.2, 0.3), master=master)
    bench.run()
    # What was sent is a prefix of the TLPs of each command, in order.
    tlps = list(bench.tlps)
    whole = 0
    for command in bench.accepted:
        for address, length in cuts(command.address, len(command.data), 128):
            dws, first_be, last_be = byte_enables(address, length)
            if not tlps or tlps[0][:5] != (command.function, address & ~3, dws, first_be, last_be):
                break
            skip, at = address & 3, address - command.address
            assert tlps.pop(0)[5][skip:skip + length] == command.data[at:at + length]
        else:
            whole += 1
    assert not tlps
    assert 0 < whole < len(commands)


def test_all_swallowed():
    rng = random.Random(1)
    bench = Bench(64, 2, random_commands(rng, 2, 20, 300), master=lambda cycle: 0)
    bench.run()
    assert not bench.tlps


def test_numbers_follow_the_order():
    """A command is numbered no earlier than its last TLP, and its TLPs have a number by then."""
    rng = random.Random(5)
    bench = Bench(64, 3, random_commands(rng, 3, 40, 500), seed=5, stall=(0.2, 0.5))
    history = []
    sample = bench.sample

    def watch(ctx, cycle):
        sample(ctx, cycle)
        history.append((*bench.counts, len(bench.accepted)))

    bench.sample = watch
    bench.run()
    bench.expect()
    ends, total = [0], 0
    for command in bench.accepted:
        total += len(list(cuts(command.address, len(command.data), 256)))
        ends.append(total)
    previous = 0
    for accepted, numbered, posted, seen in history:
        assert numbered <= accepted
        assert accepted == previous, "acceptance shows one cycle later"
        previous = seen
        assert posted >= ends[numbered]
        # It shows with the last beat, so at most one more TLP has a number by then.
        assert numbered == len(ends) - 1 or posted <= ends[numbered + 1]
