# SPDX-License-Identifier: BSD-2-Clause
"""The seam between the virtio transport (registers) and the queue engine."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Doorbell", "QueueConfig", "QueueConfigPort", "Notification", "EngineControlSignature", "row_width"]


def row_width(rows):
    """Return the width in bits of a queue number for ``rows`` queue rows."""
    return max(1, (rows - 1).bit_length())


class QueueConfig(data.Struct):
    """What the driver programmed for one virtqueue [virtio 4.1.4.3]; latched while ``enabled``."""

    desc:    64
    driver:  64
    device:  64
    size:    16                  # entries, 1..32768
    vector:  16                  # 0xFFFF: none
    enabled: 1
    in_reset: 1                  # not enabled any more; until it comes back from the engine


def QueueConfigPort(rows):
    """Read port of the queue configuration rows, as the reader sees it.

    ``row`` presented in one cycle gives ``config`` in the next, always.
    """
    return wiring.Signature({
        "row": Out(row_width(rows)),
        "config": In(QueueConfig),
    })


class Notification(data.StructLayout):
    """A notification for an enabled queue."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows)})


class Doorbell(data.StructLayout):
    """An available buffer notification for an enabled queue; with ``hinted`` it tells the driver's place in the ring [virtio 2.9]."""

    def __init__(self, rows):
        super().__init__({"row": row_width(rows), "hinted": 1, "hint": 16})


def EngineControlSignature(rows, config_ports):
    """Transport and queue engine, as the transport sees it.

    Members
    -------
    notifications : ``Out(stream)``
        One per doorbell of an enabled queue while DRIVER_OK is set, and one per enabled queue when DRIVER_OK becomes set, also by a resume, or a
        queue is enabled after it. None while ``suspend``. The engine is always ready.
    driver_ok : ``Out(1)``
        Level: DRIVER_OK or SUSPEND set, no reset pending, device not stopped by a violation. While it is low the engine takes nothing new, discards
        what it holds and comes to rest.
    features : ``Out(128)``
        Negotiated feature bits, constant while ``driver_ok``.
    reset : ``Out(1)``
        Level: a reset (status write of 0, FLR, hot reset) waits for the engine. The engine drains, clears its rows, then holds ``reset_done`` high
        until ``reset`` falls.
    reset_done : ``In(1)``
        The engine is at rest: no DMA outstanding, all writes and messages emitted, all rows cleared.
    violation : ``In(1)``
        Pulse: the driver broke a rule in memory or a DMA read failed; the transport sets DEVICE_NEEDS_RESET and notifies.
    suspend : ``Out(1)``
        Level: the device is to be suspended, or is. The engine takes no further buffer, ends what is in progress and tells of it;
        nothing is discarded. When it falls every enabled queue is notified of again.
    suspended : ``In(1)``
        While ``suspend``: the engine is at rest, and stays so.
    interrupts : ``In(stream)``
        Used buffer notifications to send, by row, after suppression was decided.
    rows_reset : ``In(stream)``
        Queues that were ``in_reset`` and are at rest: no DMA outstanding, all writes accepted, all interrupts handed over. When one is taken it is
        not in reset any more. A ``reset`` makes what is under way void.
    config_0, config_1, ... : ports
        ``config_ports`` read ports of the queue configuration rows.
    """
    members = {
        "notifications": Out(stream.Signature(Doorbell(rows))),
        "driver_ok": Out(1),
        "features": Out(128),
        "reset": Out(1),
        "reset_done": In(1),
        "suspend": Out(1),
        "suspended": In(1),
        "violation": In(1),
        "interrupts": In(stream.Signature(Notification(rows))),
        "rows_reset": In(stream.Signature(row_width(rows))),
    }
    # Not an array: a flipped interface cannot be asked for one in this version of Amaranth.
    for index in range(config_ports):
        members[f"config_{index}"] = In(QueueConfigPort(rows))
    return wiring.Signature(members)
