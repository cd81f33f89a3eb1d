# SPDX-License-Identifier: BSD-2-Clause
"""The vfio-user server in front of the RTL, spoken to directly: what a guest does in short, and what no guest should do."""

import os
import random
import struct
import threading
import time

import pytest

from client import Client, Refused, fired
from unvirt.config import preset
from unvirt_sim.guest.net.loopback import LoopbackNetwork
from unvirt_sim.guest.vfio_user import VfioUserServer
from unvirt_sim.build import build_library
from unvirt_sim.harness import Simulation

COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
FEATURE_SELECT, FEATURE, DRIVER_SELECT, DRIVER, STATUS = 0x00, 0x04, 0x08, 0x0C, 0x14
QUEUE, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_DESC = 0x16, 0x18, 0x1A, 0x1C, 0x20
ACKNOWLEDGE, DRIVER_OK, FEATURES_OK = 1 | 2, 1 | 2 | 4 | 8, 1 | 2 | 8
EVENTFD_TRIGGER, EVENTFD_NONE = 0x24, 0x21
MAC = bytes.fromhex("02756e766972")


class Rtl:
    """A server over the RTL of preset ``default``, in a thread."""

    def __init__(self, folder):
        self.seed = int(os.environ.get("UNVIRT_SEED", "1"))
        print(f"seed {self.seed}")
        self.simulation = Simulation(build_library(preset("default")), seed=self.seed, random_init=True)
        self.simulation.run(3000)
        self.log = []
        self.path = folder / "socket"
        self.server = VfioUserServer(self.simulation, self.path, network=LoopbackNetwork(), trace=folder / "trace", log=self.log.append)
        self.result = {}
        self.thread = threading.Thread(target=lambda: self.result.update(self.server.serve(accept_seconds=10)), daemon=True)
        self.thread.start()

    def finish(self):
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def rtl(tmp_path):
    made = Rtl(tmp_path)
    yield made
    made.finish()
    assert not made.simulation.violations, "\n".join(made.simulation.violations)


@pytest.fixture
def client(rtl):
    client = Client(rtl.path)
    yield client
    client.socket.close()


def capability(client, number):
    """Return the offset of a capability in the configuration space the client sees."""
    offset = client.read(7, 0x34, 1)[0]
    while offset:
        kind, following = client.read(7, offset, 2)
        if kind == number:
            return offset
        offset = following
    raise AssertionError(f"no capability {number:#x}")


def open_device(client):
    client.open_bar()
    client.write(7, capability(client, 0x11) + 2, struct.pack("<H", 0x8000))


def write(client, offset, form, value):
    client.write(0, offset, struct.pack(form, value), posted=True)


def read(client, offset, form):
    return struct.unpack(form, client.read(0, offset, struct.calcsize(form)))[0]


def start(client, fd):
    """Negotiate VERSION_1 and set both queues up in the memory behind ``fd``, as a driver does."""
    open_device(client)
    client.map(0, 1 << 16, fd)
    write(client, STATUS, "B", 0)
    while read(client, STATUS, "B"):
        pass
    write(client, STATUS, "B", ACKNOWLEDGE)
    write(client, FEATURE_SELECT, "<I", 1)
    assert read(client, FEATURE, "<I") & 1
    for window, bits in ((0, 0), (1, 1)):
        write(client, DRIVER_SELECT, "<I", window)
        write(client, DRIVER, "<I", bits)
    write(client, STATUS, "B", FEATURES_OK)
    assert read(client, STATUS, "B") == FEATURES_OK
    for number, base in ((0, 0x1000), (1, 0x4000)):
        write(client, QUEUE, "<H", number)
        write(client, QUEUE_SIZE, "<H", 4)
        write(client, QUEUE_VECTOR, "<H", 1 + number)
        assert read(client, QUEUE_VECTOR, "<H") == 1 + number
        for place, value in enumerate((base, 0, base + 0x1000, 0, base + 0x2000, 0)):
            write(client, QUEUE_DESC + 4 * place, "<I", value)
        write(client, QUEUE_ENABLE, "<H", 1)
    write(client, STATUS, "B", DRIVER_OK)
    assert read(client, STATUS, "B") == DRIVER_OK


def offer(fd, base, index, address, length, flags):
    """Give one buffer to the queue at ``base``, by descriptor ``index % 4``."""
    os.pwrite(fd, struct.pack("<QIHH", address, length, flags, 0), base + 16 * (index % 4))
    os.pwrite(fd, struct.pack("<H", index % 4), base + 0x1000 + 4 + 2 * (index % 4))
    os.pwrite(fd, struct.pack("<H", index + 1), base + 0x1000 + 2)


def test_what_the_client_sees_is_the_rtl(client):
    """Identity, BAR, vectors, MAC address.

    Covers: PCI-ID-01, PCI-ID-02
    """
    assert client.read(7, 0, 4) == struct.pack("<HH", 0x1AF4, 0x1041)
    image = client.read(7, 0, 4096)
    assert image[:4] == struct.pack("<HH", 0x1AF4, 0x1041)
    assert struct.unpack("<IIIIQQ", client.request(5, struct.pack("<IIIIQQ", 32, 0, 0, 0, 0, 0)))[4] == 0x10000
    assert struct.unpack("<IIII", client.request(7, struct.pack("<IIII", 16, 0, 2, 0)))[3] == preset("default").msix_vectors
    client.open_bar()
    assert b"".join(client.read(0, DEVICE + number, 1) for number in range(6)) == MAC


def test_bar_that_is_not_open_answers_all_ones(client):
    assert client.read(0, 0, 4) == b"\xff" * 4
    client.open_bar()
    assert client.read(0, STATUS, 1) == b"\0"


def test_frames_out_and_back_with_interrupts(rtl, client, guest_memory):
    """Ten frames by hand-made rings: out of the MAC, back in, data and used rings in the client's memory, one eventfd each."""
    fd = guest_memory()
    start(client, fd)
    events = [os.eventfd(0) for _ in range(3)]
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 3, events)
    header = 12
    for index in range(10):
        frame = random.Random(rtl.seed + index).randbytes(60 + 100 * index)
        offer(fd, 0x1000, index, 0x8000, 2048, 2)
        write(client, NOTIFY, "<H", 0)
        os.pwrite(fd, bytes(header) + frame, 0xA000)
        offer(fd, 0x4000, index, 0xA000, header + len(frame), 0)
        write(client, NOTIFY + 4, "<H", 1)
        assert fired(events[1]) == 1
        assert os.pread(fd, len(frame), 0x8000 + header) == frame
        assert struct.unpack("<H", os.pread(fd, 2, 0x3002)) == (index + 1,)
        assert struct.unpack("<II", os.pread(fd, 8, 0x3004 + 8 * (index % 4))) == (index % 4, header + len(frame))
        assert fired(events[2]) == 1
        assert struct.unpack("<H", os.pread(fd, 2, 0x6002)) == (index + 1,)
    assert fired(events[0], 0.05) == 0
    assert rtl.finish()["frames"] == {"sent": 10, "received": 10, "aborted": 0}


def test_interrupt_without_eventfd_waits_in_the_rtl(client, guest_memory):
    """A vector that is taken away is masked in the RTL; what it has to say comes when there is an eventfd again."""
    fd = guest_memory()
    start(client, fd)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 2, 1, [event])
    client.set_irqs(2, EVENTFD_TRIGGER, 2, 1)
    offer(fd, 0x4000, 0, 0xA000, 72, 0)
    write(client, NOTIFY + 4, "<H", 1)
    deadline = time.monotonic() + 5
    while os.pread(fd, 2, 0x6002) != b"\1\0" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fired(event, 0.1) == 0
    client.set_irqs(2, EVENTFD_TRIGGER, 2, 1, [event])
    assert fired(event) == 1


@pytest.mark.parametrize("kind", ["device", "function"])
def test_reset_with_work_in_flight(rtl, client, guest_memory, kind):
    """After DEVICE_RESET and after FLR the device is as new, and works again from the start."""
    fd = guest_memory(1 << 16)
    start(client, fd)
    for index in range(4):
        offer(fd, 0x4000, index, 0xA000, 1000, 0)
    write(client, NOTIFY + 4, "<H", 1)
    if kind == "device":
        client.request(13)
    else:
        client.write(7, 4, struct.pack("<H", 0x0400))       # as Linux does; the specification asks for quiet before
        express = capability(client, 0x10)
        control = struct.unpack("<H", client.read(7, express + 8, 2))[0]
        client.write(7, express + 8, struct.pack("<H", control | 0x8000))
        time.sleep(0.1)
    assert client.read(7, 4, 2) == b"\0\0"
    os.pwrite(fd, bytes(0x8000), 0)
    client.unmap(0, 1 << 16)
    start(client, fd)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 2, 1, [event])
    offer(fd, 0x4000, 0, 0xA000, 72, 0)
    write(client, NOTIFY + 4, "<H", 1)
    assert fired(event) == 1
    assert os.pread(fd, 2, 0x6002) == b"\1\0"
    assert rtl.server.function.counts["resets"] == 1


def test_polling_without_pause(rtl, client):
    """Firmware polls the ISR as fast as it can; the clock runs on between the answers, and the socket stays in order."""
    client.open_bar()
    started, cycle = time.monotonic(), rtl.simulation.cycle
    for _ in range(3000):
        assert client.read(0, ISR, 1) == b"\0"
    assert time.monotonic() - started < 20
    assert rtl.simulation.cycle - cycle > 3000


def test_malformed_messages_leave_the_device_working(rtl, client, guest_memory):
    """Refusals, nonsense and accesses beyond everything; then a frame goes through as if nothing had been."""
    client.open_bar()
    for command in (0, 6, 11, 14, 99):
        with pytest.raises(Refused, match="38"):
            client.request(command, bytes(32))
    for command in (2, 3, 4, 5, 7, 8, 9, 10):
        with pytest.raises(Refused, match="22"):
            client.request(command, b"\1\0")
    for region, offset, count in ((0, 0xFFFE, 4), (7, 4096, 1), (1, 0, 4)):
        with pytest.raises(Refused, match="22"):
            client.read(region, offset, count)
    client.read(0, 1, 7)        # no CPU does this, the RTL must stand it
    client.write(0, COMMON + 3, bytes(9))
    fd = guest_memory()
    start(client, fd)
    event = os.eventfd(0)
    client.set_irqs(2, EVENTFD_TRIGGER, 2, 1, [event])
    offer(fd, 0x4000, 0, 0xA000, 72, 0)
    write(client, NOTIFY + 4, "<H", 1)
    assert fired(event) == 1
    client.socket.send(struct.pack("<HHIII", 7, 4, 8, 0, 0))
    assert client.closed()
    rtl.thread.join(5)
    assert "a message of 8 bytes" in rtl.result["broken"]
