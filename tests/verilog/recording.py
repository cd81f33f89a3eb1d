# SPDX-License-Identifier: BSD-2-Clause
"""What happens at every port in every cycle of a short real run: enumeration, set-up of the queues, packets both ways."""

from dataclasses import dataclass

from unvirt.verilog import port_manifest
from unvirt_sim.driver.net import NetDriver
from unvirt_sim.harness import Simulation
from unvirt_sim.link import LinkConfig
from unvirt_sim.harness_host import HarnessHost, run_driver

RESET_CYCLES = 8           # the harness clocks the device so long in reset before the first recorded cycle
QUIET = {"rst": 1, "link_up": 1, "mac_link_up": 1}
"""Inputs during that time; the others are 0."""

FRAMES = (bytes(range(60)), bytes(reversed(range(200))))


def ping(simulation, *, frames=FRAMES, seed=1):
    """Bring the device up by the reference driver and pass each frame in both directions, compared byte by byte."""
    host = HarnessHost(simulation)

    async def run():
        driver = await NetDriver.find(host, seed=seed)
        await driver.start(queue_size=16, interrupts="msix")
        await driver.fill([1530], limit=4)
        for frame in frames:
            await driver.transmit(frame, lengths=[12, len(frame)])
            await driver.wait_transmitted(1)
            assert await host.receive_frame() == frame
            await host.send_frame(frame)
            assert await driver.receive(1) == [frame]

    run_driver(run())
    assert simulation.violations == []


def storage(width):
    """Return the bytes that Verilator gives to a port of ``width`` bits."""
    return next((size for size in (1, 2, 4, 8) if width <= 8 * size), -(-width // 32) * 4)


@dataclass(frozen=True)
class Recording:
    """Values by cycle: ``inputs`` and ``outputs`` are lists of {name: value}."""

    ports: list
    inputs: list
    outputs: list

    def names(self, direction):
        return [port["name"] for port in self.ports if port["direction"] == direction]

    def width(self, name):
        return next(port["width"] for port in self.ports if port["name"] == name)


def record(library, config, path, *, seed=1):
    """Run :func:`ping` on the harness and return the :class:`Recording`; the file at ``path`` is overwritten."""
    simulation = Simulation(library, link=LinkConfig(latency=0, latency_spread=4, posted_spread=4, tx_stall=0.1, rx_gap=0.1,
                                                     mac_tx_stall=0.1, mac_rx_gap=0.1), seed=seed)
    simulation.record_ports(path)
    ping(simulation, seed=seed)
    simulation.record_ports(None)
    return read(config, path)


def read(config, path):
    """Read a file of :meth:`~unvirt_sim.harness.Simulation.record_ports`."""
    ports = [port for port in port_manifest(config) if port["name"] != "clk"]
    data = path.read_bytes()
    size = sum(storage(port["width"]) for port in ports)
    assert data and len(data) % size == 0, "the recording does not fit the list of ports"
    values = {"input": [], "output": []}
    for start in range(0, len(data), size):
        cycle, place = {"input": {}, "output": {}}, start
        for port in ports:
            end = place + storage(port["width"])
            cycle[port["direction"]][port["name"]] = int.from_bytes(data[place:end], "little")
            place = end
        for direction, found in cycle.items():
            values[direction].append(found)
    return Recording(ports, values["input"], values["output"])
