# SPDX-License-Identifier: BSD-2-Clause
"""What a device is loaded with, and what was seen of it."""

from bisect import bisect
from dataclasses import dataclass, field

from ..driver.spec import Feature, mask
from ..records import Seen

__all__ = ["HEADER", "PUBLISHED", "Load", "Run", "flow_frame", "plain_frame"]

HEADER = 12
"""Bytes of a virtio header with VERSION_1."""

PUBLISHED = 128
"""Buffers that the driver gathers before it publishes them, in rings large enough."""

_FEATURES = mask(Feature.VERSION_1, Feature.ACCESS_PLATFORM, Feature.ORDER_PLATFORM, Feature.MRG_RXBUF, Feature.MAC,
                 Feature.STATUS)


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent: ``transmit`` and ``receive`` frames of ``frame`` bytes, the rings kept full."""

    frame: int = 64
    transmit: int = 0
    receive: int = 0
    ring: int = 1024
    packed: bool = False
    queues: int = 1               # pairs
    interrupts: bool = False
    event_idx: bool = False
    notification_data: bool = False
    unaligned: bool = False       # buffers begin anywhere
    burst: int = 0                # packets that the driver gives at once, when all before have come back; 0: rings are kept full
    reach: int = 64               # received frames on their way at most
    period: float = 0.0           # cycles between received frames at least

    @property
    def buffer(self):
        """Return the bytes of a buffer, virtio header included."""
        return HEADER + self.frame

    @property
    def refill(self):
        """Return how many buffers the driver gathers before it publishes them."""
        return max(1, min(PUBLISHED, self.ring // 4))

    @property
    def features(self):
        """Return the feature word that the driver wants."""
        options = {Feature.RING_PACKED: self.packed, Feature.EVENT_IDX: self.event_idx,
                   Feature.NOTIFICATION_DATA: self.notification_data, Feature.CTRL_VQ: self.queues > 1, Feature.MQ: self.queues > 1}
        return _FEATURES | mask(*(feature for feature, wanted in options.items() if wanted))

    def queue_numbers(self):
        """Return the virtqueues in use by the name of their direction; even ones receive."""
        ways = (("rx", self.receive, 0), ("tx", True, 1))
        return {name: [2 * pair + odd for pair in range(self.queues)] for name, wanted, odd in ways if wanted}


def plain_frame(number, size):
    """Return a frame that tells its number, and is of no flow."""
    head = b"\x02unvir\x02bench\x88\xb5" + number.to_bytes(4, "little")
    return (head + bytes((number + i) & 0xFF for i in range(size - len(head))))[:size]


def flow_frame(pair, pairs, number, size):
    """Return frame ``number`` of a flow that the device steers to queue pair ``pair`` of ``pairs``.

    It is IPv4 without ports; the flow is the last byte of the source address.
    """
    flow = -(-256 * pair // pairs)
    head = (b"\x02unvir\x02bench\x08\x00" + bytes((0x45, 0)) + (size - 14).to_bytes(2, "big") + bytes((0, 0, 0, 0, 64, 253, 0, 0))
            + bytes((0, 0, 0, flow)) + bytes(4) + number.to_bytes(4, "little") + pair.to_bytes(2, "little"))
    return (head + bytes((number + i) & 0xFF for i in range(size - len(head))))[:size]


@dataclass
class Run:
    """What was seen of a load: every TLP and frame from the first doorbell to the last used index."""

    load: Load
    width: int
    link: object
    latency: int
    records: list = field(repr=False)
    rings: dict = field(repr=False)     # "tx", "rx" -> list of BulkRing
    begin: int = 0
    end: int = 0
    counters: dict = field(default_factory=dict)
    cut: str = "large"                  # of completions

    def __post_init__(self):
        self._areas = sorted((address, address + size, name, read, written) for name, rings in self.rings.items()
                             for ring in rings for address, size, read, written in ring.areas())

    def area(self, record):
        """Return the rings and the purpose of a request of the device: ("tx", "data") ...; None outside all rings."""
        place = bisect(self._areas, record.address, key=lambda area: area[0]) - 1
        if place < 0 or record.address >= self._areas[place][1]:
            return None
        _, _, name, read, written = self._areas[place]
        return name, read if record.kind == Seen.UP_READ else written
