# SPDX-License-Identifier: BSD-2-Clause
"""The vfio-user server: QEMU on one side of a UNIX socket, a :class:`Simulation` on the other.

One thread does everything: it looks at the socket every few hundred cycles without ever blocking, and keeps the RTL's clock running
in between, so that the device goes on while the guest thinks. Requests are carried out strictly in order.
"""

import contextlib
import json
import mmap
import os
import select
import socket
import stat
import struct
import threading
import time

from .errors import SetupError
from .function import PciFunction
from .protocol import MAX_TRANSFER, Command, Connection, IrqFlag, ProtocolError, RequestError
from .tracefile import AccessTrace

__all__ = ["VfioUserServer", "check_socket"]

EINVAL, EEXIST, ENOSYS = 22, 17, 38
CONFIG_REGION, REGIONS, IRQ_KINDS = 7, 9, 5
IRQ_INTX, IRQ_MSIX = 0, 2
DEVICE_RESETTABLE, DEVICE_PCI = 1, 2
REGION_READABLE, REGION_WRITABLE = 1, 2
BUSY_CYCLES, IDLE_CYCLES = 64, 512      # clocked between two looks at the socket
WIRE_BYTES_PER_CYCLE = 4                # what the peer sends at most: a burst at full rate would outrun the guest's receive buffers
BATCH = 64                              # requests taken before the clock runs again


def _listen(path):
    """Return a listening socket at ``path``; only a socket that nobody listens on any more is replaced."""
    check_socket(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise SetupError(f"The socket {path} cannot be made ({error.strerror or error}).") from error
    return listener


def check_socket(path):
    """Refuse a path that is taken, before anything is built for it."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise SetupError(f"{path} exists and is no socket; choose another path.")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.connect(path)
            raise SetupError(f"The socket {path} is in use by another program; choose another path.")


class VfioUserServer:
    """Serves one client on a UNIX socket; listens from construction on.

    Parameters
    ----------
    simulation
        The harness, out of power-on reset.
    path
        Where to make the socket; removed at the end.
    network
        Backend of :mod:`unvirt_sim.guest.net`, or None.
    capture
        :class:`~unvirt_sim.guest.net.pcap.PcapngWriter` for the frames of both directions, or None.
    trace
        Path of the access trace, or None.
    observer
        Told of accesses, frames and interrupts (see :class:`~unvirt_sim.guest.measure.PingMeter`), or None.
    log
        Called with one sentence now and then.

    Raises
    ------
    SetupError
        If the socket cannot be made.
    """

    def __init__(self, simulation, path, *, network=None, capture=None, trace=None, observer=None,
                 log=lambda text: None):
        self.simulation = simulation
        self.path = str(path)
        self.network = network
        self._capture = capture
        self.log = log
        self._observer = observer
        self._trace = AccessTrace(trace)
        self.function = PciFunction(simulation, self._trace, observer)
        self._maps = {}                 # address -> (size, mmap or None)
        self._client = None
        self._greeted = False
        self._stop = threading.Event()
        self._wire_free = 0             # cycle from which the peer may send again
        self.messages = 0
        self.errors = 0
        self.frames = {"sent": 0, "received": 0, "aborted": 0}
        self.seconds = {"blocked": 0.0, "clocked": 0.0, "connected": 0.0, "cpu": 0.0}
        self._listener = _listen(self.path)
        self._handlers = {
            Command.VERSION: self._version, Command.DMA_MAP: self._dma_map, Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info, Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info, Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read, Command.REGION_WRITE: self._region_write, Command.DEVICE_RESET: self._reset,
        }

    # -- the loop

    def stop(self):
        """Make :meth:`serve` end soon; callable from any thread."""
        self._stop.set()

    def serve(self, *, accept_seconds=None):
        """Wait for a client and serve it until it hangs up or :meth:`stop`; returns the :meth:`summary`.

        A client that breaks the protocol is disconnected with a sentence to ``log``; the summary then has it as ``broken``.
        """
        broken = None
        try:
            if self._accept(accept_seconds):
                started, used = time.monotonic(), time.thread_time()
                try:
                    self._loop()
                except ProtocolError as error:
                    broken = str(error)
                    self.errors += 1
                    self.log(f"{error} The connection is closed.")
                self.seconds["connected"] = time.monotonic() - started
                self.seconds["cpu"] = time.thread_time() - used
        finally:
            self.close()
        return {**self.summary(), "broken": broken}

    def _accept(self, seconds):
        deadline = None if seconds is None else time.monotonic() + seconds
        while not self._stop.is_set() and (deadline is None or time.monotonic() < deadline):
            if select.select([self._listener], [], [], 0.1)[0]:
                self._client = Connection(self._listener.accept()[0])
                self._listener.close()          # one connection per function
                return True
        return False

    def _loop(self):
        poller = select.poll()
        poller.register(self._client, select.POLLIN)
        active_until = 0
        while not self._client.closed and not self._stop.is_set():
            if self._client.wants_write:
                self._client.flush()
            ready = poller.poll(0)
            if ready and self._take_requests():
                active_until = self.simulation.cycle + 8 * IDLE_CYCLES
            started = time.monotonic()
            self.simulation.run(BUSY_CYCLES if self.simulation.cycle < active_until else IDLE_CYCLES)
            self.seconds["clocked"] += time.monotonic() - started
            self.function.collect()
            self._move_frames()

    def _take_requests(self):
        count = 0
        started = time.monotonic()
        while count < BATCH and not self._stop.is_set():
            message = self._client.receive()
            if message is None:
                break
            count += 1
            self.messages += 1
            self._handle(message)
        if count:
            self.seconds["blocked"] += time.monotonic() - started
        return count

    def _handle(self, message):
        command = message.header.command
        try:
            handler = self._handlers.get(command)
            if handler is None:
                raise RequestError(ENOSYS, f"Command {command} is unknown")
            if not self._greeted and command != Command.VERSION:
                raise RequestError(EINVAL, f"Command {command} came before the version")
            body = handler(message)
        except RequestError as error:
            self.errors += 1
            self._trace(self.simulation.cycle, "note", text=f"{error}, refused with errno {error.errno}")
            self.log(f"{error}; refused.")
            self._client.refuse(message, error.errno)
        else:
            self._client.reply(message, body)
        finally:
            message.close_fds()

    def _move_frames(self):
        """Carry frames between the RTL's MAC and the network backend."""
        for cycle, frame, aborted in self.simulation.take_frames():
            frame = bytes(frame)
            self._trace(cycle, "from_mac", frame=frame.hex(), aborted=bool(aborted))
            self.frames["aborted" if aborted else "sent"] += 1
            if not aborted:
                self._note_frame(cycle, frame, from_device=True)
                if self.network:
                    self.network.send(frame)
        if self.network is None or self.simulation.cycle < self._wire_free:
            return
        for frame in self.network.poll():
            self.simulation.send_frame(frame)
            self._wire_free = max(self._wire_free, self.simulation.cycle) + len(frame) // WIRE_BYTES_PER_CYCLE
            self.frames["received"] += 1
            self._trace(self.simulation.cycle, "to_mac", frame=frame.hex())
            self._note_frame(self.simulation.cycle, frame, from_device=False)

    def _note_frame(self, cycle, frame, *, from_device):
        if self._capture:
            self._capture.write(cycle, frame, from_device=from_device)
        if self._observer:
            self._observer.frame(cycle, frame, from_device)

    def close(self):
        """Let go of the client, the guest's memory and the socket."""
        if self._client:
            self._client.close()
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        for address in list(self._maps):
            self._unmap(address)
        self.function.close()
        self._trace.close()

    def summary(self):
        """Return the counters as a dictionary."""
        return {"cycles": self.simulation.cycle, "messages": self.messages, "errors": self.errors, **self.function.counts,
                "frames": dict(self.frames),
                "seconds": {name: round(value, 3) for name, value in self.seconds.items()}}

    # -- requests

    def _version(self, message):
        major, minor = message.unpack("<HH")
        if major != 0:
            raise RequestError(EINVAL, f"Protocol version {major}.{minor} is not supported, only 0.x")
        self._greeted = True
        answer = json.dumps({"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": MAX_TRANSFER}}, separators=(",", ":"))
        # The client reads the answer into the buffer of its request.
        if 5 + len(answer) > max(len(message.body), 5):
            answer = "{}" if len(message.body) >= 7 else ""
        return struct.pack("<HH", 0, 0) + (answer.encode() + b"\0" if answer else b"")

    def _dma_map(self, message):
        _, flags, offset, address, size = message.unpack("<IIQQQ")
        if size == 0 or address + size > 1 << 64:
            raise RequestError(EINVAL, f"A mapping of {size:#x} bytes at {address:#x} is impossible")
        if any(address < start + length and start < address + size for start, (length, _) in self._maps.items()):
            raise RequestError(EEXIST, f"The mapping of {size:#x} bytes at {address:#x} overlaps another")
        memory = None
        readable, writable = bool(flags & 1), bool(flags & 2)
        if message.fds:
            try:
                # A private mapping of what is only readable gives ctypes the writable buffer it insists on; the simulation
                # never writes there.
                memory = mmap.mmap(message.fds[0], size, flags=mmap.MAP_SHARED if writable else mmap.MAP_PRIVATE, offset=offset)
            except (OSError, ValueError, OverflowError) as error:
                raise RequestError(EINVAL, f"Guest memory at {address:#x} cannot be mapped ({error})") from error
            self.simulation.map_memory(address, size, buffer=memory, readable=readable, writable=writable)
        # Without a descriptor (ROM, flash) the device cannot reach it: accesses end as unsupported requests.
        self._maps[address] = (size, memory)
        self._trace(self.simulation.cycle, "map", address=address, size=size, flags=flags, memory=memory is not None)
        return b""

    def _dma_unmap(self, message):
        _, _, address, size = message.unpack("<IIQQ")
        for start, (length, _) in list(self._maps.items()):
            if start >= address and start + length <= address + size:
                self._unmap(start)
        return message.body[:24]

    def _unmap(self, address):
        size, memory = self._maps.pop(address)
        self._trace(self.simulation.cycle, "unmap", address=address, size=size)
        if memory is not None:
            self.simulation.unmap_memory(address, size)
            # Something may still hold the buffer for a moment; then it closes when that lets go.
            with contextlib.suppress(BufferError):
                memory.close()

    def _device_info(self, message):
        message.unpack("<I")
        return struct.pack("<IIII", 16, DEVICE_PCI | DEVICE_RESETTABLE, REGIONS, IRQ_KINDS)

    def _region_size(self, index):
        if index >= REGIONS:
            raise RequestError(EINVAL, f"There is no region {index}")
        if index == CONFIG_REGION:
            return 4096
        return self.function.bar_sizes[index] if index < 6 else 0

    def _region_info(self, message):
        _, _, index = message.unpack("<III")
        size = self._region_size(index)
        # Never mappable: the guest's accesses must pass through the RTL.
        return struct.pack("<IIIIQQ", 32, REGION_READABLE | REGION_WRITABLE if size else 0, index, 0, size, 0)

    def _irq_count(self, index):
        if index >= IRQ_KINDS:
            raise RequestError(EINVAL, f"There is no interrupt kind {index}")
        return {IRQ_INTX: 1 if self.function.interrupt_pin else 0, IRQ_MSIX: self.function.vector_count}.get(index, 0)

    def _irq_info(self, message):
        _, _, index = message.unpack("<III")
        return struct.pack("<IIII", 16, 1, index, self._irq_count(index))

    def _set_irqs(self, message):
        _, flags, index, start, count = message.unpack("<IIIII")
        total = self._irq_count(index)
        if start + count > total and not (total == 0 and flags & IrqFlag.DATA_NONE):
            raise RequestError(EINVAL, f"Interrupts {start} to {start + count - 1} of kind {index} do not exist, only {total} do")
        if flags & IrqFlag.DATA_EVENTFD and len(message.fds) not in (0, count):
            raise RequestError(EINVAL, f"{count} interrupts came with {len(message.fds)} descriptors")
        self._trace(self.simulation.cycle, "irqs", index=index, flags=flags, start=start, count=count, fds=len(message.fds))
        if index == IRQ_INTX:
            self._set_line(message, flags, count)
        elif index == IRQ_MSIX:
            self._set_vectors(message, flags, start, count)
        self.function.collect()
        return b""

    def _set_line(self, message, flags, count):
        line = self.function.line
        if flags & IrqFlag.ACTION_TRIGGER:
            line.assign(message.fds.pop(0) if message.fds else None)
        elif flags & IrqFlag.ACTION_MASK:
            line.masked = True
        elif flags & IrqFlag.ACTION_UNMASK:
            line.masked = False     # collect() fires again if the level is still up

    def _set_vectors(self, message, flags, start, count):
        vectors = self.function.vectors
        if not flags & IrqFlag.ACTION_TRIGGER:
            return
        if flags & IrqFlag.DATA_NONE and count == 0:
            for vector in vectors:
                vector.close()
        elif flags & IrqFlag.DATA_EVENTFD:
            for number in range(start, start + count):
                vectors[number].assign(message.fds.pop(0) if message.fds else None)
        elif flags & IrqFlag.DATA_NONE:
            for number in range(start, start + count):
                vectors[number].fire()
        self.function.fill_table()

    def _region(self, message):
        offset, index, count = message.unpack("<QII")
        size = self._region_size(index)
        if count > MAX_TRANSFER or offset + count > size:
            raise RequestError(EINVAL, f"An access of {count} bytes at {offset:#x} leaves region {index} of {size:#x} bytes")
        return offset, index, count

    def _region_read(self, message):
        offset, index, count = self._region(message)
        if index == CONFIG_REGION:
            data = self.function.config_read(offset, count)
        else:
            data = self.function.bar_read(index, offset, count)
        return struct.pack("<QII", offset, index, count) + data

    def _region_write(self, message):
        offset, index, count = self._region(message)
        data = message.body[16:]
        if len(data) != count:
            raise RequestError(EINVAL, f"A write of {count} bytes carries {len(data)}")
        if index == CONFIG_REGION:
            self.function.config_write(offset, data)
        else:
            self.function.bar_write(index, offset, data)
        return message.body[:16]

    def _reset(self, message):
        self.function.reset()
        return b""
