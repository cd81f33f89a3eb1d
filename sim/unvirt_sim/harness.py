# SPDX-License-Identifier: BSD-2-Clause
"""The simulated device with the host model around it, from Python.

Everything runs in the C++ of ``sim/unvirt_sim/cpp``; Python is asked only when something happened.
"""

import ctypes
from enum import IntFlag
from functools import partial

from .binding import CLOCKING, SIGNATURES, Answer, Message, Parameters, load
from .host import CompletionFailed, HostError
from .link import DLLP_BYTES, LinkConfig, LinkRules
from .records import unpack_records

__all__ = ["Event", "Simulation"]

_NAMES_UP = ("read_requests", "writes", "completions_up", "messages_up")
_NAMES_DOWN = ("completions_down", "host_reads", "host_writes", "config_accesses")


class Event(IntFlag):
    """What :meth:`Simulation.run` can wait for."""

    ANSWER = 1
    MESSAGE = 2
    FRAME = 4
    INTX = 8
    VIOLATION = 16


class Simulation:
    """A device under a clock, its host and the far end of its Ethernet port.

    Parameters
    ----------
    library : Path
        From :func:`~unvirt_sim.build.build_library`.
    link : LinkConfig
    seed : int
        Of everything random in the host.
    random_init : bool
        Registers and memories start with random values.
    answer_cycles : int
        How long to wait for a completion before calling it lost.
    mutant : int
        Which mutant of the device to be, if the library was built with them; 0 is the original.
    """

    _CLOCKING = CLOCKING              # how the library is clocked; another simulator has its own way

    def __init__(self, library, *, link=None, seed=1, random_init=False, answer_cycles=1_000_000,
                 nonposted_depth=16, mutant=0):
        self._library = load(library, SIGNATURES | self._CLOCKING)
        self.link = link or LinkConfig()
        self.answer_cycles = answer_cycles
        parameters = Parameters(seed=seed or 1, nonposted_depth=nonposted_depth, dllp_bytes=DLLP_BYTES)
        self.link.fill(parameters)
        self._sim = self._library.unvirt_new(ctypes.byref(parameters), 2 if random_init else 0)
        if mutant and not self._library.unvirt_mutant(self._sim, mutant):
            raise HostError("This library has no mutants; build it with mutants=True")
        self._buffers = {}
        self._next_id = 0
        self._answers = {}
        self._mac = [False, True]
        self._quiet = self._errors = False
        self._rules = LinkRules(partial(self._library.unvirt_link, self._sim))

    def __del__(self):
        if getattr(self, "_sim", None):
            self._library.unvirt_free(self._sim)
            self._sim = None

    def set_link(self, link):
        """Change the host and link from now on (credits excepted)."""
        self.link = link
        link.fill(self._library.unvirt_parameters(self._sim).contents)

    # --- time ---

    @property
    def cycle(self):
        """Core cycles since power-on reset."""
        return self._library.unvirt_cycle(self._sim)

    def run(self, cycles, until=Event(0)):
        """Clock until one of the events ``until`` or for ``cycles``; return the events seen."""
        return Event(self._library.unvirt_run(self._sim, cycles, int(until)))

    @property
    def infected(self):
        """Numbers of the mutants that would have differed from this device by now, as a mask of bits."""
        words = ctypes.POINTER(ctypes.c_uint32)()
        count = self._library.unvirt_infected(self._sim, ctypes.byref(words))
        return sum(words[index] << 32 * index for index in range(count))

    # --- configuration space and registers ---

    def _access(self, config, write, address, size, value=0, function=0):
        self._next_id += 1
        self._library.unvirt_access(self._sim, self._next_id, config, write, address, size, value,
                                    function)
        return self._next_id

    def _collect(self):
        answer = Answer()
        while self._library.unvirt_answer(self._sim, ctypes.byref(answer)):
            self._answers[answer.id] = (answer.status, answer.data[0] | answer.data[1] << 32)

    def _wait(self, number, what):
        left = self.answer_cycles
        while number not in self._answers:
            before = self.cycle
            self.run(left, Event.ANSWER)
            self._collect()
            left -= self.cycle - before
            if number not in self._answers and left <= 0:
                raise CompletionFailed(f"{what} was not answered within {self.answer_cycles} "
                                       f"cycles")
        status, value = self._answers.pop(number)
        if status:
            names = {1: "Unsupported Request", 2: "Configuration Request Retry Status",
                     4: "Completer Abort"}
            raise CompletionFailed(f"{what} was answered {names.get(status, status)}")
        return value

    def config_read(self, offset, size, function=0):
        """Read 1, 2 or 4 bytes of configuration space."""
        value = self._wait(self._access(True, False, offset, size, 0, function),
                           f"A configuration read at {offset:#x}")
        return value & (1 << 8 * size) - 1

    def config_write(self, offset, size, value, function=0):
        """Write 1, 2 or 4 bytes of configuration space; returns when it is completed."""
        changed = function == 0 and self._rules.before(offset, size, value, self.config_read)
        self._wait(self._access(True, True, offset, size, value, function),
                   f"A configuration write at {offset:#x}")
        if changed:
            self._rules.after()

    def memory_read(self, address, size):
        """Read bytes of MMIO, in pieces of at most 8 that do not cross one."""
        out = b""
        while len(out) < size:
            place = address + len(out)
            part = min(size - len(out), 8 - place % 8)
            value = self._wait(self._access(False, False, place, part),
                               f"A memory read at {place:#x}")
            out += value.to_bytes(8, "little")[:part]
        return out

    def memory_write(self, address, data):
        """Post a write to MMIO."""
        data = bytes(data)
        done = 0
        while done < len(data):
            place = address + done
            part = min(len(data) - done, 8 - place % 8)
            self._access(False, True, place, part,
                         int.from_bytes(data[done:done + part], "little"))
            done += part

    # --- TLPs as they stand ---

    def inject(self, dws, *, nonposted=False):
        """Queue a TLP given as DWs, first byte on the wire lowest; see :meth:`take_completions`."""
        self._library.unvirt_inject(self._sim, (ctypes.c_uint32 * len(dws))(*dws), len(dws), nonposted)

    def take_completions(self):
        """Return the completions of injected non-posted requests, each a list of DWs."""
        out, dws = [], (ctypes.c_uint32 * 1100)()
        while (size := self._library.unvirt_completion(self._sim, dws, len(dws))) >= 0:
            out.append(dws[:size])
        return out

    # --- memory the device may access ---

    def map_memory(self, address, size, *, buffer=None, readable=True, writable=True):
        """Give memory to the device: the caller's ``buffer``, or new and zeroed with guard bytes."""
        pointer = None
        if buffer is not None:
            kind = ctypes.c_uint8 * size
            try:
                held = kind.from_buffer(buffer)
            except TypeError:
                held = kind.from_buffer_copy(buffer)
            self._buffers[address] = held
            pointer = ctypes.addressof(held)
        self._library.unvirt_map(self._sim, address, size, pointer, readable, writable)

    def unmap_memory(self, address, size):
        """Take memory back; a range operation that may cover any number of maps."""
        self._library.unvirt_unmap(self._sim, address, size)
        for start in [start for start in self._buffers if address <= start < address + size]:
            del self._buffers[start]

    def read_memory(self, address, size):
        """Read mapped memory as the CPU sees it."""
        data = ctypes.create_string_buffer(size)
        if size and not self._library.unvirt_copy(self._sim, address, size, data, 0):
            raise HostError(f"There is no memory of {size} bytes at {address:#x}")
        return data.raw

    def write_memory(self, address, data):
        """Write mapped memory as the CPU does."""
        data = bytes(data)
        if data and not self._library.unvirt_copy(self._sim, address, len(data), data, 1):
            raise HostError(f"There is no memory of {len(data)} bytes at {address:#x}")

    # --- interrupts ---

    def add_message_window(self, address, size):
        """Make memory writes to this range messages."""
        self._library.unvirt_window(self._sim, address, size)

    def take_messages(self):
        """Return the messages that arrived as (cycle, address, data)."""
        out, message = [], Message()
        while self._library.unvirt_message(self._sim, ctypes.byref(message)):
            out.append((message.cycle, message.address, message.data))
        return out

    @property
    def intx(self):
        """Level of the INTA message."""
        return bool(self._library.unvirt_intx(self._sim))

    # --- Ethernet ---

    def send_frame(self, frame, *, bad=False):
        """Queue a frame for the device to receive; ``bad``: its last beat is marked as an error."""
        self._library.unvirt_send(self._sim, bytes(frame), len(frame), bad)

    @property
    def frames_waiting(self):
        """Frames queued and not yet begun."""
        return self._library.unvirt_frames_waiting(self._sim)

    @property
    def last_sent(self):
        """Cycle of the last beat given to the device's receive side."""
        return self._library.unvirt_last_sent(self._sim)

    def set_interframe(self, cycles):
        """Leave at least so many idle cycles between received frames."""
        self._library.unvirt_interframe(self._sim, cycles)

    def take_timed_frames(self):
        """Return frames the device sent as (first cycle, last cycle, bytes, aborted)."""
        out = []
        data = ctypes.create_string_buffer(16384)
        first, last, aborted = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_int()
        while True:
            size = self._library.unvirt_frame(self._sim, data, len(data), ctypes.byref(first),
                                              ctypes.byref(last), ctypes.byref(aborted))
            if size < 0:
                return out
            out.append((first.value, last.value, data.raw[:size], bool(aborted.value)))

    def take_frames(self):
        """Return frames the device sent as (cycle, bytes, aborted)."""
        return [(last, data, aborted) for _, last, data, aborted in self.take_timed_frames()]

    def _set_mac(self, index, value):
        self._mac[index] = bool(value)
        self._library.unvirt_mac(self._sim, *self._mac)

    mac_stalled = property(lambda self: self._mac[0], lambda self, value: self._set_mac(0, value),
                           doc="The MAC takes no beat.")
    mac_link_up = property(lambda self: self._mac[1], lambda self, value: self._set_mac(1, value),
                           doc="The Ethernet link is up.")

    @property
    def entropy_taken(self):
        """Bytes that an entropy device took so far of the :class:`~unvirt_sim.entropy.EntropyStream` of this simulation's seed."""
        return self._library.unvirt_entropy(self._sim)

    def hide_features(self, word):
        """Let the device not offer the feature bits in ``word``; to be set while the device is in reset."""
        self._library.unvirt_feature_mask(self._sim, (ctypes.c_uint32 * 3)(*(word >> 32 * window & 0xFFFF_FFFF for window in range(3))))

    def pace_frames(self, rings, window, period=0.0):
        """Give frames to the device only while fewer than ``window`` of them are not yet used in these rings.

        And no more than one in ``period`` cycles. A window of 0 sends them as fast as the port takes them. ``rings`` are (address, bytes,
        packed): of a used ring, or of the descriptors of a packed one.
        """
        self._library.unvirt_watch_none(self._sim)
        for address, size, packed in rings:
            if not self._library.unvirt_watch_used(self._sim, address, size, packed):
                raise HostError(f"There is no memory of {size} bytes at {address:#x}")
        self._library.unvirt_pace(self._sim, window, round(period * 1024))

    # --- resets, checkers, figures ---

    def reset(self, kind, cycles=16):
        """Reset the device: ``power``, ``hot``, or ``link`` (down and up again)."""
        kinds = ("power", "hot", "link")
        if kind not in kinds:
            raise ValueError(f"Reset must be one of {', '.join(kinds)}, not {kind!r}")
        self._library.unvirt_reset_begin(self._sim, kinds.index(kind))
        self.run(cycles)
        self._library.unvirt_reset_end(self._sim)
        self._rules.forget()

    def expect_quiet(self, quiet):
        """From now on (or no longer) any memory request of the device is a violation."""
        self._quiet = bool(quiet)
        self._library.unvirt_quiet(self._sim, self._quiet, self._errors)

    def expect_errors(self, expected):
        """Accesses outside memory are answered, but no violation."""
        self._errors = bool(expected)
        self._library.unvirt_quiet(self._sim, self._quiet, self._errors)

    def block_credits(self, kind, blocked=True):
        """Stop returning transmit credits of a kind (0 ph, 1 pd, 2 nph, 3 npd, 4 cplh, 5 cpld)."""
        self._library.unvirt_block(self._sim, kind, blocked)

    @property
    def violations(self):
        """Everything the checkers complained about."""
        where = ctypes.c_uint64()
        out = [self._library.unvirt_violation(self._sim, number).decode()
               for number in range(self._library.unvirt_violations(self._sim))]
        if self._library.unvirt_guard(self._sim, ctypes.byref(where)):
            out.append(f"guard bytes of the memory at {where.value:#x} were overwritten")
        return out

    def forgive(self):
        """Forget the violations so far."""
        self._library.unvirt_forgive(self._sim)

    @property
    def counters(self):
        """TLPs and bytes by kind and direction, as a dictionary of names and numbers."""
        counters = self._library.unvirt_counters(self._sim).contents
        out = {}
        for names, numbers, sizes in ((_NAMES_UP, counters.up, counters.up_bytes),
                                      (_NAMES_DOWN, counters.down, counters.down_bytes)):
            for index, name in enumerate(names):
                out[name], out[f"{name}_bytes"] = numbers[index], sizes[index]
        for name in ("read_bytes", "write_bytes", "most_reads_in_flight"):
            out[f"dma_{name}"] = getattr(counters, name)
        stats = self._library.unvirt_stats(self._sim)
        out |= {"rx_dropped": stats[0], "tx_dropped": stats[1], "unsupported": stats[2]}
        return out

    def mute(self, address, size):
        """Never answer reads of this range from now on; with size 0 all reads are answered again."""
        self._library.unvirt_mute(self._sim, address, size)

    def record(self, on=True):
        """Begin (or end) to note every TLP and frame; what was noted before is forgotten."""
        self._library.unvirt_record(self._sim, on)

    def records(self):
        """Return what was noted as a list of :class:`~unvirt_sim.records.Record`, oldest first."""
        place = ctypes.c_void_p()
        count = self._library.unvirt_records(self._sim, ctypes.byref(place))
        return unpack_records(place, count)

    def trace(self, path):
        """Write every TLP with its cycle to a file; None stops it."""
        self._library.unvirt_trace(self._sim, str(path).encode() if path else b"")

    def record_ports(self, path):
        """Write the value of every port in every cycle to a file; None stops it.

        A cycle is the ports but the clock in the order of :func:`~unvirt.verilog.port_manifest`, each little-endian in the bytes that
        Verilator gives it: 1, 2, 4, 8, or above 64 bits a multiple of 4.
        """
        self._library.unvirt_record_ports(self._sim, str(path).encode() if path else b"")

    def waves(self, path, first, last):
        """Write waveforms of the cycles from ``first`` to ``last`` as VCD; the library must be built for it."""
        if not self._library.unvirt_waves(self._sim, str(path).encode(), first, last):
            raise HostError("This library has no waveforms; build it with waves=True")

    def write_coverage(self, path):
        """Write how often each bit has toggled by now, in the format of Verilator; the library must be built for it."""
        if not self._library.unvirt_write_coverage(self._sim, str(path).encode()):
            raise HostError("This library counts nothing; build it with coverage=True")
