# SPDX-License-Identifier: BSD-2-Clause
"""The judge of a download that a network repeated wrongly: what came in is told from what the device would have made of it."""

import base64
import socket

import dpkt
import pytest

from downloads import download, told
from test_rtl_ethtool import check_under_way
from unvirt_sim.guest.net.pcap import PcapngWriter

HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n"
START = 0xFFFF_FFE0     # sequence numbers wrap within the head


def segment(place, data, port=4000, flags=dpkt.tcp.TH_ACK):
    """Return a frame of the server with ``data`` at ``place`` of the stream."""
    tcp = dpkt.tcp.TCP(sport=80, dport=port, seq=(START + 1 + place) & 0xFFFF_FFFF, flags=flags, data=data)
    packet = dpkt.ip.IP(src=socket.inet_aton("10.0.2.2"), dst=socket.inet_aton("10.0.2.15"), p=6, data=tcp, len=40 + len(data))
    return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=packet))


@pytest.fixture
def frames(tmp_path):
    """A capture of two downloads; in the first, three bytes were sent once more, and otherwise."""
    writer = PcapngWriter(tmp_path / "frames")
    for index, frame in enumerate([segment(-1, b"", flags=dpkt.tcp.TH_SYN), segment(0, HEAD + b"abc"), segment(len(HEAD) + 3, b"defghi"),
                                   segment(len(HEAD) + 3, b"xyz"), segment(-1, b"", 4001, dpkt.tcp.TH_SYN), segment(0, HEAD + b"other", 4001)]):
        writer.write(index, frame, from_device=False)
    writer.close()
    return tmp_path / "frames"


def lines(begin, data):
    return ["something else", f"DIFFERENT {begin} {base64.b64encode(data[:2]).decode()}", f"DIFFERENT {begin} {base64.b64encode(data[2:]).decode()}"]


def test_what_was_sent(frames):
    sent = download(frames, -2)
    assert [sent[place] for place in range(1, 10)] == [{*b"a"}, {*b"b"}, {*b"c"}, {*b"dx"}, {*b"ey"}, {*b"fz"}, {*b"g"}, {*b"h"}, {*b"i"}]
    assert told(lines(4, b"xyzg")) == (4, b"xyzg") and told(["STATE rings 1"]) == (1, b"")


def test_only_what_came_in_is_excused(frames):
    check_under_way([], frames)
    for good in (b"xyzg", b"dyfg"):
        check_under_way(lines(4, good), frames)
    for begin, bad in ((4, b"xyzz"), (3, b"xyzg"), (5, b"xyzg"), (7, b"ghij")):
        with pytest.raises(AssertionError, match="none that came in there"):
            check_under_way(lines(begin, bad), frames)
