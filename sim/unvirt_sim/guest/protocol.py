# SPDX-License-Identifier: BSD-2-Clause
"""Messages of the vfio-user protocol, and a connection that frames them without ever blocking."""

import array
import contextlib
import enum
import os
import socket
import struct
from dataclasses import dataclass, field

__all__ = ["Command", "Connection", "Flag", "Header", "IrqFlag", "Message", "ProtocolError", "RequestError"]

HEADER = struct.Struct("<HHIII")            # id, command, size with header, flags, errno
MAX_TRANSFER = 1 << 20                      # bytes of one region access, as announced
MAX_MESSAGE = MAX_TRANSFER + 4096
MAX_FDS = 8
MAX_OUTPUT = 16 << 20                       # bytes of replies a client may leave unread


class Command(enum.IntEnum):
    """Message kinds this side understands."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DEVICE_RESET = 13


class Flag(enum.IntFlag):
    """Flags of a message header."""

    REPLY = 0x1
    NO_REPLY = 0x10
    ERROR = 0x20


class IrqFlag(enum.IntFlag):
    """Flags of SET_IRQS."""

    DATA_NONE = 0x1
    DATA_BOOL = 0x2
    DATA_EVENTFD = 0x4
    ACTION_MASK = 0x8
    ACTION_UNMASK = 0x10
    ACTION_TRIGGER = 0x20


class ProtocolError(Exception):
    """The stream cannot be understood any more; the connection ends with this sentence."""


class RequestError(Exception):
    """A request cannot be carried out; the client gets ``errno``.

    Parameters
    ----------
    errno
        Number for the reply.
    reason
        Sentence for the log.
    """

    def __init__(self, errno, reason):
        super().__init__(reason)
        self.errno = errno


@dataclass(frozen=True)
class Header:
    """The 16 bytes every message begins with."""

    id: int
    command: int
    size: int
    flags: int
    errno: int = 0

    def pack(self):
        """Return the header as bytes."""
        return HEADER.pack(self.id, self.command, self.size, self.flags, self.errno)


@dataclass
class Message:
    """A whole request with the descriptors that came along; those left in ``fds`` are closed after it was handled."""

    header: Header
    body: bytes
    fds: list = field(default_factory=list)

    @property
    def wants_reply(self):
        """Whether the client waits for an answer."""
        return not self.header.flags & Flag.NO_REPLY

    def unpack(self, layout, offset=0):
        """Return the fields of ``layout`` (struct format) at ``offset``; a short body is refused."""
        size = struct.calcsize(layout)
        if len(self.body) < offset + size:
            raise RequestError(22, f"Message {self.header.command} must carry {offset + size} bytes, not {len(self.body)}")
        return struct.unpack_from(layout, self.body, offset)

    def close_fds(self):
        """Close the descriptors nobody took."""
        while self.fds:
            with contextlib.suppress(OSError):
                os.close(self.fds.pop())


class Connection:
    """One client: whole messages in, replies out, nothing blocks.

    A message is read in two pieces, exactly its header and exactly its body, so that descriptors belong to the message they came
    with even when many messages wait back to back.
    """

    def __init__(self, client):
        self._socket = client
        self._socket.setblocking(False)
        self._input = bytearray()
        self._header = None
        self._fds = []
        self._output = bytearray()
        self.closed = False

    def fileno(self):
        """Return the descriptor to poll."""
        return self._socket.fileno()

    @property
    def wants_write(self):
        """Whether replies wait for the client to read."""
        return bool(self._output)

    def receive(self):
        """Return the next whole :class:`Message`, or None when there is none yet or the client is gone (then ``closed``).

        Raises
        ------
        ProtocolError
            When the stream is malformed beyond recovery.
        """
        while not self.closed:
            wanted = HEADER.size if self._header is None else self._header.size - HEADER.size
            if len(self._input) < wanted and not self._read(wanted - len(self._input)):
                return None
            if len(self._input) < wanted:
                continue
            if self._header is None:
                header = Header(*HEADER.unpack(self._input))
                self._check(header)
                self._header = header
                self._input.clear()
            else:
                message = Message(self._header, bytes(self._input), self._fds)
                self._header, self._fds = None, []
                self._input.clear()
                return message
        return None

    @staticmethod
    def _check(header):
        if not HEADER.size <= header.size <= MAX_MESSAGE:
            raise ProtocolError(f"The client sent a message of {header.size} bytes; {HEADER.size} to {MAX_MESSAGE} are possible.")
        if header.flags & 0xF:
            raise ProtocolError("The client sent a reply although nothing was asked of it.")

    def _read(self, count):
        """Read up to ``count`` bytes; False when nothing was there."""
        try:
            data, ancillary, flags, _ = self._socket.recvmsg(count, socket.CMSG_SPACE(4 * 2 * MAX_FDS))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.closed = True
            return False
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(payload[:len(payload) // 4 * 4])
                self._fds.extend(numbers)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"The client sent more than {2 * MAX_FDS} descriptors with one message.")
        if not data:
            self.closed = True
            if self._input or self._header:
                raise ProtocolError("The client closed the connection in the middle of a message.")
            return False
        self._input += data
        return True

    def reply(self, message, body=b""):
        """Answer ``message`` with ``body``, unless the client wants no answer."""
        if message.wants_reply:
            header = message.header
            self._send(Header(header.id, header.command, HEADER.size + len(body), Flag.REPLY).pack() + body)

    def refuse(self, message, errno):
        """Answer ``message`` with an error."""
        if message.wants_reply:
            header = message.header
            self._send(Header(header.id, header.command, HEADER.size, Flag.REPLY | Flag.ERROR, errno).pack())

    def _send(self, data):
        if len(self._output) + len(data) > MAX_OUTPUT:
            raise ProtocolError(f"The client left {MAX_OUTPUT >> 20} MiB of replies unread.")
        self._output += data
        self.flush()

    def flush(self):
        """Send what the client is ready to take."""
        while self._output and not self.closed:
            try:
                count = self._socket.send(self._output, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.closed = True
                return
            del self._output[:count]

    def close(self):
        """Close the socket and every descriptor still held."""
        self.closed = True
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())
        self._socket.close()
