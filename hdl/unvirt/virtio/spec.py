# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of the VIRTIO specification that hold for every device type on PCI."""

from dataclasses import dataclass
from enum import IntEnum

from amaranth.lib import enum

__all__ = ["Common", "EventMode", "Feature", "FeatureRule", "Status", "NO_VECTOR", "VIRTIO_RULES",
           "VIRTIO_FEATURES", "FEATURE_BITS", "ISR_QUEUE", "ISR_CONFIG"]

NO_VECTOR = 0xFFFF
"""No MSI-X vector is mapped [virtio 4.1.5.1.2]."""

FEATURE_BITS = 96
"""Feature windows 0 to 2 are implemented."""

ISR_QUEUE, ISR_CONFIG = 0, 1
"""Bits of the ISR status [virtio 4.1.4.5]."""


class Common(IntEnum):
    """Byte offsets in the common configuration structure [virtio 4.1.4.3]."""

    DEVICE_FEATURE_SELECT = 0x00
    DEVICE_FEATURE = 0x04
    DRIVER_FEATURE_SELECT = 0x08
    DRIVER_FEATURE = 0x0C
    CONFIG_MSIX_VECTOR = 0x10
    NUM_QUEUES = 0x12
    DEVICE_STATUS = 0x14
    CONFIG_GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_MSIX_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFF = 0x1E
    QUEUE_DESC = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30
    QUEUE_NOTIF_CONFIG_DATA = 0x38
    QUEUE_RESET = 0x3A
    ADMIN_QUEUE_INDEX = 0x3C
    ADMIN_QUEUE_NUM = 0x3E


class Status(IntEnum):
    """Bit numbers of device_status [virtio 2.1]."""

    ACKNOWLEDGE = 0
    DRIVER = 1
    DRIVER_OK = 2
    FEATURES_OK = 3
    SUSPEND = 4
    NEEDS_RESET = 6
    FAILED = 7


class Feature(IntEnum):
    """Device-independent feature bits [virtio 6]."""

    INDIRECT_DESC = 28
    EVENT_IDX = 29
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    SR_IOV = 37
    NOTIFICATION_DATA = 38
    NOTIF_CONFIG_DATA = 39
    RING_RESET = 40
    ADMIN_VQ = 41
    SUSPEND = 43


class EventMode(enum.Enum, shape=2):
    """What an event suppression structure asks for [virtio 2.8.10]."""

    ENABLE = 0
    DISABLE = 1
    DESCRIPTOR = 2               # one for the descriptor at a certain place; only with EVENT_IDX


@dataclass(frozen=True)
class FeatureRule:
    """``feature`` may be accepted only with one of ``needs``."""

    feature: int
    needs: tuple[int, ...]


VIRTIO_FEATURES = frozenset({Feature.INDIRECT_DESC, Feature.EVENT_IDX, Feature.VERSION_1, Feature.ACCESS_PLATFORM,
                             Feature.RING_PACKED, Feature.IN_ORDER, Feature.ORDER_PLATFORM, Feature.NOTIFICATION_DATA,
                             Feature.NOTIF_CONFIG_DATA, Feature.RING_RESET, Feature.SUSPEND})
"""What the transport and the queue engine offer to every device type."""

VIRTIO_RULES = ()
"""Dependencies among the device-independent features offered so far: none."""
