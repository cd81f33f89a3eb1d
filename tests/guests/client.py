# SPDX-License-Identifier: BSD-2-Clause
"""A vfio-user client for tests: it says what QEMU says, and what QEMU would never say."""

import array
import contextlib
import os
import select
import socket
import struct
import time

__all__ = ["Client", "Refused"]


class Refused(Exception):
    """The server answered with an error number."""


class Client:
    """Speaks to the server at ``path``; every wait ends after some seconds."""

    def __init__(self, path, *, greet=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(str(path))
        self._id = 0
        if greet:
            hello = b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576,"pgsize":4096}}\0'
            self.request(1, struct.pack("<HH", 0, 0) + hello)

    def post(self, command, body=b"", fds=(), flags=0):
        """Send a message without waiting for an answer; returns its number."""
        self._id += 1
        header = struct.pack("<HHIII", self._id, command, 16 + len(body), flags, 0)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([header + body], ancillary)
        return self._id

    def exactly(self, count):
        """Return the next ``count`` bytes."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the server closed the connection")
            data += piece
        return data

    def answer(self):
        """Return (number, command, flags, errno, body) of the next answer."""
        number, command, size, flags, errno = struct.unpack("<HHIII", self.exactly(16))
        return number, command, flags, errno, self.exactly(size - 16)

    def request(self, command, body=b"", fds=()):
        """Send a message and return the body of its answer."""
        sent = self.post(command, body, fds)
        number, answered, flags, errno, body = self.answer()
        assert (number, answered) == (sent, command)
        assert flags & 0xF == 1
        if flags & 0x20:
            raise Refused(errno)
        return body

    # -- what QEMU asks

    def read(self, region, offset, count):
        """Read a region."""
        body = self.request(9, struct.pack("<QII", offset, region, count))
        assert body[:16] == struct.pack("<QII", offset, region, count)
        return body[16:]

    def write(self, region, offset, data, *, posted=False):
        """Write a region."""
        body = struct.pack("<QII", offset, region, len(data)) + data
        if posted:
            self.post(10, body, flags=0x10)
        else:
            self.request(10, body)

    def map(self, address, size, fd=None, *, offset=0, flags=3):
        """Map guest memory."""
        self.request(2, struct.pack("<IIQQQ", 32, flags, offset, address, size), [] if fd is None else [fd])

    def unmap(self, address, size):
        """Unmap guest memory."""
        return self.request(3, struct.pack("<IIQQ", 24, 0, address, size))

    def set_irqs(self, index, flags, start, count, fds=()):
        """Set, clear, mask or unmask interrupts."""
        self.request(8, struct.pack("<IIIII", 20, flags, index, start, count), fds)

    def open_bar(self, address=0x3800_0000_0000):
        """Place BAR 0 and switch memory and bus mastering on."""
        self.write(7, 0x10, struct.pack("<I", address & 0xFFFF_FFFF))
        self.write(7, 0x14, struct.pack("<I", address >> 32))
        self.write(7, 0x04, struct.pack("<H", 6))

    def closed(self):
        """Return whether the server closed the connection, waiting for it a moment."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(4096):
                pass
        return True


def fired(fd, seconds=2.0):
    """Return how often the eventfd ``fd`` was signalled, waiting a moment for the first time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if select.select([fd], [], [], 0.01)[0]:
            return os.eventfd_read(fd)
    return 0
