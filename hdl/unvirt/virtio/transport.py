# SPDX-License-Identifier: BSD-2-Clause
"""The virtio transport over PCI: every register a driver sees, and the interrupts.

    completer ----> hub ---> common_config ---> queue_configs ---> engine
    pci_cfg ------>  |  ---> notify ----------------------------> engine
    window           |  ---> device_config <--- personality
                     |  ---> interrupts (ISR) <--- engine, changes
                     +-----> msix <---------------- interrupts
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..pcie.bus import RegisterBusSignature, RegisterRequest
from ..pcie.contract import ConfigSignature
from ..pcie.dma import WriteBeat
from ..pcie.msix import MsixTable
from ..stream.buffer import SkidBuffer
from .common_config import CommonConfig
from .contract import EngineControlSignature
from .device_config import DeviceConfigSpace
from .interrupts import Interrupts
from .notify import Notify
from .pci_config_access import PciConfigAccess
from .queue_configs import QueueConfigs
from .register_hub import RegisterHub
from .spec import FEATURE_BITS, Feature, VIRTIO_FEATURES, VIRTIO_RULES

__all__ = ["VirtioTransport"]


class VirtioTransport(wiring.Component):
    """Registers and interrupts of one function.

    Parameters
    ----------
    config : DeviceConfig
    config_ports : int
        Readers of the queue rows that the engine has.
    features, rules : iterables
        Feature bits and :class:`~unvirt.virtio.spec.FeatureRule` of the personality.
    config_size : int
        Bytes of its configuration structure.
    pci_cfg : int
        Byte offset of the PCI configuration access capability.

    Members
    -------
    bus : ``In(RegisterBusSignature)``, config : ``In(ConfigSignature)``
        Accesses of the host.
    engine : ``Out(EngineControlSignature)``
    messages : ``Out(stream.Signature(WriteBeat))``
        MSI-X messages, to the write engine.
    device_config : ``In``
        The personality's configuration bytes.
    feature_mask : ``In(FEATURE_BITS)``
        Bits set here are not offered.
    msix_enable, msix_function_mask, flr, hot_reset : ``In(1)``
    flr_done, intx : ``Out(1)``
    """

    def __init__(self, config, *, config_ports, features, rules, config_size, pci_cfg):
        self._config = config
        self._config_ports = config_ports
        self._features = frozenset(VIRTIO_FEATURES) | frozenset(features)
        self._rules = (*VIRTIO_RULES, *rules)
        self._config_size = config_size
        self._pci_cfg = pci_cfg
        super().__init__({
            "bus": In(RegisterBusSignature()),
            "config": In(ConfigSignature()),
            "engine": Out(EngineControlSignature(config.rows, config_ports)),
            "messages": Out(stream.Signature(WriteBeat(config.data_width))),
            "device_config": In(8 * config_size),
            "feature_mask": In(FEATURE_BITS),
            "msix_enable": In(1),
            "msix_function_mask": In(1),
            "flr": In(1),
            "hot_reset": In(1),
            "flr_done": Out(1),
            "intx": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        rows, engine = config.rows, self.engine
        m.submodules.hub = hub = RegisterHub()
        m.submodules.common_config = common = CommonConfig(
            rows=rows, queues=config.queues, max_queue_size=config.max_queue_size,
            vectors=config.msix_vectors, rules=self._rules)
        # One more reader than the engine's: the interrupts look up the vector.
        m.submodules.queue_configs = rows_memory = QueueConfigs(rows=rows,
                                                                ports=self._config_ports + 1)
        m.submodules.notify = notify = Notify(rows=rows)
        m.submodules.device_config = device = DeviceConfigSpace(size=self._config_size)
        m.submodules.interrupts = interrupts = Interrupts(rows=rows)
        m.submodules.msix = msix = MsixTable(vectors=config.msix_vectors,
                                             data_width=config.data_width)
        m.submodules.pci_config_access = window = PciConfigAccess(capability=self._pci_cfg)

        # Between decoding a TLP and decoding a register there is a cycle: together they were the longest path of the device,
        # and whether a register is ready came from here to the attachment.
        m.submodules.bus_slice = bus_slice = SkidBuffer(RegisterRequest)
        connect(m, flipped(self.bus).request, bus_slice.i)
        connect(m, bus_slice.o, hub.completer.request)
        m.d.comb += [
            self.bus.response_valid.eq(hub.completer.response_valid),
            self.bus.response_data.eq(hub.completer.response_data),
        ]
        connect(m, window.bus, hub.window)
        connect(m, flipped(self.config), window.config)
        connect(m, hub.common, common.bus)
        connect(m, hub.isr, interrupts.bus)
        connect(m, hub.device, device.bus)
        connect(m, hub.notify, notify.bus)
        connect(m, hub.msix, msix.bus)
        connect(m, interrupts.requests, msix.requests)
        connect(m, msix.messages, flipped(self.messages))
        connect(m, notify.notifications, flipped(engine.notifications))
        connect(m, flipped(engine.interrupts), interrupts.events)
        connect(m, flipped(engine.rows_reset), common.rows_reset)
        for index in range(self._config_ports):
            connect(m, flipped(getattr(engine, f"config_{index}")), rows_memory.ports[index])
        connect(m, interrupts.configs, rows_memory.ports[self._config_ports])

        offered = sum(1 << bit for bit in self._features)
        function_reset = self.flr | self.hot_reset
        m.d.comb += [
            common.offered.eq(C(offered, FEATURE_BITS) & ~self.feature_mask),
            common.function_reset.eq(function_reset),
            self.flr_done.eq(common.function_reset_done),
            common.violation.eq(engine.violation),
            common.config_changed.eq(device.changed),
            common.engine_reset_done.eq(engine.reset_done),
            common.interrupts_idle.eq(interrupts.idle & msix.idle),
            device.value.eq(self.device_config),
            device.freeze.eq(common.suspend),

            engine.driver_ok.eq(common.active),
            engine.suspend.eq(common.suspend),
            common.engine_suspended.eq(engine.suspended),
            engine.features.eq(common.features),
            engine.reset.eq(common.engine_reset),

            rows_memory.row.eq(common.row),
            rows_memory.bank.eq(common.bank),
            rows_memory.write_enable.eq(common.write_enable),
            rows_memory.write_data.eq(common.write_data),
            common.read_data.eq(rows_memory.read_data),

            notify.driver_ok.eq(common.driver_ok),
            notify.notification_data.eq(common.features[Feature.NOTIFICATION_DATA]),
            notify.started.eq(common.started),
            notify.started_row.eq(common.started_row),
            rows_memory.test_row.eq(notify.test_row),
            notify.enabled.eq(rows_memory.enabled),

            interrupts.config_event.eq(common.notify_config),
            interrupts.config_vector.eq(common.config_vector),
            interrupts.msix_enable.eq(self.msix_enable),
            interrupts.forget.eq(common.forget),
            self.intx.eq(interrupts.intx),
            msix.enable.eq(self.msix_enable),
            msix.function_mask.eq(self.msix_function_mask),
            msix.clear.eq(function_reset),
            msix.forget.eq(common.forget),
            window.clear.eq(function_reset),
        ]
        return m
