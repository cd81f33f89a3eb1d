# SPDX-License-Identifier: BSD-2-Clause
"""The device as an entropy device (virtio-rng): the machine of :mod:`unvirt.device` with another right hand side.

        transport <--- engine <--- gather <--- entropy
                            | chunks cut to buffers
        dma_write <---------+

One queue, "requestq", whose buffers the device writes [virtio 5.4.2].
"""

from amaranth import *
from amaranth.lib import stream
from amaranth.lib.wiring import In, connect, flipped

from .device import VirtioFunction
from .entropy.gather import STORE_SIZE, Gather
from .entropy.spec import CLASS_CODE, DEVICE_ID, ENTROPY_WIDTH
from .virtio.queue.engine import QueueEngine

__all__ = ["VirtioEntropyDevice"]


class VirtioEntropyDevice(VirtioFunction):
    """virtio-rng over raw TLP streams.

    Members
    -------
    rx, tx, credits, nonposted_freed, link_up, hot_reset, feature_mask, stat_unsupported :
        See :class:`~unvirt.device.VirtioFunction`.
    entropy : ``In(stream.Signature(32))``
        Random bits, taken while a driver uses the device; see :class:`~unvirt.entropy.gather.Gather`.
    """

    def __init__(self, config):
        super().__init__(config, {"entropy": In(stream.Signature(ENTROPY_WIDTH))})

    def elaborate(self, platform):
        m = Module()
        transport = self._elaborate_registers(m, device_id=DEVICE_ID, class_code=CLASS_CODE)
        engine = QueueEngine(self._config, is_sink=lambda row: C(1, 1), header_size=0, start_offset=0,
                             sink_size=STORE_SIZE, sink_cut=True)
        self._elaborate_engine(m, transport, engine)
        m.submodules.gather = gather = Gather(self._config)
        connect(m, flipped(self.entropy), gather.entropy)
        connect(m, gather.packets, engine.sink_packets)
        m.d.comb += [
            engine.mergeable.eq(1),
            gather.drain.eq(engine.drain),
            gather.dropped.eq(engine.stat_sink_dropped),
            gather.read_word.eq(engine.sink_word),
            engine.sink_data.eq(gather.read_data),
        ]
        return m
