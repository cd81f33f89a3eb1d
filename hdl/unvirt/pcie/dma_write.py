# SPDX-License-Identifier: BSD-2-Clause
"""The write engine: write commands of several ports become posted TLPs in one order.

    commands[0] --\\
    commands[1] ---- PacketArbiter --> plan --> WriteCutter --> tx_posted
    ...         --/

Rules between the engine and its clients are in ``docs/contracts.md`` section 4.
"""

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ..stream.arbiter import PacketArbiter
from .dma import WriteBeat
from .dma_write_cut import WriteCutter
from .tlp import PostedHeader, TlpBeat

__all__ = ["DmaWrite"]


class DmaWrite(wiring.Component):
    """Writes commands of any length and alignment to host memory.

    **Latency**: from a beat in to ``tx_posted`` two cycles. **Throughput**: one beat per cycle,
    commands of one beat included; a cut at a 4 KiB boundary costs what it leaves empty, and a cycle
    more where it leaves one beat.
    **Ordering**: commands leave in the order in which their last beats are accepted, which is also
    that of their first beats; a port keeps the arbiter until ``last``. A TLP starts before its
    command is complete, so a port that pauses inside a command holds up the others.
    **Back-pressure**: two beats are taken behind the one on show; ``commands[n].ready`` depends on
    ``commands`` and registers, not on ``tx_posted``. **Cuts**:
    TLPs are as long as the maximum payload size allows from the command's first DW on, and end at 4
    KiB boundaries. **Bus mastering off**: a TLP begun is finished, then commands are swallowed;
    they count as accepted and numbered. **Reset** forgets everything; posted numbers start at 1.

    Parameters
    ----------
    config : DeviceConfig
        Uses ``data_width``.
    ports : int
        Number of command streams.
    patient : int, optional
        One whose commands go behind all others', and ahead of them while ``urgent``.

    Members
    -------
    commands : ``In(stream.Signature(WriteBeat(data_width))).array(ports)``
        Commands; the bytes are counted by ``header.length``, which must agree with the beats.
    tx_posted : ``Out(stream.Signature(TlpBeat(PostedHeader, data_width)))``
        To the attachment.
    max_payload_size : ``In(3)``
        Encoded, 128 << n bytes.
    bus_master_enable : ``In(1)``
        From the attachment's control signals.
    writes_accepted : ``Out(8)``
        Number of commands whose last beat was accepted, modulo 256.
    writes_numbered : ``Out(8)``
        Number of commands that have entered ``tx_posted`` to the last beat, or were swallowed,
        modulo 256.
    posted_number : ``Out(8)``
        Number of the last TLP whose first beat entered ``tx_posted``.
    urgent : ``In(1)``
        There is one with ``patient`` only.
    idle : ``Out(1)``
        Nothing is held; a command that is only partly accepted counts as held.

    Spec
    ----
    [PCIe 2.2.2] TLPs with Data Payloads, [PCIe 2.2.5] First/Last DW Byte Enables, [PCIe 2.2.7]
    Memory Requests (4 KiB)
    """

    def __init__(self, config, ports, *, patient=None):
        self._config = config
        self._patient = patient
        self._ports = ports
        width = config.data_width
        super().__init__({
            "commands": In(stream.Signature(WriteBeat(width))).array(ports),
            "tx_posted": Out(stream.Signature(TlpBeat(PostedHeader, width))),
            "max_payload_size": In(3),
            "bus_master_enable": In(1),
            "writes_accepted": Out(8),
            "writes_numbered": Out(8),
            "posted_number": Out(8),
            "idle": Out(1),
        } | ({} if patient is None else {"urgent": In(1)}))

    @property
    def config(self):
        return self._config

    @property
    def ports(self):
        return self._ports

    def elaborate(self, platform):
        m = Module()
        width = self._config.data_width
        m.submodules.arbiter = arbiter = PacketArbiter(WriteBeat(width), self._ports, patient=self._patient)
        m.submodules.cutter = cutter = WriteCutter(data_width=width)
        for port, entry in zip(self.commands, arbiter.i, strict=True):
            connect(m, flipped(port), entry)
        if self._patient is not None:
            m.d.comb += arbiter.urgent.eq(self.urgent)
        connect(m, arbiter.o, cutter.i)
        connect(m, cutter.o, flipped(self.tx_posted))
        m.d.comb += [
            cutter.max_payload_size.eq(self.max_payload_size),
            cutter.bus_master_enable.eq(self.bus_master_enable),
        ]

        accepted = arbiter.o.valid & arbiter.o.ready
        within = Signal()
        with m.If(accepted):
            m.d.sync += within.eq(~arbiter.o.payload.last)
            with m.If(arbiter.o.payload.last):
                m.d.sync += self.writes_accepted.eq(self.writes_accepted + 1)
        with m.If(self.tx_posted.valid & self.tx_posted.ready & self.tx_posted.payload.first):
            m.d.sync += self.posted_number.eq(self.posted_number + 1)
        with m.If(cutter.numbered):
            m.d.sync += self.writes_numbered.eq(self.writes_numbered + 1)
        m.d.comb += self.idle.eq(cutter.idle & ~within)
        return m
