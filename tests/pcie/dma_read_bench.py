# SPDX-License-Identifier: BSD-2-Clause
"""A host, two clients and their memories around the read engine."""

import random
from collections import Counter
from dataclasses import dataclass, field

from amaranth import *
from amaranth.lib import memory
from dma_bench import Sink, Source, byte_enables, run_cycles

from unvirt.config import DeviceConfig
from unvirt.pcie.dma_read import DmaRead
from unvirt.pcie.tlp import CompletionStatus

__all__ = ["Harness", "Piece", "Client", "Host", "Bench", "host_bytes", "random_pieces"]

WIDTHS = {"meta": (6, 14), "data": (9, 15)}
"""Bits of handle and buffer address."""


def host_bytes(address, length):
    """Contents of host memory: a function of the address."""
    return bytes((a * 0x9E3779B1 >> 13 ^ a >> 3) & 0xFF for a in range(address, address + length))


class Harness(Elaboratable):
    """The engine with the clients' granule tables, which answer combinationally."""

    def __init__(self, config, rng):
        self.dut = DmaRead(config, **{
            f"{name}_{what}_width": bits for name, pair in WIDTHS.items()
            for what, bits in zip(("handle", "buffer"), pair, strict=True)})
        self.order, self.init = {}, {}
        for name, (_, bits) in WIDTHS.items():
            order = list(range(1 << bits - 7))
            rng.shuffle(order)
            self.order[name] = order
            self.init[name] = [0] * len(order)
            for here, there in zip(order, order[1:] + order[:1], strict=True):
                self.init[name][here] = there

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = self.dut
        for name, init in self.init.items():
            client = getattr(self.dut, name)
            m.submodules[name] = table = memory.Memory(shape=range(len(init)), depth=len(init),
                                                       init=init)
            read = table.read_port(domain="comb")
            m.d.comb += [read.addr.eq(client.lookup), client.lookup_next.eq(read.data)]
        return m


@dataclass
class Piece:
    handle: int
    address: int
    length: int
    buffer: list                # buffer address of each byte
    function: int = 0
    fence: int = 0
    fault: str = ""             # what the host does with it
    done: object = None         # (error, cycle)
    tag: object = None
    late: bool = field(default=False)

    def payload(self):
        return {"function": self.function, "address": self.address, "length": self.length,
                "fence": self.fence, "handle": self.handle, "buffer": self.buffer[0]}


def random_pieces(rng, order, bits, count, *, longest=512, fault=None, fence=0,
                  functions=range(4)):
    """Pieces whose buffers lie one behind the other along the granule chain, with gaps."""
    at, result = rng.randrange(1 << bits), []
    for handle in range(count):
        length = rng.choice([rng.randint(1, 9), rng.randint(1, longest), min(64, longest)])
        address = rng.choice([0x1000, 0xFFFF_F000, 0x1_2345_6000, 0xFFFF_FFFF_FFFF_F000])
        address += rng.choice([rng.randrange(4096), 64 * rng.randrange(64), 4096 - length])
        address = min(address, (address | 4095) + 1 - length)
        at += rng.choice([0, 0, rng.randint(1, 130), -at % 128])
        where = []
        for k in range(at, at + length):
            where.append(order[(k >> 7) % len(order)] << 7 | k % 128)
        at += length
        result.append(Piece(handle, address, length, where, rng.choice(functions),
                            fault=fault(rng) if fault else "",
                            fence=fence and rng.random() < fence))
    return result


class Client:
    """Sends pieces, keeps the lane memory, checks it at ``done``."""

    def __init__(self, harness, name, pieces, rng, *, stall=0):
        self.port = getattr(harness.dut, name)
        self.name, self.pieces = name, {piece.handle: piece for piece in pieces}
        self.order = list(pieces)       # in which requests must leave
        self.source = Source(self.port.requests, rng=rng, stall=stall)
        self.source.queue = [piece.payload() for piece in pieces]
        size = 1 << WIDTHS[name][1]
        self.guard = rng.randbytes(size)
        self.memory = bytearray(self.guard)
        self.missing = len(pieces)
        self.write_time = 0

    def sample(self, ctx, cycle):
        self.source.sample(ctx, cycle)
        write = self.port.write
        if ctx.get(self.port.done_valid):
            piece = self.pieces[ctx.get(self.port.done_handle)]
            assert piece.done is None, "done twice"
            piece.done = (ctx.get(self.port.done_error), cycle)
            self.missing -= 1
            if not piece.done[0]:
                got = bytes(self.memory[at] for at in piece.buffer)
                assert got == host_bytes(piece.address, piece.length), piece
        enable = ctx.get(write.enable)
        if enable:
            self.write_time = cycle
            high, low_word, high_word = (ctx.get(s) for s in (write.high, write.address_low,
                                                              write.address_high))
            lanes = len(write.enable)
            for lane, byte in enumerate(ctx.get(write.data).to_bytes(lanes, "little")):
                if enable >> lane & 1:
                    word = high_word if high >> lane & 1 else low_word
                    self.memory[word * lanes + lane] = byte

    def drive(self, ctx, cycle):
        self.source.drive(ctx, cycle)

    def check_guards(self):
        """Nothing but the bytes of pieces has changed; good ones hold what was read."""
        allowed = {}
        for piece in self.pieces.values():
            for at, byte in zip(piece.buffer, host_bytes(piece.address, piece.length), strict=True):
                allowed[at] = None if piece.done and piece.done[0] else byte
        for at, (byte, before) in enumerate(zip(self.memory, self.guard, strict=True)):
            assert byte == before or allowed.get(at, -1) in (None, byte), f"stray write at {at:#x}"


class Host:
    """Answers requests: any cut the RCB allows, in any order between tags."""

    def __init__(self, bench, rng, *, rcb=64, delay=40, stall=(0, 0), gap=0, reorder=True):
        self.bench, self.rng, self.rcb, self.delay = bench, rng, rcb, delay
        dut = bench.harness.dut
        self.width, self.reorder = bench.width, reorder
        self.sink = Sink(dut.tx_nonposted, self.accept, rng=rng, stall=stall[1])
        self.source = Source(dut.rx_completions, rng=rng, stall=gap, idle=self.rubbish)
        self.queues = {}                # tag -> completions, each (time, header, data)
        self.in_use = {}                # tag -> piece, until the tag may come again
        self.sending = None
        self.last_beat = 0
        self.unexpected = 0
        self.busy = True
        self.headers = []
        self.hold = False               # answers nothing
        self.paused = 0                 # cycle in which completions were last held up

    def rubbish(self):
        header = {"tag": self.rng.getrandbits(10), "byte_count": self.rng.getrandbits(12),
                  "status": CompletionStatus.SUCCESS, "length": self.rng.getrandbits(10)}
        return {"first": self.rng.getrandbits(1), "last": self.rng.getrandbits(1), "header": header,
                "data": self.rng.getrandbits(self.width)}

    def accept(self, beat, cycle):
        header = beat.header
        assert beat.first and beat.last and header.tag not in self.in_use, "tag used twice"
        client, piece = self.bench.piece_of(header)
        self.headers.append((header, piece, cycle))
        piece.tag = header.tag
        self.in_use[header.tag] = piece
        dws, first_be, last_be = byte_enables(piece.address, piece.length)
        assert (header.function, header.address) == (piece.function, piece.address & ~3)
        assert (header.length, header.first_be, header.last_be) == (dws, first_be, last_be)
        assert not header.pasid.valid
        self.answer(piece, cycle)

    def answer(self, piece, cycle):
        rng, parts = self.rng, []
        at, end = piece.address, piece.address + piece.length
        while at < end:
            cut = (at // self.rcb + rng.choice([1, 1, 2, 4, 16])) * self.rcb
            cut = min(cut, end)
            dws = (cut + 3) // 4 - at // 4
            header = {"tag": piece.tag, "status": CompletionStatus.SUCCESS, "byte_count": end - at,
                      "lower_address": at & 127, "length": dws, "function": piece.function,
                      "poisoned": 0}
            parts.append([header, host_bytes(at & ~3, dws * 4)])
            at = cut
        parts = self.spoil(piece, parts)
        time = cycle
        self.queues[piece.tag] = queue = self.queues.get(piece.tag, [])
        for header, data in parts:
            time += rng.randint(0, self.delay)
            queue.append((time, header, data))

    def spoil(self, piece, parts):
        """Apply the piece's fault."""
        rng, fault = self.rng, piece.fault
        if not fault:
            return parts
        index = rng.randrange(len(parts))
        header, data = parts[index]
        if fault == "error":
            status = rng.choice([CompletionStatus.UNSUPPORTED_REQUEST,
                                 CompletionStatus.COMPLETER_ABORT,
                                 CompletionStatus.CONFIGURATION_RETRY])
            return parts[:index] + [[header | {"status": status, "length": 0}, b""]]
        if fault == "poisoned":
            header["poisoned"] = 1
        elif fault == "count":
            header["byte_count"] += rng.choice([4, 64])
        elif fault == "lower":
            header["lower_address"] ^= rng.choice([1, 4, 64])
        elif fault == "long":
            # With one DW more it may just end its read and be a good one to anybody: then it is longer still, and the last one.
            rest = (header["byte_count"] + header["lower_address"] % 4 + 3) // 4 - header["length"]
            more = 2 if rest == 1 else 1
            header["length"] += more
            parts[index][1] = data + b"\xee" * 4 * more
            if rest == 1:
                return parts[:index + 1]
        elif fault == "function":
            header["function"] ^= 8
        elif fault == "lost":
            return []
        return parts

    def sample(self, ctx, cycle):
        dut = self.bench.harness.dut
        if not ctx.get(dut.rx_completions.ready):
            assert cycle - self.paused > 1000, "not ready, but for the sweep"
            self.paused = cycle
        self.sink.sample(ctx, cycle)
        showed = self.source.shown is not None
        self.source.sample(ctx, cycle)
        if showed and self.source.shown is None and not self.source.queue and self.sending:
            tag, final = self.sending
            self.sending, self.last_beat = None, cycle
            if final and not self.queues[tag]:
                self.in_use.pop(tag, None)
                self.queues.pop(tag)
        self.unexpected += ctx.get(dut.stat_unexpected)

    def drive(self, ctx, cycle):
        self.sink.drive(ctx, cycle)
        if not self.sending and not self.hold:
            due = [tag for tag, queue in self.queues.items() if queue and queue[0][0] <= cycle]
            if due:
                tag = self.rng.choice(due) if self.reorder else due[0]
                _, header, data = self.queues[tag].pop(0)
                piece = self.in_use.get(tag)
                # A lost request keeps its tag for good; others give it back with the last
                # completion.
                self.sending = (tag, piece is None or piece.fault not in ("lost", "function"))
                self.send(header, data)
        self.source.drive(ctx, cycle)

    def send(self, header, data):
        lanes = self.width // 8
        count = max(1, -(-len(data) // lanes))
        for k in range(count):
            part = data[k * lanes:(k + 1) * lanes]
            part += self.rng.randbytes(lanes - len(part))
            beat = {"first": k == 0, "last": k == count - 1, "data": int.from_bytes(part, "little")}
            beat["header"] = header if k == 0 else self.rubbish()["header"]
            self.source.queue.append(beat)


class Bench:
    """All of it; ``run`` until every piece is done."""

    def __init__(self, width, *, meta=20, data=30, seed=0, stall=(0, 0), fault=None, fence=0,
                 longest=512, tags=(16, 48), timeout=100_000, pieces=None, **host):
        print(f"seed {seed}")
        self.rng = rng = random.Random(f"{seed} {width}")
        self.width = width
        self.config = DeviceConfig(data_width=width, meta_tags=tags[0], data_tags=tags[1],
                                   completion_timeout=timeout)
        self.harness = Harness(self.config, rng)
        self.dut = self.harness.dut
        self.clients = []
        for name, count in (("meta", meta), ("data", data)):
            some = random_pieces(rng, self.harness.order[name], WIDTHS[name][1], count, fault=fault,
                                 longest=longest if name == "data" else min(longest, 128),
                                 fence=fence if name == "meta" else 0,
                                 functions=range(4) if name == "meta" else range(4, 8))
            if pieces:
                pieces(name, some)
            self.clients.append(Client(self.harness, name, some, rng, stall=stall[0]))
        self.host = Host(self, rng, stall=stall, **host)
        self.signals = {"bus_master_enable": 1, "extended_tags": 1}
        self.hooks = []
        self.idle = 0
        self.stats = Counter()

    def piece_of(self, header):
        """Find whose request this is: the first one of a client that has not left yet."""
        client = self.clients[header.function >= 4]
        piece = next(p for p in client.order if not p.done)
        assert (piece.address & ~3, piece.function) == (header.address, header.function)
        client.order.remove(piece)
        return client, piece

    def sample(self, ctx, cycle):
        self.idle = ctx.get(self.dut.idle)
        for name in ("stat_unexpected", "stat_timeout", "stat_failed"):
            self.stats[name] += ctx.get(getattr(self.dut, name))

    def drive(self, ctx, cycle):
        for hook in self.hooks:
            hook(ctx, cycle)
        for name, value in self.signals.items():
            ctx.set(getattr(self.dut, name), value)

    def run(self, *, after=20, wait_for=("meta", "data"), at_rest=True, **options):
        """Run until every piece of the named clients is done; returns the cycles."""
        def done():
            return not any(client.missing for client in self.clients if client.name in wait_for)

        cycles = run_cycles(self.harness, [*self.clients, self.host, self], done, after=after,
                            **options)
        for client in self.clients:
            client.check_guards()
        assert self.idle == at_rest
        return cycles

    def pieces(self):
        return [piece for client in self.clients for piece in client.pieces.values()]
