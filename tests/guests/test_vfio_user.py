# SPDX-License-Identifier: BSD-2-Clause
"""The vfio-user server's side of the protocol, with a client that also misbehaves and a stand-in for the simulation."""

import json
import os
import random
import struct
import time

import pytest

from client import Client, Refused
from fake_simulation import AER, FakeSimulation
from unvirt_sim.guest.errors import SetupError
from unvirt_sim.guest.vfio_user import VfioUserServer

EVENTFD_TRIGGER = 0x24


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

def test_dma_map_shares_the_client_s_memory(served, client, guest_memory):
    fd = guest_memory(1 << 16)
    os.pwrite(fd, b"hello", 0x2000)
    client.map(0x10_0000, 0x4000, fd, offset=0x2000)
    size, array, readable, writable = served.simulation.memory[0x10_0000]
    assert (size, readable, writable) == (0x4000, True, True)
    assert array[:5] == b"hello"
    array[5:8] = b" RTL"[1:]
    assert os.pread(fd, 8, 0x2000) == b"helloRTL"


def test_read_only_map_and_map_without_memory(served, client, guest_memory):
    fd = guest_memory()
    os.pwrite(fd, b"rom", 0)
    client.map(0xC0000, 0x1000, fd, flags=1)
    client.map(0xFFFC_0000, 0x4_0000)
    assert served.simulation.memory[0xC0000][3] is False
    assert served.simulation.memory[0xC0000][1][:3] == b"rom"
    assert 0xFFFC_0000 not in served.simulation.memory
    client.unmap(0xFFFC_0000, 0x4_0000)


def test_unmap_is_a_range_and_always_succeeds(served, client, guest_memory):
    fd = guest_memory()
    for address in (0, 0x10000, 0x40000):
        client.map(address, 0x10000, fd)
    assert len(client.unmap(0x80000, 0x1000)) == 24
    client.unmap(0, 0x20000)
    assert list(served.simulation.memory) == [0x40000]
    client.unmap(0, (1 << 64) - 1)
    assert not served.simulation.memory
    client.map(0, 0x10000, fd)


def test_impossible_maps_are_refused(served, client, guest_memory):
    fd = guest_memory()
    client.map(0, 0x10000, fd)
    for address, size, offset in ((0x8000, 0x1000, 0), (0x20000, 0, 0), (0x20000, 1 << 40, 0), (0x20000, 0x1000, 123),
                                  ((1 << 64) - 1, 0x1000, 0)):
        with pytest.raises(Refused):
            client.map(address, size, fd, offset=offset)
    assert list(served.simulation.memory) == [0]


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


def test_pipelined_maps_keep_their_descriptors(served, client, guest_memory):
    fds = [guest_memory(0x1000) for _ in range(20)]
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


def test_descriptors_are_closed(served, client, guest_memory):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        fd = guest_memory()
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


def test_socket_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("keep me")
    with pytest.raises(SetupError, match="exists and is no socket"):
        VfioUserServer(FakeSimulation(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep me"
    for path in (tmp_path / "none/socket", tmp_path / ("x" * 120)):
        with pytest.raises(SetupError, match="cannot be made"):
            VfioUserServer(FakeSimulation(), path)


def test_random_bytes_never_hang_the_server(make_served, tmp_path):
    source = random.Random(1)
    for round_number in range(40):
        folder = tmp_path / str(round_number)
        folder.mkdir()
        served = make_served(folder)
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
