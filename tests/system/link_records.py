# SPDX-License-Identifier: BSD-2-Clause
"""What was recorded of the link, by where it went in memory."""

from unvirt_sim.driver.spec import PACKED_DESCRIPTOR
from unvirt_sim.harness_host import run_driver as go
from unvirt_sim.records import Seen

__all__ = ["flags_written", "hits", "identity"]


def hits(records, kind, address, size):
    """Return [(index, first byte, bytes)] of the records of a kind that touch a range, counted from its beginning."""
    return [(index, record.address - address, record.bytes) for index, record in enumerate(records)
            if record.kind == kind and record.address < address + size and address < record.address + record.bytes]


def flags_written(records, queue):
    """Return [(index of the record, slot)] of the used descriptors of a packed ring, in the order in which they were written."""
    return [(index, slot) for index, first, size in hits(records, Seen.UP_WRITE, queue.desc, 16 * queue.size)
            for slot in range(queue.size) if first <= 16 * slot + 14 and 16 * slot + 16 <= first + size]


def identity(queue, slot):
    """Return the buffer id that lies in a slot of a packed ring."""
    return PACKED_DESCRIPTOR.unpack(go(queue.host.read(queue.desc + 16 * slot, 16)))[2]
