# SPDX-License-Identifier: BSD-2-Clause
"""One bit per entry with two independent writers."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["FlagTable"]


class FlagTable(wiring.Component):
    """Flags in two memories; a flag is set while its two bits differ.

    Setting makes the bits differ, clearing makes them equal; each memory has one writer, so setting
    and clearing go on side by side. Setting a set flag or clearing a clear one changes nothing. A
    change shows at the test ports in the next cycle. After reset a sweep of ``depth`` cycles clears
    all; until ``ready`` nothing may be set or cleared, and tests read 0.

    Parameters
    ----------
    depth : int
        Number of flags.
    tests : int
        Number of test ports.

    Members
    -------
    set_valid, set_index : ``In``
        Set a flag.
    clear_valid, clear_index : ``In``
        Clear a flag; not the one being set in the same cycle.
    test_index, test_value : ``In``/``Out`` arrays
        Combinational reads.
    ready : ``Out(1)``
        The sweep after reset is over.
    """

    def __init__(self, depth, tests):
        if depth < 1:
            raise ValueError(f"Depth must be at least 1, not {depth!r}")
        if tests < 1:
            raise ValueError(f"Number of test ports must be at least 1, not {tests!r}")
        self._depth = depth
        self._tests = tests
        index = range(max(2, depth))
        super().__init__({
            "set_valid": In(1),
            "set_index": In(index),
            "clear_valid": In(1),
            "clear_index": In(index),
            "test_index": In(index).array(tests),
            "test_value": Out(1).array(tests),
            "ready": Out(1),
        })

    @property
    def depth(self):
        return self._depth

    def elaborate(self, platform):
        m = Module()
        depth = max(2, self._depth)
        m.submodules.set_bits = set_bits = memory.Memory(shape=1, depth=depth, init=[])
        m.submodules.clear_bits = clear_bits = memory.Memory(shape=1, depth=depth, init=[])
        set_write, clear_write = set_bits.write_port(), clear_bits.write_port()
        # Each writer reads the other's bit.
        other_of_set = clear_bits.read_port(domain="comb")
        other_of_clear = set_bits.read_port(domain="comb")

        swept = Signal(range(depth))
        m.d.comb += [
            other_of_set.addr.eq(self.set_index),
            other_of_clear.addr.eq(self.clear_index),
            set_write.addr.eq(Mux(self.ready, self.set_index, swept)),
            set_write.data.eq(self.ready & ~other_of_set.data),
            set_write.en.eq(self.set_valid | ~self.ready),
            clear_write.addr.eq(Mux(self.ready, self.clear_index, swept)),
            clear_write.data.eq(self.ready & other_of_clear.data),
            clear_write.en.eq(self.clear_valid | ~self.ready),
        ]
        with m.If(~self.ready):
            m.d.sync += swept.eq(swept + 1)
            with m.If(swept == depth - 1):
                m.d.sync += self.ready.eq(1)

        for index, value in zip(self.test_index, self.test_value, strict=True):
            first = set_bits.read_port(domain="comb")
            second = clear_bits.read_port(domain="comb")
            m.d.comb += [
                first.addr.eq(index),
                second.addr.eq(index),
                value.eq(self.ready & (first.data ^ second.data)),
            ]
        return m
