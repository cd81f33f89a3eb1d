# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's own virtio-net-pci as the device, driven over the qtest socket: it proves the driver and its checks against another device.

QEMU runs no guest: machine q35 with the accelerator ``qtest``, the device behind a PCI Express root port, its netdev a pair of datagram
sockets. Everything a processor would do is a line on the socket. Messages of MSI-X go to guest memory, which is polled; INTx is seen at the
I/O APIC's inputs. A cycle is 8 ns of QEMU's virtual clock, and what QEMU does in its main loop gets real time to happen.
"""

import base64
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from ..host import HostError

__all__ = ["FEATURES", "QtestHost"]

_CYCLE = 8                        # ns
_ECAM = 0xB000_0000
_BUS = 1                          # behind the root port
_ROOT_PORT = 4 << 15              # bus 0, device 4
_BARS = 0x8_0000_0000
_BARS_32 = 0xC000_0000
_MEMORY = 0x10_0000               # guest memory from here ...
_MEMORY_END = 0x3000_0000         # ... to here is for allocations
_MESSAGES = 0x8_0000
_GUARD = 64
_PATTERN = 0xA5

FEATURES = {
    "same": {},                   # what unvirt's device offers too
    "event_idx": {"event_idx": "on"},
    "in_order": {"in_order": "on"},
    "ring_reset": {"queue_reset": "on"},
    "packed": {"packed": "on"},
    "packed_event_idx": {"packed": "on", "event_idx": "on"},
    "packed_in_order": {"packed": "on", "in_order": "on"},
}
"""Device options of QEMU for sets of features to try."""

_OPTIONS = {
    "disable-legacy": "on", "disable-modern": "off", "mq": "off", "ctrl_vq": "off", "csum": "off", "guest_csum": "off", "gso": "off",
    "guest_tso4": "off", "guest_tso6": "off", "guest_ecn": "off", "guest_ufo": "off", "host_tso4": "off", "host_tso6": "off",
    "host_ecn": "off", "host_ufo": "off", "guest_announce": "off", "mrg_rxbuf": "on", "status": "on", "indirect_desc": "on",
    "event_idx": "off", "packed": "off", "in_order": "off", "queue_reset": "off", "iommu_platform": "on", "ats": "off", "host_mtu": "1500",
    "romfile": "", "vectors": "4", "rx_queue_size": "256", "tx_queue_size": "256", "mac": "02:75:6e:76:69:72",
}


class QtestHost:
    """A :class:`~unvirt_sim.host.Host` whose device is QEMU's.

    Parameters
    ----------
    program : unvirt_sim.guest.packages.Program
        From :func:`~unvirt_sim.guest.packages.find_qemu`.
    options : dict
        Of the device, beside the usual ones.
    """

    tells_written = False
    counts_buffers = False

    def __init__(self, program, options=None):
        self._folder = Path(tempfile.mkdtemp(prefix="unvirt-qtest-"))
        self._wire = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._process = None
        self._next = _MEMORY
        self._sizes = {}
        self._seen = defaultdict(int)
        self._taken = defaultdict(int)
        self._lines = set()       # interrupt lines that are up
        self.violations = []
        try:
            self._start(program, _OPTIONS | (options or {}))
            self._open_path()
        except BaseException:
            self.close()
            raise

    def _start(self, program, options):
        ours, theirs, control = (self._folder / name for name in ("host", "qemu", "qtest"))
        self._wire.bind(str(ours))
        self._wire.setblocking(False)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(control))
        listener.listen(1)
        listener.settimeout(60)
        device = ",".join(["virtio-net-pci", "bus=rp", "netdev=wire", *(f"{name}={value}" for name, value in options.items())])
        command = [*program.command, "-machine", "q35,accel=qtest", "-m", "1G", "-nodefaults", "-display", "none", "-no-user-config",
                   "-qtest", f"unix:{control}", "-qtest-log", "none", "-device", "pcie-root-port,id=rp,bus=pcie.0,addr=4.0,chassis=1",
                   "-netdev", f"dgram,id=wire,local.type=unix,local.path={theirs},remote.type=unix,remote.path={ours}",
                   "-device", device]
        with open(self._folder / "qemu.log", "wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                             env={**os.environ, **program.environment})
        with contextlib.closing(listener):
            while True:
                try:
                    listener.settimeout(1)
                    self._control = listener.accept()[0]
                    break
                except TimeoutError:
                    if self._process.poll() is not None:
                        raise HostError(f"QEMU ended at once: {(self._folder / 'qemu.log').read_text().strip()[-500:]}") from None
        self._control.settimeout(60)
        self._reader = self._control.makefile("rb")
        self._peer = str(theirs)

    def close(self):
        """End QEMU and remove its sockets."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        for name in ("_reader", "_control"):
            if hasattr(self, name):
                getattr(self, name).close()
        self._wire.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # The qtest protocol: a line there, a line back, interrupt lines in between.

    def _line(self):
        try:
            line = self._reader.readline()
        except ConnectionResetError:
            line = b""
        if not line:
            raise HostError(f"QEMU closed the qtest socket: {(self._folder / 'qemu.log').read_text().strip()[-500:]}")
        return line.decode().split()

    def _ask(self, text):
        self._control.sendall(text.encode() + b"\n")
        while True:
            words = self._line()
            if words[0] != "IRQ":
                break
            self._interrupt(words)
        if words[0] != "OK":
            raise HostError(f"QEMU answers {' '.join(words)} to {text.split()[0]}")
        return words[1] if len(words) > 1 else None

    def _interrupt(self, words):
        (self._lines.add if words[1] == "raise" else self._lines.discard)(int(words[2]))

    def _settle(self, cycles):
        """Let virtual time pass, and QEMU's main loop go round."""
        self._ask(f"clock_step {max(1, cycles) * _CYCLE}")
        time.sleep(0.0005)

    # The way to the device: memory-mapped configuration space, bus numbers and windows of the root port.

    def _open_path(self):
        for offset, value in ((0x64, _ECAM >> 32), (0x60, _ECAM | 1)):       # PCIEXBAR of the q35 host bridge
            self._ask(f"outl 0xcf8 {0x8000_0000 | offset:#x}")
            self._ask(f"outl 0xcfc {value & 0xFFFF_FFFF:#x}")
        port = _ECAM + _ROOT_PORT
        window = _BARS >> 16 & 0xFFF0
        self._ask(f"writel {port + 0x18:#x} {_BUS << 16 | _BUS << 8:#x}")
        narrow = _BARS_32 >> 16
        self._ask(f"writel {port + 0x20:#x} {(narrow | 0xFF0) << 16 | narrow:#x}")
        self._ask(f"writel {port + 0x24:#x} {(window | 0x3FF0) << 16 | window:#x}")
        self._ask(f"writel {port + 0x28:#x} {_BARS >> 32:#x}")
        self._ask(f"writel {port + 0x2c:#x} {_BARS >> 32:#x}")
        self._ask(f"writew {port + 0x04:#x} 0x6")
        self._ask("irq_intercept_in ioapic")

    @staticmethod
    def _config(function, offset):
        return _ECAM + (_BUS << 20) + (function << 12) + offset

    async def config_read(self, function, offset, size):
        return int(self._ask(f"read{ {1: 'b', 2: 'w', 4: 'l'}[size] } {self._config(function, offset):#x}"), 16)

    async def config_write(self, function, offset, size, value):
        self._ask(f"write{ {1: 'b', 2: 'w', 4: 'l'}[size] } {self._config(function, offset):#x} {value:#x}")

    async def memory_read(self, address, size):
        if size in (1, 2, 4, 8) and address % size == 0:
            return int(self._ask(f"read{'bwlq'[size.bit_length() - 1]} {address:#x}"), 16).to_bytes(size, "little")
        return b"".join([await self.memory_read(address + i, 1) for i in range(size)])

    async def memory_write(self, address, value):
        if len(value) in (1, 2, 4, 8) and address % len(value) == 0:
            self._ask(f"write{'bwlq'[len(value).bit_length() - 1]} {address:#x} {int.from_bytes(value, 'little'):#x}")
        else:
            for i, byte in enumerate(value):
                await self.memory_write(address + i, bytes([byte]))

    def bar_window(self):
        return _BARS

    def bar_window_32(self):
        return _BARS_32

    # Guest memory, with guard bytes around each allocation

    def alloc(self, size, align=64, *, writable=True):
        start = -(-(self._next + _GUARD) // align) * align
        before, self._next = self._next, start + size + _GUARD
        if self._next > _MEMORY_END:
            raise HostError("Guest memory for allocations is used up")
        self._put(before, bytes([_PATTERN]) * (start - before) + bytes(size) + bytes([_PATTERN]) * _GUARD)
        self._sizes[start] = size
        return start

    def free(self, address):
        """Check the guard bytes, and fill what is freed: a write from now on is found when QEMU ends."""
        size = self._sizes.pop(address)
        around = self._get(address - _GUARD, size + 2 * _GUARD)
        if around[:_GUARD] + around[-_GUARD:] != bytes([_PATTERN]) * 2 * _GUARD:
            self.violations.append(f"guard bytes of the memory at {address:#x} were overwritten")
        self._put(address, bytes([_PATTERN]) * size)

    def check_freed(self):
        """Note a violation if memory outside all allocations was written."""
        live = sorted((start, start + size) for start, size in self._sizes.items())
        at, used = _MEMORY, self._get(_MEMORY, self._next - _MEMORY)
        for start, end in [*live, (self._next, self._next)]:
            gap = used[at - _MEMORY:start - _MEMORY]
            if gap.strip(bytes([_PATTERN])):
                self.violations.append(f"memory between {at:#x} and {start:#x}, which the device was not given, was written")
            at = end

    def _get(self, address, size):
        return base64.b64decode(self._ask(f"b64read {address:#x} {size:#x}")) if size else b""

    def _put(self, address, value):
        if value:
            self._ask(f"b64write {address:#x} {len(value):#x} {base64.b64encode(value).decode()}")

    async def read(self, address, size):
        return self._get(address, size)

    async def write(self, address, value):
        self._put(address, bytes(value))

    # Interrupts

    def message_address(self, vector):
        return _MESSAGES + 4 * vector, 0x4000 + vector

    def _collect(self):
        """Count the messages in guest memory; two that came since the last look count as one."""
        for vector in range(8):
            word = int.from_bytes(self._get(_MESSAGES + 4 * vector, 4), "little")
            if word:
                if word != 0x4000 + vector:
                    raise HostError(f"Message of vector {vector} carries {word:#x}")
                self._put(_MESSAGES + 4 * vector, bytes(4))
                self._seen[vector] += 1

    async def wait_interrupt(self, vector, cycles=100_000):
        for _ in self._patience(cycles):
            self._collect()
            if vector == -1:
                if self._lines:
                    return True
            elif self._seen[vector] > self._taken[vector]:
                self._taken[vector] += 1
                return True
        return False

    def interrupt_count(self, vector):
        self._collect()
        return self._seen[vector]

    # Time and Ethernet

    def _patience(self, cycles):
        """Iterate, letting time pass, for about ``cycles``; each thousand is a millisecond for QEMU's main loop."""
        end = time.monotonic() + max(0.02, cycles / 1e6)
        while True:
            yield
            if time.monotonic() > end:
                return
            self._settle(100)

    async def sleep(self, cycles):
        self._settle(cycles)

    async def send_frame(self, frame):
        for _ in self._patience(1_000_000):
            with contextlib.suppress(BlockingIOError):
                self._wire.sendto(frame, self._peer)
                return
        raise HostError("QEMU takes no frames")

    async def receive_frame(self, cycles=100_000):
        for _ in self._patience(cycles):
            with contextlib.suppress(BlockingIOError):
                return self._wire.recv(65536)
        return None
