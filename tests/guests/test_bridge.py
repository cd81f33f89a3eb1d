# SPDX-License-Identifier: BSD-2-Clause
"""What the bridge does beyond the protocol: interrupts, resets, frames and the trace, over a stand-in for the simulation."""

import json
import os
import socket
import struct

import pytest

from client import Client, Refused, fired
from fake_simulation import EXPRESS, MSIX
from unvirt_sim.guest.net.echo import EchoNetwork
from unvirt_sim.guest.net.loopback import LoopbackNetwork

EVENTFD_TRIGGER, NONE_TRIGGER, NONE_MASK, NONE_UNMASK = 0x24, 0x21, 0x09, 0x11


# -- interrupts

def with_msix(client):
    client.open_bar()
    client.write(7, MSIX + 2, struct.pack("<H", 0x8000))


def test_msix_message_becomes_an_event(served, client):
    with_msix(client)
    events = [os.eventfd(0) for _ in range(4)]
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 4, events)
    for vector in (2, 0):
        served.simulation.message(vector)
        assert fired(events[vector]) == 1
    assert served.server.function.counts["interrupts"] == 2


def test_table_is_filled_once_memory_is_enabled(served, client):
    events = [os.eventfd(0)]
    client.set_irqs(2, EVENTFD_TRIGGER, 1, 1, events)
    with_msix(client)
    served.simulation.message(1)
    assert fired(events[0]) == 1


def test_eventfd_replaced_and_pending_kept(served, client):
    with_msix(client)
    first, second = os.eventfd(0), os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [first])
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1)           # taken away: the RTL's vector is masked
    served.simulation.message(0)
    assert fired(first, 0.2) == 0
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [second])
    assert fired(second) == 1
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [first])
    served.simulation.message(0)
    assert fired(first) == 1
    assert fired(second, 0.1) == 0


def test_disable_and_self_trigger(served, client):
    with_msix(client)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [event])
    client.set_irqs(2, NONE_TRIGGER, 0, 1)
    assert fired(event) == 1
    client.set_irqs(2, NONE_TRIGGER, 0, 0)
    served.simulation.message(0)
    assert fired(event, 0.2) == 0


def test_set_irqs_out_of_range(served, client):
    for index, start, count in ((2, 4, 1), (2, 0, 5), (0, 0, 2), (1, 0, 1), (9, 0, 1)):
        with pytest.raises(Refused, match="22"):
            client.set_irqs(index, EVENTFD_TRIGGER, start, count, [os.eventfd(0)])
    with pytest.raises(Refused, match="22"):
        client.set_irqs(2, EVENTFD_TRIGGER, 0, 3, [os.eventfd(0), os.eventfd(0)])
    client.set_irqs(3, NONE_TRIGGER, 0, 0)


def test_intx_masks_itself_and_fires_again(served, client):
    event = os.eventfd(0)
    client.set_irqs(0, EVENTFD_TRIGGER, 0, 1, [event])
    served.simulation.intx = True
    assert fired(event) == 1
    assert fired(event, 0.1) == 0
    client.set_irqs(0, NONE_UNMASK, 0, 1)
    assert fired(event) == 1
    client.set_irqs(0, NONE_UNMASK, 0, 1)
    assert fired(event) == 1
    served.simulation.intx = False
    client.set_irqs(0, NONE_UNMASK, 0, 1)
    assert fired(event, 0.1) == 0
    client.set_irqs(0, NONE_MASK, 0, 1)
    served.simulation.intx = True
    assert fired(event, 0.1) == 0


# -- reset

def test_device_reset_clears_the_function_and_the_table_is_filled_again(served, client):
    with_msix(client)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [event])
    client.request(13)
    assert ("reset", "hot") in served.simulation.log
    assert client.read(7, 0x04, 2) == b"\0\0"
    assert client.read(0, 20, 1) == b"\xff"
    with_msix(client)
    served.simulation.message(0)
    assert fired(event) == 1


def test_function_level_reset_by_configuration_write(served, client):
    with_msix(client)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 3, 1, [event])
    client.write(7, EXPRESS + 8, struct.pack("<H", 0xA810))
    assert ("reset", "flr") in served.simulation.log
    # The guest believes its BARs untouched, as QEMU tells it, and only switches the function on again.
    client.write(7, 0x04, struct.pack("<H", 6))
    client.write(7, MSIX + 2, struct.pack("<H", 0x8000))
    client.write(0, 20, b"\1")
    assert client.read(0, 20, 1) == b"\1"
    assert ("memory_read", 0x3800_0000_0014, 1) in served.simulation.log
    served.simulation.message(3)
    assert fired(event) == 1
    assert served.server.function.counts["resets"] == 1


# -- trace and frames

def test_trace_has_every_access(served, client):
    client.open_bar()
    client.write(0, 20, b"\1")
    client.read(0, 20, 1)
    client.socket.close()
    served.finish()
    lines = [json.loads(line) for line in served.trace.read_text().splitlines()]
    guest = [line for line in lines if line.get("by") != "bridge"]
    assert [line["op"] for line in guest][-2:] == ["bar_write", "bar_read"]
    assert guest[-1]["value"] == 1
    cycles = [line["cycle"] for line in lines]
    assert cycles == sorted(cycles)


def ring(client, fd):
    """Set both queues of the stand-in up by hand, one descriptor each."""
    with_msix(client)
    client.map(0, 1 << 16, fd)
    for number, base in ((0, 0x1000), (1, 0x4000)):
        client.write(0, 22, struct.pack("<H", number))
        for offset, value in ((32, base), (36, 0), (40, base + 0x1000), (44, 0), (48, base + 0x2000), (52, 0)):
            client.write(0, offset, struct.pack("<I", value))
        client.write(0, 26, struct.pack("<H", number))
        client.write(0, 28, struct.pack("<H", 1))
    os.pwrite(fd, struct.pack("<QIHH", 0x8000, 2048, 2, 0), 0x1000)
    os.pwrite(fd, struct.pack("<HHH", 0, 1, 0), 0x2000)


@pytest.mark.parametrize("network", [LoopbackNetwork, EchoNetwork])
def test_frame_out_and_back(make_served, guest_memory, network):
    served = make_served(network=network())
    client = Client(served.path)
    fd = guest_memory()
    event = os.eventfd(0)
    ring(client, fd)
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [event])
    arp = "ffffffffffff 02756e766972 0806 0001 0800 06 04 0001 02756e766972 0a00020f 000000000000 0a000202"
    request = bytes.fromhex(arp).ljust(60, b"\0")
    os.pwrite(fd, bytes(12) + request, 0xA000)
    os.pwrite(fd, struct.pack("<QIHH", 0xA000, 12 + len(request), 0, 0), 0x4000)
    os.pwrite(fd, struct.pack("<HHH", 0, 1, 0), 0x5000)
    client.write(0, 0x3004, struct.pack("<H", 1), posted=True)
    assert fired(event) == 1
    frame = os.pread(fd, 60, 0x8000 + 12)
    if network is LoopbackNetwork:
        assert frame == request
    else:
        assert frame[:6] == request[6:12]
        assert frame[20:22] == b"\0\2"
        assert frame[28:32] == socket.inet_aton("10.0.2.2")
    assert served.finish()["frames"] == {"sent": 1, "received": 1, "aborted": 0}
