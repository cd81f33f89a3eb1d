# SPDX-License-Identifier: BSD-2-Clause
"""Lines of ring entries become chains and reads of descriptors, in the order of the ring whatever holds them up."""

import pytest
from amaranth.sim import Simulator
from fake_host import seeded

from unvirt.virtio.queue.ring import RingParser

ROW, SIZE, LINE, LINES, UNDER_WAY = 1, 256, 16, 40, 3
TABLE = 0x4_0000


@pytest.mark.parametrize("told", ["at once", "late"])
@pytest.mark.parametrize("room", [1.0, 0.3])
def test_descriptors_are_read_in_the_order_of_the_ring(room, told):
    """Lines that arrive in any order, and descriptor reads for which there is no room for a while, leave the order of chains and reads as it is:
    each entry once, and each line is told of once.
    """
    rng = seeded(f"ring {room} {told}")
    dut = RingParser(data_width=64, rows=2, contexts=64)
    heads, slot = [], 0
    for _ in range(LINES * LINE):
        slot = (slot + 1 if rng.random() < 0.6 else rng.randrange(SIZE)) % SIZE
        heads.append(slot)
    flight, contexts = [], [0, 1, 2, 3]           # lines under way as (line, context); contexts that are free
    chains, reads, finished = [], [], 0

    async def bench(ctx):
        nonlocal finished
        ctx.set(dut.config.config, {"enabled": 1, "size": SIZE, "desc": TABLE})
        for port in (dut.chains, dut.reads):
            ctx.set(port.ready, 1)
        ctx.set(dut.port.ready, 1)
        following, word, shown, held = 0, 0, None, {}
        for _ in range(20_000):
            while following < LINES and len(flight) < UNDER_WAY and contexts:
                flight.append((following, contexts.pop()))
                held[flight[-1][1]] = following
                following += 1
            if shown is None and flight and rng.random() < 0.3:
                shown = flight.pop(rng.randrange(len(flight)))
            ctx.set(dut.answers.valid, shown is not None)
            if shown is not None:
                line, context = shown
                ctx.set(dut.answers.payload, {"row": ROW, "context": context, "position": line * LINE, "count": LINE, "walk": 0, "error": 0})
            ctx.set(dut.port.data, word)
            ctx.set(dut.room, rng.random() < room)
            ctx.set(dut.finished.ready, told == "at once" or rng.random() < 0.05)
            await ctx.delay(0)
            assert not ctx.get(dut.violation)
            if ctx.get(dut.port.valid):
                begin = held[ctx.get(dut.port.context)] * LINE + 4 * ctx.get(dut.port.word)
                word = sum(head << 16 * place for place, head in enumerate(heads[begin:begin + 4]))
            if ctx.get(dut.chains.valid):
                chain = dut.chains.payload
                assert ctx.get(chain.row) == ROW
                chains.append((ctx.get(chain.position), ctx.get(chain.head)))
            if ctx.get(dut.reads.valid):
                read = dut.reads.payload
                reads.append(tuple(ctx.get(value) for value in (read.position, read.count, read.address, read.length)))
            if ctx.get(dut.free.valid):
                contexts.append(ctx.get(dut.free.context))
            if ctx.get(dut.finished.valid & dut.finished.ready):
                finished += 1
            if shown is not None and ctx.get(dut.answers.ready):
                shown = None
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-9)
    simulator.add_testbench(bench)
    simulator.run()
    assert finished == LINES
    assert chains == list(enumerate(heads))
    position = 0
    for place, count, address, length in reads:
        assert place == position and length == 16 * count
        assert address == TABLE + 16 * heads[place]
        assert heads[place:place + count] == list(range(heads[place], heads[place] + count)), "a read of heads that are not side by side"
        position += count
    assert position == len(heads)
