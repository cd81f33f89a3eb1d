# SPDX-License-Identifier: BSD-2-Clause
"""The host's own network by passt: real TCP, UDP and ping without root.

Frames travel over a socket pair, each after its length in four bytes, most significant first. The host appears to the guest at 10.0.2.2.
"""

import contextlib
import os
import select
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import dpkt

from ..errors import SetupError
from .echo import answer_ping

__all__ = ["PasstNetwork"]

HOST, GUEST = "10.0.2.2", "10.0.2.15"
MAX_FRAME = 65535
BATCH = 32          # frames handed to the device at once; the rest stays with passt, whose TCP then slows down


class PasstNetwork:
    """A passt process of our own; it ends with the backend.

    Pings of 10.0.2.2 are answered here: passt would need ping sockets, which many hosts do not grant (``net.ipv4.ping_group_range``).
    """

    guest = {"NET": "dhcp", "ADDRESS": f"{GUEST}/24", "PEER": HOST}

    def __init__(self, log_folder=None, program=None):
        from ..packages import find_passt

        program = program or find_passt()
        self._log = Path(log_folder or tempfile.mkdtemp(prefix="unvirt-")) / "passt.log"
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        os.set_inheritable(theirs.fileno(), True)
        command = [*program.command, "--foreground", "--fd", str(theirs.fileno()), "--ipv4-only", "--address", GUEST, "--netmask", "24",
                   "--gateway", HOST, "--map-host-loopback", HOST, "--mtu", "1500", "--dns", "none", "--search", "none",
                   "--tcp-ports", "none", "--udp-ports", "none"]
        with open(self._log, "wb") as log:
            self._child = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        theirs.close()
        # A passt that cannot start says so within moments; better a sentence now than a guest without network later.
        time.sleep(0.2)
        if self._child.poll() is not None:
            self._socket.close()
            raise SetupError(self._why_not(self._last_words().rstrip(".")))
        self._socket.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._input = bytearray()
        self._output = bytearray()
        self._answers = []
        self.closed = False

    def _last_words(self):
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it gave no reason"

    @staticmethod
    def _why_not(reason):
        if "user namespace" in reason:
            return (f"passt shuts itself into a user namespace, which this system does not allow here ({reason}); allow it (sysctl "
                    f"user.max_user_namespaces, kernel.unprivileged_userns_clone) or choose --net echo.")
        return f"passt ended at once: {reason}. --net echo does without it."

    def send(self, frame):
        """Take a frame the device transmitted."""
        if answer := self._answer_ping(frame):
            self._answers.append(answer)
            return
        self._output += struct.pack(">I", len(frame)) + frame
        self._flush()

    @staticmethod
    def _answer_ping(frame):
        if frame[12:14] != b"\x08\x00" or frame[23:24] != b"\x01" or frame[30:34] != socket.inet_aton(HOST):
            return None
        try:
            ethernet = dpkt.ethernet.Ethernet(frame)
            if not isinstance(ethernet.data.data, dpkt.icmp.ICMP) or ethernet.data.data.type != dpkt.icmp.ICMP_ECHO:
                return None
            return answer_ping(ethernet.src, ethernet.dst, ethernet.data)
        except (dpkt.UnpackError, AttributeError, ValueError, IndexError):
            return None

    def _flush(self):
        while self._output and not self.closed:
            try:
                del self._output[:self._socket.send(self._output, socket.MSG_NOSIGNAL)]
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.closed = True

    def poll(self):
        """Return the frames for the device."""
        self._flush()
        if not self.closed and self._poller.poll(0):
            try:
                data = self._socket.recv(BATCH * 1518)
                self._input += data
                self.closed = not data
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.closed = True
        frames, self._answers = self._answers, []
        while len(self._input) >= 4:
            (length,) = struct.unpack_from(">I", self._input)
            if length > MAX_FRAME:
                self.closed = True      # the stream is out of step
                self._input.clear()
                break
            if len(self._input) < 4 + length:
                break
            frames.append(bytes(self._input[4:4 + length]).ljust(60, b"\0"))
            del self._input[:4 + length]
        return frames

    def close(self):
        """End passt."""
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            self._child.terminate()
        try:
            self._child.wait(5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
