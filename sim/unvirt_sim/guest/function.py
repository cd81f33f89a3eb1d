# SPDX-License-Identifier: BSD-2-Clause
"""The simulated PCIe function as the bridge sees it: configuration space, BARs, MSI-X table and interrupts, all through the RTL.

QEMU keeps the guest's MSI-X table to itself and only hands over eventfds. So the bridge fills the RTL's own table with addresses in a
window no guest uses, and turns the writes that land there into eventfd signals. A vector without an eventfd is masked in the RTL, so
that what it has to say waits in the RTL's pending bits.
"""

from ..host import CompletionFailed
from .interrupts import EventVector, InterruptLine

__all__ = ["MESSAGE_WINDOW", "PciFunction"]

MESSAGE_WINDOW = 0xFEE0_0000        # where x86 expects messages: never RAM, never a BAR, never mapped by an IOMMU
MESSAGE_DATA = 0x5600               # plus the vector

COMMAND, BARS, CAPABILITIES, PIN = 0x04, 0x10, 0x34, 0x3D
COMMAND_MEMORY = 2
CAP_PCIE, CAP_MSIX = 0x10, 0x11
DEVCTL, FLR = 8, 0x8000


def _pieces(offset, count):
    """Cut an access into naturally aligned pieces of 4, 2 and 1 bytes."""
    while count:
        size = next(size for size in (4, 2, 1) if offset % size == 0 and count >= size)
        yield offset, size
        offset += size
        count -= size


class PciFunction:
    """One function of a :class:`Simulation`.

    Parameters
    ----------
    simulation
        The harness, out of power-on reset.
    trace
        :class:`AccessTrace`.
    observer
        Object told of ``write(cycle, bar, offset)`` and ``interrupt(cycle, vector)``, or None.
    """

    def __init__(self, simulation, trace, observer=None):
        self._simulation = simulation
        self._trace = trace
        self._observer = observer
        self.counts = dict.fromkeys(("config_reads", "config_writes", "bar_reads", "bar_writes", "interrupts",
                                     "failed", "resets", "bridge_accesses"), 0)
        self.line = InterruptLine()
        self._bases = {}
        self._written = bytearray(24)   # the BARs as the guest wrote them last
        self._lost = False              # a reset took them from the RTL
        self._memory_enabled = None
        self._entries = {}              # vector -> True when unmasked in the RTL's table
        self._learn()
        simulation.add_message_window(MESSAGE_WINDOW, max(4096, 4 * self.vector_count))

    # -- what the RTL is

    def _learn(self):
        """Read all of configuration space once: what exists, how large the BARs are, where MSI-X is."""
        words = [self._raw_read(offset, 4) for offset in range(0, 4096, 4)]
        if words[0] in (0, 0xFFFF_FFFF):
            raise CompletionFailed(f"The function does not answer to configuration reads (identity {words[0]:#010x})")

        def byte(offset):
            return words[offset // 4] >> 8 * (offset % 4) & 0xFF

        # A double word exists if it is in the header or a capability structure, or reads as something; the rest stays zero for
        # ever, so the answer for it is remembered.
        exists = [offset < 0x40 or words[offset // 4] != 0 for offset in range(0, 4096, 4)]
        starts, self.capabilities = [], {}
        pointer = byte(CAPABILITIES) & 0xFC if words[1] & 1 << 20 else 0
        while pointer and pointer not in starts and len(starts) < 48:
            starts.append(pointer)
            self.capabilities.setdefault(byte(pointer), pointer)
            pointer = byte(pointer + 1) & 0xFC
        self._mark(exists, starts, 0x100)
        starts, pointer = [], 0x100
        while pointer >= 0x100 and pointer not in starts and words[pointer // 4] not in (0, 0xFFFF_FFFF):
            starts.append(pointer)
            pointer = words[pointer // 4] >> 20 & 0xFFC
        self._mark(exists, starts, 0x1000)
        self._exists = exists

        self.bar_sizes = [0] * 6
        self._bar_is_wide = [False] * 6
        index = 0
        while index < 6:
            index += self._size_bar(index, words[BARS // 4 + index])
        self.interrupt_pin = byte(PIN)
        self.vector_count, self._table = 0, (0, 0)
        msix = self.capabilities.get(CAP_MSIX)
        if msix is not None:
            self.vector_count = (words[msix // 4] >> 16 & 0x7FF) + 1
            table = words[msix // 4 + 1]
            self._table = (table & 7, table & ~7)
        self.vectors = [EventVector() for _ in range(self.vector_count)]

    @staticmethod
    def _mark(exists, starts, end):
        ordered = sorted(starts)
        for start, following in zip(ordered, [*ordered[1:], min(end, ordered[-1] + 0x100) if ordered else end]):
            for offset in range(start, min(following, start + 0x100), 4):
                exists[offset // 4] = True

    def _size_bar(self, index, original):
        """Learn the size of a BAR as software does; returns how many registers it takes."""
        offset = BARS + 4 * index
        wide = original & 7 == 4 and index < 5
        registers = [offset, offset + 4] if wide else [offset]
        saved = [self._raw_read(register, 4) for register in registers]
        for register in registers:
            self._raw_write(register, 4, 0xFFFF_FFFF)
        mask = sum(self._raw_read(register, 4) << 32 * number for number, register in enumerate(registers))
        for register, value in zip(registers, saved):
            self._raw_write(register, 4, value)
        mask &= ~(3 if original & 1 else 15)
        if mask:
            self.bar_sizes[index] = mask & -mask
            self._bar_is_wide[index] = wide
        return 2 if wide else 1

    # -- accesses that are not the guest's

    def _raw_read(self, offset, size):
        self.counts["bridge_accesses"] += 1
        value = self._simulation.config_read(offset, size)
        self._trace(self._simulation.cycle, "config_read", offset=offset, size=size, value=value, by="bridge")
        return value

    def _raw_write(self, offset, size, value):
        self.counts["bridge_accesses"] += 1
        self._simulation.config_write(offset, size, value)
        self._trace(self._simulation.cycle, "config_write", offset=offset, size=size, value=value, by="bridge")

    def _memory_on(self):
        if self._memory_enabled is None:
            self._memory_enabled = bool(self._raw_read(COMMAND, 2) & COMMAND_MEMORY)
        return self._memory_enabled

    def _base(self, index):
        """Return the address the guest gave BAR ``index``, as the RTL has it."""
        if index not in self._bases:
            base = self._raw_read(BARS + 4 * index, 4) & ~15
            if self._bar_is_wide[index]:
                base |= self._raw_read(BARS + 4 * index + 4, 4) << 32
            self._bases[index] = base
        return self._bases[index]

    def _forget(self):
        """The function was reset: its BARs, command register and MSI-X table are gone."""
        self._bases.clear()
        self._memory_enabled = False
        self._entries.clear()
        self._lost = True

    def _restore(self):
        """Write the BARs again after a reset.

        QEMU answers reads of BARs itself, so a guest that compares before it restores finds nothing to do; behind a real vfio the
        host's kernel puts them back.
        """
        for offset in range(0, 24, 4):
            if any(self._written[offset:offset + 4]):
                self._raw_write(BARS + offset, 4, int.from_bytes(self._written[offset:offset + 4], "little"))
        self._lost = False

    # -- accesses of the guest

    def config_read(self, offset, count):
        """Return ``count`` bytes of configuration space; what does not exist is zero without asking the RTL."""
        output = bytearray()
        for position, size in _pieces(offset, count):
            if not self._exists[position // 4]:
                output += bytes(size)
                continue
            self.counts["config_reads"] += 1
            try:
                value = self._simulation.config_read(position, size)
            except CompletionFailed as error:
                self._failed("config_read", error, offset=position, size=size)
                value = (1 << 8 * size) - 1
            self._trace(self._simulation.cycle, "config_read", offset=position, size=size, value=value)
            output += value.to_bytes(size, "little")
        self.collect()
        return bytes(output)

    def config_write(self, offset, data):
        """Write to configuration space."""
        for position, size in _pieces(offset, len(data)):
            value = int.from_bytes(data[position - offset:position - offset + size], "little")
            self.counts["config_writes"] += 1
            try:
                if self._lost and position == COMMAND and value & COMMAND_MEMORY:
                    self._restore()
                self._simulation.config_write(position, size, value)
            except CompletionFailed as error:
                self._failed("config_write", error, offset=position, size=size)
            self._trace(self._simulation.cycle, "config_write", offset=position, size=size, value=value)
            self._follow(position, size, value)
        self.fill_table()
        self.collect()

    def _follow(self, offset, size, value):
        """Notice what a configuration write changed that the bridge relies on."""
        if offset < COMMAND + 2 and offset + size > COMMAND:
            self._memory_enabled = None
        if BARS <= offset < BARS + 24:
            self._bases.clear()
            self._written[offset - BARS:offset - BARS + size] = value.to_bytes(size, "little")
        express = self.capabilities.get(CAP_PCIE)
        if express is not None:
            position = express + DEVCTL + 1 - offset
            if 0 <= position < size and value >> 8 * position & FLR >> 8:
                self.counts["resets"] += 1
                self._trace(self._simulation.cycle, "reset", kind="flr")
                self._forget()

    def bar_read(self, index, offset, count):
        """Read a BAR; a failed read gives all ones, as on a real host."""
        output = bytearray()
        for position, size in self._cut(offset, count):
            self.counts["bar_reads"] += 1
            try:
                data = self._simulation.memory_read(self._base(index) + position, size)
            except CompletionFailed as error:
                self._failed("bar_read", error, bar=index, offset=position, size=size)
                data = b"\xff" * size
            self._trace(self._simulation.cycle, "bar_read", bar=index, offset=position, size=size, value=int.from_bytes(data, "little"))
            output += data
        self.collect()      # messages that passed before the completion are visible before it
        return bytes(output)

    def bar_write(self, index, offset, data):
        """Post a write to a BAR."""
        for position, size in self._cut(offset, len(data)):
            self.counts["bar_writes"] += 1
            piece = data[position - offset:position - offset + size]
            try:
                self._simulation.memory_write(self._base(index) + position, bytes(piece))
            except CompletionFailed as error:       # of the look at the BAR, not of the write
                self._failed("bar_write", error, bar=index, offset=position, size=size)
            cycle = self._simulation.cycle
            self._trace(cycle, "bar_write", bar=index, offset=position, size=size, value=int.from_bytes(piece, "little"))
            if self._observer:
                self._observer.write(cycle, index, position)

    @staticmethod
    def _cut(offset, count):
        """A CPU's access is one TLP; what no CPU does goes in double words."""
        return [(offset, count)] if count in (1, 2, 4, 8) and offset % count == 0 else _pieces(offset, count)

    def _failed(self, op, error, **fields):
        self.counts["failed"] += 1
        self._trace(self._simulation.cycle, "note", text=f"{op} failed: {error}", **fields)

    # -- interrupts

    def fill_table(self):
        """Bring the RTL's MSI-X table in line with the eventfds, as far as the guest has opened the way to it."""
        bar, offset = self._table
        if all(self._entries.get(number, False) == (vector.fd is not None) for number, vector in enumerate(self.vectors)):
            return
        try:
            if not self._memory_on() or not self._base(bar):
                return
        except CompletionFailed as error:       # in the middle of a reset; the next access tries again
            self._failed("msix_table", error)
            return
        table = self._base(bar) + offset
        for number, vector in enumerate(self.vectors):
            open_now = vector.fd is not None
            if self._entries.get(number, False) == open_now:
                continue
            writes = [(12, 0 if open_now else 1)]
            if number not in self._entries:
                writes = [(0, MESSAGE_WINDOW + 4 * number), (4, 0), (8, MESSAGE_DATA + number), *writes]
            for position, value in writes:
                self.counts["bridge_accesses"] += 1
                self._simulation.memory_write(table + 16 * number + position, value.to_bytes(4, "little"))
                self._trace(self._simulation.cycle, "bar_write", bar=bar, offset=offset + 16 * number + position, size=4,
                            value=value, by="bridge")
            self._entries[number] = open_now

    def collect(self):
        """Turn messages and the INTx level of the RTL into signals."""
        for cycle, address, data in self._simulation.take_messages():
            number = (address - MESSAGE_WINDOW) // 4
            if not 0 <= number < self.vector_count or data != MESSAGE_DATA + number:
                self.counts["failed"] += 1
                self._trace(cycle, "note", text=f"message {data:#x} at {address:#x} belongs to no vector")
                continue
            self._count_interrupt(cycle, number)
            self.vectors[number].fire()
        if self.line.fd is not None and self.line.update(self._simulation.intx):
            self._count_interrupt(self._simulation.cycle, -1)

    def _count_interrupt(self, cycle, number):
        self.counts["interrupts"] += 1
        self._trace(cycle, "interrupt", vector=number)
        if self._observer:
            self._observer.interrupt(cycle, number)

    def reset(self):
        """Reset the function as a fundamental reset of its slot does."""
        self.counts["resets"] += 1
        self._simulation.reset("hot")
        self._trace(self._simulation.cycle, "reset", kind="hot")
        self._forget()
        self._simulation.take_messages()        # messages from before the reset belong to nobody
        for vector in self.vectors:
            vector.pending = False

    def close(self):
        """Close the eventfds."""
        self.line.close()
        for vector in self.vectors:
            vector.close()
