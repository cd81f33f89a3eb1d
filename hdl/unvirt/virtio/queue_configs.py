# SPDX-License-Identifier: BSD-2-Clause
"""The queue configuration rows: what the driver programmed, in memory, written by the configuration side only."""

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..stream.ram import read_settled, settled_memory
from .contract import QueueConfigPort, row_width

__all__ = ["QueueConfigs"]

# 32-bit banks in the order of QueueConfig: addresses as halves, then size and vector, then enable.
_BANKS = ("desc_low", "desc_high", "driver_low", "driver_high", "device_low", "device_high",
          "size_vector", "enabled")

# All but the last are only written while their queue is not enabled, so that nobody reads what is being written.
_QUIET = _BANKS[:7]

_FEW = 32
"""Up to so many rows the bits of the last bank are read from distributed RAM: whoever reads rows decides by them."""


class QueueConfigs(wiring.Component):
    """Eight 32-bit banks of one row per queue.

    The configuration side writes one bank at a time (byte enables), a cycle after it said so; it reads from a copy of its own. The
    other ports read whole rows, one cycle after the row was presented.

    Members
    -------
    row, bank : ``In``
        What the configuration side looks at.
    write_enable : ``In(4)``, write_data : ``In(32)``, read_data : ``Out(32)``
        ``read_data`` shows the row and bank of the cycle before; of what is written, two cycles after that.
    enabled : ``Out(1)``
        Whether ``test_row`` (combinational) is enabled.
    ports : ``Out(QueueConfigPort)`` array
    """

    def __init__(self, *, rows, ports):
        self._rows = rows
        self._ports = ports
        super().__init__({
            "row": In(row_width(rows)),
            "bank": In(3),
            "write_enable": In(4),
            "write_data": In(32),
            "read_data": Out(32),
            "test_row": In(row_width(rows)),
            "enabled": Out(1),
            "ports": In(QueueConfigPort(rows)).array(ports),
        })

    def elaborate(self, platform):
        m = Module()
        depth = max(2, self._rows)
        # What is written is decided late, and told to many memories.
        row = Signal(row_width(self._rows))
        bank = Signal(3)
        enables = Signal(4)
        value = Signal(32)
        here = Signal(len(_BANKS))
        m.d.sync += [row.eq(self.row), bank.eq(self.bank), enables.eq(self.write_enable), value.eq(self.write_data)]
        m.d.comb += here.eq(1 << bank)

        m.submodules.own = own = settled_memory(32, 8 * depth)
        write, read = own.write_port(granularity=8), read_settled(m, own)
        m.d.comb += [
            write.addr.eq(Cat(bank, row)), write.data.eq(value), write.en.eq(enables),
            read.addr.eq(Cat(self.bank, self.row)), self.read_data.eq(read.data),
        ]
        words = []
        for number, name in enumerate(_QUIET):
            m.submodules[name] = cells = settled_memory(32, depth)
            write = cells.write_port(granularity=8)
            m.d.comb += [write.addr.eq(row), write.data.eq(value), write.en.eq(Mux(here[number], enables, 0))]
            words.append([])
            for port in self.ports:
                read = read_settled(m, cells)
                m.d.comb += read.addr.eq(port.row)
                words[-1].append(read.data)

        # Enabled, in reset: both change while readers look.
        m.submodules.enabled = states = memory.Memory(shape=2, depth=depth, init=[],
                                                      attrs={"ram_style": "distributed" if depth <= _FEW else "block"})
        # Doorbells want to know at once whether their queue is enabled.
        m.submodules.flags = flags = memory.Memory(shape=1, depth=depth, init=[])
        for cells in (states, flags):
            write = cells.write_port()
            m.d.comb += [write.addr.eq(row), write.data.eq(value), write.en.eq(here[-1] & enables[0])]
        test = flags.read_port(domain="comb")
        m.d.comb += [test.addr.eq(self.test_row), self.enabled.eq(test.data)]

        for index, port in enumerate(self.ports):
            word = [column[index] for column in words]
            state = states.read_port()
            config = port.config
            m.d.comb += [
                state.addr.eq(port.row),
                config.desc.eq(Cat(word[0], word[1])),
                config.driver.eq(Cat(word[2], word[3])),
                config.device.eq(Cat(word[4], word[5])),
                config.size.eq(word[6][:16]),
                config.vector.eq(word[6][16:]),
                config.enabled.eq(state.data[0]),
                config.in_reset.eq(state.data[1]),
            ]
        return m
