# SPDX-License-Identifier: BSD-2-Clause
"""What the wicked driver does with registers: resets at any moment, initialisation in any order, doorbells, accesses of any kind."""

from unvirt_sim.driver.pci import CAP_PCIE, COMMAND, DEVICE_CONTROL_FLR, PCIE_DEVICE_CONTROL
from unvirt_sim.driver.spec import COMMON, NO_VECTOR, CfgType, Feature, Status, mask
from unvirt_sim.harness_host import run_driver as go

__all__ = ["Registers"]

LARGEST, VECTORS = 256, 4
POKED = ("queue_enable", "queue_size", "queue_desc", "driver_feature", "queue_msix_vector", "config_msix_vector", "device_status", "device_feature",
         "num_queues", "config_generation", "queue_notify_off", "queue_notif_config_data", "queue_driver", "queue_device")
READ_ONLY = ("device_feature", "num_queues", "config_generation", "queue_notify_off", "queue_notif_config_data")
STEPS = ("acknowledge", "driver", "features", "features_ok", "reread", "queues", "driver_ok")
RESETS = ("status", "function", "not waited for", "none", "status", "function", "status", "status")
UNOFFERED = (Feature.CSUM, Feature.MQ, Feature.ADMIN_VQ, Feature.SR_IOV, Feature.RSS, 95)


class Registers:
    """Part of :class:`~adversary.Episode`."""

    # Single registers

    def select(self, number):
        """Select a queue; return whether it is selected: a suspended device takes no such write."""
        go(self.device.set("queue_select", number))
        return go(self.device.get("queue_select")) == number

    def ring(self, number, data, width):
        """Write to a doorbell, that of a queue that does not exist among them, with whatever data and width."""
        number, width = number % 6, (2, 4, 2, 4, 1, 8)[width % 6]
        place = self.queues[0].notify + 4 * number
        value = data.to_bytes(2, "little") * 4 if data & 1 else number.to_bytes(2, "little") + data.to_bytes(2, "little") * 3
        wide = 4 if self.features >> Feature.NOTIFICATION_DATA & 1 else 2
        right = width == wide and number < 2 and value[:2] == number.to_bytes(2, "little") and self.queues[number].enabled
        if wide == 4 and right:
            queue = self.queues[number]
            right = data == (queue.slot | queue.wrap << 15 if self.packed else queue.index)
        self.breaks("PCI-NOTIFY-13", not right)
        go(self.host.memory_write(place, value[:width]))

    def poke(self, field, value):
        """Write a register that a driver must leave alone once the device runs."""
        device, name, number = self.device, POKED[field % len(POKED)], value % 3
        since = self.simulation.cycle
        go(device.set("queue_select", number))
        if name == "device_status":
            value = int(go(device.status())) & 0xF
        if name.endswith("vector") and value & 1:
            value |= VECTORS                                          # beyond the table, as often as not
        if name == "queue_size" and value & 1:
            value |= 2 * LARGEST
        enabled = number < 2 and self.queues[number].enabled
        size = value & 0xFFFF
        self.breaks("PCI-COMMON-25", name in READ_ONLY or name == "queue_enable" and value == 0)
        self.breaks("PCI-COMMON-26", enabled and name in ("queue_size", "queue_desc", "queue_driver", "queue_device", "queue_msix_vector"))
        self.breaks("PCI-COMMON-29", name == "queue_size" and number < 2
                    and (not 0 < size <= LARGEST or not self.packed and size & (size - 1)))
        self.breaks("PCI-MSIX-11", name.endswith("vector") and VECTORS <= value != NO_VECTOR)
        # A value of 0 written to the status would be a reset: that is another action.
        go(device.set(name, value & (1 << 8 * COMMON[name][1]) - 1 if name != "device_status" else value or 1))
        if name == "queue_enable":
            self.learn(since)

    def enable(self, number, value):
        """Write queue_enable, of a queue that is enabled or not, with what it has."""
        since = self.simulation.cycle
        go(self.device.set("queue_select", (0, 1, 0xFF)[number % 3]))
        self.breaks("PCI-COMMON-25", value % 2 == 0)
        go(self.device.set("queue_enable", value % 2))
        self.learn(since)

    def status(self, bits):
        """Write status bits: cleared ones, FAILED, what is the device's or reserved; not 0."""
        go(self.device.set("device_status", bits % 255 + 1))

    def odd(self, place, size, write, value):
        """Access the common configuration with a width or at a place that it does not have, or read much of the device configuration."""
        size, offset = (1, 2, 4, 8, 3)[size % 5], place % 62
        if place & 1 and not write:
            self.breaks("CORE-CFG-05")
            go(self.host.memory_read(self.device._base[CfgType.DEVICE], 8))
            return
        right = any(offset == at and size == width or width == 8 and size == 4 and offset in (at, at + 4) for at, width in COMMON.values())
        self.breaks("PCI-ACC-03", not right)
        since = self.simulation.cycle
        at = self.device._base[CfgType.COMMON] + offset
        if write:
            # All bytes are alike and not 0, so that it is no reset, of the device or a queue.
            go(self.host.memory_write(at, bytes([value & 0xFF | 2]) * size))
            self.learn(since)
        else:
            go(self.host.memory_read(at, size))

    def isr(self, width):
        """Read the interrupt status."""
        width = (1, 2, 4)[width % 3]
        self.breaks("PCI-ISR-08", width != 1)
        go(self.host.memory_read(self.device._base[CfgType.ISR], width))

    def config(self, offset, size, value):
        """Write device configuration."""
        go(self.device.config_write(offset % 60, (1, 2, 4)[size % 3], value & (1 << 8 * (1, 2, 4)[size % 3]) - 1))

    def window(self, bar, offset, length, value):
        """Read or write through the window of configuration space; written is only what must change nothing."""
        function, bar, length = self.device.function, (0, 0, 0, 1, 2, 5, 6, 255)[bar % 8], (1, 2, 4, 0, 3, 8, 255)[length % 7]
        inside = any(cap.bar == bar and cap.offset <= offset and offset + length <= cap.offset + cap.length for cap in self.device.caps.values())
        right = inside and length in (1, 2, 4) and offset % length == 0
        self.breaks("PCI-CFGACC-06", not right)
        at = next(cap for cap in function.virtio if cap.cfg_type == CfgType.PCI_CFG).at
        go(function.write(at + 4, 1, bar))
        go(function.write(at + 8, 4, offset))
        go(function.write(at + 12, 4, length))
        # The table of vectors lies in the same BAR: what is written there is what the driver says.
        if value & 1 and (bar or length not in (1, 2, 4) or offset % length):
            go(function.write(at + 16, 4, value))
        else:
            go(function.read(at + 16, 4))

    def _busy(self, number, cycles):
        """Give a queue good requests, let frames come, and go on for ``cycles``."""
        for _ in range(3):
            self.send(number, 0, 0, 0, 1001)
            self.frame(1000)
        self.simulation.run(cycles)

    # Suspension

    def suspend(self, how, cycles):
        """Give the device something to do and ``cycles`` for it, suspend it and resume it; ``how``: 1 not waited for, 2 not resumed, else both.

        While it is suspended nothing moves, whatever it is told of.
        """
        device, hurry, stay = self.device, how % 4 == 1, how % 4 == 2
        self._busy(how >> 2, cycles)
        before = self.look()
        # An earlier suspension, not waited for, may end before this write, which would be a resume then if it had DRIVER_OK.
        go(device.set("device_status", int((before if hurry else before & ~Status.DRIVER_OK) | Status.SUSPEND)))
        if not self.features >> Feature.SUSPEND & 1 or before & (Status.DRIVER_OK | Status.DEVICE_NEEDS_RESET) != Status.DRIVER_OK:
            return
        self.breaks("CORE-SUSP-14", hurry)
        if hurry or not self._wait_suspended():
            return
        self.simulation.expect_quiet(True)
        for queue in self.queues:
            self.notify(queue)
        self.frame(cycles)
        go(device.config_write(0, 4, cycles))
        go(device.set("queue_enable", 1))
        self.simulation.run(400)
        assert self.look() & (Status.SUSPEND | Status.DRIVER_OK) == Status.SUSPEND
        self.simulation.expect_quiet(False)
        if not stay:
            go(device.set("device_status", int(self.look() | Status.DRIVER_OK)))
            assert self.look() & Status.SUSPEND == 0

    def _wait_suspended(self):
        """Wait until the suspension that was asked for has ended in a suspended device, or in none that runs; return whether it is suspended."""
        for _ in range(2):
            for _ in range(4000):
                status = self.look()
                if status & Status.SUSPEND:
                    assert not status & Status.DRIVER_OK
                    return True
                if status & (Status.DRIVER_OK | Status.DEVICE_NEEDS_RESET) != Status.DRIVER_OK:
                    return False
                self.simulation.run(20)
            # Without bus mastering what is to be used may wait for ever.
            go(self.device.function.command())
        raise AssertionError("the suspension does not end")

    # Resets

    def wait_reset(self):
        """Wait until the status is 0."""
        for _ in range(4000):
            if go(self.device.status()) == 0:
                return
            self.simulation.run(20)
        raise AssertionError("the reset does not end")

    def queue_reset(self, number, how, cycles):
        """Reset a queue; bits of ``how``: waited for, enabled again, its memory written over, with nothing configured, dirty rings.

        If ``cycles`` is not 0 the queue is given something to do first, and so many cycles for it.
        """
        device, queue = self.device, self.queues[number % 2]
        wait, again, over, bare, dirty = (how >> bit & 1 for bit in range(5))
        if cycles:
            self._busy(number, cycles)
        if not self.select(queue.number):
            return
        if queue.enabled:
            queue.resetting = bool(self.features >> Feature.RING_RESET & 1 and go(device.status()) & Status.FEATURES_OK)
        go(device.set("queue_reset", 1))
        if over:
            for address, size in zip(queue.areas, (16 * self.size, 4, 4)):
                self.write(address, bytes([255] * size))
            self.breaks("CORE-VQRST-05", go(device.get("queue_reset")) == 1)
        if wait:
            for _ in range(4000):
                if go(device.get("queue_reset")) == 0:
                    break
                self.simulation.run(20)
            else:
                raise AssertionError("the reset of the queue does not end")
            # A device that was suspended just before did not take the request, and keeps the queue.
            if self.look() & Status.SUSPEND and go(device.get("queue_enable")):
                queue.resetting = False
            if queue.resetting:
                self.taken(queue)
        if again:
            since = self.simulation.cycle
            if bare and not queue.enabled:
                self.breaks("CORE-VQRST-06", wait)
                go(device.set("queue_enable", 1))
            else:
                self._configure(queue, dirty)
            self.learn(since)

    def _configure(self, queue, dirty):
        """Give a queue fresh rings, of zeroes or not, and enable it."""
        device = self.device
        self._note()
        sizes = (16 * self.size, 4, 4) if self.packed else (16 * self.size, 6 + 2 * self.size, 6 + 8 * self.size)
        queue.renew(tuple(self.host.alloc(size, align) for size, align in zip(sizes, (16, 4, 4))))
        go(device.set("queue_select", queue.number))
        if dirty:
            queue.clean = False
            self.write(queue.areas[0], self.descriptor(self.buffers, 64, 0x8082, 1))
            if not self.packed:
                self.write(queue.areas[2], bytes((1, 0)))
        go(device.set("queue_size", self.size))
        go(device.set("queue_msix_vector", 1 + queue.number))
        for name, address in zip(("desc", "driver", "device"), queue.areas):
            go(device.set(f"queue_{name}", address))
        go(device.set("queue_enable", 1))
        taken = go(device.get("queue_desc")) == queue.areas[0]
        self.breaks("PCI-VQCFG-01", dirty and taken)
        self.breaks("SPLIT-ASUP-07", dirty and taken and not self.packed)

    def _function_reset(self):
        """Reset the function, whatever it is doing, and bring its configuration space back."""
        function, device = self.device.function, self.device
        at = function.has_capability(CAP_PCIE).offset + PCIE_DEVICE_CONTROL
        assert self.simulation.violations == [], self.simulation.violations[0]
        go(function.write(at, 2, go(function.read(at, 2)) | DEVICE_CONTROL_FLR))
        # Software waits 100 ms; the device is done when the command register is 0 again: what it asked for is answered then, or given up.
        for _ in range(self.timeout // 10):
            if go(function.read(COMMAND, 2)) == 0:
                break
            self.simulation.run(20)
        else:
            raise AssertionError("the function level reset does not end")
        # The harness takes bus mastering for off at once; the device comes to rest first, and may request what it is allowed until then.
        others = [what for what in self.simulation.violations if not what.endswith("without bus mastering")]
        assert others == [], others[0]
        self.simulation.forgive()
        self.restore(device)

    def restore(self, device):
        """Bring the configuration space back after a reset of it."""
        go(device.function._write_bars())
        go(device.function.command())
        go(device.use_msix((0, 1, 2)))

    def restart(self, reset, order, features):
        """Reset the device at this moment in one of :data:`RESETS` ways, and initialise it again, in a good order or not."""
        reset = RESETS[reset % len(RESETS)]
        device = self.device
        since, status = self.simulation.cycle, self.look()
        if reset == "none":
            go(device.set("device_status", int(status | Status.FAILED)))
            self.breaks("CORE-STATUS-07")
        elif reset == "function":
            self._function_reset()
        else:
            go(device.set("device_status", 0))
            for queue in self.queues:
                queue.void = queue.enabled
        if reset in ("status", "function"):
            self.wait_reset()
            self.simulation.expect_quiet(True)
            self.simulation.run(200)
            self.simulation.expect_quiet(False)
            for queue in self.queues:
                self.taken(queue)
            since = self.simulation.cycle
        self.breaks("PCI-COMMON-27", reset == "not waited for")
        self.breaks("CORE-RESET-04", reset == "not waited for")
        self.breaks("CORE-INIT-01", 0 < order < 7 or reset in ("not waited for", "none"))
        steps = list(STEPS)
        if 0 < order < 7:
            steps[order - 1:order + 1] = reversed(steps[order - 1:order + 1])
        for step in steps:
            self._step(step, features, since, early=order == 7)

    def _step(self, step, features, since, early):
        """Do a step of the initialisation; bits of ``features`` say what is wrong with it."""
        device = self.device
        if step == "features":
            if features & 64:
                self.breaks("CORE-INIT-02", go(device.status()) & 0xF == 3)
                go(device.config_write(0, 4, features))
            go(device.accept(self._word(features)))
        elif step == "reread":
            self._reread()
        elif step == "queues":
            for queue in self.queues:
                self._configure(queue, features >> 8 & 1)
                if early and not go(device.status()) & Status.DRIVER_OK:
                    self.breaks("CORE-INIT-03")
                    self.notify(queue)
            self.learn(since)
        else:
            bit = {"acknowledge": Status.ACKNOWLEDGE, "driver": Status.DRIVER, "features_ok": Status.FEATURES_OK, "driver_ok": Status.DRIVER_OK}[step]
            go(device.set("device_status", int(go(device.status()) | bit)))
            if step == "features_ok":
                # Also of a driver that does not look again behind it the device now knows the features.
                self._reread()
                self.breaks("NET-CFG-23", features & 16 and go(device.status()) & Status.FEATURES_OK)

    def _reread(self):
        """Find out which features are negotiated, if they are; a suspended device has those from before, and does not let the window be selected."""
        if go(self.device.status()) & Status.FEATURES_OK:
            found = go(self.device.accepted())
            if not go(self.device.status()) & Status.SUSPEND:
                self.features = found

    def _word(self, features):
        """Return the feature word that the driver accepts."""
        word = self.wanted ^ (mask(Feature.SUSPEND) if features >> 9 & 1 else 0)
        for bit, feature in enumerate((Feature.IN_ORDER, Feature.NOTIFICATION_DATA, Feature.MRG_RXBUF, Feature.INDIRECT_DESC, Feature.MAC)):
            word ^= mask(feature) if features >> bit & 1 else 0
        if features >> 5 & 3 == 1:
            word |= mask(UNOFFERED[features >> 7 & 3])
            self.breaks("CORE-FEAT-09")
        return word
