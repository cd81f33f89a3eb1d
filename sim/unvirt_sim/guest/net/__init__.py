# SPDX-License-Identifier: BSD-2-Clause
"""The far end of the Ethernet port: what the simulated MAC is connected to.

A backend has ``send(frame)`` (the device transmitted), ``poll() -> list`` (frames for the device), ``close()``, and ``guest``, the
settings that tell the guest's init script how to reach the peer. Nothing blocks.
"""

from pathlib import Path

from ..errors import SetupError

__all__ = ["NETWORKS", "create_network", "check_network"]

NETWORKS = "echo, passt, tap:NAME, pcap:FILE, loopback"


def check_network(spec):
    """Return (kind, argument) of a network such as ``tap:tap0``.

    Raises
    ------
    SetupError
        With a sentence, if there is no such network.
    """
    kind, _, argument = spec.partition(":")
    if kind not in ("echo", "passt", "tap", "pcap", "loopback") or bool(argument) != (kind in ("tap", "pcap")):
        raise SetupError(f"Network must be one of {NETWORKS}, not {spec!r}.")
    if kind == "pcap" and not Path(argument).is_file():
        raise SetupError(f"The capture file {argument} does not exist.")
    return kind, argument


def create_network(spec, *, log_folder=None):
    """Return the backend for ``spec``; ``log_folder`` is where its programs may write logs."""
    kind, argument = check_network(spec)
    # Each kind is imported only when used: a missing tool of one does not stand in the way of the others.
    if kind == "echo":
        from .echo import EchoNetwork
        return EchoNetwork()
    if kind == "passt":
        from .passt import PasstNetwork
        return PasstNetwork(log_folder)
    if kind == "tap":
        from .tap import TapNetwork
        return TapNetwork(argument)
    if kind == "pcap":
        from .pcap import PcapNetwork
        return PcapNetwork(argument)
    from .loopback import LoopbackNetwork
    return LoopbackNetwork()
