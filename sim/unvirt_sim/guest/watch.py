# SPDX-License-Identifier: BSD-2-Clause
"""Understands what the guest's init script says on the console."""

import contextlib

from ..driver.spec import names

__all__ = ["ConsoleWatch", "negotiated"]


def negotiated(bits):
    """Return the names of features from the line of 0 and 1, bit 0 first, that Linux shows of a device."""
    return names(sum(1 << number for number, bit in enumerate(bits) if bit == "1"))


class ConsoleWatch:
    """Puts the guest's marker lines into a :class:`~unvirt_sim.guest.summary.Summary`.

    Parameters
    ----------
    summary
        Where the results go.
    say
        Called with a line for people at every step.
    show
        Called with every console line that is no marker, or None.
    content
        :class:`~unvirt_sim.guest.content.ContentServer` of the download, or None.
    """

    def __init__(self, summary, say, show, content):
        self._summary, self._say, self._show, self._content = summary, say, show, content
        self.last = ""
        self.ended = False

    def line(self, seconds, text):
        """Take one console line."""
        self.last = text or self.last
        # Kernel messages may come before the marker on the same line.
        _, marker, rest = text.partition("UNVIRT: ")
        if not marker:
            if self._show:
                self._show(text)
            return
        words = rest.split()
        handler = getattr(self, f"_on_{words[0]}", None) if words else None
        if handler:
            with contextlib.suppress(ValueError, IndexError):   # a line garbled by another is not worth a failure
                handler(seconds, words[1:])

    def _on_init(self, seconds, words):
        self._summary.init_seconds = seconds
        self._say(f"{seconds:6.1f} s  Linux is up")

    def _on_device(self, seconds, words):
        self._summary.device_seconds = seconds
        self._say(f"{seconds:6.1f} s  the driver has the device")

    def _on_driver(self, seconds, words):
        self._summary.driver = words[0]
        self._summary.negotiated = negotiated(words[1]) if len(words) > 1 else []

    def _on_rng(self, seconds, words):
        self._summary.driver = words[0].partition(".")[0]
        self._summary.negotiated = negotiated(words[1])

    def _on_entropy(self, seconds, words):
        self._summary.entropy_read += words[0]

    def _on_queues(self, seconds, words):
        self._summary.queue_pairs = int(words[0])

    def _on_address(self, seconds, words):
        self._summary.address, self._summary.address_seconds = words[0], seconds
        self._say(f"{seconds:6.1f} s  eth0 has {words[0]}")

    def _on_ping(self, seconds, words):
        time_ms = None if words[1] == "lost" else float(words[1])
        self._summary.pings.append(time_ms)
        if time_ms is not None and self._summary.first_ping_seconds is None:
            self._summary.first_ping_seconds = seconds
        self._say(f"{seconds:6.1f} s  ping {words[0]}: {'lost' if time_ms is None else f'{time_ms:.2f} ms'}")

    def _on_download(self, seconds, words):
        size, digest, begun, ended = int(words[0]), words[1], float(words[2]), float(words[3])
        self._summary.download = {"bytes": size, "seconds": ended - begun, "sha256": digest,
                                  "equal": size == self._content.size and digest == self._content.sha256}
        self._say(f"{seconds:6.1f} s  downloaded {size} bytes")

    def _on_module(self, seconds, words):
        self._say(f"{seconds:6.1f} s  module {words[0]} did not load")

    def _on_script(self, seconds, words):
        if words[0] != "begins":
            self._summary.script_status = int(words[0])

    def _on_statistics(self, seconds, words):
        self._summary.statistics = {name: int(value) for name, value in (word.split("=") for word in words)}

    def _on_done(self, seconds, words):
        self._summary.statistics.setdefault("done", 1)
        if words[:1] != ["ok"]:
            self._summary.reason = " ".join(words[1:]) or "the guest gave up without a reason"
