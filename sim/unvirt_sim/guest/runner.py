# SPDX-License-Identifier: BSD-2-Clause
"""Boots a guest against the simulated RTL, or serves the RTL to a QEMU that somebody else starts."""

import contextlib
import json
import os
import resource
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ..build import BuildError
from ..cache import cache_folder
from ..entropy import EntropyStream
from . import kernel as kernels
from .content import ContentServer
from .errors import GuestError, SetupError
from .measure import PingMeter
from .net import check_network, create_network
from .net.pcap import PcapngWriter
from .packages import check_kernel, check_packages, find_busybox, find_kernel, find_packages, find_qemu
from .qemu import QemuProcess, device_option, machine_options
from .summary import Summary
from .vfio_user import VfioUserServer, check_socket
from .watch import ConsoleWatch

__all__ = ["BootOptions", "ServeOptions", "boot", "serve", "make_simulation"]


@dataclass(kw_only=True)
class ServeOptions:
    """What the simulated device is and what its port is connected to."""

    socket: str | None = None
    net: str = "echo"
    pcap: str | None = None
    preset: str = "default"
    queue_pairs: int | None = None
    queue_size: int | None = None
    without: int = 0
    """Feature bits not to offer."""
    seed: int = 0


@dataclass(kw_only=True)
class BootOptions(ServeOptions):
    """How to boot; see the command ``boot``."""

    kernel: str = "6.12"
    shell: bool = False
    script: str | None = None
    package: tuple = ()
    """Names of Debian packages whose programs the guest is to have."""
    json: str | None = None
    pings: int = 5
    entropy_bytes: int = 512
    """How many the guest reads from an entropy device."""
    seconds: float = 900
    net: str = "passt"
    append: str = ""
    device: str = "rtl"
    """``rtl``, or ``qemu`` for QEMU's own virtio-net-pci: proves the guest side alone (for development)."""


def make_simulation(options, say=lambda text: None):
    """Return a :class:`Simulation` of the device in :class:`ServeOptions`, its library built if need be.

    Raises
    ------
    SetupError
        If there is no such device.
    BuildError
        If the simulation cannot be compiled.
    """
    from ..build import build_library
    from ..harness import Simulation

    config = _config(options)
    library = build_library(config, say=lambda text: say(f"{text}. It is kept for the next time."))
    simulation = Simulation(library, seed=options.seed, nonposted_depth=config.nonposted_depth)
    simulation.hide_features(options.without)
    return simulation


def _pool(config, pairs):
    """Return sizes of a pool of chains that holds the receive buffers of all queue pairs and as many others."""
    if not 1 <= pairs <= 255:
        return {}
    window = config.queue_window
    while 2 * pairs * window > 2048:
        window //= 2
    return {"queue_window": window, "chain_slots": max(config.chain_slots, 1 << (2 * pairs * window - 1).bit_length())}


def _config(options):
    from unvirt.config import preset

    sizes = {} if options.queue_size is None else {"max_queue_size": options.queue_size}
    try:
        base = preset(options.preset)
        if base.personality != "net" and options.queue_pairs is not None:
            raise SetupError(f"Preset {options.preset} is no network device: it has no queue pairs; leave out --queue-pairs.")
        if base.personality != "net" and getattr(options, "device", "rtl") != "rtl":
            raise SetupError(f"Preset {options.preset} is no network device, and QEMU's own one is; use preset default.")
        if options.queue_pairs is not None:
            pairs = options.queue_pairs
            # A vector for each queue but the control queue, and one for changes of the configuration.
            sizes |= {"queue_pairs": pairs, "control_queue": True, "rows": max(4, 1 << (2 * pairs).bit_length() if 1 <= pairs <= 255 else 4),
                      "msix_vectors": max(4, 2 * pairs + 2), **_pool(base, pairs)}
        return base.with_options(**sizes)
    except ValueError as error:
        raise SetupError(f"{error}.") from error


def _check_writable(path):
    """Refuse a result file that could not be written when the results are there."""
    path = Path(path).absolute()
    if not path.parent.is_dir():
        raise SetupError(f"The folder of {path} does not exist; make it first.")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SetupError(f"{path} cannot be written; choose another path.")


def _check(options):
    """Refuse options that cannot work before anything is downloaded or built."""
    check_network(options.net)
    if _config(options).personality != "net" and options.pcap:
        raise SetupError(f"Preset {options.preset} is no network device: there are no frames to write; leave out --pcap.")
    for name in ("pcap", "json"):
        if path := getattr(options, name, None):
            _check_writable(path)


class _Service(threading.Thread):
    """Runs the server beside QEMU and keeps what it ended with."""

    def __init__(self, server):
        super().__init__(name="vfio-user", daemon=True)
        self.server = server
        self.result = None
        self.failure = None

    def run(self):
        try:
            self.result = self.server.serve(accept_seconds=60)
        except Exception as error:      # whatever it was, QEMU must not wait for a dead server
            self.failure = error
            self.server.close()


def _prepare_kernel(options, folder):
    """Return (kernel, initramfs parts) with the ELF kernel kept in the cache for named kernels."""
    image, modules = find_kernel(options.kernel)
    content = image.read_bytes()
    release = kernels.kernel_release(content)
    target = image.with_name("vmlinux-unvirt") if modules and cache_folder() in image.parents else folder / "vmlinux"
    if not target.exists():
        kernels.write_atomically(target, kernels.extract_vmlinux(content))
    names = kernels.MODULES if _config(options).personality == "net" else kernels.ENTROPY_MODULES
    return target, release, kernels.module_closure(modules, names) if modules else []


def boot(options, *, simulation=None, say=lambda text: None, show=None):
    """Boot a guest and return its :class:`Summary`.

    Parameters
    ----------
    options
        :class:`BootOptions`.
    simulation
        A harness to use instead of building one.
    say
        Called with what is happening, one line at a time.
    show
        Called with every console line that is for people, or None.

    Raises
    ------
    SetupError
        If something is missing; nothing was started then.
    """
    _check(options)
    script = None
    if options.script:
        try:
            script = Path(options.script).read_bytes()
        except OSError as error:
            raise SetupError(f"The script {options.script} cannot be read ({error.strerror}).") from error
    check_kernel(options.kernel)
    check_packages(options.package)
    qemu, busybox, trees = find_qemu(), find_busybox(), find_packages(options.package)
    folder = Path(tempfile.mkdtemp(prefix="unvirt-boot-"))
    try:
        return _boot(options, folder, qemu, (busybox, trees), script, simulation, say, show)
    except (SetupError, BuildError):
        shutil.rmtree(folder)       # nothing ran: there is nothing to look up in it
        raise


def _boot(options, folder, qemu, programs, script, simulation, say, show):
    net = _config(options).personality == "net"
    summary = Summary(options.kernel, options.net if net else "none", options.preset, options.device, qemu=qemu.version, logs=str(folder))
    with contextlib.ExitStack() as stack:
        kernel, summary.release, modules = _prepare_kernel(options, folder)
        network = content = None
        settings = {"PINGS": options.pings, "WAIT": 60, "DOWNLOAD": "", "PORT": 0, "BYTES": "",
                    "MODE": "shell" if options.shell else "script" if script is not None else "test"}
        if not net:
            settings |= {"BYTES": options.entropy_bytes}
        elif options.device == "rtl":
            network = create_network(options.net, log_folder=folder)
            stack.callback(network.close)
            settings |= network.guest
        else:
            settings |= {"NET": "dhcp", "ADDRESS": "", "PEER": "10.0.2.2"}
        if net and (options.net == "passt" or options.device == "qemu"):
            content = ContentServer()
            stack.callback(content.close)
            settings |= {"DOWNLOAD": content.path, "PORT": content.port}
        initramfs = folder / "initramfs"
        busybox, trees = programs
        initramfs.write_bytes(kernels.build_initramfs(busybox, modules, settings, script, trees))
        service = None
        meter = PingMeter()
        if options.device == "rtl":
            if simulation is None:
                simulation = make_simulation(options, say)
            capture = None
            if options.pcap:
                capture = PcapngWriter(options.pcap)
                stack.callback(capture.close)
            server = VfioUserServer(simulation, folder / "socket", network=network, capture=capture,
                                    trace=folder / "accesses.jsonl", observer=meter, log=say)
            stack.callback(server.close)
            service = _Service(server)
            service.start()
            device = ["-device", device_option(folder / "socket")]
        else:
            device = ["-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,bus=rp0,disable-legacy=on,romfile="]
        say(f"Starting Linux {summary.release} on QEMU {qemu.version}")
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = QemuProcess(qemu, kernel, initramfs, device, folder, interactive=options.shell, append=options.append,
                              queue_pairs=options.queue_pairs or 1)
        stack.callback(process.close)
        watch = ConsoleWatch(summary, say, show, content)
        try:
            reason = _follow(process, service, options, watch)
        finally:
            summary.total_seconds = process.seconds
            process.close()
            if service:
                service.server.stop()
                service.join(60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        summary.qemu_cpu_seconds = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        if service:
            _account(summary, service, simulation, meter)
            if not net:
                _compare_entropy(summary, simulation, options.seed)
            reason = reason or (f"the simulation ended: {service.failure}" if service.failure else None) \
                or (service.result or {}).get("broken")
    summary.reason = reason or summary.reason or _judge(summary, options)
    summary.ok = not summary.reason
    for name in ("vmlinux", "initramfs"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    if options.json:
        Path(options.json).write_text(json.dumps(summary.as_dict(), indent=1) + "\n")
    return summary


def _follow(process, service, options, watch):
    """Read the console until QEMU ends; returns why it ended badly, or None."""
    while not process.finished:
        for seconds, line in process.lines():
            watch.line(seconds, line)
        if service and not service.is_alive() and process.status is None:
            # QEMU would wait for the device until its own timeout; its end by itself closes the socket a moment before it exits.
            deadline = time.monotonic() + 3
            while process.status is None and time.monotonic() < deadline:
                for seconds, line in process.lines():
                    watch.line(seconds, line)
            if process.status is None:
                if service.failure:
                    return f"the simulation ended: {service.failure}"
                return (service.result or {}).get("broken") or "the server ended before the guest did"
        if not options.shell and process.seconds > options.seconds:
            return f"the guest was not done after {options.seconds:.0f} s; the last it said was {watch.last!r}"
    if process.status:
        return f"QEMU ended with status {process.status}: {process.complaint() or 'it gave no reason'}"
    return None


def _account(summary, service, simulation, meter):
    """Put what server, meter and simulation counted into the summary."""
    counts = service.result or service.server.summary()
    summary.server = {name: value for name, value in counts.items() if name not in ("seconds", "cycles")}
    summary.cycles = counts["cycles"]
    seconds = counts["seconds"]
    summary.rtl_blocking_seconds, summary.rtl_background_seconds = seconds["blocked"], seconds["clocked"]
    summary.rtl_cpu_seconds = seconds["cpu"]
    summary.cycles_per_second = summary.cycles / max(seconds["blocked"] + seconds["clocked"], 1e-3)
    summary.ping_cycles = meter.pings
    summary.violations = list(simulation.violations)
    summary.tlps = dict(simulation.counters)


def _compare_entropy(summary, simulation, seed):
    """Look for what the guest read in what the device was fed; the kernel may have drawn bytes in between for its own pool."""
    read, fed = bytes.fromhex(summary.entropy_read), simulation.entropy_taken
    summary.entropy = {"bytes": len(read), "fed": fed, "runs": EntropyStream(seed).runs(read, fed)}


def _judge(summary, options):
    """Return why a boot that ended by itself is a failure, or an empty string."""
    if summary.violations:
        return f"the checkers complained {len(summary.violations)} times, first: {summary.violations[0]}"
    if options.shell:
        return ""
    if not summary.statistics.pop("done", None):
        return "the guest ended before its test was done"
    if options.script:
        return "" if summary.script_status == 0 else "the script did not end"
    if summary.entropy:
        if summary.entropy["bytes"] != options.entropy_bytes:
            return f"the guest read {summary.entropy['bytes']} of {options.entropy_bytes} bytes"
        return "" if summary.entropy["runs"] else "what the guest read is not what the device was fed"
    if summary.pings and None in summary.pings:
        return f"{summary.pings.count(None)} of {len(summary.pings)} pings were lost"
    if summary.download and not summary.download["equal"]:
        return "the downloaded file differs from the one served"
    if options.net == "passt" and not summary.download:
        return "nothing was downloaded"
    if options.net.startswith(("loopback", "tap", "pcap")) and not summary.statistics.get("rx_packets"):
        return f"no frame came in from {options.net}"
    return ""


def serve(options, *, simulation=None, say=lambda text: None, ready=None):
    """Serve the device on ``options.socket`` to one QEMU started elsewhere; returns the server's counters.

    ``ready`` is called with QEMU's options once the socket listens.
    """
    _check(options)
    if not options.socket or len(str(options.socket).encode()) > 107:
        raise SetupError(f"Socket must be a path of at most 107 bytes, not {options.socket!r}.")
    if not Path(options.socket).absolute().parent.is_dir():
        raise SetupError(f"The folder of {options.socket} does not exist; make it first.")
    check_socket(options.socket)
    folder = Path(tempfile.mkdtemp(prefix="unvirt-serve-"))
    try:
        result = _serve(options, folder, simulation, say, ready)
    except (SetupError, BuildError):
        shutil.rmtree(folder)
        raise
    result["logs"] = str(folder)
    if result["broken"]:
        raise GuestError(f"{result['broken']} Accesses are in {folder}.")
    return result


def _serve(options, folder, simulation, say, ready):
    with contextlib.ExitStack() as stack:
        network = None
        if _config(options).personality == "net":
            network = create_network(options.net, log_folder=folder)
            stack.callback(network.close)
        if simulation is None:
            simulation = make_simulation(options, say)
        capture = None
        if options.pcap:
            capture = PcapngWriter(options.pcap)
            stack.callback(capture.close)
        server = VfioUserServer(simulation, options.socket, network=network, capture=capture, trace=folder / "accesses.jsonl", log=say)
        stack.callback(server.close)
        if ready:
            ready([*machine_options(options.queue_pairs or 1), "-device", device_option(Path(options.socket).absolute())])
        return server.serve()
