# SPDX-License-Identifier: BSD-2-Clause
"""What registers and memories hold at first: said shortly in the Verilog, left open in the simulation."""

import re

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from unvirt.initial_values import clear_memories, drop_clearing, without_initial_values
from unvirt.verilog import synthesizable, to_rtlil


class Cells(wiring.Component):
    """A cleared memory, one that holds something, and registers with odd names."""

    def __init__(self):
        super().__init__({"address": In(3), "value": In(8), "write": In(1), "o": Out(8), "end": Out(9)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.cleared = cleared = memory.Memory(shape=8, depth=8, init=[])
        m.submodules.filled = filled = memory.Memory(shape=8, depth=8, init=[5, 0, 7])
        for cells in (cleared, filled):
            port = cells.write_port()
            m.d.comb += [port.addr.eq(self.address), port.data.eq(self.value), port.en.eq(self.write)]
        reads = [cells.read_port() for cells in (cleared, filled)]
        end = Signal(signed(9), init=-3)
        m.d.sync += end.eq(end + self.value)
        m.d.comb += [read.addr.eq(self.address) for read in reads] + [self.o.eq(reads[0].data + reads[1].data), self.end.eq(end)]
        return m


def text():
    return clear_memories(synthesizable(drop_clearing(to_rtlil(Cells(), "cells")), top="cells"))


def declared(verilog):
    """Return the initial block, or "", behind each memory, and the initial value, or "", of each register; that of a memory's read port has none."""
    memories = re.findall(r"reg \[7:0\] \S+ \[7:0\];\n((?: *initial begin.*\n(?:(?! *end).*\n)* *end\n)?)", verilog)
    registers = re.findall(r"^ *reg (?:signed )?(?:\[[^]]*\] )?(?:\\\S+ |\w+) ?(= [^;]*)?;", verilog, re.MULTILINE)
    return memories, registers


def test_cleared_by_a_loop():
    """A memory of zeros is cleared by one statement; another one is filled word by word; registers have their values."""
    memories, registers = declared(text())
    loop, words = sorted(memories, key=lambda block: block.count("= 8'h"))
    assert "for (i = 0; i <= 7; i = i + 1)" in loop and loop.count("= 8'h") == 0
    assert words.count("= 8'h") == 8 and "8'h05" in words and "8'h07" in words
    assert sorted(registers) == ["", "", "= 9'h1fd"]


def test_left_open():
    """Without initial values only the memory that holds something has any."""
    memories, registers = declared(without_initial_values(text()))
    assert sorted(block.count("= 8'h") for block in memories) == [0, 8] and "" in memories
    assert registers == ["", "", ""]


def test_a_device_is_left_open(verilog):
    """Of a whole device nothing keeps an initial value: it has no memory that holds something at first."""
    assert "initial begin : clear_" in verilog and re.search(r"^ *reg .*= ", verilog, re.MULTILINE)
    left = without_initial_values(verilog)
    assert not re.search(r"\binitial\b", left) and not re.search(r"^ *reg .*=", left, re.MULTILINE)
