# SPDX-License-Identifier: BSD-2-Clause
"""Resets of every kind, of any device type."""

from unvirt_sim.harness_host import run_driver as go

__all__ = ["reset"]


def reset(simulation, driver, kind):
    """Carry out a reset of ``kind``; from when it counts as done nothing may move."""
    device, function = driver.device, driver.device.function
    if kind == "virtio":
        go(device.set("device_status", 0))
        for _ in range(5000):
            if go(device.status()) == 0:
                break
            simulation.run(10)
        else:
            raise AssertionError("the reset does not end")
        assert go(device.status()) == 0
    elif kind == "flr":
        simulation.expect_errors(True)                       # bus mastering goes off with reads under way
        assert go(function.flr())
        simulation.expect_errors(False)
    else:
        simulation.reset(kind, cycles=64)
        simulation.run(3000)
