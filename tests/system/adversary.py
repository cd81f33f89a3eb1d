# SPDX-License-Identifier: BSD-2-Clause
"""A driver that breaks the rules, and the judge of what the device does then.

An *episode* is a list of actions, each a tuple of a name and numbers, so that hypothesis can make and shrink it. Whatever the episode, the
device may read only its rings and what some descriptor in memory names, may write only its half of the rings and what some descriptor names as
writable, the rings only from when their queue is enabled to when its reset is done, must go on answering, must come back clean from a reset, and
must then work for a good driver.

What an action does to the rules for drivers is counted: see :mod:`driver_rules`.
"""

import random
import struct
from collections import Counter
from dataclasses import dataclass
from math import inf

from adversary_registers import Registers
from adversary_requests import Requests
from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import PACKED, SUSPENSION, WANTED, NetDriver
from unvirt_sim.driver.spec import Feature, Status, mask, need_event
from unvirt_sim.host import HostError
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.link import LinkConfig
from unvirt_sim.records import Seen

from driver_rules import Walk
from traffic import SHORT, Traffic

__all__ = ["ADDRESSES", "FAULTS", "LENGTHS", "LINK", "PLAY", "Episode"]

LINK = LinkConfig(latency=10, latency_spread=30)
"""Host and link of an episode."""

SIZE = 8
LENGTHS = (0, 1, 11, 12, 16, 26, 100, 128, 1526, 4096, 9030, 65536, (1 << 20) - 1, 1 << 20, 1 << 31, (1 << 32) - 1)
ADDRESSES = ("buffer", "odd", "edge", "table", "table + 8", "ring", "nowhere", "top")
FAULTS = ("drop", "unsupported", "abort", "poison")
LONGEST = (1 << 20) - 1        # what the device makes of any longer length


@dataclass
class Area:
    """Part of a ring, and the cycles in which the device may touch it."""

    address: int
    bytes: int
    writable: bool
    since: int = 0
    until: float = inf


class Queue:
    """What the driver keeps of one queue: ``areas`` are the addresses of descriptors, driver area and device area."""

    def __init__(self, number, areas, notify):
        self.number, self.notify = number, notify
        self.enabled = False                      # as far as the driver knows
        self.resetting = self.void = False        # a reset of the queue, or of the device, was asked for and not seen to be done
        self.given = []                           # Area of each ring
        self.renew(areas)

    def renew(self, areas):
        """Begin with fresh rings."""
        self.areas = areas
        self.index = 0                            # available index of a split ring
        self.slot, self.wrap = 0, 1               # where the next request goes
        self.clean = True                         # nothing but whole requests was written to the descriptors


class Episode(Registers, Requests):
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
        self.packed, self.events, self.size = packed, events, SIZE
        self.broken = Counter()                         # {id: times} of the rules for drivers
        self.asked = False                              # for a reset, at any time
        self.lost = False                               # reads may have been lost for ever
        wanted = (PACKED if packed else WANTED) | SUSPENSION
        self.driver = NetDriver(go(VirtioDevice.find(self.host)))
        self.device = self.driver.device
        go(self.driver.start(wanted=wanted if events else wanted & ~mask(Feature.EVENT_IDX), queue_size=SIZE, interrupts="msix"))
        self.features = self.wanted = self.device.features
        self.buffers = self.host.alloc(16384, 4096)
        self.table = self.host.alloc(16 * SIZE, 16)
        self.named = set()                              # (address, bytes, writable) of everything that may be taken for a descriptor
        self.areas = []                                 # every Area there was
        self.queues = [Queue(queue.index, queue.areas, queue.notify_at) for queue in (self.driver.rx, self.driver.tx)]
        self.learn(0)
        self.simulation.expect_errors(True)
        self.simulation.record()

    def breaks(self, rule, condition=True):
        """Count that a rule was broken, if it was."""
        self.broken[rule] += bool(condition)

    def live(self, queue):
        """Tell whether the device works for this queue now."""
        status = self.look()
        return queue.enabled and not queue.resetting and not queue.void \
            and status & (Status.DRIVER_OK | Status.DEVICE_NEEDS_RESET) == Status.DRIVER_OK

    def look(self):
        """Return the status."""
        status = go(self.device.status())
        self.asked |= bool(status & Status.DEVICE_NEEDS_RESET)
        return status

    # What the driver does

    def address(self, kind, number):
        return {"buffer": self.buffers + 2048 * (number % 4), "odd": self.buffers + 2048 * (number % 4) + 1 + number % 63,
                "edge": self.buffers + 4096 - number % 64, "table": self.table, "table + 8": self.table + 8,
                "ring": self.queues[number % 2].areas[number % 3], "nowhere": 0xDEAD_0000_0000 + 4096 * number,
                "top": (1 << 64) - 1 - number % 4096}[ADDRESSES[kind % len(ADDRESSES)]]

    def describe(self, place, kind, number, length, flags, following):
        """Write a descriptor; ``place`` is a slot of the rings of both queues or of the table."""
        where = (*(queue.areas[0] for queue in self.queues), self.table)[place % 3] + 16 * (place // 3 % SIZE)
        if place % 3 < 2:
            self.queues[place % 3].clean = False
        size = LENGTHS[length % len(LENGTHS)]
        bits = (flags & 7) | (flags >> 3 & 1) << 7 | (flags >> 4 & 1) << 15
        self.write(where, self.descriptor(self.address(kind, number), size, bits, following))

    def descriptor(self, address, length, flags, other):
        """Return a descriptor; ``other`` is next or id."""
        return struct.pack("<QIHH", address, length, *((other, flags) if self.packed else (flags, other)))

    def entry(self, queue, position, value):
        """Write an entry of an available ring, or what suppresses notifications."""
        avail = self.queues[queue % 2].areas[1]
        if self.packed:
            self.write(avail, value.to_bytes(2, "little") + (position % 4).to_bytes(2, "little"))
        else:
            self.write(avail + 4 + 2 * (position % (SIZE + 1)), value.to_bytes(2, "little"))

    def publish(self, number, jump):
        """Move the available index, by as much as a good driver may or by more, and ring."""
        queue = self.queues[number % 2]
        live = self.live(queue)
        if not self.packed:
            old, queue.index = queue.index, (queue.index + jump) % (1 << 16)
            if live:
                self.breaks("SPLIT-AVAIL-05", jump % (1 << 16) >> 15)
                self._judge_notification(queue, old, rung=True)
                for position in range(old, old + jump if jump <= SIZE else old):
                    self.judge_chain(queue, int.from_bytes(self.peek(queue.areas[1] + 4 + 2 * (position % SIZE), 2), "little"))
            self.write(queue.areas[1], queue.index.to_bytes(2, "little"), at=2)
        self.notify(queue)

    def notify(self, queue):
        """Notify the device as it is to be done."""
        place = queue.slot | queue.wrap << 15 if self.packed else queue.index
        wide = self.features >> Feature.NOTIFICATION_DATA & 1
        go(self.host.memory_write(queue.notify, (queue.number | place << 16).to_bytes(4, "little")[:4 if wide else 2]))

    def frame(self, length):
        self.simulation.send_frame(bytes(14 + length % 4000))

    def run(self, cycles):
        self.simulation.run(cycles)

    def fault(self, kind, amount):
        fault = FAULTS[kind % len(FAULTS)]
        self.lost = self.lost or fault == "drop"
        self.simulation.set_link(LinkConfig(**{fault: amount / 8}))

    def master(self, on):
        go(self.device.function.command(bus_master=bool(on)))

    def write(self, address, data, at=0):
        """Write memory, if there is any: rings may be anywhere."""
        try:
            go(self.host.write(address + at, data))
        except HostError:
            return
        self._note()

    def peek(self, address, size):
        """Return what the driver sees in memory, None where there is none."""
        try:
            return self.simulation.read_memory(address, size)
        except HostError:
            return None

    # What it breaks

    def _judge_notification(self, queue, old, rung):
        """Tell whether ringing, or not, is what the device asked for; of a split ring with EVENT_IDX."""
        if self.events and (event := self.peek(queue.areas[2] + 4 + 8 * SIZE, 2)) is not None:
            self.breaks("SPLIT-ASUP-06", need_event(int.from_bytes(event, "little"), queue.index, old) != rung)

    def judge_chain(self, queue, head):
        """Count what a chain breaks that the device is given now."""
        walk = Walk(self.peek, self.packed, queue.areas[0], SIZE, head, self.features)
        for rule in walk.breaks:
            self.breaks(rule)
        room = sum(piece.length for piece in walk.pieces if piece.writable)
        if not walk.pieces:
            return
        if queue.number == 0:
            merging = self.features >> Feature.MRG_RXBUF & 1
            self.breaks("NET-RXBUF-03", merging and room < 12)
            self.breaks("NET-RXBUF-04", not merging and room < 12 + 1514)
        elif walk.pieces[0].length >= 12 and not walk.pieces[0].writable and (header := self.peek(walk.pieces[0].address, 12)):
            self.breaks("NET-TX-21", header[10] | header[11])
            self.breaks("NET-TX-22", header[0])
            self.breaks("NET-TX-23", header[1])

    # What the device may touch

    def learn(self, since):
        """Find out which queues are enabled, and with what; the device may touch their rings, from ``since`` on, until :meth:`taken`."""
        for queue in self.queues:
            if not self.select(queue.number):
                continue
            if go(self.device.get("queue_enable")) != 1:
                if queue.void:
                    self.taken(queue)
                continue
            size = go(self.device.get("queue_size"))
            desc, driver, device = (go(self.device.get(f"queue_{name}")) for name in ("desc", "driver", "device"))
            if queue.enabled:
                if not queue.resetting and not (queue.void and desc != queue.given[0].address):
                    continue
                self.taken(queue)
            if self.packed:
                queue.given = [Area(desc, 16 * size, True, since), Area(driver, 4, False, since), Area(device, 4, True, since)]
            else:
                queue.given = [Area(desc, 16 * size, False, since), Area(driver, 6 + 2 * size, False, since), Area(device, 6 + 8 * size, True, since)]
            queue.enabled = True
            self.areas += queue.given

    def taken(self, queue):
        """The reset of a queue is done: its rings are the driver's again."""
        self._note()
        for area in queue.given:
            area.until = self.simulation.cycle
        queue.given, queue.enabled, queue.resetting, queue.void = [], False, False, False

    def _note(self):
        """Note all that the memory names now, read as descriptors at any offset."""
        places = [(self.table, 16 * SIZE)]
        for queue in self.queues:
            places += zip(queue.areas, (16 * SIZE, 4, 4) if self.packed else (16 * SIZE, 6 + 2 * SIZE, 6 + 8 * SIZE))
        for address, size in places:
            self.note(address, size)

    def note(self, address, size):
        """Note what the memory of this place names."""
        memory = self.peek(address, size) or b""
        for at in range(0, len(memory) - 15, 2):
            start, length = struct.unpack_from("<QI", memory, at)
            if length:
                self.named.add((start, min(length, LONGEST), bool(memory[at + (14 if self.packed else 12)] & 2)))

    def judge(self):
        """Check every access since the episode began."""
        self._note()
        seen = {}
        for record in self.simulation.records():
            if record.kind in (Seen.UP_READ, Seen.UP_WRITE) and record.address >> 20 != 0xFEE:
                seen.setdefault((record.kind == Seen.UP_WRITE, record.address, record.bytes), []).append(record.first)
        for (write, address, size), cycles in seen.items():
            if any((writable or not write) and (address - start) % (1 << 64) + size <= length for start, length, writable in self.named):
                continue
            rings = [area for area in self.areas if area.address <= address and address + size <= area.address + area.bytes
                     and (area.writable or not write)]
            for cycle in cycles:
                assert any(area.since <= cycle <= area.until for area in rings), \
                    f"{'write' if write else 'read'} of {size} bytes at {address:#x} in cycle {cycle}, which nothing names"

    def recover(self):
        """The device answers, comes out of a reset, and serves a good driver; return whether it had asked for the reset."""
        self.simulation.set_link(LinkConfig())
        device = self.device
        go(device.function.command())
        self.look()
        self.simulation.run(2 * self.timeout)
        self.judge()
        go(device.set("device_status", 0))
        self.wait_reset()
        self.simulation.expect_errors(False)
        self.simulation.expect_quiet(True)
        self.simulation.run(2 * self.timeout)
        self.simulation.expect_quiet(False)
        for queue in device.queues.values():
            queue.outstanding = {}
            queue.release()
        device.queues = {}
        self.simulation.take_frames()
        if self.lost:
            # The tags of reads that were never answered stay out of use until the link is reset, and there may be no others.
            self.simulation.reset("hot")
            self.restore(device)
        again = go(NetDriver.find(self.host))
        go(again.start(queue_size=64, interrupts="poll"))
        go(Traffic(self.simulation, self.host, again, rng=random.Random(1), count=6, sizes=SHORT, outstanding=6, window=4).run())
        assert self.simulation.violations == [], self.simulation.violations[0]
        return self.asked


PLAY = {
    "describe": (6, Episode.describe), "entry": (3, Episode.entry), "publish": (2, Episode.publish), "ring": (3, Episode.ring),
    "frame": (1, Episode.frame), "run": (1, Episode.run), "fault": (2, Episode.fault), "poke": (2, Episode.poke), "master": (1, Episode.master),
    "send": (5, Episode.send), "queue_reset": (3, Episode.queue_reset), "restart": (3, Episode.restart), "enable": (2, Episode.enable),
    "status": (1, Episode.status), "odd": (4, Episode.odd), "isr": (1, Episode.isr), "window": (4, Episode.window),
    "config": (3, Episode.config), "suspend": (2, Episode.suspend),
}
"""{action: (numbers it takes, what does it)}."""
