# SPDX-License-Identifier: BSD-2-Clause
"""The vfio-user server's side of the protocol, with a client that also misbehaves and a stand-in for the simulation."""

import json
import os
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from client import Client, Refused, fired
from fake_simulation import AER, EXPRESS, MSIX, FakeSimulation
from unvirt_sim.guest.net.echo import EchoNetwork
from unvirt_sim.guest.net.loopback import LoopbackNetwork
from unvirt_sim.guest.vfio_user import VfioUserServer

EVENTFD_TRIGGER, NONE_TRIGGER, NONE_MASK, NONE_UNMASK = 0x24, 0x21, 0x09, 0x11


class Served:
    """A server in a thread over a fresh stand-in."""

    def __init__(self, folder, network=None):
        self.simulation = FakeSimulation()
        self.log = []
        self.trace = folder / "trace"
        self.server = VfioUserServer(self.simulation, folder / "socket", network=network, trace=self.trace, log=self.log.append)
        self.path = folder / "socket"
        self.result = {}
        self.thread = threading.Thread(target=lambda: self.result.update(self.server.serve(accept_seconds=10)), daemon=True)
        self.thread.start()

    def finish(self):
        self.server.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.result


@pytest.fixture
def served(tmp_path):
    served = Served(tmp_path)
    yield served
    served.finish()


@pytest.fixture
def client(served):
    client = Client(served.path)
    yield client
    client.socket.close()


def memory(size=1 << 16):
    fd = os.memfd_create("guest")
    os.ftruncate(fd, size)
    return fd


# -- hello and description

def test_version_answer_fits_into_the_request(served):
    client = Client(served.path, greet=False)
    body = client.request(1, struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}\0')
    assert struct.unpack_from("<HH", body) == (0, 0)
    assert body.endswith(b"\0")
    assert json.loads(body[4:-1])["capabilities"]["max_msg_fds"] == 8


def test_version_with_little_room(served):
    client = Client(served.path, greet=False)
    assert client.request(1, struct.pack("<HH", 0, 0) + b"{}\0") == struct.pack("<HH", 0, 0) + b"{}\0"


def test_other_major_version_is_refused(served):
    client = Client(served.path, greet=False)
    with pytest.raises(Refused, match="22"):
        client.request(1, struct.pack("<HH", 1, 0) + b"{}\0")


def test_nothing_before_the_version(served):
    client = Client(served.path, greet=False)
    with pytest.raises(Refused, match="22"):
        client.request(4, struct.pack("<IIII", 16, 0, 0, 0))


def test_device_info(client):
    assert struct.unpack("<IIII", client.request(4, struct.pack("<IIII", 16, 0, 0, 0))) == (16, 3, 9, 5)


@pytest.mark.parametrize("index, size", [(0, 0x10000), (1, 0), (5, 0), (6, 0), (7, 4096), (8, 0)])
def test_region_info(client, index, size):
    answer = struct.unpack("<IIIIQQ", client.request(5, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)))
    assert answer == (32, 3 if size else 0, index, 0, size, 0)


def test_region_and_irq_out_of_range(client):
    with pytest.raises(Refused, match="22"):
        client.request(5, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0))
    with pytest.raises(Refused, match="22"):
        client.request(7, struct.pack("<IIII", 16, 0, 5, 0))


@pytest.mark.parametrize("index, count", [(0, 1), (1, 0), (2, 4), (3, 0), (4, 0)])
def test_irq_info(client, index, count):
    assert struct.unpack("<IIII", client.request(7, struct.pack("<IIII", 16, 0, index, 0))) == (16, 1, index, count)


# -- configuration space and BARs

def test_bulk_config_read_asks_the_rtl_only_for_what_exists(served, client):
    served.simulation.log.clear()
    image = client.read(7, 0, 4096)
    assert len(image) == 4096
    assert image[:256] == bytes(served.simulation.config[:256])
    assert image[AER:AER + 4] == bytes(served.simulation.config[AER:AER + 4])
    reads = [entry[1] for entry in served.simulation.log if entry[0] == "config_read"]
    assert len(reads) < 200
    assert set(range(0, 0x40, 4)) <= set(reads)


def test_config_reads_are_never_remembered(served, client):
    for value in (0x12, 0x34):
        served.simulation.config[0x3C] = value
        assert client.read(7, 0x3C, 1) == bytes([value])


@pytest.mark.parametrize("offset, count, pieces", [
    (0, 4, [(0, 4)]), (0, 2, [(0, 2)]), (1, 3, [(1, 1), (2, 2)]), (2, 4, [(2, 2), (4, 2)]), (3, 6, [(3, 1), (4, 4), (8, 1)])])
def test_config_accesses_are_cut_naturally(served, client, offset, count, pieces):
    served.simulation.log.clear()
    assert client.read(7, offset, count) == bytes(served.simulation.config[offset:offset + count])
    assert [entry[1:] for entry in served.simulation.log if entry[0] == "config_read"] == pieces


def test_bar_accesses_go_where_the_guest_put_the_bar(served, client):
    client.open_bar(0x3800_1000_0000)
    served.simulation.log.clear()
    client.write(0, 20, b"\1", posted=True)
    assert client.read(0, 20, 1) == b"\1"
    assert ("memory_write", 0x3800_1000_0014, b"\1") in served.simulation.log
    client.open_bar(0xFE00_0000)
    served.simulation.log.clear()
    assert client.read(0, 20, 1) == b"\1"
    assert ("memory_read", 0xFE00_0014, 1) in served.simulation.log


def test_bar_read_that_fails_is_all_ones(served, client):
    assert client.read(0, 0, 4) == b"\xff" * 4
    assert served.server.function.counts["failed"] == 1


def test_accesses_beyond_a_region_are_refused(client):
    for region, offset, count in ((0, 0xFFFE, 4), (7, 4096, 1), (1, 0, 4), (7, (1 << 64) - 1, 1)):
        with pytest.raises(Refused, match="22"):
            client.read(region, offset, count)
    with pytest.raises(Refused, match="22"):
        client.request(10, struct.pack("<QII", 0, 0, 4) + b"\0\0")


def test_many_posted_writes_and_a_read_behind_them(served, client):
    client.open_bar()
    for number in range(2000):
        client.write(0, 8, struct.pack("<I", number), posted=True)
    assert client.read(0, 8, 4) == struct.pack("<I", 1999)


# -- memory

def test_dma_map_shares_the_client_s_memory(served, client):
    fd = memory(1 << 16)
    os.pwrite(fd, b"hello", 0x2000)
    client.map(0x10_0000, 0x4000, fd, offset=0x2000)
    size, array, readable, writable = served.simulation.memory[0x10_0000]
    assert (size, readable, writable) == (0x4000, True, True)
    assert array[:5] == b"hello"
    array[5:8] = b" RTL"[1:]
    assert os.pread(fd, 8, 0x2000) == b"helloRTL"


def test_read_only_map_and_map_without_memory(served, client):
    fd = memory()
    os.pwrite(fd, b"rom", 0)
    client.map(0xC0000, 0x1000, fd, flags=1)
    client.map(0xFFFC_0000, 0x4_0000)
    assert served.simulation.memory[0xC0000][3] is False
    assert served.simulation.memory[0xC0000][1][:3] == b"rom"
    assert 0xFFFC_0000 not in served.simulation.memory
    client.unmap(0xFFFC_0000, 0x4_0000)


def test_unmap_is_a_range_and_always_succeeds(served, client):
    fd = memory()
    for address in (0, 0x10000, 0x40000):
        client.map(address, 0x10000, fd)
    assert len(client.unmap(0x80000, 0x1000)) == 24
    client.unmap(0, 0x20000)
    assert list(served.simulation.memory) == [0x40000]
    client.unmap(0, (1 << 64) - 1)
    assert not served.simulation.memory
    client.map(0, 0x10000, fd)


def test_impossible_maps_are_refused(served, client):
    fd = memory()
    client.map(0, 0x10000, fd)
    for address, size, offset in ((0x8000, 0x1000, 0), (0x20000, 0, 0), (0x20000, 1 << 40, 0), (0x20000, 0x1000, 123), ((1 << 64) - 1, 0x1000, 0)):
        with pytest.raises(Refused):
            client.map(address, size, fd, offset=offset)
    assert list(served.simulation.memory) == [0]


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
    with_msix(client)
    served.simulation.message(3)
    assert fired(event) == 1
    assert served.server.function.counts["resets"] == 1


# -- bad and odd clients

@pytest.mark.parametrize("command", [0, 6, 11, 14, 15, 16, 999])
def test_unknown_commands(client, command):
    with pytest.raises(Refused, match="38"):
        client.request(command, bytes(32))


@pytest.mark.parametrize("command", [2, 3, 4, 5, 7, 8, 9, 10])
def test_short_bodies(client, command):
    with pytest.raises(Refused, match="22"):
        client.request(command, b"\1\0")
    assert len(client.read(7, 0, 4)) == 4


def test_refusal_of_a_message_without_reply_is_silent(client):
    client.post(999, flags=0x10)
    assert len(client.read(7, 0, 4)) == 4


@pytest.mark.parametrize("size, flags, sentence", [
    (8, 0, "a message of 8 bytes"), (1 << 30, 0, "a message of 1073741824 bytes"), (16, 1, "a reply although")])
def test_broken_header_ends_the_connection(served, client, size, flags, sentence):
    client.socket.send(struct.pack("<HHIII", 7, 4, size, flags, 0))
    assert client.closed()
    served.thread.join(5)
    assert sentence in served.result["broken"]
    assert sentence in served.log[-1]
    assert not served.path.exists()


def test_end_in_the_middle_of_a_message(served, client):
    client.socket.send(struct.pack("<HHIII", 7, 9, 32, 0, 0) + b"\0")
    client.socket.close()
    served.thread.join(5)
    assert "in the middle of a message" in served.result["broken"]


def test_end_between_messages_is_power_off(served, client):
    client.read(7, 0, 4)
    client.socket.close()
    served.thread.join(5)
    assert served.result["broken"] is None
    assert served.result["config_reads"] == 1
    assert not served.simulation.memory


def test_slow_client_and_messages_in_pieces(served, client):
    message = struct.pack("<HHIII", 9, 9, 32, 0, 0) + struct.pack("<QII", 0, 7, 4)
    before = served.simulation.cycle
    for byte in message:
        client.socket.send(bytes([byte]))
        time.sleep(0.005)
    assert client.answer()[4][16:] == bytes(served.simulation.config[:4])
    assert served.simulation.cycle > before + 10_000        # the clock ran on


def test_pipelined_maps_keep_their_descriptors(served, client):
    fds = [memory(0x1000) for _ in range(20)]
    for number, fd in enumerate(fds):
        os.pwrite(fd, bytes([number]), 0)
        client.post(2, struct.pack("<IIQQQ", 32, 3, 0, number << 16, 0x1000), [fd])
        client.post(9, struct.pack("<QII", 0, 7, 4))
    for _ in range(40):
        assert not client.answer()[2] & 0x20
    for number in range(20):
        assert served.simulation.memory[number << 16][1][0] == bytes([number])


def test_client_that_does_not_read_for_a_while(served, client):
    for _ in range(300):
        client.post(9, struct.pack("<QII", 0, 7, 4096))
    time.sleep(0.3)
    for _ in range(300):
        assert len(client.answer()[4]) == 16 + 4096


def test_ten_thousand_polls(client):
    client.open_bar()
    started = time.monotonic()
    for _ in range(10_000):
        client.read(0, 0x1000, 1)
    assert time.monotonic() - started < 10


def test_descriptors_are_closed(served, client):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        fd = memory()
        client.map(0, 0x10000, fd)
        client.unmap(0, 0x10000)
        os.close(fd)
        event = os.eventfd(0)
        client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [event])
        os.close(event)
        other = os.eventfd(0)
        with pytest.raises(Refused):
            client.request(4, b"", [other])
        os.close(other)
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_second_client_is_not_taken(served, client):
    with pytest.raises(OSError):
        Client(served.path)


def test_random_bytes_never_hang_the_server(tmp_path):
    import random
    source = random.Random(1)
    for round_number in range(40):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        served = Served(folder)
        client = Client(served.path)
        try:
            for _ in range(20):
                body = source.randbytes(source.randrange(48))
                client.post(source.randrange(18), body, flags=source.choice((0, 0, 0, 0x10, 0x20)))
            client.socket.send(source.randbytes(source.randrange(1, 64)))
        except OSError:
            pass
        client.socket.close()
        served.thread.join(10)
        assert not served.thread.is_alive()
        assert "cycles" in served.result


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
def test_frame_out_and_back(tmp_path, network):
    served = Served(tmp_path, network())
    client = Client(served.path)
    fd = memory()
    event = os.eventfd(0)
    ring(client, fd)
    client.set_irqs(2, EVENTFD_TRIGGER, 0, 1, [event])
    request = bytes.fromhex("ffffffffffff02756e76697208060001080006040001" "02756e766972" "0a00020f" "000000000000" "0a000202").ljust(60, b"\0")
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
