# SPDX-License-Identifier: BSD-2-Clause
"""The device: a virtio-net function on a raw PCIe attachment.

           rx  tx                                              mac_tx    mac_rx
            |   ^                                                ^         |
      +-----v---+------+                                         |         |
      |  attachment    |<---- posted, reads, completions ---+    |         |
      +-+------+-----+-+                                    |    |         |
        |      |     | completions                          |    |         |
        |      |     +---------> dma_read <--- pieces ---+  |    |         |
        |      | requests          | data                 |  |    |         |
        |      v                   v                      |  |    |         |
        |   completer ---> transport <--- engine ---------+  |    |         |
        |                     |    control  | ^ | packets    |    |         |
        +-- config window ----+             | | +---------> transmit        |
                                            | |                             |
                            dma_write <-----+ +---------- receive <---------+

Nothing but wiring here: what every device type has in :class:`VirtioFunction`, the right hand side of the drawing in :class:`VirtioNetDevice`;
another right hand side is :mod:`unvirt.entropy_device`. Sizes come from :class:`~unvirt.config.DeviceConfig`.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .net.control import ControlQueue
from .net.receive import Receive
from .net.spec import CLASS_CODE, DEVICE_ID, NET_HEADER_SIZE, NET_RULES, STATUS_LINK_UP, NetConfig, NetFeature, net_features
from .net.steering import Steering
from .net.transmit import MacBeat, Transmit, packet_start
from .pcie.attach.raw import RawAttachment
from .pcie.capabilities import build_image, virtio_capabilities
from .pcie.completer import Completer
from .pcie.dma_read import DmaRead
from .pcie.dma_write import DmaWrite
from .pcie.wire import CreditLimits, RawBeat
from .virtio.contract import row_width
from .virtio.queue.engine import CONFIG_PORTS, USED_WRITES, QueueEngine
from .virtio.spec import FEATURE_BITS
from .virtio.transport import VirtioTransport

__all__ = ["VIRTIO_VENDOR_ID", "VirtioFunction", "VirtioNetDevice"]

VIRTIO_VENDOR_ID = 0x1AF4


class VirtioFunction(wiring.Component):
    """What every device type has: a PCIe function over raw TLP streams, its registers and its DMA. The rest is a subclass's.

    A subclass gives its ports to ``__init__`` and in ``elaborate`` calls, in this order, :meth:`_elaborate_registers`, and
    :meth:`_elaborate_engine` with a queue engine that knows the roles of its queues.

    Members
    -------
    rx, tx : ``In``/``Out(stream.Signature(RawBeat))``
        TLPs from and to the link layer; ``rx.ready`` never depends on ``tx``.
    credits, nonposted_freed, link_up, hot_reset :
        See :class:`~unvirt.pcie.attach.raw.RawAttachment`.
    feature_mask : ``In(FEATURE_BITS)``
        Feature bits not to offer.
    stat_unsupported : ``Out(1)``
        Pulse for each request that was answered as unsupported.
    """

    def __init__(self, config, ports):
        self._config = config
        width = config.data_width
        super().__init__({
            "rx": In(stream.Signature(RawBeat(width))),
            "tx": Out(stream.Signature(RawBeat(width))),
            "credits": In(CreditLimits),
            "nonposted_freed": Out(1),
            "link_up": In(1),
            "hot_reset": In(1),
            "feature_mask": In(FEATURE_BITS),
            "stat_unsupported": Out(1),
            **ports,
        })

    @property
    def config(self):
        return self._config

    def _elaborate_registers(self, m, *, device_id, class_code, features=(), rules=(), config_size=0):
        """Make attachment, completer and transport; return the transport.

        ``config_size`` is in bytes; without any the function has no capability for a device configuration [virtio 4.1.4.6].
        """
        config = self._config
        capabilities = virtio_capabilities(notify_length=4 * config.rows, device_length=config_size)
        image = build_image(config, vendor_id=VIRTIO_VENDOR_ID, device_id=0x1040 + device_id, class_code=class_code,
                            virtio=[entry for entry in capabilities if config_size or entry.name != "virtio_device"])
        m.submodules.attachment = attachment = RawAttachment(config, image)
        m.submodules.completer = completer = Completer(data_width=config.data_width,
                                                       depth=config.nonposted_depth)
        m.submodules.transport = transport = VirtioTransport(
            config, config_ports=CONFIG_PORTS, features=features, rules=rules, config_size=config_size,
            pci_cfg=image.offsets["virtio_pci_cfg"])
        m.d.comb += self.stat_unsupported.eq(attachment.stat_unsupported | completer.stat_unsupported)
        return transport

    def _elaborate_engine(self, m, transport, engine):
        """Put the queue engine in its place, between transport and DMA engines."""
        config = self._config
        m.submodules.engine = engine
        m.submodules.dma_read = dma_read = DmaRead(
            config, meta_handle_width=len(engine.meta.done_handle),
            meta_buffer_width=len(engine.meta.requests.payload.buffer),
            data_handle_width=len(engine.data.done_handle),
            data_buffer_width=len(engine.data.requests.payload.buffer))
        m.submodules.dma_write = dma_write = DmaWrite(config, len(engine.writes) + 1, patient=USED_WRITES)
        attachment, completer = m.submodules.attachment, m.submodules.completer
        self._connect_pcie(m, attachment, completer, transport, dma_read, dma_write)
        self._connect_engine(m, attachment.attachment.control, transport, engine, dma_read,
                             dma_write)

    def _connect_pcie(self, m, raw, completer, transport, dma_read, dma_write):
        connect(m, flipped(self.rx), raw.rx)
        connect(m, raw.tx, flipped(self.tx))
        m.d.comb += [
            raw.credits.eq(self.credits), self.nonposted_freed.eq(raw.nonposted_freed),
            raw.link_up.eq(self.link_up), raw.hot_reset.eq(self.hot_reset),
        ]
        attachment = raw.attachment
        control = attachment.control
        connect(m, attachment.rx_requests, completer.requests)
        connect(m, attachment.rx_completions, dma_read.rx_completions)
        connect(m, dma_write.tx_posted, attachment.tx_posted)
        connect(m, dma_read.tx_nonposted, attachment.tx_nonposted)
        connect(m, completer.completions, attachment.tx_completions)
        connect(m, attachment.config, transport.config)
        connect(m, completer.bus, transport.bus)
        for block in (completer, dma_read):
            m.d.comb += [
                block.writes_accepted.eq(dma_write.writes_accepted),
                block.writes_numbered.eq(dma_write.writes_numbered),
                block.posted_number.eq(dma_write.posted_number),
            ]
        m.d.comb += [
            completer.max_payload_size.eq(control.max_payload_size),
            dma_read.posted_done.eq(attachment.posted_done),
            dma_read.bus_master_enable.eq(control.bus_master_enable),
            dma_read.extended_tags.eq(control.extended_tags),
            dma_read.link_reset.eq(control.hot_reset),
            dma_write.max_payload_size.eq(control.max_payload_size),
            dma_write.bus_master_enable.eq(control.bus_master_enable),
            transport.msix_enable.eq(control.msix_enable),
            transport.msix_function_mask.eq(control.msix_function_mask),
            transport.flr.eq(control.flr),
            transport.hot_reset.eq(control.hot_reset),
            transport.feature_mask.eq(self.feature_mask),
            control.flr_done.eq(transport.flr_done),
            control.intx.eq(transport.intx),
            control.transactions_pending.eq(~dma_read.idle),
        ]

    def _connect_engine(self, m, control, transport, engine, dma_read, dma_write):
        connect(m, transport.engine, engine.control)
        connect(m, engine.meta, dma_read.meta)
        connect(m, engine.data, dma_read.data)
        for write, command in zip(engine.writes, dma_write.commands):
            connect(m, write, command)
        connect(m, transport.messages, dma_write.commands[len(engine.writes)])
        m.d.comb += [
            engine.msix_enable.eq(control.msix_enable),
            engine.max_read_request_size.eq(control.max_read_request_size),
            engine.extended_tags.eq(control.extended_tags),
            engine.dma_idle.eq(dma_read.idle & dma_write.idle),
            dma_write.urgent.eq(engine.writes_urgent),
        ]


class VirtioNetDevice(VirtioFunction):
    """virtio-net over raw TLP streams.

    Members
    -------
    rx, tx, credits, nonposted_freed, link_up, hot_reset, feature_mask, stat_unsupported :
        See :class:`VirtioFunction`.
    mac_tx : ``Out(stream.Signature(MacBeat))``
        Frames to the MAC, gap-free once begun.
    mac_rx_valid, mac_rx : ``In``
        Frames from the MAC, never stalled.
    mac_link_up : ``In(1)``
        Becomes LINK_UP of the device status.
    stat_rx_dropped, stat_tx_dropped : ``Out(1)``
        Pulse for each frame dropped.
    """

    def __init__(self, config):
        width = config.data_width
        super().__init__(config, {
            "mac_tx": Out(stream.Signature(MacBeat(width))),
            "mac_rx_valid": In(1),
            "mac_rx": In(MacBeat(width)),
            "mac_link_up": In(1),
            "stat_rx_dropped": Out(1),
            "stat_tx_dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        transport = self._elaborate_registers(
            m, device_id=DEVICE_ID, class_code=CLASS_CODE, features=net_features(config), rules=NET_RULES,
            config_size=NetConfig.as_shape().size // 8)
        # Receive queues are even, transmit queues odd; the control queue comes behind those that the driver knows of.
        roles = {"is_sink": lambda row: ~row[0]}
        if config.control_queue:
            control_row = Signal(row_width(config.rows))
            m.d.comb += control_row.eq(Mux(transport.engine.features[NetFeature.MQ], 2 * config.queue_pairs, 2))

            def is_request(row):
                return (row == control_row) & transport.engine.features[NetFeature.CTRL_VQ]

            roles = {"is_sink": lambda row: ~row[0] & ~is_request(row), "is_request": is_request, "coalesces": True}
        engine = QueueEngine(config, **roles, header_size=NET_HEADER_SIZE, start_offset=packet_start(config.data_width),
                             sink_size=config.rx_buffer_size)
        self._elaborate_engine(m, transport, engine)
        m.submodules.transmit = transmit = Transmit(data_width=config.data_width, rows=config.rows,
                                                    size=config.tx_buffer_size)
        m.submodules.receive = receive = Receive(config)

        self._connect_net(m, transport, engine, transmit, receive)
        if config.control_queue:
            m.submodules.control = control = ControlQueue(config)
            self._connect_control(m, transport, engine, control, receive)
        if config.control_queue and config.queue_pairs > 1:
            m.submodules.steering = steering = Steering(data_width=config.data_width, pairs=config.queue_pairs)
            self._connect_steering(m, engine, control, steering, transmit, receive)
        m.d.comb += [
            self.stat_rx_dropped.eq(receive.stat_dropped | engine.stat_sink_dropped),
            self.stat_tx_dropped.eq(engine.stat_source_dropped),
        ]
        return m

    def _connect_net(self, m, transport, engine, transmit, receive):
        config = self._config
        connect(m, engine.source_packets, transmit.packets)
        connect(m, transmit.free, engine.source_free)
        connect(m, transmit.mac, flipped(self.mac_tx))
        connect(m, receive.packets, engine.sink_packets)
        features = transport.engine.features
        fields = Signal(NetConfig)
        # With MTU negotiated nothing longer than it, an Ethernet header and a VLAN tag is passed on.
        limit = Mux(features[NetFeature.MTU], min(config.mtu + 18, config.max_frame),
                    config.max_frame)
        octets = config.mac.to_bytes(6, "big")
        m.d.comb += [
            engine.mergeable.eq(features[NetFeature.MRG_RXBUF]),
            engine.source_word.eq(transmit.read_word),
            transmit.read_data.eq(engine.source_data),
            engine.source_next_of.eq(transmit.next_of),
            transmit.next.eq(engine.source_next),
            transmit.drain.eq(engine.drain),
            receive.mac_valid.eq(self.mac_rx_valid),
            receive.mac.eq(self.mac_rx),
            receive.frame_limit.eq(limit),
            receive.read_word.eq(engine.sink_word),
            engine.sink_data.eq(receive.read_data),
            receive.buffers.eq(engine.sink_buffers),
            engine.sink_crowded.eq(receive.crowded),
            engine.sink_behind.eq(receive.behind),
            fields.mac.eq(int.from_bytes(octets, "little")),
            fields.status[STATUS_LINK_UP].eq(self.mac_link_up),
            fields.max_virtqueue_pairs.eq(config.queue_pairs),
            fields.mtu.eq(config.mtu),
            transport.device_config.eq(fields),
        ]

    def _connect_control(self, m, transport, engine, control, receive):
        connect(m, engine.requests, control.requests)
        connect(m, control.responses, engine.responses)
        connect(m, control.coalesce, engine.coalesce)
        m.d.comb += [
            control.drain.eq(engine.drain),
            control.abandoned.eq(engine.request_abandoned),
            control.row_cleared.eq(engine.row_cleared),
            control.cleared_row.eq(engine.cleared_row),
            control.multiqueue.eq(transport.engine.features[NetFeature.MQ]),
            control.coalescing.eq(transport.engine.features[NetFeature.NOTF_COAL]),
            control.queue_coalescing.eq(transport.engine.features[NetFeature.VQ_NOTF_COAL]),
            receive.mark.eq(control.changed),
            control.settled.eq(receive.settled),
            engine.flush.eq(control.flush),
            control.flushed.eq(engine.flushed),
        ]

    def _connect_steering(self, m, engine, control, steering, transmit, receive):
        config = self._config
        m.d.comb += [
            steering.drain.eq(engine.drain),
            steering.pairs.eq(control.pairs),
            steering.tx_valid.eq(transmit.sent_valid),
            steering.tx.eq(transmit.sent),
            steering.tx_pair.eq(transmit.sent_row >> 1),
            steering.rx_valid.eq(self.mac_rx_valid),
            steering.rx.eq(self.mac_rx),
            receive.pair.eq(steering.rx_pair),
            steering.seen_valid.eq(~engine.seen_row[0] & (engine.seen_row < 2 * config.queue_pairs)),
            steering.seen_pair.eq(engine.seen_row >> 1),
            steering.seen_enabled.eq(engine.seen_enabled),
        ]
