# SPDX-License-Identifier: BSD-2-Clause
"""The rules for drivers of the catalogue: how an episode breaks each, or why none can; and what rules a chain breaks."""

import struct
from dataclasses import dataclass

from unvirt_sim.driver.spec import DescFlag, Feature

__all__ = ["BREAKABLE", "MOST_PIECES", "UNBREAKABLE", "Walk", "breakable", "report"]

MOST_PIECES = 32
"""Elements of a chain that the device of the episodes takes at most."""

_ALWAYS = {
    "CORE-STATUS-07": "restart: FAILED is set, and the device initialised again without a reset",
    "CORE-STATUS-08": "send: DEVICE_NEEDS_RESET was read, and a request is made all the same",
    "CORE-INIT-01": "restart: two steps swapped, or no reset before them",
    "CORE-INIT-02": "restart: device configuration is written between DRIVER and FEATURES_OK",
    "CORE-INIT-03": "restart: doorbells of enabled queues before DRIVER_OK",
    "CORE-FEAT-09": "restart: a feature that is not offered is accepted",
    "CORE-RESET-04": "restart: the reset is taken for done, and new rings given, without a status of 0 having been read",
    "CORE-SUSP-14": "suspend: the driver goes on without having waited for the end of the suspension",
    "CORE-CFG-05": "odd: 64 bits of device configuration in one read, the generation not looked at",
    "CORE-VQ-04": "send: a descriptor is changed after it was made available, and not used yet",
    "CORE-VQRST-05": "queue_reset: rings are written over while queue_reset still reads 1",
    "CORE-VQRST-06": "queue_reset: the queue is enabled again with nothing configured",
    "PCI-ACC-03": "odd: an access of the common configuration that is not as wide as the field, or not aligned",
    "PCI-COMMON-25": "poke, enable: a field that is only for reading is written, or 0 to queue_enable",
    "PCI-COMMON-26": "poke: size, address or vector of a queue that is enabled",
    "PCI-COMMON-27": "restart: initialisation without having waited for a status of 0",
    "PCI-COMMON-29": "poke: a queue size of 0, beyond the largest, or with a split ring no power of two",
    "PCI-NOTIFY-13": "ring: another width or value than negotiated, of a queue that is not there or not enabled",
    "PCI-ISR-08": "isr: read with 2 or 4 bytes",
    "PCI-CFGACC-06": "window: misaligned, of another length or BAR, or outside of the virtio structures",
    "PCI-MSIX-11": "poke: a vector beyond the table",
    "PCI-VQCFG-01": "restart, queue_reset: a queue is enabled with rings that are not zeroed",
    "NET-CFG-23": "restart: not even MAC is accepted, and FEATURES_OK stands",
    "NET-TX-21": "send, publish: a packet whose num_buffers is not 0",
    "NET-TX-22": "send, publish: a packet with flags, and CSUM is not negotiated",
    "NET-TX-23": "send, publish: a packet with a GSO type, and none is negotiated",
    "NET-RXBUF-03": "send, publish: with MRG_RXBUF, a receive buffer smaller than the header",
    "NET-RXBUF-04": "send, publish: without MRG_RXBUF, a receive buffer of less than 1526 bytes",
}
_SPLIT = {
    "SPLIT-FRAME-03": "send, publish: a readable element behind a writable one",
    "SPLIT-DESC-05": "send, publish: a chain that loops or has more than 2^32 bytes",
    "SPLIT-DESC-06": "send, publish: with IN_ORDER, next is not the following slot",
    "SPLIT-IND-05": "send, publish: INDIRECT in a table, with NEXT or not negotiated, or more elements than the queue has",
    "SPLIT-IND-06": "send, publish: with IN_ORDER, next in a table is not the following entry",
    "SPLIT-AVAIL-05": "publish: idx goes back",
    "SPLIT-AVAIL-06": "send: idx is written before entry and descriptors",
    "SPLIT-ASUP-07": "restart, queue_reset: used flags that are not 0 in a ring that is handed over",
}
_EVENTS = {"SPLIT-ASUP-06": "send, publish: a notification that avail_event does not ask for, or none although it does"}
_PACKED = {
    "PACK-IND-06": "send: INDIRECT with NEXT, or flags other than WRITE in a table",
    "PACK-DRV-01": "send: the first descriptor of a list is made available before the others are written",
    "PACK-DRV-02": "send: a list that does not end within the queue, or a table longer than the device takes",
    "PACK-DRV-03": "send: a readable element behind a writable one",
    "PACK-DRV-05": "send: the device event structure is read first, and the flags exposed after",
}
BREAKABLE = _ALWAYS | _SPLIT | _EVENTS | _PACKED
"""{id: action, and when it breaks the rule}"""

_PERMISSION = "a permission: there is nothing to break"
_INSIDE = "what the driver thinks or does not do: no device sees it"
_NOT_OFFERED = "a feature that this device does not offer"
UNBREAKABLE = {
    "CORE-CFG-04": _INSIDE, "CORE-NOTIF-05": _PERMISSION, "CORE-RSVD-16": _NOT_OFFERED, "CORE-RSVD-17": _PERMISSION,
    "SPLIT-USUP-07": _INSIDE, "SPLIT-USED-07": _INSIDE, "PACK-DRV-04": _PERMISSION,
    "PCI-CAP-09": "no capability of this device is reserved, and of each type there is one", "PCI-COMMON-28": _NOT_OFFERED,
    "PCI-MSIX-12": _PERMISSION, "ADM-CMD-28": _NOT_OFFERED, "ADM-CMD-29": _NOT_OFFERED, "ADM-VQ-12": _NOT_OFFERED, "ADM-VQ-13": _NOT_OFFERED,
    "ADM-CAP-12": _NOT_OFFERED, "ADM-PARTS-42": _NOT_OFFERED, "NET-CFG-22": _INSIDE, "NET-RXBUF-05": _PERMISSION,
    "NET-CTRL-MAC-07": _NOT_OFFERED, "NET-MQ-10": "the device of the episodes has no control queue; test_device_multiqueue.py breaks it",
    "NET-RSS-07": _NOT_OFFERED, "NET-RSSCTX-04": _NOT_OFFERED, "NET-CTRL-OFF-04": _NOT_OFFERED, "NET-FF-30": _NOT_OFFERED,
}
"""{id: why no episode breaks the rule}"""


def breakable(packed, events):
    """Return the ids of the rules that can be broken with this kind of ring."""
    return _ALWAYS | (_PACKED if packed else _SPLIT | (_EVENTS if events else {}))


def report(counts):
    """Return how often each rule was broken, a line each, and why the others were not."""
    lines = [f"{name:15} broken {counts[name]:5} times" for name in BREAKABLE if counts[name]]
    return "\n".join(lines + [f"{name:15} not broken: {reason}" for name, reason in UNBREAKABLE.items()])


@dataclass(frozen=True)
class _Piece:
    address: int
    length: int
    writable: bool


class Walk:
    """A chain as it lies in memory: its ``pieces``, and the rules it ``breaks``.

    Parameters
    ----------
    read : callable
        Gives bytes at an address, None where there is no memory.
    packed : bool
    desc, size : int
        Descriptors of the queue.
    head : int
        First slot.
    features : int
        What was negotiated.
    """

    def __init__(self, read, packed, desc, size, head, features):
        self._read, self._packed, self._features = read, packed, features
        self.pieces, self.breaks = [], set()
        (self._packed_list if packed else self._split_chain)(desc, size, head)
        kinds = [piece.writable for piece in self.pieces]
        if kinds != sorted(kinds):
            self.breaks.add("PACK-DRV-03" if packed else "SPLIT-FRAME-03")
        if not packed and sum(piece.length for piece in self.pieces) > 1 << 32:
            self.breaks.add("SPLIT-DESC-05")
        if not packed and len(self.pieces) > size:
            self.breaks.add("SPLIT-IND-05")

    def _has(self, feature):
        return self._features >> feature & 1

    def _descriptor(self, address):
        data = self._read(address, 16)
        if data is None:
            return None
        start, length, first, second = struct.unpack("<QIHH", data)
        return (start, length, second, first) if self._packed else (start, length, first, second)

    def _take(self, start, length, flags):
        self.pieces.append(_Piece(start, length, bool(flags & DescFlag.WRITE)))

    def _split_chain(self, desc, size, head):
        slot, seen = head, set()
        while slot < size and (found := self._descriptor(desc + 16 * slot)):
            seen.add(slot)
            start, length, flags, following = found
            if flags & DescFlag.INDIRECT:
                if flags & DescFlag.NEXT or not self._has(Feature.INDIRECT_DESC):
                    self.breaks.add("SPLIT-IND-05")
                self._split_table(start, length // 16)
            else:
                self._take(start, length, flags)
            if not flags & DescFlag.NEXT:
                return
            if self._has(Feature.IN_ORDER) and following != (slot + 1) % size:
                self.breaks.add("SPLIT-DESC-06")
            if following in seen:
                self.breaks.add("SPLIT-DESC-05")
                return
            slot = following

    def _split_table(self, table, entries):
        place, seen = 0, set()
        while place < min(entries, 64) and (found := self._descriptor(table + 16 * place)):
            seen.add(place)
            start, length, flags, following = found
            if flags & DescFlag.INDIRECT:
                self.breaks.add("SPLIT-IND-05")
                return
            self._take(start, length, flags)
            if not flags & DescFlag.NEXT:
                return
            if self._has(Feature.IN_ORDER) and following != place + 1:
                self.breaks.add("SPLIT-IND-06")
            if following in seen:
                self.breaks.add("SPLIT-DESC-05")
                return
            place = following

    def _packed_list(self, desc, size, head):
        for number in range(size):
            found = self._descriptor(desc + 16 * ((head + number) % size))
            if found is None:
                return
            start, length, flags, _ = found
            if flags & DescFlag.INDIRECT:
                if flags & DescFlag.NEXT:
                    self.breaks.add("PACK-IND-06")
                self._packed_table(start, length // 16)
            else:
                self._take(start, length, flags)
            if not flags & DescFlag.NEXT:
                return
        self.breaks.add("PACK-DRV-02")

    def _packed_table(self, table, entries):
        if entries > MOST_PIECES:
            self.breaks.add("PACK-DRV-02")
        for place in range(min(entries, 64)):
            found = self._descriptor(table + 16 * place)
            if found is None:
                return
            start, length, flags, _ = found
            if flags & ~DescFlag.WRITE:
                self.breaks.add("PACK-IND-06")
            self._take(start, length, flags)
