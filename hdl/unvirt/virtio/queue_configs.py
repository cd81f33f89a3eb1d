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

# These are only written while their queue is not enabled, so that nobody reads what is being written. A vector changes at any time.
_QUIET = _BANKS[:6]


class QueueConfigs(wiring.Component):
    """Eight 32-bit banks of one row per queue.

    The configuration side reads and writes one bank at a time (synchronous read, byte enables); the
    other ports read whole rows, one cycle after the row was presented.

    Members
    -------
    row, bank : ``In``
        What the configuration side looks at.
    write_enable : ``In(4)``, write_data : ``In(32)``, read_data : ``Out(32)``
        ``read_data`` shows the row and bank of the cycle before.
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
        bank = Signal(3)
        m.d.sync += bank.eq(self.bank)
        words = []
        for number, name in enumerate(_BANKS):
            quiet, depth = name in _QUIET, max(2, self._rows)
            cells = settled_memory(32, depth) if quiet else memory.Memory(shape=32, depth=depth, init=[], attrs={"ram_style": "block"})
            m.submodules[name] = cells
            write = cells.write_port(granularity=8)
            own = cells.read_port(transparent_for=(write,))
            m.d.comb += [
                write.addr.eq(self.row), write.data.eq(self.write_data),
                write.en.eq(Mux(self.bank == number, self.write_enable, 0)),
                own.addr.eq(self.row),
            ]
            with m.If(bank == number):
                m.d.comb += self.read_data.eq(own.data)
            words.append([])
            for port in self.ports:
                read = read_settled(m, cells) if quiet else cells.read_port()
                m.d.comb += read.addr.eq(port.row)
                words[-1].append(read.data)
        for index, port in enumerate(self.ports):
            word = [column[index] for column in words]
            config = port.config
            m.d.comb += [
                config.desc.eq(Cat(word[0], word[1])),
                config.driver.eq(Cat(word[2], word[3])),
                config.device.eq(Cat(word[4], word[5])),
                config.size.eq(word[6][:16]),
                config.vector.eq(word[6][16:]),
                config.enabled.eq(word[7][0]),
                config.in_reset.eq(word[7][1]),
            ]

        # Doorbells want to know at once whether their queue is enabled.
        m.submodules.flags = flags = memory.Memory(shape=1, depth=max(2, self._rows), init=[])
        write, read = flags.write_port(), flags.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.row), write.data.eq(self.write_data[0]),
            write.en.eq((self.bank == 7) & self.write_enable[0]),
            read.addr.eq(self.test_row), self.enabled.eq(read.data),
        ]
        return m
