# SPDX-License-Identifier: BSD-2-Clause
"""The registers of a device that is being suspended, or is: what the status shows, what stands still, what is not taken."""

from test_device_suspend import RUNNING, SUSPENDED, SUSPENSION, generator, start

from unvirt_sim.driver.device import VirtioDevice
from unvirt_sim.driver.net import CONFIG_VECTOR, WANTED, NetDriver
from unvirt_sim.driver.spec import COMMON, CfgType, Feature, LinkStatus, NetConfig, Status
from unvirt_sim.harness_host import run_driver as go


def fields(registers):
    """Return what the registers show that a driver can read without writing."""
    return {name: go(registers.get(name)) for name in COMMON if name != "device_status"}


def link(registers):
    return bool(go(registers.config_raw(NetConfig.STATUS, 2)) & LinkStatus.LINK_UP)


def test_configuration_stands_still(device):
    """While suspended writes to the registers have no effect, the link seems as it was, and its change is told of after the resume.

    Covers: CORE-SUSP-02, CORE-SUSP-05, CORE-SUSP-06, CORE-SUSP-07
    """
    simulation, host = device("default")
    driver = start(host, interrupts="msix")
    registers = driver.device
    queues = {}
    for queue in (0, 1, 2, 7):
        go(registers.set("queue_select", queue))
        queues[queue] = fields(registers)
    go(registers.set("queue_select", 1))
    for up in (False, True, False):
        go(registers.suspend())
        before = fields(registers)
        for name, (_, size) in COMMON.items():
            for value in (0, 1, 0xFFFF_FFFF_FFFF_FFFF, 0x1234_5678_9ABC_DEF0):
                if name != "device_status":
                    go(registers.set(name, value & (1 << 8 * size) - 1))
            assert fields(registers) == before, f"{name} was written"
        # The status and, in the same write, queue_select.
        go(host.memory_write(registers._base[CfgType.COMMON] + COMMON["device_status"][0], bytes((SUSPENDED, 0, 0, 0))))
        go(registers.config_write(0, 4, 0))
        simulation.mac_link_up = up
        simulation.run(2000)
        assert link(registers) == (not up), "the link changed"
        assert fields(registers) == before and go(registers.status()) == SUSPENDED
        simulation.expect_quiet(True)
        simulation.run(1000)
        simulation.expect_quiet(False)
        count = host.interrupt_count(CONFIG_VECTOR)
        go(registers.resume())
        simulation.run(500)
        assert link(registers) == up
        assert host.interrupt_count(CONFIG_VECTOR) == count + 1, "not told of once"
        assert go(registers.get("config_generation")) == before["config_generation"] + 1 & 0xFF
    for queue, held in queues.items():
        go(registers.set("queue_select", queue))
        assert fields(registers) == held | {"config_generation": 3}
    # What changed back meanwhile was never there.
    go(registers.suspend())
    simulation.mac_link_up = True
    simulation.run(500)
    simulation.mac_link_up = False
    simulation.run(500)
    go(registers.resume())
    simulation.run(500)
    assert host.interrupt_count(CONFIG_VECTOR) == 3 and go(registers.get("config_generation")) == 3


def test_change_while_suspending(device):
    """A change of the link around the moment of the suspension is told of before it or after the resume. Covers: CORE-SUSP-06, CORE-SUSP-07"""
    simulation, host = device("default")
    driver = start(host, interrupts="msix")
    rng = generator("change")
    for count in range(1, 40):
        changed = rng.random() < 0.5
        if changed:
            simulation.mac_link_up = not simulation.mac_link_up
            simulation.run(rng.randrange(12))
        go(driver.transmit(bytes(60)))
        go(driver.device.set("device_status", 0x1F))
        if not changed:
            simulation.mac_link_up = not simulation.mac_link_up
        while go(driver.device.status()) != SUSPENDED:
            pass
        simulation.expect_quiet(True)
        seen, shown = host.interrupt_count(CONFIG_VECTOR), go(driver.link_up())
        assert shown == (simulation.mac_link_up if seen == count else not simulation.mac_link_up)
        simulation.run(500)
        simulation.expect_quiet(False)
        go(driver.device.resume())
        simulation.run(500)
        assert host.interrupt_count(CONFIG_VECTOR) == count and go(driver.link_up()) == simulation.mac_link_up
        go(driver.reap())


def test_before_the_driver_is_ready(device):
    """SUSPEND is ignored until DRIVER_OK is set, and altogether if it was not negotiated or not offered. Covers: CORE-SUSP-01"""
    simulation, host = device("default")
    registers = go(VirtioDevice.find(host))
    go(registers.start_negotiation())
    assert go(registers.offered()) >> Feature.SUSPEND & 1
    for step in (Status(0), Status.FEATURES_OK):
        if step:
            go(registers.finish_negotiation(WANTED & go(registers.offered()) | SUSPENSION))
        for value in (0x10, 0x13, 0x13 | step):
            go(registers.set("device_status", value))
            simulation.run(500)
            assert go(registers.status()) == 0x03 | step
    go(registers.driver_ok())
    simulation.run(500)
    assert go(registers.status()) == RUNNING, "a suspension was remembered"
    for hidden in (0, SUSPENSION):
        simulation.hide_features(hidden)
        driver = go(NetDriver.find(host))
        go(driver.start(wanted=WANTED, queue_size=16, interrupts="poll"))
        assert bool(go(driver.device.offered()) & SUSPENSION) == (not hidden)
        for value in (0x10, 0x1F, 0x1B):
            go(driver.device.set("device_status", value))
            simulation.run(500)
            assert go(driver.device.status()) == RUNNING
        go(driver.transmit(bytes(60)))
        assert go(driver.wait_transmitted(1)) == 1
        go(driver.stop())
    simulation.hide_features(0)


def test_ways_of_writing_the_status(device):
    """It is the bit that counts, whatever a driver does with the others; bits but those two stay, and FAILED can be set meanwhile.

    Covers: CORE-SUSP-13, DER-INIT-02
    """
    simulation, host = device("default")
    driver = start(host)
    registers = driver.device

    def becomes(value):
        for _ in range(1000):
            if go(registers.status()) == value:
                return
        raise AssertionError(f"the status is {go(registers.status())!r}, not {value:#x}")

    for suspend in (0x10, 0x1F, 0x1B, 0x30):
        for resume in (0x0F, 0x1F):
            go(registers.set("device_status", suspend))
            becomes(SUSPENDED)
            for value in (0x1B, 0x10, 0x03):
                go(registers.set("device_status", value))
                assert go(registers.status()) == SUSPENDED
            go(registers.set("device_status", resume))
            assert go(registers.status()) == RUNNING
            # At once again, and again while it is under way.
            go(registers.set("device_status", 0x1F))
            go(registers.set("device_status", 0x1F))
            becomes(SUSPENDED)
            go(registers.set("device_status", 0x0F))
            becomes(RUNNING)
    go(registers.set("device_status", 0x1F))
    go(registers.set("device_status", 0x8F))
    becomes(SUSPENDED | 0x80)
    go(registers.set("device_status", 0x8F))
    becomes(RUNNING | 0x80)
