# SPDX-License-Identifier: BSD-2-Clause
"""Boots real guests: against QEMU's own device, and against a stand-in behind the vfio-user server. No RTL takes part.

Slow, and fetches packages the first time: runs only with ``UNVIRT_GUEST_TESTS=1``.
"""

import json
import os

import pytest
from scapy.utils import rdpcap


from fake_simulation import FakeSimulation
from unvirt_sim.guest.packages import KERNELS
from unvirt_sim.guest.runner import BootOptions, boot

pytestmark = pytest.mark.skipif(not os.environ.get("UNVIRT_GUEST_TESTS"), reason="set UNVIRT_GUEST_TESTS=1 to boot guests")


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
    options = BootOptions(kernel=kernel, append=append, pcap=str(tmp_path / "capture"), json=str(tmp_path / "json"))
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
        summary = boot(BootOptions(kernel="6.1", script=str(script)), simulation=FakeSimulation(), show=lines.append)
        assert summary.ok is ok
        assert "from the guest of 10.0.2.2" in lines
    assert summary.reason == "the script ended with status 3"


RESETS = """
device=/sys/bus/pci/devices/0000:01:00.0
driver=/sys/bus/pci/drivers/virtio-pci
again() {
    sleep 1
    ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0 && ping -c 2 $PEER || exit 1
}
for method in flr bus; do
    echo 0000:01:00.0 >$driver/unbind
    echo $method >$device/reset_method && echo 1 >$device/reset || exit 2
    echo 0000:01:00.0 >$driver/bind
    again
done
echo 1 >$device/remove
sleep 1
echo 1 >/sys/bus/pci/rescan
again
"""


@pytest.mark.parametrize("kernel", KERNELS)
def test_function_reset_bus_reset_and_replug(kernel, tmp_path):
    (tmp_path / "script").write_text(RESETS)
    summary = boot(BootOptions(kernel=kernel, script=str(tmp_path / "script")), simulation=FakeSimulation())
    assert summary.ok, summary.reason
    assert summary.server["resets"] >= 3


def test_device_that_loses_everything():
    simulation = FakeSimulation()
    simulation.send_frame = lambda frame: None
    summary = boot(BootOptions(kernel="6.1"), simulation=simulation)
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
    summary = boot(BootOptions(kernel="6.1"), simulation=simulation)
    assert summary.reason == "the simulation ended: the RTL stopped"
    assert summary.total_seconds < 60
