# SPDX-License-Identifier: BSD-2-Clause
"""cocotbext-pcie's root complex as the host: a PCI Express that no one here wrote.

TLPs pass between its simulated port and the raw beats of the device as bytes; credits are those of its port. What it only warns of (a request
that crosses 4 KiB or finds no memory) and any access outside what was given to the device count as violations.
"""

import logging
from collections import defaultdict, deque

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import Event, FallingEdge, First, RisingEdge, Timer
from cocotb.utils import get_sim_steps, get_sim_time
from cocotbext.axi import AxiStreamBus, AxiStreamSink, AxiStreamSource
from cocotbext.pcie.core import Device, RootComplex
from cocotbext.pcie.core.tlp import Tlp, TlpType
from cocotbext.pcie.core.utils import PcieId

from ..host import CompletionFailed, HostError

__all__ = ["RawDevice", "RootComplexHost"]

_PERIOD = 8                       # ns
_HIGH_MEMORY = 0x12_0000_0000
_ARENA = 1 << 24                  # bytes for allocations, below and above 4 GiB each
_HOLE = 256                       # bytes between allocations
_CREDITS = ("ph", "pd", "nph", "npd", "cplh", "cpld")
_TIMEOUT = 200_000                # ns
_MESSAGE, _ASSERT_INTA, _DEASSERT_INTA = 0x34, 0x20, 0x24


def _header_bytes(tlp):
    return 16 if tlp[0] & 0x20 else 12


def _payload_bytes(tlp):
    return 4 * (int.from_bytes(tlp[2:4], "big") & 0x3FF or 1024) if tlp[0] & 0x40 else 0


class RawDevice(Device):
    """The device under test on a simulated port: every TLP as bytes, in beats of ``width`` bits.

    ``link`` is the generation and the lanes. ``seen`` is called with each TLP when its last beat passes: the bytes, and whether it came from
    the device.
    """

    def __init__(self, dut, width, *, nonposted_depth=16, link=(3, 8)):
        super().__init__()
        # What the device advertises: posted writes and completions without limit.
        for name in _CREDITS:
            credit = getattr(self.upstream_port.fc_state[0], name)
            credit.rx_initial_allocation = credit.rx_credits_allocated = nonposted_depth if name == "nph" else 0
        self.upstream_port.max_link_speed, self.upstream_port.max_link_width = link
        self._dut, self._lanes = dut, width // 8
        self._down = deque()      # bytes of TLPs for the device
        self._waiting = deque()   # non-posted TLPs whose credit has not come free
        self._up, self._up_event = deque(), Event()
        self.interrupt = None     # awaited with the level that an INTA message brings
        self.violations = []
        self.seen = lambda packet, up: None
        cocotb.start_soon(self._beats())
        cocotb.start_soon(self._send_up())

    async def upstream_recv(self, tlp):
        if tlp.is_nonposted():
            self._waiting.append(tlp)
        else:
            tlp.release_fc()
        self._down.append(bytes(tlp.pack()))

    def _show(self, place):
        """Put the next beat to the device, its payload from ``place`` on; return what follows it, None if nothing is shown."""
        dut = self._dut
        dut.rx_tlp_valid.value = bool(self._down)
        if not self._down:
            return None
        tlp = self._down[0]
        header, payload = tlp[:_header_bytes(tlp)], tlp[_header_bytes(tlp):]
        dut.rx_tlp_header.value = int.from_bytes(header, "little")
        dut.rx_tlp_data.value = int.from_bytes(payload[place:place + self._lanes], "little")
        dut.rx_tlp_first.value = place == 0
        following = place + self._lanes
        dut.rx_tlp_last.value = following >= len(payload)
        return following

    def _credits(self):
        state = self.upstream_port.fc_state[0]
        fields = [getattr(state, name) for name in _CREDITS]
        return (tuple(field.tx_credit_limit & (0xFFF if number & 1 else 0xFF) for number, field in enumerate(fields)),
                sum(field.tx_is_infinite() << number for number, field in enumerate(fields)))

    async def _beats(self):
        """Inputs change after the rising edge; what was transferred is seen at the falling edge before the next."""
        dut = self._dut
        place, following, incoming, known = 0, None, b"", None
        while True:
            await RisingEdge(dut.clk)
            credits = self._credits()
            if credits != known:
                known = credits
                for name, limit in zip(_CREDITS, credits[0], strict=True):
                    getattr(dut, f"fc_{name}").value = limit
                dut.fc_infinite.value = credits[1]
            dut.tx_tlp_ready.value = len(self._up) < 4
            following = self._show(place)
            await FallingEdge(dut.clk)
            if int(dut.rst.value):
                place, incoming = 0, b""
                continue
            if int(dut.rx_nonposted_freed.value):
                self._waiting.popleft().release_fc()
            if following is not None and int(dut.rx_tlp_ready.value):
                place = following
                if _header_bytes(self._down[0]) + place >= len(self._down[0]):
                    self.seen(self._down.popleft(), False)
                    place = 0
            if int(dut.tx_tlp_valid.value) and int(dut.tx_tlp_ready.value):
                if bool(int(dut.tx_tlp_first.value)) != (not incoming):
                    self.violations.append("tx_tlp_first is wrong")
                if not incoming:
                    incoming = int(dut.tx_tlp_header.value).to_bytes(16, "little")
                    incoming = incoming[:_header_bytes(incoming)]
                size = _header_bytes(incoming) + _payload_bytes(incoming)
                incoming += int(dut.tx_tlp_data.value).to_bytes(self._lanes, "little")[:size - len(incoming)]
                last = bool(int(dut.tx_tlp_last.value))
                if last != (len(incoming) == size):
                    self.violations.append("tx_tlp_last does not fit the length in the header")
                if last:
                    self.seen(incoming, True)
                    self._up.append(incoming)
                    self._up_event.set()
                    incoming = b""

    async def _send_up(self):
        while True:
            while not self._up:
                self._up_event.clear()
                await self._up_event.wait()
            packet = self._up.popleft()
            if packet[0] == _MESSAGE:
                if packet[7] not in (_ASSERT_INTA, _DEASSERT_INTA):
                    self.violations.append(f"a message of code {packet[7]:#x}")
                await self.interrupt(packet[7] == _ASSERT_INTA)
            else:
                await self.upstream_send(Tlp.unpack(packet))


class _Warnings(logging.Handler):
    """What the root complex warns of is a violation."""

    def __init__(self, found):
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record):
        text = record.getMessage()
        # Enumeration asks for devices that do not exist.
        if not text.startswith("Failed to route config type 0 TLP"):
            self._found.append(text)


class RootComplexHost:
    """A :class:`~unvirt_sim.host.Host` on cocotbext-pcie; use :meth:`open` to make one.

    Allocations alternate between below and above 4 GiB.

    Parameters
    ----------
    dut : cocotb handle of the top module
    width : int
        Data width of its ports in bits.
    split : bool
        Cut completions at every boundary where that is allowed.
    nonposted_depth : int
        Of the device.
    period : int
        Nanoseconds of a cycle.
    link : tuple
        Generation and lanes.
    max_payload : int
        That for which both ends of the link set their latency timers, bytes.
    low_memory : bool
        Allocate below 4 GiB only.
    ethernet : bool
        Be the far end of the Ethernet port, too.
    """

    def __init__(self, dut, width, *, split=False, nonposted_depth=16, period=_PERIOD, link=(3, 8), max_payload=128, low_memory=False,
                 ethernet=True):
        self.dut, self._period = dut, period
        self.rc = RootComplex()
        self.rc.split_on_all_rcb = split
        self.port = self.rc.make_port()
        self.device = RawDevice(dut, width, nonposted_depth=nonposted_depth, link=link)
        self.device.interrupt = self._level
        self.device.upstream_port.max_payload_size = self.port.downstream_port.max_payload_size = max_payload
        self.port.connect(self.device)
        if ethernet:
            self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "mac_rx"), dut.clk, dut.rst)
            self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "mac_tx"), dut.clk, dut.rst)
        self.violations = self.device.violations
        self.function = None          # as the root complex enumerated it
        self._warnings = _Warnings(self.violations)
        logging.getLogger("cocotb.pcie").addHandler(self._warnings)
        high = self.rc.mem_address_space.create_pool(_HIGH_MEMORY, _ARENA)
        self._memory = [pool.alloc_region(_ARENA) for pool in (self.rc.mem_pool, high)]
        self._next = [region.get_absolute_address(0) for region in self._memory]
        self._arenas = 1 if low_memory else len(self._memory)
        self._bases = list(self._next)
        self._live = {}               # address -> (size, writable)
        self._vectors = {}
        self._seen = defaultdict(int)
        self._taken = defaultdict(int)
        self._intx = False
        self._changed = Event()
        for kind in (TlpType.MEM_READ, TlpType.MEM_READ_64, TlpType.MEM_WRITE, TlpType.MEM_WRITE_64):
            self.rc.register_rx_tlp_handler(kind, self._watched(self.rc.rx_tlp_handler[kind]))

    @classmethod
    async def open(cls, dut, width, *, period=_PERIOD, **options):
        """Start the clock, reset the device, let the root complex enumerate the bus and return the host."""
        for name in ("rx_tlp_valid", "tx_tlp_ready", "hot_reset"):
            getattr(dut, name).value = 0
        dut.feature_mask.value = 0
        dut.link_up.value = dut.mac_link_up.value = dut.rst.value = 1
        Clock(dut.clk, period, "ns").start(start_high=False)
        host = cls(dut, width, period=period, **options)
        await Timer(20 * period, "ns")
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await host.rc.enumerate()
        host.function = host.rc.host_bridge.find_device(PcieId(1, 0, 0))
        if host.function is None:
            raise HostError("The root complex found no device")
        await host.function.enable_device()
        await host.function.set_master()
        return host

    def close(self):
        """Let go of the log."""
        logging.getLogger("cocotb.pcie").removeHandler(self._warnings)

    # Configuration space and registers

    async def config_read(self, function, offset, size):
        data = await self.rc.config_read(PcieId(1, 0, function), offset, size, _TIMEOUT, "ns")
        return int.from_bytes(data, "little")

    async def config_write(self, function, offset, size, value):
        await self.rc.config_write(PcieId(1, 0, function), offset, value.to_bytes(size, "little"), _TIMEOUT, "ns")

    async def memory_read(self, address, size):
        try:
            return await self.rc.mem_region.read(address, size, _TIMEOUT, "ns")
        except Exception as error:
            if str(error) in ("Unsuccessful completion", "Timeout"):
                raise CompletionFailed(f"A memory read at {address:#x}: {error}") from None
            raise

    async def memory_write(self, address, value):
        await self.rc.mem_region.write(address, bytes(value))

    def bar_window(self):
        return self.function.bar_addr[0]

    # Memory

    def alloc(self, size, align=64, *, writable=True):
        turn = len(self._live) % self._arenas
        start = -(-self._next[turn] // align) * align
        self._next[turn] = start + size + _HOLE
        if self._next[turn] > self._bases[turn] + _ARENA:
            raise HostError("Memory for allocations is used up")
        self._live[start] = size, writable
        return start

    def free(self, address):
        del self._live[address]

    def _mapped(self, address):
        for base, region in zip(self._bases, self._memory, strict=True):
            if 0 <= address - base < _ARENA:
                return region.mem, address - base
        raise HostError(f"There is no memory at {address:#x}")

    async def read(self, address, size):
        memory, offset = self._mapped(address)
        return bytes(memory[offset:offset + size])

    async def write(self, address, value):
        memory, offset = self._mapped(address)
        memory[offset:offset + len(value)] = bytes(value)

    def _watched(self, handler):
        """Check an access of the device against what it was given, then let the root complex do it."""
        async def handle(tlp):
            start = tlp.address + tlp.get_first_be_offset()
            end = start + tlp.get_be_byte_count()
            write = tlp.fmt_type in (TlpType.MEM_WRITE, TlpType.MEM_WRITE_64)
            message = write and any(vector.addr == start for vector in self._vectors.values())
            given = any(base <= start and end <= base + size and (writable or not write)
                        for base, (size, writable) in self._live.items())
            if not given and not message:
                self.violations.append(f"a {'write' if write else 'read'} of {end - start} bytes at {start:#x}, which the device was "
                                       f"not given")
            await handler(tlp)
            self._changed.set()
        return handle

    # Interrupts

    def message_address(self, vector):
        if vector not in self._vectors:
            (self._vectors[vector],) = self.rc.msi_alloc_vectors(1)

            async def arrived():
                self._seen[vector] += 1
                self._changed.set()
            self._vectors[vector].cb.append(arrived)
        return self._vectors[vector].addr, self._vectors[vector].data

    async def _level(self, level):
        # A message does not pass the writes before it; these may still be on the simulated link.
        await Timer(50 * self._period, "ns")
        self._intx = level
        self._changed.set()

    async def wait_interrupt(self, vector, cycles=100_000):
        end = get_sim_time("step") + get_sim_steps(cycles * self._period, "ns")
        while True:
            if vector == -1:
                if self._intx:
                    return True
            elif self._seen[vector] > self._taken[vector]:
                self._taken[vector] += 1
                return True
            self._changed.clear()
            left = end - get_sim_time("step")
            if left <= 0:
                return False
            await First(self._changed.wait(), Timer(left, "step"))

    def interrupt_count(self, vector):
        return self._seen[vector]

    # Time and Ethernet

    async def sleep(self, cycles):
        await Timer(cycles * self._period, "ns")

    async def send_frame(self, frame):
        await self.source.send(bytes(frame))

    async def receive_frame(self, cycles=100_000):
        if self.sink.empty():
            await First(cocotb.start_soon(self.sink.wait()), Timer(cycles * self._period, "ns"))
        if self.sink.empty():
            return None
        frame = self.sink.recv_nowait()
        return bytes(frame.tdata)
