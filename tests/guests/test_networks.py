# SPDX-License-Identifier: BSD-2-Clause
"""What the Ethernet port can be connected to."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import time

import dpkt
import pytest

from unvirt_sim.guest.errors import SetupError
from unvirt_sim.guest.measure import PingMeter
from unvirt_sim.guest.net import check_network, create_network
from unvirt_sim.guest.net.echo import EchoNetwork
from unvirt_sim.guest.net.passt import PasstNetwork
from unvirt_sim.guest.net.pcap import PcapngWriter
from unvirt_sim.guest.packages import Program

GUEST = bytes.fromhex("02756e766972")
PEER = socket.inet_aton("10.0.2.2")
MINE = socket.inet_aton("10.0.2.15")


def ethernet(kind, data, destination=b"\xff" * 6):
    return bytes(dpkt.ethernet.Ethernet(dst=destination, src=GUEST, type=kind, data=data))


def arp(target=PEER):
    return ethernet(0x806, dpkt.arp.ARP(op=1, sha=GUEST, spa=MINE, tpa=target))


def ping(size, destination, sequence=1, source=MINE, target=PEER):
    icmp = dpkt.icmp.ICMP(type=8, data=dpkt.icmp.ICMP.Echo(id=7, seq=sequence, data=os.urandom(size)))
    packet = dpkt.ip.IP(src=source, dst=target, p=1, data=icmp)
    packet.len = len(packet)
    return ethernet(0x800, packet, destination)


def dhcp(kind):
    request = dpkt.dhcp.DHCP(op=1, xid=0x1234, chaddr=GUEST, opts=((53, bytes([kind])),))
    datagram = dpkt.udp.UDP(sport=68, dport=67, data=bytes(request))
    datagram.ulen = len(datagram)
    packet = dpkt.ip.IP(src=bytes(4), dst=b"\xff" * 4, p=17, data=datagram)
    packet.len = len(packet)
    return ethernet(0x800, packet)


def answer(network, frame):
    network.send(frame)
    (reply,) = network.poll()
    assert len(reply) >= 60
    return dpkt.ethernet.Ethernet(reply)


def test_echo_answers_arp_for_itself_only():
    network = EchoNetwork()
    reply = answer(network, arp())
    assert (reply.dst, reply.data.spa, reply.data.op) == (GUEST, PEER, 2)
    network.send(arp(socket.inet_aton("10.0.2.9")))
    assert network.poll() == []


@pytest.mark.parametrize("size", [0, 1, 55, 56, 57, 1000, 1472])
def test_echo_returns_a_ping_with_a_good_checksum(size):
    network = EchoNetwork()
    mac = answer(network, arp()).src
    request = ping(size, mac)
    reply = answer(network, request).data
    assert (reply.src, reply.dst, reply.data.type) == (PEER, MINE, 0)
    sent = dpkt.ethernet.Ethernet(request).data.data
    assert bytes(reply.data.data) == bytes(sent.data)
    good = dpkt.icmp.ICMP(type=0, data=reply.data.data)
    assert bytes(good)[2:4] == struct.pack(">H", reply.data.sum)


def test_echo_does_not_repair_a_damaged_ping():
    network = EchoNetwork()
    mac = answer(network, arp()).src
    request = bytearray(ping(100, mac))
    request[60] ^= 1
    reply = answer(network, bytes(request)).data
    good = dpkt.icmp.ICMP(type=0, data=reply.data.data)
    assert bytes(good)[2:4] != struct.pack(">H", reply.data.sum)


def test_echo_gives_an_address():
    network = EchoNetwork()
    for kind, expected in ((1, 2), (3, 5)):
        packet = answer(network, dhcp(kind)).data
        reply = dpkt.dhcp.DHCP(packet.data.data)
        assert dict(reply.opts)[53] == bytes([expected])
        assert reply.yiaddr == int.from_bytes(MINE, "big")
        assert dict(reply.opts)[3] == PEER
        assert packet.data.sum


def test_echo_survives_nonsense():
    network = EchoNetwork()
    for frame in (b"", b"\xff" * 14, arp()[:20], ping(10, b"\xff" * 6)[:30], dhcp(1)[:60], dhcp(8), os.urandom(200),
                  b"\xff" * 6 + GUEST + b"\x08\x00" + b"\xff" * 60):
        network.send(frame)
    assert network.poll() == []
    assert network.dropped == 8


@pytest.mark.parametrize("spec", ["", "echo:1", "tap", "tap:", "pcap:", "nothing", "passt:x"])
def test_unknown_networks(spec):
    with pytest.raises(SetupError, match="Network must be one of"):
        check_network(spec)


def test_missing_files_and_interfaces(tmp_path):
    with pytest.raises(SetupError, match="does not exist"):
        check_network(f"pcap:{tmp_path}/none")
    (tmp_path / "text").write_text("no capture at all, just some text")
    with pytest.raises(SetupError, match="is not a capture file"):
        create_network(f"pcap:{tmp_path}/text")
    with pytest.raises(SetupError, match="There is no TAP interface unvirtnone0"):
        create_network("tap:unvirtnone0")
    with pytest.raises(SetupError, match="at most 15"):
        create_network("tap:../../etc/passwd")


def frames_of(path):
    with open(path, "rb") as file:
        return [frame for _, frame in dpkt.pcap.UniversalReader(file)]


def test_capture_is_good_pcapng(tmp_path):
    scapy = pytest.importorskip("scapy.utils", reason="reads what dpkt and unvirt agree on once more")
    path = tmp_path / "capture.pcapng"
    writer = PcapngWriter(path)
    frames = [(125_000_000, arp(), True), (125_000_500, ping(33, GUEST), False), (1 << 34, os.urandom(61), True)]
    for cycle, frame, from_device in frames:
        writer.write(cycle, frame, from_device=from_device)
    writer.close()
    assert frames_of(path) == [frame for _, frame, _ in frames]
    assert [bytes(packet) for packet in scapy.rdpcap(str(path))] == frames_of(path)
    with scapy.PcapNgReader(str(path)) as reader:
        assert [float(packet.time) for packet in reader] == pytest.approx([1.0, 1.000004, (1 << 34) * 8e-9])
    with pytest.raises(SetupError, match="cannot be written"):
        PcapngWriter(tmp_path / "none/capture")


def test_capture_opens_in_tshark(tmp_path):
    if not shutil.which("tshark"):
        pytest.skip("tshark is not installed")
    writer = PcapngWriter(tmp_path / "capture.pcapng")
    writer.write(10, arp(), from_device=True)
    writer.write(20, ping(33, GUEST), from_device=False)
    writer.close()
    result = subprocess.run(["tshark", "-r", tmp_path / "capture.pcapng", "-T", "fields", "-e", "frame.packet_flags_direction",
                             "-e", "_ws.col.Protocol"], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in result.stdout.splitlines()] == ["ARP", "ICMP"]


def test_capture_is_played_after_the_first_frame_and_recorded(tmp_path):
    path = tmp_path / "in.pcapng"
    writer = PcapngWriter(path)
    for number in range(3):
        writer.write(number, bytes([number]) * 70, from_device=False)
    writer.close()
    network = create_network(f"pcap:{path}")
    assert network.poll() == []
    network.send(arp())
    assert [network.poll() for _ in range(4)] == [[b"\0" * 70], [b"\1" * 70], [b"\2" * 70], []]
    network.close()
    assert frames_of(network.output) == [arp()]


PEER_PROGRAM = """
import os, socket, struct, sys
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
while True:
    head = link.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        break
    body = link.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)
    for byte in head + body:
        link.send(bytes([byte]))
"""


def test_passt_framing_with_a_stand_in(tmp_path):
    network = PasstNetwork(tmp_path, Program((sys.executable, "-c", PEER_PROGRAM), "0", "test"))
    network.send(arp())
    network.send(ping(200, GUEST))                      # answered on the way
    network.send(b"x" * 1514)
    frames = []
    deadline = time.monotonic() + 10
    while len(frames) < 3 and time.monotonic() < deadline:
        frames += network.poll()
    network.close()
    assert sorted(map(len, frames)) == [60, 242, 1514]
    assert arp().ljust(60, b"\0") in frames


def test_passt_that_does_not_start(tmp_path):
    with pytest.raises(SetupError, match="passt ended at once: no luck"):
        PasstNetwork(tmp_path, Program((sys.executable, "-c", "import sys; sys.exit('no luck')"), "0", "test"))


def test_passt_without_user_namespaces(tmp_path):
    with pytest.raises(SetupError, match="does not allow here .*user.max_user_namespaces.* or choose --net echo"):
        PasstNetwork(tmp_path, Program((sys.executable, "-c", "import sys; sys.exit('Unable to create user namespace: No')"), "0", "test"))


def test_ping_meter():
    meter = PingMeter()
    request = ping(56, b"\2" * 6)
    reply = bytearray(request)
    reply[34] = 0
    meter.write(90, 0, 0x18)
    meter.write(100, 0, 0x3004)
    meter.frame(170, request, True)
    meter.interrupt(180, 1)
    meter.frame(200, bytes(reply), False)
    meter.interrupt(190, 1)             # from before the answer, only noticed now
    meter.interrupt(260, 0)
    meter.interrupt(270, 0)
    assert meter.pings == [{"bytes": len(request), "transmit": 70, "wire": 30, "receive": 60, "total": 130}]


def test_tap_carries_frames(tap):
    network = create_network(f"tap:{tap}")
    subprocess.run(["ip", "link", "set", tap, "up"], check=True)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as host:
        host.bind((tap, 0))
        host.settimeout(5)
        deadline = time.monotonic() + 5
        while network.lost == 0 and time.monotonic() < deadline:
            network.send(arp())
            if host.recv(2048) == arp():
                break
        host.send(b"\x02" * 6 + GUEST + b"\x88\xb5" + b"hello")
        frames = []
        while not any(b"hello" in frame for frame in frames) and time.monotonic() < deadline:
            frames += network.poll()
    assert any(b"hello" in frame and len(frame) == 60 for frame in frames)
    network.close()
