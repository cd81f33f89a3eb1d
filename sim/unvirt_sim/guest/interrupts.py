# SPDX-License-Identifier: BSD-2-Clause
"""From messages and the INTx level of the RTL to the client's eventfds; a pending one is never lost."""

import contextlib
import os
from dataclasses import dataclass

__all__ = ["EventVector", "InterruptLine", "signal"]


def signal(fd):
    """Add one to the eventfd ``fd``; a client's broken descriptor is its own loss."""
    with contextlib.suppress(OSError):
        os.write(fd, b"\1\0\0\0\0\0\0\0")


def _close(fd):
    if fd is not None:
        with contextlib.suppress(OSError):
            os.close(fd)


@dataclass
class EventVector:
    """One MSI-X vector: where its messages go."""

    fd: int | None = None
    pending: bool = False
    fired: int = 0

    def assign(self, fd):
        """Replace the eventfd (None: take it away); what is pending goes to the new one at once."""
        old, self.fd = self.fd, fd
        _close(old)
        if self.pending and fd is not None:
            self.pending = False
            signal(fd)

    def fire(self):
        """A message of this vector arrived."""
        self.fired += 1
        if self.fd is None:
            self.pending = True
        else:
            signal(self.fd)

    def close(self):
        """Close the eventfd and forget what was pending."""
        _close(self.fd)
        self.fd, self.pending = None, False


@dataclass
class InterruptLine:
    """INTx as vfio has it: firing masks the line, UNMASK opens it again, and fires again if the level is still up."""

    fd: int | None = None
    masked: bool = False
    fired: int = 0

    def assign(self, fd):
        """Replace the eventfd (None: take it away)."""
        old, self.fd = self.fd, fd
        _close(old)
        self.masked = False

    def update(self, level):
        """Follow the level of the RTL; True if an interrupt went out."""
        if not level or self.masked or self.fd is None:
            return False
        self.masked = True
        self.fired += 1
        signal(self.fd)
        return True

    def close(self):
        """Close the eventfd."""
        self.assign(None)
