# SPDX-License-Identifier: BSD-2-Clause
"""cocotb: the bench's closed loop with cocotbext-pcie's root complex as the host.

A bench module of :func:`~unvirt_sim.hosts.runner.run_bench`. The load is in UNVIRT_LOAD; what a packet costs goes to the file UNVIRT_RESULT.
"""

import json
import os
from collections import deque
from pathlib import Path

import cocotb
from cocotb.task import bridge, resume
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.pcie.core.tlp import Tlp, TlpType

from unvirt_sim.bench.figures import cycles_per_packet, traffic
from unvirt_sim.bench.link import LINKS
from unvirt_sim.bench.load import Load
from unvirt_sim.bench.session import Session
from unvirt_sim.harness import Event
from unvirt_sim.harness_host import run_driver
from unvirt_sim.hosts.root_complex import RootComplexHost
from unvirt_sim.records import Record, Seen

PERIOD = 4                        # ns
_MAX_PAYLOAD = 1                  # as in Device Control: 256 bytes
_READS = (TlpType.MEM_READ, TlpType.MEM_READ_64)
_WRITES = (TlpType.MEM_WRITE, TlpType.MEM_WRITE_64)


class RootComplexSimulation:
    """What :class:`~unvirt_sim.bench.session.Session` uses of a :class:`~unvirt_sim.harness.Simulation`, on a root complex.

    To be used in a bridge thread; the far end of the Ethernet port is here, as strict and as fast as that of the harness.
    """

    def __init__(self, host, width):
        self._host, self._lanes = host, width // 8
        self._offered, self._frames, self._records = deque(), [], []
        self._recording = False
        self._watched, self._window, self._period, self._given, self._due = [], 0, 0.0, 0, 0.0
        self.counters = {"rx_dropped": 0, "tx_dropped": 0}
        host.device.seen = self._note
        cocotb.start_soon(self._receive())
        cocotb.start_soon(self._transmit())

    @property
    def cycle(self):
        return int(get_sim_time("ns")) // PERIOD

    def run(self, cycles, until=Event(0)):
        resume(self._wait)(cycles)

    async def _wait(self, cycles):
        await Timer(cycles * PERIOD, "ns")

    @property
    def violations(self):
        return self._host.violations

    # Memory and doorbells

    def read_memory(self, address, size):
        return run_driver(self._host.read(address, size))

    def write_memory(self, address, data):
        run_driver(self._host.write(address, data))

    def memory_write(self, address, data):
        resume(self._post)(address, data)

    async def _post(self, address, data):
        cocotb.start_soon(self._host.memory_write(address, data))

    # Ethernet

    def send_frame(self, frame):
        self._offered.append(bytes(frame))

    def take_frames(self):
        frames, self._frames = self._frames, []
        return frames

    def pace_frames(self, rings, window, period=0.0):
        self._watched = [[address + 2, self._index(address + 2)] for address, _, packed in rings if not packed]
        self._window, self._period, self._given, self._due = window, period, 0, 0.0

    def _index(self, address):
        return int.from_bytes(self.read_memory(address, 2), "little")

    def _may_begin(self):
        """Whether the next frame may begin; see Mac of the harness."""
        if not self._offered or self.cycle < self._due:
            return False
        for ring in self._watched:
            index = self._index(ring[0])
            self._given -= (index - ring[1]) & 0xFFFF
            ring[1] = index
        return not self._window or self._given < self._window

    async def _receive(self):
        """Give frames to the device; inputs change after the rising edge."""
        dut, lanes, frame, place, begun = self._host.dut, self._lanes, b"", 0, 0
        dut.mac_rx_tuser.value = 0
        while True:
            await RisingEdge(dut.clk)
            if place >= len(frame):
                frame, place = b"", 0
                if self._may_begin():
                    frame, begun = self._offered.popleft(), self.cycle
                    self._given += 1
                    self._due = max(self._due, self.cycle) + self._period
            dut.mac_rx_tvalid.value = bool(frame)
            if frame:
                beat = frame[place:place + lanes]
                dut.mac_rx_tdata.value = int.from_bytes(beat, "little")
                dut.mac_rx_tkeep.value = (1 << len(beat)) - 1
                place += lanes
                dut.mac_rx_tlast.value = place >= len(frame)
                if place >= len(frame) and self._recording:
                    self._records.append(Record(begun, self.cycle, 0, len(frame), 0, 0, Seen.FRAME_IN))

    async def _transmit(self):
        """Take frames of the device; what was transferred is seen at the falling edge."""
        dut, lanes, frame, first = self._host.dut, self._lanes, b"", 0
        dut.mac_tx_tready.value = 1
        while True:
            await FallingEdge(dut.clk)
            if int(dut.rst.value):
                continue
            self.counters["rx_dropped"] += int(dut.stat_rx_dropped.value)
            self.counters["tx_dropped"] += int(dut.stat_tx_dropped.value)
            if not int(dut.mac_tx_tvalid.value):
                continue
            first = first if frame else self.cycle
            used = int(dut.mac_tx_tkeep.value).bit_count()
            frame += int(dut.mac_tx_tdata.value).to_bytes(lanes, "little")[:used]
            if int(dut.mac_tx_tlast.value):
                if self._recording:
                    self._records.append(Record(first, self.cycle, 0, len(frame), 0, 0, Seen.FRAME_OUT))
                self._frames.append((self.cycle, frame, bool(int(dut.mac_tx_tuser.value))))
                frame = b""

    # Records

    def record(self, on=True):
        self._recording, self._records = on, []

    def records(self):
        return self._records

    def _note(self, packet, up):
        if not self._recording:
            return
        tlp = Tlp.unpack(packet)
        if tlp.fmt_type in _READS + _WRITES:
            kind = (Seen.UP_READ if up else Seen.DOWN_READ) if tlp.fmt_type in _READS else (Seen.UP_WRITE if up else Seen.DOWN_WRITE)
            address, size = tlp.address + tlp.get_first_be_offset(), tlp.get_be_byte_count()
            data = int.from_bytes(tlp.get_data()[tlp.get_first_be_offset():][:4], "little") if tlp.fmt_type in _WRITES else 0
        elif not up:
            kind, address, size, data = Seen.DOWN_COMPLETION, 4 * tlp.length, tlp.byte_count, 0
        else:
            return
        self._records.append(Record(self.cycle, self.cycle, address, size, data, tlp.tag, kind))


class RootComplexSession(Session):
    """A :class:`~unvirt_sim.bench.session.Session` on a root complex; to be used in a bridge thread."""

    def __init__(self, host, *, width, seed=1):
        self._attach(RootComplexSimulation(host, width), host, width=width, link=LINKS[width], latency=0, cut="large", seed=seed)

    def _drive(self, coroutine):
        async def awaited():
            return await coroutine
        return resume(awaited)()


@cocotb.test()
async def closed_loop(dut):
    """One load; its figure is written to a file."""
    width = int(os.environ["UNVIRT_WIDTH"])
    link = LINKS[width]
    host = await RootComplexHost.open(dut, width, period=PERIOD, link=(link.generation, link.lanes), max_payload=128 << _MAX_PAYLOAD,
                                      low_memory=True, ethernet=False)
    host.rc.max_payload_size = _MAX_PAYLOAD
    load = Load(**json.loads(os.environ["UNVIRT_LOAD"]))

    def measure():
        session = RootComplexSession(host, width=width, seed=int(os.environ["UNVIRT_SEED"]))
        return session.run(load)

    try:
        run = await bridge(measure)()
    finally:
        host.close()
    name = "tx" if load.transmit else "rx"
    Path(os.environ["UNVIRT_RESULT"]).write_text(json.dumps({"cycles": cycles_per_packet(run, name), "bytes": traffic(run, name).bytes}))
