# SPDX-License-Identifier: BSD-2-Clause
"""Unmodified Linux kernels on the RTL: the proof that the whole device is one.

One boot by the command line belongs to every test run; the other kernels, networks and resets are ``slow``.
"""

import json
import os
import shlex
import subprocess
import sys

import dpkt
import pytest
from click.testing import CliRunner
from scapy.utils import rdpcap

from scripts import RESETS
from unvirt_sim.cli import main
from unvirt_sim.driver.spec import Feature, mask
from unvirt_sim.guest.kernel import MODULES, build_initramfs, module_closure
from unvirt_sim.guest.net.pcap import PcapngWriter
from unvirt_sim.guest.packages import KERNELS, find_busybox, find_kernel, find_qemu
from unvirt_sim.guest.runner import BootOptions, boot

GUEST = bytes.fromhex("02756e766972")


def environment():
    """The environment in which a child finds the packages as this process does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def captured(path):
    with open(path, "rb") as file:
        return [frame for _, frame in dpkt.pcap.UniversalReader(file)]


def echoes(frames):
    """Return (kind, sequence part, payload) of every ICMP echo message, its IP and ICMP checksums verified."""
    found = []
    for frame in frames:
        packet = dpkt.ethernet.Ethernet(frame).data
        if isinstance(packet, dpkt.ip.IP) and isinstance(packet.data, dpkt.icmp.ICMP) and packet.data.type in (0, 8):
            body = bytes(frame[14 + 4 * packet.hl:14 + packet.len])
            assert dpkt.in_cksum(bytes(frame[14:14 + 4 * packet.hl])) == 0
            assert dpkt.in_cksum(body) == 0
            found.append((packet.data.type, body[4:8], body[8:]))
    return found


def check_summary(summary):
    """What every passed boot on the RTL has."""
    assert summary["ok"], summary["reason"]
    assert summary["device"] == "rtl"
    assert summary["violations"] == []
    assert summary["driver"] == "virtio_net"
    assert summary["server"]["failed"] == 0
    assert summary["server"]["errors"] == 0
    # What the server counted crossed the link of the RTL as TLPs, each of its own.
    assert summary["tlps"]["host_reads"] == summary["server"]["bar_reads"]
    assert summary["tlps"]["host_writes"] >= summary["server"]["bar_writes"]
    assert summary["tlps"]["config_accesses"] >= summary["server"]["config_reads"] + summary["server"]["config_writes"]
    assert summary["tlps"]["writes"] > summary["server"]["interrupts"] > 0
    frames = summary["server"]["frames"]
    assert frames["aborted"] == 0
    # The guest reads its counters once they rest, a moment before it powers off; a last packet may come after that.
    assert 0 <= frames["sent"] - summary["statistics"]["tx_packets"] <= 4
    assert 0 <= frames["received"] - summary["statistics"]["rx_packets"] <= 4
    assert summary["tlps"]["rx_dropped"] == summary["tlps"]["tx_dropped"] == 0


def test_linux_boots_pings_and_downloads(tmp_path):
    """``unvirt boot`` with no options that matter: Debian's 6.12 finds the device, pings five times, downloads 1 MiB by TCP.

    Covers: NET-RX-05, NET-TX-22, SPLIT-USED-01, SPLIT-USED-02
    """
    result = CliRunner().invoke(main, ["boot", "--json", str(tmp_path / "json"), "--pcap", str(tmp_path / "pcap")])
    print(result.output)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "json").read_text())
    check_summary(summary)
    assert summary["release"].startswith("6.12.")
    assert len(summary["pings"]) == 5 and None not in summary["pings"]
    assert summary["first_ping_seconds"] < summary["total_seconds"]
    assert len(summary["ping_cycles"]) >= 5
    assert all(0 < ping["transmit"] < 10_000 and 0 < ping["receive"] < 10_000 for ping in summary["ping_cycles"])
    assert summary["download"]["bytes"] == 1 << 20
    assert summary["download"]["equal"]
    assert "passed" in result.output
    frames = captured(tmp_path / "pcap")
    assert len(frames) == summary["server"]["frames"]["sent"] + summary["server"]["frames"]["received"]
    assert [bytes(packet) for packet in rdpcap(str(tmp_path / "pcap"))] == frames
    messages = echoes(frames)
    requests = [message[1:] for message in messages if message[0] == 8]
    assert len(requests) == 6                                                       # five, and one of 1400 bytes
    assert [message[1:] for message in messages if message[0] == 0] == requests     # byte for byte
    downloaded = sum(len(packet.data.data.data) for packet in map(dpkt.ethernet.Ethernet, frames)
                     if packet.dst == GUEST and isinstance(packet.data, dpkt.ip.IP) and isinstance(packet.data.data, dpkt.tcp.TCP))
    assert downloaded >= 1 << 20


def test_linux_with_split_rings_and_flags():
    """A device that offers neither packed rings nor EVENT_IDX: the driver takes split rings with suppression by flags."""
    summary = boot(BootOptions(without=mask(Feature.RING_PACKED, Feature.EVENT_IDX)))
    check_summary(summary.as_dict())
    assert not {"RING_PACKED", "EVENT_IDX"} & set(summary.negotiated) and "NOTIFICATION_DATA" in summary.negotiated
    assert summary.download["equal"] and None not in summary.pings


def test_linux_with_four_queue_pairs():
    """Linux takes a queue pair for each of its processors. Covers: NET-MQ-05"""
    summary = boot(BootOptions(queue_pairs=4))
    check_summary(summary.as_dict())
    assert summary.queue_pairs == 4 and {"MQ", "CTRL_VQ", "RING_PACKED"} <= set(summary.negotiated)
    assert summary.download["equal"] and None not in summary.pings


RINGS = {"packed": 0, "packed flags": mask(Feature.EVENT_IDX), "split": mask(Feature.RING_PACKED),
         "split flags": mask(Feature.RING_PACKED, Feature.EVENT_IDX)}


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [None, 4])
@pytest.mark.parametrize("without", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_rings(kernel, without, pairs):
    """Every kernel with either ring, EVENT_IDX on and off, one queue pair and four."""
    summary = boot(BootOptions(kernel=kernel, without=without, queue_pairs=pairs))
    check_summary(summary.as_dict())
    assert summary.queue_pairs == (pairs or 1)
    assert summary.download["equal"] and None not in summary.pings


@pytest.mark.slow
@pytest.mark.parametrize("append", ["", "pci=nomsi"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels(kernel, append):
    """Every kernel, with MSI-X and with INTx."""
    summary = boot(BootOptions(kernel=kernel, append=append))
    check_summary(summary.as_dict())
    assert summary.download["equal"]
    assert None not in summary.pings


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["minimal", "wide", "wide512"])
def test_presets(preset):
    """The other presets carry Linux too."""
    summary = boot(BootOptions(preset=preset))
    check_summary(summary.as_dict())
    assert summary.download["equal"]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_function_reset_bus_reset_and_replug(kernel, tmp_path):
    """The guest resets the function in every way it knows, and pings after each."""
    (tmp_path / "script").write_text(RESETS)
    summary = boot(BootOptions(kernel=kernel, net="echo", script=str(tmp_path / "script")))
    assert summary.ok, summary.reason
    assert summary.violations == []
    assert summary.server["resets"] >= 3


@pytest.mark.slow
def test_loopback():
    """What the guest sends comes back to it."""
    summary = boot(BootOptions(net="loopback"))
    check_summary(summary.as_dict())
    assert summary.statistics["rx_bytes"] == summary.statistics["tx_bytes"] > 0


@pytest.mark.slow
def test_capture_played_into_the_device(tmp_path):
    """Frames of a capture arrive in the guest, what the guest sends is recorded."""
    writer = PcapngWriter(tmp_path / "in")
    for number in range(50):
        writer.write(number, b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes([number]) * (46 + number * 29), from_device=False)
    writer.close()
    summary = boot(BootOptions(net=f"pcap:{tmp_path / 'in'}"))
    check_summary(summary.as_dict())
    assert summary.statistics["rx_packets"] == 50
    assert len(captured(tmp_path / "in.out.pcapng")) == summary.server["frames"]["sent"]


@pytest.mark.slow
def test_serve_and_a_qemu_of_ones_own(tmp_path):
    """``unvirt serve`` prints QEMU options that work as they are, serves that guest, and ends with its counters."""
    served = subprocess.Popen([sys.executable, "-c", "from unvirt_sim.cli import main; main()", "serve", "--socket", str(tmp_path / "socket"),
                               "--pcap", str(tmp_path / "pcap")], stdout=subprocess.PIPE, text=True, env=environment())
    options = shlex.split(served.stdout.readline())
    qemu, (image, modules) = find_qemu(), find_kernel("6.12")
    settings = {"PINGS": 2, "WAIT": 60, "DOWNLOAD": "", "PORT": 0, "MODE": "test", "NET": "dhcp", "ADDRESS": "", "PEER": "10.0.2.2"}
    (tmp_path / "initramfs").write_bytes(build_initramfs(find_busybox(), module_closure(modules, MODULES), settings))
    console = subprocess.run([*qemu.command, *options, "-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-reboot", "-display", "none",
                              "-serial", "stdio", "-kernel", str(image), "-initrd", str(tmp_path / "initramfs"),
                              "-append", "console=ttyS0 panic=-1 quiet"],
                             capture_output=True, text=True, timeout=200, stdin=subprocess.DEVNULL, env={**os.environ, **qemu.environment})
    assert "UNVIRT: done ok" in console.stdout, console.stdout + console.stderr
    rest, _ = served.communicate(timeout=60)
    assert served.returncode == 0
    assert "The guest is gone after" in rest
    assert len(echoes(captured(tmp_path / "pcap"))) == 6        # two pings and a large one
