# SPDX-License-Identifier: BSD-2-Clause
"""A cable from the transmit side of the port to its own receive side."""

__all__ = ["LoopbackNetwork"]


class LoopbackNetwork:
    """Returns every frame as it came. The guest gets an address but has nobody to talk to."""

    guest = {"NET": "static", "ADDRESS": "10.0.2.15/24", "PEER": ""}

    def __init__(self):
        self._frames = []

    def send(self, frame):
        """Take a frame the device transmitted."""
        self._frames.append(frame)

    def poll(self):
        """Return the frames for the device."""
        frames, self._frames = self._frames, []
        return frames

    def close(self):
        """Nothing to let go of."""
