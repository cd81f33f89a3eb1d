# SPDX-License-Identifier: BSD-2-Clause
"""A driver that breaks the rules, and the judge of what the device does then.

An *episode* is a list of actions, each a tuple of a name and numbers, so that hypothesis can make and shrink it. Whatever the episode, the
device may read only its rings and what some descriptor in memory names, may write only its half of the rings and what some descriptor names as
writable, must go on answering, must come back clean from a reset, and must then work for a good driver.
"""

import random

from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import PACKED, WANTED, NetDriver
from unvirt_sim.driver.spec import Feature, Status, mask
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

from traffic import SHORT, Traffic

__all__ = ["ADDRESSES", "FAULTS", "LENGTHS", "LINK", "PLAY", "Episode"]

LINK = LinkConfig(latency=10, latency_spread=30)
"""Host and link of an episode."""

SIZE = 8
LENGTHS = (0, 1, 11, 12, 16, 26, 100, 128, 1526, 4096, 9030, 65536, (1 << 20) - 1, 1 << 20, 1 << 31, (1 << 32) - 1)
ADDRESSES = ("buffer", "odd", "edge", "table", "table + 8", "ring", "nowhere", "top")
FAULTS = ("drop", "unsupported", "abort", "poison")
LONGEST = (1 << 20) - 1        # what the device makes of any longer length


class Episode:
    """A device, the memory of its wicked driver, and what every action does.

    Parameters
    ----------
    simulation : Simulation
        A device that has settled, on :data:`LINK`.
    host : HarnessHost
    packed, events : bool
        Ring format, and whether EVENT_IDX is used.
    timeout : int
        Cycles after which the device gives up on a read.
    """

    def __init__(self, simulation, host, *, packed, events, timeout):
        self.timeout = timeout
        self.simulation, self.host = simulation, host
        wanted = PACKED if packed else WANTED
        self.driver = NetDriver(go(VirtioDevice.find(self.host)))
        go(self.driver.start(wanted=wanted if events else wanted & ~mask(Feature.EVENT_IDX), queue_size=SIZE, interrupts="msix"))
        self.packed = packed
        self.queues = (self.driver.rx, self.driver.tx)
        self.buffers = self.host.alloc(16384, 4096)
        self.table = self.host.alloc(16 * SIZE, 16)
        self.index = [0, 0]
        self.named = []                                 # (address, bytes, writable) of everything that may be taken for a descriptor
        self.simulation.expect_errors(True)
        self.simulation.record()

    # What the driver does

    def address(self, kind, number):
        return {"buffer": self.buffers + 2048 * (number % 4), "odd": self.buffers + 2048 * (number % 4) + 1 + number % 63,
                "edge": self.buffers + 4096 - number % 64, "table": self.table, "table + 8": self.table + 8,
                "ring": self.queues[number % 2].areas[number % 3], "nowhere": 0xDEAD_0000_0000 + 4096 * number,
                "top": (1 << 64) - 1 - number % 4096}[ADDRESSES[kind % len(ADDRESSES)]]

    def describe(self, place, kind, number, length, flags, following):
        """Write a descriptor; ``place`` is a slot of the rings of both queues or of the table."""
        where = (*(queue.areas[0] for queue in self.queues), self.table)[place % 3] + 16 * (place // 3 % SIZE)
        size = LENGTHS[length % len(LENGTHS)]
        bits = (flags & 7) | (flags >> 3 & 1) << 7 | (flags >> 4 & 1) << 15
        first, second = (following, bits) if self.packed else (bits, following)
        self.write(where, self.address(kind, number).to_bytes(8, "little") + size.to_bytes(4, "little")
                   + first.to_bytes(2, "little") + second.to_bytes(2, "little"))

    def entry(self, queue, position, value):
        """Write an entry of an available ring, or what suppresses notifications."""
        one = self.queues[queue % 2]
        if self.packed:
            self.write(one.driver_event, value.to_bytes(2, "little") + (position % 4).to_bytes(2, "little"))
        else:
            self.write(one.avail + 4 + 2 * (position % (SIZE + 1)), value.to_bytes(2, "little"))

    def publish(self, queue, jump):
        """Move the available index, by as much as a good driver may or by more, and ring."""
        number = queue % 2
        if not self.packed:
            self.index[number] = (self.index[number] + jump) % (1 << 16)
            self.write(self.queues[number].avail, self.index[number].to_bytes(2, "little"), at=2)
        self.ring(number, number)

    def ring(self, queue, data):
        """Ring a doorbell, that of a queue that does not exist among them, with whatever data."""
        go(self.host.memory_write(self.queues[0].notify_at + 4 * (queue % 6), data.to_bytes(2, "little")))

    def frame(self, length):
        self.simulation.send_frame(bytes(14 + length % 4000))

    def run(self, cycles):
        self.simulation.run(cycles)

    def fault(self, kind, amount):
        self.simulation.set_link(LinkConfig(**{FAULTS[kind % len(FAULTS)]: amount / 8}))

    def poke(self, field, value):
        """Write a register that a driver must leave alone once the device runs."""
        device = self.driver.device
        go(device.set("queue_select", value % 3))
        name = ("queue_enable", "queue_size", "queue_desc", "driver_feature", "queue_msix_vector", "config_msix_vector", "device_status")[field % 7]
        go(device.set(name, int(go(device.status())) & 0xF if name == "device_status" else value))

    def master(self, on):
        go(self.driver.device.function.command(bus_master=bool(on)))

    def write(self, address, data, at=0):
        go(self.host.write(address + at, data))
        self._note()

    # What the device may touch

    def _areas(self):
        for queue in self.queues:
            if self.packed:
                yield from ((queue.desc, 16 * SIZE, True), (queue.driver_event, 4, False), (queue.device_event, 4, True))
            else:
                yield from ((queue.desc, 16 * SIZE, False), (queue.avail, 6 + 2 * SIZE, False), (queue.used, 6 + 8 * SIZE, True))

    def _note(self):
        """Note all that the memory names now, read as descriptors at any offset."""
        for address, size, _ in (*self._areas(), (self.table, 16 * SIZE, False)):
            memory = self.simulation.read_memory(address, size)
            for at in range(0, size - 15, 2):
                start, length = int.from_bytes(memory[at:at + 8], "little"), int.from_bytes(memory[at + 8:at + 12], "little")
                if length:
                    flags = memory[at + (14 if self.packed else 12)]
                    self.named.append((start, min(length, LONGEST), bool(flags & 2)))

    def judge(self):
        """Check every access since the episode began."""
        self._note()
        areas = list(self._areas())
        named = set(self.named)
        seen = set()
        for record in self.simulation.records():
            if record.kind in (Seen.UP_READ, Seen.UP_WRITE) and record.address >> 20 != 0xFEE:
                seen.add((record.kind == Seen.UP_WRITE, record.address, record.bytes))
        for write, address, size in seen:
            allowed = any((start <= address and address + size <= start + length and (writable or not write))
                          for start, length, writable in areas) \
                or any((writable or not write) and (address - start) % (1 << 64) + size <= length for start, length, writable in named)
            assert allowed, f"{'write' if write else 'read'} of {size} bytes at {address:#x}, which nothing names"

    def recover(self):
        """The device answers, comes out of a reset, and serves a good driver; return whether it had asked for the reset."""
        self.simulation.set_link(LinkConfig())
        device = self.driver.device
        go(device.function.command())
        asked = bool(go(device.status()) & Status.DEVICE_NEEDS_RESET)
        self.simulation.run(2 * self.timeout)
        self.judge()
        go(device.set("device_status", 0))
        for _ in range(2000):
            if go(device.status()) == 0:
                break
            self.simulation.run(20)
        assert go(device.status()) == 0, "the reset does not end"
        self.simulation.expect_errors(False)
        self.simulation.expect_quiet(True)
        self.simulation.run(2 * self.timeout)
        self.simulation.expect_quiet(False)
        for queue in device.queues.values():
            queue.outstanding = {}
            queue.release()
        device.queues = {}
        self.simulation.take_frames()
        again = go(NetDriver.find(self.host))
        go(again.start(queue_size=64, interrupts="poll"))
        go(Traffic(self.simulation, self.host, again, rng=random.Random(1), count=6, sizes=SHORT, outstanding=6, window=4).run())
        assert self.simulation.violations == []
        return asked


PLAY = {
    "describe": (6, Episode.describe), "entry": (3, Episode.entry), "publish": (2, Episode.publish), "ring": (2, Episode.ring),
    "frame": (1, Episode.frame), "run": (1, Episode.run), "fault": (2, Episode.fault), "poke": (2, Episode.poke), "master": (1, Episode.master),
}
"""{action: (numbers it takes, what does it)}."""
