# SPDX-License-Identifier: BSD-2-Clause
"""A built-in peer that needs no tools and no rights: ARP, ICMP echo and a DHCP server with one address."""

import socket

import dpkt

__all__ = ["EchoNetwork", "answer_ping"]

MAC = bytes.fromhex("02756e760002")
BROADCAST = b"\xff" * 6
ADDRESS = socket.inet_aton("10.0.2.2")
GUEST = socket.inet_aton("10.0.2.15")
MASK = socket.inet_aton("255.255.255.0")
LEASE_SECONDS = 86400


def answer_ping(sender, receiver, packet):
    """Return the padded frame that answers ``packet``, a :class:`dpkt.ip.IP` with an echo request from hardware address ``sender``.

    A wrong checksum of the guest must not come back repaired: the body returns as the wire carried it, its checksum adjusted for the
    changed type only (8 to 0), so that damage stays visible at the sender.
    """
    body = bytearray(bytes(packet)[packet.hl * 4:packet.len])
    checksum = int.from_bytes(body[2:4], "big") + 0x0800
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    body[0] = dpkt.icmp.ICMP_ECHOREPLY
    body[2:4] = checksum.to_bytes(2, "big")
    reply = dpkt.ip.IP(src=packet.dst, dst=packet.src, p=dpkt.ip.IP_PROTO_ICMP, ttl=64, id=packet.id, data=bytes(body))
    reply.len = 20 + len(body)
    return bytes(dpkt.ethernet.Ethernet(dst=sender, src=receiver, type=dpkt.ethernet.ETH_TYPE_IP, data=reply)).ljust(60, b"\0")


class EchoNetwork:
    """Answers ARP and ping for 10.0.2.2 and gives the guest 10.0.2.15 by DHCP; what it does not understand it drops."""

    guest = {"NET": "dhcp", "ADDRESS": "10.0.2.15/24", "PEER": "10.0.2.2"}

    def __init__(self):
        self._frames = []
        self.dropped = 0

    def send(self, frame):
        """Take a frame the device transmitted."""
        try:
            answer = self._answer(frame)
        except (dpkt.UnpackError, AttributeError, ValueError, IndexError):
            answer = None
        if answer is None:
            self.dropped += 1
        else:
            self._frames.append(answer.ljust(60, b"\0"))

    def poll(self):
        """Return the frames for the device."""
        frames, self._frames = self._frames, []
        return frames

    def close(self):
        """Nothing to let go of."""

    def _answer(self, frame):
        ethernet = dpkt.ethernet.Ethernet(frame)
        if ethernet.dst not in (MAC, BROADCAST):
            return None
        if isinstance(ethernet.data, dpkt.arp.ARP):
            return self._arp(ethernet.data)
        if not isinstance(ethernet.data, dpkt.ip.IP):
            return None
        packet = ethernet.data
        if isinstance(packet.data, dpkt.udp.UDP) and packet.data.dport == 67:
            return self._dhcp(dpkt.dhcp.DHCP(packet.data.data))
        if isinstance(packet.data, dpkt.icmp.ICMP) and packet.dst == ADDRESS and packet.data.type == dpkt.icmp.ICMP_ECHO:
            return answer_ping(ethernet.src, MAC, packet)
        return None

    @staticmethod
    def _arp(request):
        if request.op != dpkt.arp.ARP_OP_REQUEST or request.tpa != ADDRESS:
            return None
        reply = dpkt.arp.ARP(op=dpkt.arp.ARP_OP_REPLY, sha=MAC, spa=ADDRESS, tha=request.sha, tpa=request.spa)
        return bytes(dpkt.ethernet.Ethernet(dst=request.sha, src=MAC, type=dpkt.ethernet.ETH_TYPE_ARP, data=reply))

    @staticmethod
    def _dhcp(request):
        options = dict(request.opts)
        kind = options.get(dpkt.dhcp.DHCP_OPT_MSGTYPE, b"\0")[0]
        answer = {dpkt.dhcp.DHCPDISCOVER: dpkt.dhcp.DHCPOFFER, dpkt.dhcp.DHCPREQUEST: dpkt.dhcp.DHCPACK}.get(kind)
        if answer is None:
            return None
        hardware = request.chaddr[:6]
        reply = dpkt.dhcp.DHCP(
            op=dpkt.dhcp.DHCP_OP_REPLY, xid=request.xid, flags=request.flags, chaddr=request.chaddr,
            yiaddr=int.from_bytes(GUEST, "big"), siaddr=int.from_bytes(ADDRESS, "big"),
            opts=((dpkt.dhcp.DHCP_OPT_MSGTYPE, bytes([answer])), (dpkt.dhcp.DHCP_OPT_SERVER_ID, ADDRESS),
                  (dpkt.dhcp.DHCP_OPT_LEASE_SEC, LEASE_SECONDS.to_bytes(4, "big")), (dpkt.dhcp.DHCP_OPT_NETMASK, MASK),
                  (dpkt.dhcp.DHCP_OPT_ROUTER, ADDRESS)))
        datagram = dpkt.udp.UDP(sport=67, dport=68, data=bytes(reply))
        datagram.ulen = len(datagram)
        packet = dpkt.ip.IP(src=ADDRESS, dst=GUEST, p=dpkt.ip.IP_PROTO_UDP, ttl=64, data=datagram)
        packet.len = len(packet)
        return bytes(dpkt.ethernet.Ethernet(dst=hardware, src=MAC, type=dpkt.ethernet.ETH_TYPE_IP, data=packet))
