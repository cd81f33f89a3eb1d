# SPDX-License-Identifier: BSD-2-Clause
"""The least that the link and the ports need for the same traffic: the ruler of every throughput figure.

At the batches that the device was seen to make, each packet costs at least these TLPs on the simulated link:

* of a split ring: ring entries and descriptors in as few reads as MRRS allows, once per batch of entries; the available index once per
  batch that the driver published, and once more after each re-arming of notifications, but not more often than was seen;
* of a packed ring: descriptors in as many reads as were seen, those after re-arming among them; and for each batch that the driver published one
  that is not available, by which a device knows its end;
* the packet's data in as few reads (MRRS) or writes (MPS) as PCIe allows, completions as the host cuts them; or cut at multiples of these, if that
  costs less;
* used elements in one write per burst (MPS) and the used index; used descriptors from the second half of a burst's first to its end;
* what is moved in batches, in batches of the whole sizes that cost least, of all that have the mean that was seen;
* reads of the suppression state, re-arming, doorbells and messages as they were seen.

The limit is the largest of: bytes up and down over the rate left by Acks and credit updates; beats up and down on the attachment
contract; beats of the frame at the MAC.
"""

from collections import Counter
from dataclasses import dataclass

from ..records import Seen
from .figures import traffic, wire_left
from .link import beats, wire_bytes
from .load import HEADER

__all__ = ["Cost", "Limit", "limit"]

MPS, MRRS, PAGE, RCB, ENTRY, DESCRIPTOR, ELEMENT, EVENT = 256, 512, 4096, 64, 2, 16, 8, 4


@dataclass(frozen=True)
class Limit:
    """Per packet, or per pair of packets if both directions are loaded."""

    cycles: float
    bytes: float               # up and down together
    batch: float               # packets from used index to used index, of the direction with fewer


def _pieces(address, size, most, boundary=PAGE):
    """Cut an access at ``most`` bytes and at multiples of ``boundary``; return (address, size) of each piece."""
    out = []
    while size:
        part = min(size, most, boundary - address % boundary)
        out.append((address, part))
        address, size = address + part, size - part
    return out


def _completions(address, size, boundary):
    """Cut a read as the host does: where an address is a multiple of ``boundary``."""
    out = []
    while size:
        part = min(size, boundary - address % boundary)
        out.append(part)
        address, size = address + part, size - part
    return out


class Cost:
    """Bytes and beats of both directions per packet."""

    def __init__(self, width, boundary):
        self.width = width
        self.boundary = boundary
        self.bytes, self.beats = Counter(), Counter()

    def add(self, kind, size, rate=1.0, address=0):
        way = "up" if kind <= Seen.UP_MESSAGE else "down"
        self.bytes[way] += rate * wire_bytes(kind, address, size)
        self.beats[way] += rate * beats(kind, address, size, self.width)

    def read(self, size, rate=1.0, address=0):
        """Add a read, in the cuts in which it costs least."""
        def request(cut, place, part):
            cut.add(Seen.UP_READ, part)
            padding = place & 3            # to the DW in which the first byte lies
            for answer in _completions(place, part, self.boundary):
                cut.add(Seen.DOWN_COMPLETION, padding + answer)
                padding = 0
        self._least(size, rate, address, MRRS, request)

    def write(self, size, rate=1.0, address=0):
        """Add a write, in the cuts in which it costs least."""
        self._least(size, rate, address, MPS, lambda cut, place, part: cut.add(Seen.UP_WRITE, part, address=place))

    def _least(self, size, rate, address, most, tlp):
        """Add an access. Each figure for itself is that of the cut in which it is least: as few TLPs as ``most`` allows, or TLPs that end at its
        multiples, which need fewer completions and fill their beats better."""
        cuts = []
        for boundary in (PAGE, most):
            cuts.append(cut := Cost(self.width, self.boundary))
            for place, part in _pieces(address, size, most, boundary):
                tlp(cut, place, part)
        for name in ("bytes", "beats"):
            for way in ("up", "down"):
                getattr(self, name)[way] += rate * min(getattr(cut, name)[way] for cut in cuts)

    def batches(self, move, mean, size, rate=1.0):
        """Add what a packet costs, ``rate`` times, that is one of ``mean`` in a ``read`` or ``write``; ``size`` gives the bytes for a number of them.

        Each figure for itself is that of the mix of two batch sizes, with this mean, in which it is least: sizes that fill the last beat are
        cheaper than their neighbours.
        """
        mean = max(1.0, mean)
        single = {}
        for number in range(1, int(mean) + 2 + self.width // 16):
            single[number] = Cost(self.width, self.boundary)
            getattr(single[number], move)(size(number))
        mixes = [(low, high, (mean - low) / (high - low)) for low in single for high in single if low <= mean < high]
        for name in ("bytes", "beats"):
            for way in ("up", "down"):
                figure = {number: getattr(cost, name)[way] for number, cost in single.items()}
                getattr(self, name)[way] += rate * min(figure[low] * (1 - part) + figure[high] * part for low, high, part in mixes) / mean


def _split_costs(cost, refill, fetch, used, rearms, looks):
    """Add what a packet of a split ring costs beside its data.

    A device that finds several batches at one look at the index needs fewer ``looks``.
    """
    cost.read(2, min(looks, 1 / refill + rearms / 2))
    cost.batches("read", fetch, lambda number: number * ENTRY)
    cost.batches("read", fetch, lambda number: number * DESCRIPTOR)
    cost.batches("write", used, lambda number: number * ELEMENT)
    cost.write(2, 1 / used)
    cost.write(2, rearms)


def _packed_costs(cost, refill, reads, used, rearms):
    """Add what a packet of a packed ring costs beside its data.

    The further look that must follow a re-arming may be the read that fetches, so that ``reads`` of the ring share the descriptors; those beyond
    one a packet see one that is not available.
    """
    fetch = max(1.0, 1 / max(reads, 1 / refill))
    ends = max(0.0, reads - 1)
    more = 1 + max(0.0, 1 / refill - ends)     # descriptors a packet in the reads that fetch
    cost.batches("read", fetch * more, lambda number: number * DESCRIPTOR, more)
    cost.read(DESCRIPTOR, ends)
    cost.batches("write", used, lambda number: number * DESCRIPTOR - DESCRIPTOR // 2)
    cost.write(EVENT, rearms)


def limit(run):
    """Return the limit of a run at the batches seen in it."""
    cost = Cost(run.width, {"large": MPS, "rcb": RCB}[run.cut])
    names = [name for name, wanted in (("tx", run.load.transmit), ("rx", run.load.receive)) if wanted]
    batches = []
    for name in names:
        ring, seen = run.rings[name][0], traffic(run, name)
        used = seen.every(name, ring.published_by)
        rearms = seen.requests[name, "rearm"]
        batches.append(used)
        if ring.packed:
            _packed_costs(cost, run.load.burst or run.load.refill, seen.requests[name, "descriptors"], used, rearms)
        else:
            _split_costs(cost, run.load.burst or run.load.refill, seen.every(name, "entries"), used, rearms, seen.requests[name, "index"])
        cost.read(EVENT if ring.packed else 2, seen.requests[name, "flags"])
        slots = min(ring.size, 64)
        for slot in range(slots):
            move = cost.write if ring.writable else cost.read
            move(HEADER + run.load.frame, 1 / slots, ring.place(slot))
    seen = traffic(run, names[0])
    cost.add(Seen.DOWN_WRITE, 2, seen.doorbells)
    cost.add(Seen.UP_WRITE, 4, seen.requests["", "message"])
    mac = -(-8 * run.load.frame // run.width)
    left = wire_left(run)
    wire = [cost.bytes[way] / left[way] for way in ("up", "down")]
    cycles = max(*wire, cost.beats["up"], cost.beats["down"], mac)
    return Limit(cycles, cost.bytes["up"] + cost.bytes["down"], min(batches))
