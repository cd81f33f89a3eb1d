# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of VIRTIO 1.4 and PCI that a virtio-net driver uses, stated independently of the hardware description.

Clauses are those of VIRTIO 1.4 (committee specification 01). Everything is little-endian.
"""

import struct
from enum import IntEnum, IntFlag

__all__ = ["VIRTIO_VENDOR", "NET_DEVICE_ID", "ENTROPY_DEVICE_ID", "CfgType", "COMMON", "Status", "Isr", "NO_VECTOR", "Feature", "DEPENDENCIES",
           "mask", "names", "dependencies_met", "DescFlag", "DESCRIPTOR", "USED_ELEMENT", "AVAIL_NO_INTERRUPT", "USED_NO_NOTIFY",
           "EVENT", "EventMode", "PACKED_DESCRIPTOR", "need_event", "NetConfig", "NET_HEADER", "LinkStatus", "header_size",
           "COALESCE", "COALESCE_QUEUE", "CTRL_HEADER", "Ctrl", "CtrlAck"]

# PCI identity [4.1.2]

VIRTIO_VENDOR = 0x1AF4
NET_DEVICE_ID = 0x1041
ENTROPY_DEVICE_ID = 0x1044


class CfgType(IntEnum):
    """What a virtio capability points to [4.1.4]."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI_CFG = 5
    SHARED_MEMORY = 8
    VENDOR = 9


# Common configuration structure [4.1.4.3]: name -> (offset, bytes). Fields of 8 bytes are two registers of 4.

COMMON = {
    "device_feature_select": (0x00, 4),
    "device_feature": (0x04, 4),
    "driver_feature_select": (0x08, 4),
    "driver_feature": (0x0C, 4),
    "config_msix_vector": (0x10, 2),
    "num_queues": (0x12, 2),
    "device_status": (0x14, 1),
    "config_generation": (0x15, 1),
    "queue_select": (0x16, 2),
    "queue_size": (0x18, 2),
    "queue_msix_vector": (0x1A, 2),
    "queue_enable": (0x1C, 2),
    "queue_notify_off": (0x1E, 2),
    "queue_desc": (0x20, 8),
    "queue_driver": (0x28, 8),
    "queue_device": (0x30, 8),
    "queue_notif_config_data": (0x38, 2),
    "queue_reset": (0x3A, 2),
    "admin_queue_index": (0x3C, 2),
    "admin_queue_num": (0x3E, 2),
}

NO_VECTOR = 0xFFFF


class Status(IntFlag):
    """Device status bits [2.1]."""

    ACKNOWLEDGE = 0x01
    DRIVER = 0x02
    DRIVER_OK = 0x04
    FEATURES_OK = 0x08
    SUSPEND = 0x10
    DEVICE_NEEDS_RESET = 0x40
    FAILED = 0x80


class Isr(IntFlag):
    """ISR status bits [4.1.4.5]."""

    QUEUE = 1
    CONFIG = 2


class Feature(IntEnum):
    """Feature bit numbers [6, 5.1.3]."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
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
    DEVICE_STATS = 50
    HASH_TUNNEL = 51
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53
    GUEST_USO4 = 54
    GUEST_USO6 = 55
    HOST_USO = 56
    HASH_REPORT = 57
    GUEST_HDRLEN = 59
    RSS = 60
    RSC_EXT = 61
    STANDBY = 62
    SPEED_DUPLEX = 63
    RSS_CONTEXT = 64
    GUEST_UDP_TUNNEL_GSO = 65
    GUEST_UDP_TUNNEL_GSO_CSUM = 66
    HOST_UDP_TUNNEL_GSO = 67
    HOST_UDP_TUNNEL_GSO_CSUM = 68
    OUT_NET_HEADER = 69
    IPSEC = 70


# A feature needs at least one member of every group listed for it [5.1.3.1].
_F = Feature
DEPENDENCIES = {
    _F.GUEST_TSO4: [{_F.GUEST_CSUM}],
    _F.GUEST_TSO6: [{_F.GUEST_CSUM}],
    _F.GUEST_ECN: [{_F.GUEST_TSO4, _F.GUEST_TSO6}],
    _F.GUEST_UFO: [{_F.GUEST_CSUM}],
    _F.GUEST_USO4: [{_F.GUEST_CSUM}],
    _F.GUEST_USO6: [{_F.GUEST_CSUM}],
    _F.GUEST_UDP_TUNNEL_GSO: [{_F.GUEST_TSO4}, {_F.GUEST_TSO6}, {_F.GUEST_USO4}, {_F.GUEST_USO6}],
    _F.GUEST_UDP_TUNNEL_GSO_CSUM: [{_F.GUEST_UDP_TUNNEL_GSO}],
    _F.HOST_TSO4: [{_F.CSUM}],
    _F.HOST_TSO6: [{_F.CSUM}],
    _F.HOST_ECN: [{_F.HOST_TSO4, _F.HOST_TSO6}],
    _F.HOST_UFO: [{_F.CSUM}],
    _F.HOST_USO: [{_F.CSUM}],
    _F.HOST_UDP_TUNNEL_GSO: [{_F.HOST_TSO4}, {_F.HOST_TSO6}, {_F.HOST_USO}],
    _F.HOST_UDP_TUNNEL_GSO_CSUM: [{_F.HOST_UDP_TUNNEL_GSO}],
    _F.CTRL_RX: [{_F.CTRL_VQ}],
    _F.CTRL_VLAN: [{_F.CTRL_VQ}],
    _F.CTRL_RX_EXTRA: [{_F.CTRL_VQ}],
    _F.GUEST_ANNOUNCE: [{_F.CTRL_VQ}],
    _F.MQ: [{_F.CTRL_VQ}],
    _F.CTRL_MAC_ADDR: [{_F.CTRL_VQ}],
    _F.NOTF_COAL: [{_F.CTRL_VQ}],
    _F.VQ_NOTF_COAL: [{_F.CTRL_VQ}],
    _F.RSS: [{_F.CTRL_VQ}],
    _F.HASH_REPORT: [{_F.CTRL_VQ}],
    _F.HASH_TUNNEL: [{_F.CTRL_VQ}, {_F.RSS, _F.HASH_REPORT}],
    _F.RSS_CONTEXT: [{_F.CTRL_VQ}, {_F.RSS}],
    _F.RSC_EXT: [{_F.HOST_TSO4, _F.HOST_TSO6}],
    _F.IPSEC: [{_F.OUT_NET_HEADER}],
}


def mask(*features):
    """Return the feature word with these bits set."""
    return sum(1 << bit for bit in set(features))


def names(word):
    """Return the names of the bits of a feature word, for messages."""
    known = {int(feature): feature.name for feature in Feature}
    return [known.get(bit, f"bit {bit}") for bit in range(word.bit_length()) if word >> bit & 1]


def dependencies_met(word):
    """Return whether every feature in ``word`` has what it depends on [5.1.3.1]."""
    return all(word & mask(*group)
               for feature, groups in DEPENDENCIES.items() if word >> feature & 1
               for group in groups)


# Split virtqueue [2.7]


class DescFlag(IntFlag):
    """Flags of a descriptor [2.7.5, 2.8.13]."""

    NEXT = 1
    WRITE = 2  # the device writes this element
    INDIRECT = 4
    AVAIL = 1 << 7  # packed ring only, like USED
    USED = 1 << 15


class EventMode(IntEnum):
    """Mode of an event suppression structure [2.8.10]."""

    ENABLE = 0
    DISABLE = 1
    DESCRIPTOR = 2  # only with EVENT_IDX


DESCRIPTOR = struct.Struct("<QIHH")  # addr, len, flags, next
PACKED_DESCRIPTOR = struct.Struct("<QIHH")  # addr, len, id, flags
EVENT = struct.Struct("<HH")  # {slot, wrap counter in bit 15}, mode
USED_ELEMENT = struct.Struct("<II")  # id, len
AVAIL_NO_INTERRUPT = 1
USED_NO_NOTIFY = 1


def need_event(event, new, old):
    """Return whether moving an index from ``old`` to ``new`` passes ``event`` [2.7.10]; all modulo 65536."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


# Network device [5.1]


class NetConfig(IntEnum):
    """Offsets in the network device configuration [5.1.4]."""

    MAC = 0
    STATUS = 6
    MAX_VIRTQUEUE_PAIRS = 8
    MTU = 10
    SPEED = 12
    DUPLEX = 16
    RSS_MAX_KEY_SIZE = 17
    RSS_MAX_TABLE = 18
    SUPPORTED_HASH_TYPES = 20
    SUPPORTED_TUNNEL_TYPES = 24


class LinkStatus(IntFlag):
    """Bits of the network status field [5.1.4]."""

    LINK_UP = 1
    ANNOUNCE = 2


NET_HEADER = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers


def header_size(features):
    """Return the size of the packet header for a set of negotiated features [5.1.6]."""
    if features & mask(Feature.OUT_NET_HEADER, Feature.IPSEC):
        return 32
    if features & mask(Feature.HOST_UDP_TUNNEL_GSO, Feature.GUEST_UDP_TUNNEL_GSO):
        return 24
    if features & mask(Feature.HASH_REPORT):
        return 20
    return 12


# Control queue [5.1.9.5]

CTRL_HEADER = struct.Struct("BB")  # class, command
COALESCE = struct.Struct("<II")    # max_packets, max_usecs
COALESCE_QUEUE = struct.Struct("<HH")  # queue, reserved; COALESCE follows


class Ctrl:
    """Commands: (class, command)."""

    RX_PROMISC = (0, 0)
    MAC_ADDR_SET = (1, 1)
    MQ_VQ_PAIRS_SET = (4, 0)
    NOTF_COAL_TX_SET = (6, 0)
    NOTF_COAL_RX_SET = (6, 1)
    NOTF_COAL_VQ_SET = (6, 2)
    NOTF_COAL_VQ_GET = (6, 3)


class CtrlAck(IntEnum):
    """Answers."""

    OK = 0
    ERR = 1
