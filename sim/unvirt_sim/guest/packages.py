# SPDX-License-Identifier: BSD-2-Clause
"""Finds QEMU, guest kernels, busybox and passt: on the system where good enough, else unpacked from Debian packages.

Unpacked programs run through the dynamic loader of their own package tree, so a QEMU of a newer Debian runs on an older one without
root, chroot or containers. A package tree is built aside and renamed into place: a tree that exists is whole.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..cache import cache_folder, locked
from .apt import PrivateApt
from .errors import SetupError

__all__ = ["KERNELS", "Program", "find_qemu", "find_passt", "find_busybox", "find_kernel", "check_kernel", "check_packages", "find_packages"]

QEMU_MINIMUM = (10, 1)

KERNELS = {"6.1": "bookworm", "6.12": "trixie", "7": "forky"}
"""Guest kernels by name, and the Debian suite each comes from."""

# Asked for by dependencies of QEMU and the kernels but of no use to a program that is only unpacked and run.
NEEDLESS = re.compile(r"^(systemd|libc-gconv-modules-extra|openssl-provider-legacy|gcc-\d+-base|mount|kmod|debconf|initramfs-tools.*|"
                      r"libapparmor1-doc|ipxe-qemu|acl)$")
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
KERNEL_PARTS = re.compile(r"^linux-(image|binary|modules)-\d.*-cloud-amd64$")

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Program:
    """A program and how to start it."""

    command: tuple
    """Words that start the program; its arguments follow."""
    version: str
    origin: str
    """Where it comes from, for people."""
    environment: dict = field(default_factory=dict)
    """Variables it needs beside the ordinary ones."""
    folder: Path | None = None
    """Root of the unpacked tree, or None for a program of the system."""


def _say(text):
    console.print(text, soft_wrap=True)


def _fetch_tree(name, attempts, names, *, keep=None, accept=None):
    """Return the folder of package tree ``name``, fetched if it is not there.

    ``attempts`` are lists of suites tried in turn, ``names`` the packages wanted, ``keep(archive)`` chooses among the resolved ones,
    ``accept(apt)`` says whether the suites' version will do.
    """
    folder = cache_folder()
    target = folder / "trees" / name
    if (target / "unvirt.json").exists():
        return target
    with locked(folder):
        if (target / "unvirt.json").exists():
            return target
        problem = None
        for suites in attempts:
            try:
                return _build_tree(folder, target, suites, names, keep, accept)
            except SetupError as error:
                problem = problem or error
        raise problem


def _build_tree(folder, target, suites, names, keep, accept):
    apt = PrivateApt(folder / "apt" / "-".join(suites), suites, say=_say)
    with console.status(f"Reading the package lists of Debian {' and '.join(suites)}"):
        apt.update()
        if accept and not accept(apt):
            raise SetupError(f"{apt.mirror} offers {names[0]} {apt.version(names[0]) or 'not at all'} in {' and '.join(suites)}, "
                             f"which is too old; use a mirror with a newer Debian, or install it by hand.")
        archives = [archive for archive in apt.resolve(names) if (keep or (lambda _: True))(archive)]
    if not archives:
        raise SetupError(f"Nothing of {' '.join(names)} is to be had in {' and '.join(suites)} of {apt.mirror}.")
    total = sum(archive.size for archive in archives)
    wanted = next((archive for archive in archives if archive.name in names), archives[0])
    _say(f"Downloading {wanted.name} {wanted.version} from Debian {suites[-1]}: {len(archives)} packages, {total / 1e6:.0f} MB, "
         f"into {target}")
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("packages", total=total)
        paths = apt.download(archives, lambda count: progress.update(task, completed=count))
        task = progress.add_task("unpacking", total=len(paths))
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(".new-*"):       # of a run that was killed; the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as aside:
            tree = Path(aside) / "tree"
            tree.mkdir(mode=0o755)
            for path in paths:
                result = subprocess.run(["dpkg-deb", "-x", path, tree], capture_output=True, text=True)
                if result.returncode:
                    raise SetupError(f"Unpacking {path.name} failed: {result.stderr.strip() or 'no reason given'}")
                progress.advance(task)
            manifest = {"name": wanted.name, "version": wanted.version, "suites": suites,
                        "packages": {archive.name: archive.version for archive in archives}}
            (tree / "unvirt.json").write_text(json.dumps(manifest, indent=1))
            shutil.rmtree(target, ignore_errors=True)
            os.rename(tree, target)
    for name in ("debs", "cache"):
        shutil.rmtree(apt.folder / name, ignore_errors=True)
    return target


def _manifest(tree):
    return json.loads((tree / "unvirt.json").read_text())


def _through_loader(tree, program):
    """Return the words that run ``program`` of ``tree`` with the tree's own C library."""
    loader = next(iter(sorted(tree.glob("usr/lib/*/ld-linux*.so*")) + sorted(tree.glob("usr/lib*/ld-linux*.so*"))
                       + sorted(tree.glob("lib/*/ld-linux*.so*"))), None)
    if loader is None:
        raise SetupError(f"The package tree {tree} has no dynamic loader; remove it and run again.")
    libraries = [str(path) for pattern in ("usr/lib/*-linux-gnu*", "lib/*-linux-gnu*", "usr/lib/*-linux-gnu*/*", "usr/lib")
                 for path in sorted(tree.glob(pattern)) if path.is_dir() and any(path.glob("lib*.so*"))]
    return (str(loader), "--library-path", ":".join(libraries), "--argv0", str(tree / program), str(tree / program))


def _output(command, environment=None):
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                                env={**os.environ, **(environment or {})})
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, str(error)
    return result.returncode, result.stdout + result.stderr


def _qemu_version(command, environment=None):
    """Return QEMU's version as a tuple, or None when it does not run or cannot attach a vfio-user server."""
    status, text = _output([*command, "--version"], environment)
    match = re.search(r"version (\d+)\.(\d+)(?:\.(\d+))?", text)
    if status or not match:
        return None
    version = tuple(int(part or 0) for part in match.groups())
    # Asked by name: a list of all devices would load every module of every QEMU there is.
    if version < QEMU_MINIMUM or "x-msg-timeout" not in _output([*command, "-device", "vfio-user-pci,help"], environment)[1]:
        return None
    return version


def find_qemu():
    """Return QEMU >= 10.1 with the vfio-user client: ``$UNVIRT_QEMU``, the system's, or an unpacked one.

    Raises
    ------
    SetupError
        If there is none and none can be fetched.
    """
    override = os.environ.get("UNVIRT_QEMU")
    for name in ([override] if override else ["qemu-system-x86_64"]):
        path = shutil.which(name)
        version = path and _qemu_version([path])
        if version:
            return Program((path,), ".".join(map(str, version)), path)
        if override:
            raise SetupError(f"UNVIRT_QEMU is {override!r}, which is not a QEMU of at least 10.1 with vfio-user-pci; correct or unset it.")

    def new_enough(apt):
        match = re.match(r"(?:\d+:)?(\d+)\.(\d+)", apt.version("qemu-system-x86") or "")
        return match and (int(match[1]), int(match[2])) >= QEMU_MINIMUM

    tree = _fetch_tree("qemu", [["forky"], ["trixie", "trixie-backports"]], ["qemu-system-x86"], accept=new_enough,
                       keep=lambda archive: not NEEDLESS.match(archive.name))
    data = [argument for name in ("qemu", "seabios") if (tree / "usr/share" / name).is_dir()
            for argument in ("-L", str(tree / "usr/share" / name))]
    command = (*_through_loader(tree, "usr/bin/qemu-system-x86_64"), *data)
    # Without this it would try the modules of the system's own QEMU.
    environment = {"QEMU_MODULE_DIR": str(next(iter(tree.glob("usr/lib/*/qemu")), tree))}
    version = _qemu_version(command, environment)
    if version is None:
        reason = _output([*command, "-device", "vfio-user-pci,help"], environment)[1].strip().splitlines()
        raise SetupError(f"The unpacked QEMU in {tree} does not run ({reason[-1] if reason else 'no output'}); remove that folder and "
                         f"run again.")
    return Program(command, ".".join(map(str, version)), f"Debian {_manifest(tree)['suites'][-1]} {_manifest(tree)['version']}",
                   environment, tree)


def find_passt():
    """Return passt: ``$UNVIRT_PASST``, an unpacked one, or the system's if none can be fetched.

    The newest is preferred to the system's: that of Debian 12 cannot place the host at an address of our choice.
    """
    override = os.environ.get("UNVIRT_PASST")
    if override:
        if not shutil.which(override):
            raise SetupError(f"UNVIRT_PASST is {override!r}, which is not a program; correct or unset it.")
        return Program((shutil.which(override),), "unknown", override)
    try:
        tree = _fetch_tree("passt", [["forky"], ["trixie"]], ["passt"], keep=lambda archive: not NEEDLESS.match(archive.name))
    except SetupError:
        if shutil.which("passt"):
            return Program((shutil.which("passt"),), "unknown", shutil.which("passt"))
        raise
    manifest = _manifest(tree)
    return Program(_through_loader(tree, "usr/bin/passt"), manifest["version"], f"Debian {manifest['suites'][-1]} {manifest['version']}",
                   folder=tree)


def find_busybox():
    """Return the path of a statically linked busybox for the guest."""
    tree = _fetch_tree("busybox", [["forky"], ["trixie"], ["bookworm"]], ["busybox-static"],
                       keep=lambda archive: archive.name == "busybox-static")
    for name in ("usr/bin/busybox", "bin/busybox"):
        if (tree / name).exists():
            return tree / name
    raise SetupError(f"The package tree {tree} has no busybox; remove it and run again.")


def check_packages(names):
    """Refuse what cannot be the name of a Debian package, before anything is fetched."""
    for name in names:
        if not PACKAGE_NAME.fullmatch(name):
            raise SetupError(f"Package must be the name of a Debian package, as ethtool, not {name!r}.")


def find_packages(names):
    """Return the folders of trees with the Debian packages ``names`` for the guest, each with all that it depends on."""
    check_packages(names)
    return [_fetch_tree(f"guest-{name}", [["trixie"], ["forky"]], [name], keep=lambda archive: not NEEDLESS.match(archive.name)) for name in names]


def check_kernel(name):
    """Refuse a name that is neither of :data:`KERNELS` nor a file, before anything is fetched."""
    if name not in KERNELS and not Path(name).is_file():
        raise SetupError(f"Kernel must be one of {', '.join(KERNELS)} or a file, not {name!r}.")


def find_kernel(name):
    """Return (kernel image, folder of its modules or None) for a name of :data:`KERNELS` or a path.

    Modules of a kernel given by path are looked for in ``lib/modules`` beside or above it.
    """
    if name in KERNELS:
        tree = _fetch_tree(f"kernel-{name}", [[KERNELS[name]]], ["linux-image-cloud-amd64"],
                           keep=lambda archive: KERNEL_PARTS.match(archive.name))
        images = sorted(tree.glob("boot/vmlinuz-*")) + sorted(tree.glob("usr/lib/modules/*/vmlinuz"))
        modules = sorted(tree.glob("lib/modules/*")) + sorted(tree.glob("usr/lib/modules/*"))
        if not images or not modules:
            raise SetupError(f"The package tree {tree} has no kernel; remove it and run again.")
        return images[0], modules[0]
    check_kernel(name)
    path = Path(name)
    release = path.name.partition("vmlinuz-")[2]
    for parent in list(path.absolute().parents)[:3]:
        for folder in sorted(parent.glob("lib/modules/*")) + sorted(parent.glob("usr/lib/modules/*")):
            if not release or folder.name == release:
                return path, folder
    return path, None
