# SPDX-License-Identifier: BSD-2-Clause
"""What a TCP server on the network side sent, byte by byte, as the frames at the device's MAC side show it."""

import base64
import socket

import dpkt

__all__ = ["download", "told"]

SERVER = socket.inet_aton("10.0.2.2")


def _connections(path):
    """Return the connections to the server in the order of their beginnings: lists of (sequence number behind the SYN's, bytes)."""
    begins, segments = {}, {}
    with open(path, "rb") as file:
        for _, frame in dpkt.pcapng.Reader(file):
            packet = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(packet, dpkt.ip.IP) or packet.src != SERVER or not isinstance(packet.data, dpkt.tcp.TCP):
                continue
            segment = packet.data
            if segment.flags & dpkt.tcp.TH_SYN:
                begins.setdefault(segment.dport, segment.seq + 1)
                segments.setdefault(segment.dport, [])
            elif segment.data:
                segments[segment.dport].append(((segment.seq - begins[segment.dport]) & 0xFFFF_FFFF, segment.data))
    return list(segments.values())


def download(path, index):
    """Return the bytes that were ever sent for each place of a file, counted from 1, in connection ``index`` of the capture ``path``."""
    sent = {}
    for begin, data in _connections(path)[index]:
        for place, byte in enumerate(data, begin):
            sent.setdefault(place, set()).add(byte)
    head = bytes(min(sent[place]) for place in range(512) if place in sent)
    content = head.index(b"\r\n\r\n") + 4
    return {place - content + 1: values for place, values in sent.items()}


def told(lines):
    """Return (place of the first, bytes) of what a guest said of a file in lines ``DIFFERENT <place, from 1> <base64>``."""
    parts = [line.split()[1:] for line in lines if line.startswith("DIFFERENT ")]
    return (int(parts[0][0]) if parts else 1), b"".join(base64.b64decode(text) for _, text in parts)
