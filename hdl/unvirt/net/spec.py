# SPDX-License-Identifier: BSD-2-Clause
"""Numbers of the network device [virtio 5.1]."""

from enum import IntEnum

from amaranth.lib import data

from ..virtio.spec import FeatureRule

__all__ = ["ACK_ERR", "ACK_OK", "CTRL_MQ", "CTRL_MQ_VQ_PAIRS_SET", "CTRL_NOTF_COAL", "CoalCommand", "DEVICE_ID", "CLASS_CODE", "NetFeature",
           "NET_FEATURES", "NET_RULES", "NetConfig", "NetHeader", "NET_HEADER_SIZE", "STATUS_LINK_UP", "net_features"]

DEVICE_ID = 1
CLASS_CODE = 0x020000
"""Ethernet controller."""

STATUS_LINK_UP = 0
"""Bit of the ``status`` field [virtio 5.1.4]."""


class NetFeature(IntEnum):
    """Feature bits of the network device [virtio 5.1.3]."""

    MTU = 3
    MAC = 5
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    MQ = 22
    VQ_NOTF_COAL = 52
    NOTF_COAL = 53


NET_FEATURES = frozenset(NetFeature)
"""What the network device knows; see :func:`net_features`."""

NET_RULES = tuple(FeatureRule(feature, (NetFeature.CTRL_VQ,)) for feature in (NetFeature.MQ, NetFeature.VQ_NOTF_COAL, NetFeature.NOTF_COAL))

ACK_OK, ACK_ERR = 0, 1
"""Answers to a control command [virtio 5.1.9.5]."""

CTRL_MQ, CTRL_MQ_VQ_PAIRS_SET = 4, 0
"""Class and command that choose the number of queue pairs [virtio 5.1.9.5.5]."""

CTRL_NOTF_COAL = 6
"""Class of the commands that coalesce notifications [virtio 5.1.9.5.9]."""


class CoalCommand(IntEnum):
    """Commands of class NOTF_COAL."""

    TX_SET = 0
    RX_SET = 1
    VQ_SET = 2
    VQ_GET = 3


def net_features(config):
    """Return the feature bits that a device of this configuration offers."""
    absent = set()
    if not config.control_queue:
        absent = {NetFeature.CTRL_VQ, NetFeature.MQ, NetFeature.VQ_NOTF_COAL, NetFeature.NOTF_COAL}
    elif config.queue_pairs == 1:
        absent = {NetFeature.MQ}
    return NET_FEATURES - absent


class NetConfig(data.Struct):
    """Device configuration [virtio 5.1.4]; fields that belong to features not offered read 0."""

    mac:                 48          # first octet lowest
    status:              16
    max_virtqueue_pairs: 16
    mtu:                 16


class NetHeader(data.Struct):
    """virtio_net_hdr [virtio 5.1.9.1]."""

    flags:       8
    gso_type:    8
    hdr_len:     16
    gso_size:    16
    csum_start:  16
    csum_offset: 16
    num_buffers: 16


NET_HEADER_SIZE = NetHeader.as_shape().size // 8
