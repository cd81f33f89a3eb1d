# SPDX-License-Identifier: BSD-2-Clause
"""A stand-in for the harness: the methods of ``Simulation`` over a few behavioural lines of virtio-net.

It proves the bridge (protocol, interrupts, memory, frames) and the guest side without any RTL; it says nothing about the RTL.
"""

import ctypes
import struct

from unvirt_sim.host import CompletionFailed

__all__ = ["FakeSimulation"]

VECTORS, QUEUES, QUEUE_SIZE = 4, 2, 256
MAC = bytes.fromhex("02756e766972")
FEATURES = 1 << 32 | 1 << 5 | 1 << 16      # VERSION_1, MAC, STATUS
COMMON, ISR, DEVICE, NOTIFY, PBA, TABLE = 0x0000, 0x1000, 0x2000, 0x3000, 0x4000, 0x8000
MSIX, EXPRESS, VIRTIO, AER = 0x40, 0x50, 0x90, 0x100


class FakeSimulation:
    """Counts cycles, keeps a configuration space and a BAR of 64 KiB, and moves frames through split rings."""

    def __init__(self):
        self.cycle = 0
        self.counters = {}
        self.violations = []
        self.faults = None
        self.mac_stalled = False
        self.mac_link_up = True
        self.intx = False
        self.log = []               # (what, ...) of everything asked for, for the tests
        self.memory = {}            # address -> (size, ctypes array, readable, writable)
        self.windows = []
        self._messages = []
        self._sent = []
        self.reset("power")
        self.log.clear()

    # -- the harness's methods

    def run(self, cycles, until=None):
        self.cycle += cycles
        return []

    def reset(self, kind):
        self.log.append(("reset", kind))
        self.cycle += 16
        self.config = bytearray(4096)
        struct.pack_into("<HHHHI", self.config, 0, 0x1AF4, 0x1041, 0, 0x10, 0x02000001)
        self.config[0x10] = 0x0C
        self.config[0x34], self.config[0x3D] = MSIX, 1
        struct.pack_into("<HHHH", self.config, 0x2C, 0x1AF4, 1, 0, 0)
        struct.pack_into("<BBHII", self.config, MSIX, 0x11, EXPRESS, VECTORS - 1, TABLE, PBA)
        struct.pack_into("<BBHIHH", self.config, EXPRESS, 0x10, VIRTIO, 2, 1 << 28 | 1 << 15, 0x2810, 0)
        struct.pack_into("<II", self.config, EXPRESS + 12, 0x11, 0)
        position = VIRTIO
        for kind, offset, size in ((1, COMMON, 64), (2, NOTIFY, 0x1000), (3, ISR, 4), (4, DEVICE, 64), (5, 0, 0)):
            length = 20 if kind in (2, 5) else 16
            following = position + length if kind != 5 else 0
            struct.pack_into("<BBBBB3xII", self.config, position, 9, following, length, kind, 0, offset, size)
            if kind == 2:
                struct.pack_into("<I", self.config, position + 16, 4)
            position += length
        struct.pack_into("<I", self.config, AER, 1 | 1 << 16)
        self.table = bytearray(struct.pack("<IIII", 0, 0, 0, 1) * VECTORS)
        self._pending = set()
        self._reset_device()

    def config_read(self, offset, size):
        assert size in (1, 2, 4) and offset % size == 0, (offset, size)
        self.cycle += 20
        self.log.append(("config_read", offset, size))
        return int.from_bytes(self.config[offset:offset + size], "little")

    def config_write(self, offset, size, value):
        assert size in (1, 2, 4) and offset % size == 0, (offset, size)
        self.cycle += 20
        self.log.append(("config_write", offset, size, value))
        data = value.to_bytes(size, "little")
        writable = {4: 0x47, 5: 0x04, 0x11: 0, 0x12: 0xFF, 0x13: 0xFF, 0x14: 0xFF, 0x15: 0xFF, 0x16: 0xFF, 0x17: 0xFF, 0x3C: 0xFF,
                    MSIX + 3: 0xC0, EXPRESS + 8: 0xFF, EXPRESS + 9: 0x7F}
        for number, byte in enumerate(data):
            mask = writable.get(offset + number, 0)
            self.config[offset + number] = self.config[offset + number] & ~mask | byte & mask
            if offset + number == EXPRESS + 9 and byte & 0x80:
                self.reset("flr")
                return
        self._flush_pending()

    def memory_read(self, address, size):
        self.cycle += 30
        self.log.append(("memory_read", address, size))
        offset = self._decode(address, size)
        if offset is None:
            raise CompletionFailed(f"Read of {address:#x} ended as unsupported request")
        if COMMON <= offset < COMMON + 64:
            return self._common_read(offset, size)
        if offset == ISR:
            value, self.isr, self.intx = self.isr, 0, False
            return bytes([value]).ljust(size, b"\0")
        if DEVICE <= offset < DEVICE + 64:
            return (MAC + b"\1\0").ljust(64, b"\0")[offset - DEVICE:offset - DEVICE + size]
        if TABLE <= offset < TABLE + len(self.table):
            return bytes(self.table[offset - TABLE:offset - TABLE + size])
        return bytes(size)

    def memory_write(self, address, data):
        self.log.append(("memory_write", address, bytes(data)))
        offset = self._decode(address, len(data))
        if offset is None:
            return
        if COMMON <= offset < COMMON + 64:
            self._common_write(offset, int.from_bytes(data, "little"), len(data))
        elif NOTIFY <= offset < NOTIFY + 0x1000:
            self._kick(int.from_bytes(data[:2], "little"))
        elif TABLE <= offset < TABLE + len(self.table):
            self.table[offset - TABLE:offset - TABLE + len(data)] = data
            self._flush_pending()

    def map_memory(self, address, size, *, buffer=None, readable=True, writable=True):
        array = (ctypes.c_char * size).from_buffer(buffer if buffer is not None else bytearray(size))
        self.memory[address] = (size, array, readable, writable)

    def unmap_memory(self, address, size):
        assert self.memory[address][0] == size
        del self.memory[address]

    def add_message_window(self, address, size):
        self.windows.append((address, size))

    def take_messages(self):
        messages, self._messages = self._messages, []
        return messages

    def send_frame(self, frame):
        self._receive(frame)

    def take_frames(self):
        frames, self._sent = self._sent, []
        return frames

    def trace(self, path):
        """The fake has no TLPs."""

    # -- the device

    def message(self, vector):
        """Let the device send the message of ``vector``, as its table says."""
        low, high, data, control = struct.unpack_from("<IIII", self.table, 16 * vector)
        enabled = self.config[MSIX + 3] & 0x80
        if enabled and (control & 1 or self.config[MSIX + 3] & 0x40):
            self._pending.add(vector)
        elif enabled:
            self._messages.append((self.cycle, high << 32 | low, data))

    def _flush_pending(self):
        for vector in sorted(self._pending):
            self._pending.discard(vector)
            self.message(vector)

    def _reset_device(self):
        self.status = self.isr = 0
        self.intx = False
        self.select = {"device": 0, "driver": 0, "queue": 0}
        self.driver_features = 0
        self.config_vector = 0xFFFF
        fresh = {"size": QUEUE_SIZE, "vector": 0xFFFF, "enable": 0, "desc": 0, "driver": 0, "device": 0, "seen": 0, "used": 0}
        self.queues = [dict(fresh) for _ in range(QUEUES)]

    def _decode(self, address, size):
        base = int.from_bytes(self.config[0x10:0x18], "little") & ~0xF
        if self.config[4] & 2 and base <= address and address + size <= base + 0x10000:
            return address - base
        return None

    def _common_read(self, offset, size):
        image = bytearray(64)
        queue = self.queues[self.select["queue"]] if self.select["queue"] < QUEUES else None
        select = self.select
        offered = FEATURES >> 32 * select["device"] & 0xFFFFFFFF if select["device"] < 2 else 0
        accepted = self.driver_features >> 32 * min(select["driver"], 1) & 0xFFFFFFFF
        struct.pack_into("<IIII", image, 0, select["device"], offered, select["driver"], accepted)
        struct.pack_into("<HHBBH", image, 16, self.config_vector, QUEUES, self.status, 0, select["queue"])
        if queue:
            struct.pack_into("<HHHHQQQ", image, 24, queue["size"], queue["vector"], queue["enable"], select["queue"],
                             queue["desc"], queue["driver"], queue["device"])
        return bytes(image[offset:offset + size])

    def _common_write(self, offset, value, size):
        if offset in (0, 8):
            self.select["device" if offset == 0 else "driver"] = value
        elif offset == 12:
            shift = 32 * min(self.select["driver"], 1)
            self.driver_features = self.driver_features & ~(0xFFFFFFFF << shift) | value << shift
        elif offset == 16:
            self.config_vector = value if value < VECTORS else 0xFFFF
        elif offset == 20:
            self.status = value
            if value == 0:
                self._reset_device()
        elif offset == 22:
            self.select["queue"] = value
        elif self.select["queue"] < QUEUES:
            queue = self.queues[self.select["queue"]]
            if offset in (24, 26, 28):
                queue[{24: "size", 26: "vector", 28: "enable"}[offset]] = value
            elif 32 <= offset < 56:
                name, shift = ("desc", "driver", "device")[(offset - 32) // 8], 8 * (offset % 8)
                mask = (1 << 8 * size) - 1
                queue[name] = queue[name] & ~(mask << shift) | value << shift

    def _at(self, address, size, write):
        for start, (length, array, readable, writable) in self.memory.items():
            if start <= address and address + size <= start + length and (writable if write else readable):
                return memoryview(array).cast("B")[address - start:address - start + size]
        self.violations.append(f"{'write' if write else 'read'} of {size} bytes at {address:#x} is not mapped")
        return bytearray(size)

    def _peek(self, address, layout):
        return struct.unpack(layout, self._at(address, struct.calcsize(layout), False))

    def _chain(self, queue):
        """Return (head, [(address, length, writable)]) of the next available chain, or None."""
        (index,) = self._peek(queue["driver"] + 2, "<H")
        if not queue["enable"] or index == queue["seen"]:
            return None
        (head,) = self._peek(queue["driver"] + 4 + 2 * (queue["seen"] % queue["size"]), "<H")
        queue["seen"] = queue["seen"] + 1 & 0xFFFF
        parts, number = [], head
        while True:
            address, length, flags, following = self._peek(queue["desc"] + 16 * number, "<QIHH")
            parts.append((address, length, bool(flags & 2)))
            if not flags & 1:
                return head, parts
            number = following

    def _finish(self, queue, head, written):
        slot = queue["device"] + 4 + 8 * (queue["used"] % queue["size"])
        self._at(slot, 8, True)[:] = struct.pack("<II", head, written)
        queue["used"] = queue["used"] + 1 & 0xFFFF
        self._at(queue["device"] + 2, 2, True)[:] = struct.pack("<H", queue["used"])
        if self._peek(queue["driver"], "<H")[0] & 1:
            return
        if self.config[MSIX + 3] & 0x80:
            if queue["vector"] != 0xFFFF:
                self.message(queue["vector"])
        else:
            self.isr |= 1
            self.intx = True

    def _kick(self, number):
        if number != 1 or not self.config[4] & 4:
            return
        queue = self.queues[1]
        while (chain := self._chain(queue)) is not None:
            head, parts = chain
            packet = b"".join(bytes(self._at(address, length, False)) for address, length, _ in parts)
            self._sent.append((self.cycle, packet[12:], False))
            self._finish(queue, head, 0)

    def _receive(self, frame):
        queue = self.queues[0]
        if not queue["enable"] or not self.config[4] & 4 or (chain := self._chain(queue)) is None:
            return
        head, parts = chain
        packet = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1) + frame
        written = 0
        for address, length, _ in parts:
            piece = packet[written:written + length]
            self._at(address, len(piece), True)[:] = piece
            written += len(piece)
        self._finish(queue, head, written)
