# SPDX-License-Identifier: BSD-2-Clause
"""Boots real guests without any RTL, to tell its faults from those of the guest side: against QEMU's own device, and against a
stand-in behind the vfio-user server. ``test_rtl_boot.py`` has the guests on the RTL."""

import json

import pytest
from scapy.utils import rdpcap

from fake_simulation import FakeSimulation
from scripts import RESETS
from unvirt_sim.guest.packages import KERNELS
from unvirt_sim.guest.runner import BootOptions, boot

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kernel", KERNELS)
def test_guest_side_with_qemus_own_device(kernel):
    summary = boot(BootOptions(kernel=kernel, device="qemu"))
    assert summary.ok, summary.reason
    assert len(summary.pings) == 5 and None not in summary.pings
    assert summary.download["equal"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("append", ["", "pci=nomsi"])
def test_bridge_with_a_stand_in(kernel, append, tmp_path):
    simulation = FakeSimulation()
    options = BootOptions(kernel=kernel, net="echo", append=append, pcap=str(tmp_path / "capture"), json=str(tmp_path / "json"))
    summary = boot(options, simulation=simulation)
    assert summary.ok, summary.reason
    assert summary.first_ping_seconds
    assert summary.server["interrupts"] > 0
    assert len(rdpcap(options.pcap)) == summary.server["frames"]["sent"] + summary.server["frames"]["received"]
    assert json.loads((tmp_path / "json").read_text())["ok"]


@pytest.mark.parametrize("network", ["passt", "loopback"])
def test_networks(network):
    summary = boot(BootOptions(kernel="6.1", net=network), simulation=FakeSimulation())
    assert summary.ok, summary.reason
    assert (network == "passt") == bool(summary.download)


def test_script_and_its_status(tmp_path):
    script = tmp_path / "script"
    lines = []
    for status, ok in ((0, True), (3, False)):
        script.write_text(f"echo from the guest of $PEER\nexit {status}\n")
        summary = boot(BootOptions(kernel="6.1", net="echo", script=str(script)), simulation=FakeSimulation(), show=lines.append)
        assert summary.ok is ok
        assert "from the guest of 10.0.2.2" in lines
    assert summary.reason == "the script ended with status 3"


@pytest.mark.parametrize("kernel", KERNELS)
def test_function_reset_bus_reset_and_replug(kernel, tmp_path):
    (tmp_path / "script").write_text(RESETS)
    summary = boot(BootOptions(kernel=kernel, net="echo", script=str(tmp_path / "script")), simulation=FakeSimulation())
    assert summary.ok, summary.reason
    assert summary.server["resets"] >= 3


def test_device_that_loses_everything():
    simulation = FakeSimulation()
    simulation.send_frame = lambda frame: None
    summary = boot(BootOptions(kernel="6.1", net="echo"), simulation=simulation)
    assert not summary.ok
    assert summary.reason == "no answer by DHCP"
    assert "dmesg" not in summary.reason


def test_simulation_that_dies():
    simulation = FakeSimulation()
    run = simulation.run

    def fail_later(cycles, until=None):
        if simulation.config[4] & 4:
            raise RuntimeError("the RTL stopped")
        return run(cycles)

    simulation.run = fail_later
    summary = boot(BootOptions(kernel="6.1", net="echo"), simulation=simulation)
    assert summary.reason == "the simulation ended: the RTL stopped"
    assert summary.total_seconds < 60
