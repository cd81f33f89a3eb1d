# SPDX-License-Identifier: BSD-2-Clause
"""A server over a stand-in for the simulation, and a client connected to it."""

import contextlib
import os
import shutil
import subprocess
import threading

import pytest

from client import Client
from fake_simulation import FakeSimulation
from unvirt_sim.guest.vfio_user import VfioUserServer


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
def make_served(tmp_path):
    """Return a function that starts a server; keyword arguments as for :class:`Served`."""
    started = []

    def make(folder=tmp_path, **options):
        started.append(Served(folder, **options))
        return started[-1]

    yield make
    for served in started:
        served.finish()


@pytest.fixture
def tap():
    """Return the name of a TAP interface of our own, which is down; skips where the system grants none."""
    name = f"unv{os.getpid() % 100000}"
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("to make a TAP interface one must be root and have the program ip")
    made = subprocess.run(["ip", "tuntap", "add", name, "mode", "tap"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this system grants no TAP interface: {made.stderr.strip()}")
    yield name
    subprocess.run(["ip", "link", "del", name], capture_output=True)


@pytest.fixture
def served(make_served):
    return make_served()


@pytest.fixture
def client(served):
    client = Client(served.path)
    yield client
    client.socket.close()


@pytest.fixture
def guest_memory():
    """Return a function that makes shared memory of some size and returns its descriptor."""
    made = []

    def make(size=1 << 16):
        made.append(os.memfd_create("guest"))
        os.ftruncate(made[-1], size)
        return made[-1]

    yield make
    for fd in made:
        with contextlib.suppress(OSError):       # a test may have closed it itself
            os.close(fd)
