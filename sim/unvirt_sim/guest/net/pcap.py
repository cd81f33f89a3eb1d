# SPDX-License-Identifier: BSD-2-Clause
"""Capture files: one is played into the device, and whatever crosses the port is written as pcapng."""

import struct
from pathlib import Path

import dpkt

from ..errors import SetupError

__all__ = ["PcapNetwork", "PcapngWriter"]

NANOSECONDS_PER_CYCLE = 8       # at the nominal 125 MHz
SECTION, INTERFACE, PACKET = 0x0A0D0D0A, 1, 6
ETHERNET = 1
INBOUND, OUTBOUND = 1, 2


class PcapngWriter:
    """Writes frames of both directions as pcapng (tshark and Wireshark open it), with the RTL's own time.

    Parameters
    ----------
    path
        File to write.
    """

    def __init__(self, path):
        try:
            self._file = open(path, "wb")
        except OSError as error:
            raise SetupError(f"The capture file {path} cannot be written ({error.strerror}).") from error
        self._block(SECTION, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
        options = self._option(2, b"unvirt") + self._option(9, b"\x09") + struct.pack("<HH", 0, 0)
        self._block(INTERFACE, struct.pack("<HHI", ETHERNET, 0, 0) + options)

    @staticmethod
    def _option(code, value):
        return struct.pack("<HH", code, len(value)) + value.ljust((len(value) + 3) & ~3, b"\0")

    def _block(self, kind, body):
        length = 12 + len(body)
        self._file.write(struct.pack("<II", kind, length) + body + struct.pack("<I", length))

    def write(self, cycle, frame, *, from_device):
        """Add a frame seen at ``cycle``; direction is as the device sees it."""
        time = cycle * NANOSECONDS_PER_CYCLE
        body = struct.pack("<IIIII", 0, time >> 32, time & 0xFFFF_FFFF, len(frame), len(frame)) + frame.ljust((len(frame) + 3) & ~3, b"\0")
        body += self._option(2, struct.pack("<I", OUTBOUND if from_device else INBOUND)) + struct.pack("<HH", 0, 0)
        self._block(PACKET, body)

    def close(self):
        """Flush and close."""
        self._file.close()


class PcapNetwork:
    """Plays the frames of a capture file into the device once the guest has sent its first frame; records what the device sends.

    What the device sends goes to ``<file>.out.pcapng`` beside the file.
    """

    guest = {"NET": "static", "ADDRESS": "10.0.2.15/24", "PEER": ""}

    def __init__(self, path):
        try:
            with open(path, "rb") as file:
                self._frames = [frame.ljust(60, b"\0") for _, frame in dpkt.pcap.UniversalReader(file)]
        except (ValueError, dpkt.Error) as error:
            raise SetupError(f"{path} is not a capture file that can be read ({error}).") from error
        self._started = False
        self._played = 0
        self._count = 0
        self.output = Path(f"{path}.out.pcapng")
        self._writer = PcapngWriter(self.output)

    def send(self, frame):
        """Take a frame the device transmitted."""
        self._started = True
        self._count += 1
        self._writer.write(self._count, frame, from_device=True)

    def poll(self):
        """Return the frames for the device, one at a time."""
        if not self._started or self._played == len(self._frames):
            return []
        self._played += 1
        return [self._frames[self._played - 1]]

    def close(self):
        """Close the recording."""
        self._writer.close()
