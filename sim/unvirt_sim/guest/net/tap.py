# SPDX-License-Identifier: BSD-2-Clause
"""A TAP interface of the host: bridge it, capture on it, give it an address; unvirt only moves the frames."""

import contextlib
import fcntl
import os
import re
import struct

from ..errors import SetupError

__all__ = ["TapNetwork"]

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
BATCH = 32


class TapNetwork:
    """The TAP interface ``name``; it must exist and belong to the user, or the user must be root.

    The guest asks for an address by DHCP and, when nobody answers, goes without.
    """

    guest = {"NET": "trydhcp", "ADDRESS": "", "PEER": ""}

    def __init__(self, name):
        if not re.fullmatch(r"[\w.-]{1,15}", name):
            raise SetupError(f"TAP interface must be a name of at most 15 letters and digits, not {name!r}.")
        remedy = f"make it with 'sudo ip tuntap add {name} mode tap user $USER && sudo ip link set {name} up'"
        # Root would silently get a new interface that is down and that nobody is connected to.
        if not os.path.exists(f"/sys/class/net/{name}"):
            raise SetupError(f"There is no TAP interface {name}; {remedy}.")
        try:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            try:
                fcntl.ioctl(self._fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            except OSError:
                os.close(self._fd)
                raise
        except OSError as error:
            raise SetupError(f"The TAP interface {name} cannot be opened ({error.strerror}); {remedy}.") from error
        self.lost = 0

    def send(self, frame):
        """Take a frame the device transmitted."""
        try:
            os.write(self._fd, frame)
        except OSError:
            self.lost += 1      # the interface is down or full, as a wire would lose it

    def poll(self):
        """Return the frames for the device."""
        frames = []
        with contextlib.suppress(OSError):
            while len(frames) < BATCH:
                frames.append(os.read(self._fd, 65536).ljust(60, b"\0"))
        return frames

    def close(self):
        """Let go of the interface."""
        os.close(self._fd)
