# SPDX-License-Identifier: BSD-2-Clause
"""Ping times in RTL cycles, seen at the device: doorbell, frame out, answer in, interrupt."""

__all__ = ["PingMeter"]

NOTIFY = range(0x3000, 0x4000)      # of BAR 0
ECHO_REPLY, ECHO_REQUEST = 0, 8


def _echo(frame):
    """Return (type, identifier and sequence) of an ICMP echo frame, or None."""
    if len(frame) < 42 or frame[12:14] != b"\x08\x00" or frame[23] != 1:
        return None
    start = 14 + 4 * (frame[14] & 0xF)
    kind = frame[start] if start + 8 <= len(frame) else None
    return (kind, bytes(frame[start + 4:start + 8])) if kind in (ECHO_REPLY, ECHO_REQUEST) else None


class PingMeter:
    """Follows each ping through the device.

    ``pings`` is a list of dictionaries: ``bytes`` of the frame, and cycles: ``transmit`` (doorbell to the frame at the MAC), ``wire``
    (until the answer was given to the MAC), ``receive`` (from there to the interrupt), ``total`` (doorbell to interrupt, without the wire).
    """

    def __init__(self):
        self.pings = []
        self._doorbell = None
        self._open = {}
        self._answered = None

    def write(self, cycle, bar, offset):
        """The guest wrote to a BAR."""
        if bar == 0 and offset in NOTIFY:
            self._doorbell = cycle

    def frame(self, cycle, frame, from_device):
        """A frame crossed the MAC."""
        echo = _echo(frame)
        if echo is None:
            return
        kind, name = echo
        if from_device and kind == ECHO_REQUEST and self._doorbell is not None:
            self._open = {name: (len(frame), self._doorbell, cycle)}
        elif not from_device and kind == ECHO_REPLY and name in self._open:
            self._answered = (*self._open.pop(name), cycle)

    def interrupt(self, cycle, vector):
        """The device interrupted."""
        if self._answered is None or cycle < self._answered[3]:
            return
        size, doorbell, sent, answered = self._answered
        self._answered = None
        self.pings.append({"bytes": size, "transmit": sent - doorbell, "wire": answered - sent, "receive": cycle - answered,
                           "total": sent - doorbell + cycle - answered})
