# SPDX-License-Identifier: BSD-2-Clause
"""QEMU's command line, and a QEMU process whose console is read line by line."""

import json
import os
import select
import subprocess
import time

__all__ = ["QemuProcess", "device_option", "machine_options"]

MEMORY = 256                    # MiB of a guest, and what Linux takes for each queue pair, whether it is used or not
MEMORY_PER_PAIR = 2

MESSAGE_TIMEOUT = 600_000       # ms; when it expires the guest reads all ones and the device is dead, so never in practice


def device_option(socket_path):
    """Return the value of QEMU's ``-device`` that attaches the server at ``socket_path``."""
    return json.dumps({"driver": "vfio-user-pci", "socket": {"type": "unix", "path": str(socket_path)}, "bus": "rp0",
                       "x-msg-timeout": MESSAGE_TIMEOUT}, separators=(",", ":"))


def machine_options(queue_pairs=1):
    """Return the options every guest needs: memory the simulation can map, enough for so many queue pairs, and a root port to plug into."""
    memory = MEMORY + MEMORY_PER_PAIR * (queue_pairs - 1)
    return ["-M", "q35,memory-backend=mem", "-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on", "-m", f"{memory}M",
            "-device", "pcie-root-port,id=rp0,slot=1"]


class QemuProcess:
    """A running QEMU.

    Parameters
    ----------
    program
        :class:`~unvirt_sim.guest.packages.Program`.
    kernel, initramfs
        Files to boot.
    device
        Further QEMU options that plug in the device.
    folder
        Where ``console.log`` and ``qemu.log`` go.
    interactive
        Give the console to the terminal instead of recording it.
    append
        More words for the kernel's command line.
    queue_pairs
        Of the device. The guest has as many processors, at most 4: Linux uses as many of the pairs.
    """

    def __init__(self, program, kernel, initramfs, device, folder, *, interactive=False, append="", queue_pairs=1):
        serial = ["-serial", "stdio"]
        if interactive:
            serial = ["-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console", "-mon", "chardev=console"]
        # On a busy host QEMU may not get the few milliseconds in which Linux wants to see its timer tick; it would panic.
        command = [*program.command, *machine_options(queue_pairs), "-accel", "tcg", "-cpu", "max", "-smp", str(min(queue_pairs, 4)), "-nodefaults",
                   "-no-reboot", "-display", "none", *serial, "-kernel", str(kernel), "-initrd", str(initramfs),
                   "-append", f"console=ttyS0 panic=-1 quiet no_timer_check {append}".strip(), *device]
        (folder / "qemu.command").write_text(" ".join(command) + "\n")
        self.errors = folder / "qemu.log"
        self._console = None if interactive else open(folder / "console.log", "wb")
        with open(self.errors, "wb") as errors:
            self._child = subprocess.Popen(command, stdin=None if interactive else subprocess.DEVNULL,
                                           stdout=None if interactive else subprocess.PIPE, stderr=errors,
                                           env={**os.environ, **program.environment})
        self.started = time.monotonic()
        self._buffer = b""
        if not interactive:
            os.set_blocking(self._child.stdout.fileno(), False)
        self._ended = interactive

    @property
    def seconds(self):
        """Seconds since QEMU was started."""
        return time.monotonic() - self.started

    @property
    def status(self):
        """Exit status, or None while it runs."""
        return self._child.poll()

    def lines(self, wait=0.1):
        """Return the console lines that came within ``wait`` seconds, as (seconds, text)."""
        if self._ended:
            time.sleep(wait)
            return []
        if not select.select([self._child.stdout], [], [], wait)[0]:
            return []
        data = self._child.stdout.read(65536)
        if not data:
            self._ended = True
            data, self._buffer = self._buffer + b"\n" * bool(self._buffer), b""
        else:
            self._console.write(data)
        *whole, self._buffer = (self._buffer + data).split(b"\n")
        return [(self.seconds, line.decode("utf-8", "replace").rstrip("\r")) for line in whole]

    @property
    def finished(self):
        """Whether it ended and everything it said was read."""
        return self.status is not None and self._ended

    def complaint(self):
        """Return QEMU's last words of its own, without warnings."""
        lines = [line.strip() for line in self.errors.read_text(errors="replace").splitlines() if line.strip() and "warning:" not in line]
        return lines[-1] if lines else ""

    def close(self):
        """End it if it still runs."""
        if self._child.poll() is None:
            self._child.terminate()
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        if self._console:
            self._console.close()
            self._child.stdout.close()
