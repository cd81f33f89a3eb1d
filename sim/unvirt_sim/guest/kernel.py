# SPDX-License-Identifier: BSD-2-Clause
"""Makes a distribution's kernel bootable at once: the ELF inside its bzImage, and an initramfs with busybox, drivers and a script.

QEMU starts the ELF directly (PVH), which saves the decompression inside the guest: up to four seconds under TCG.
"""

import gzip
import lzma
import os
import re
import struct
import zlib
from pathlib import Path

import lz4.block
import zstandard

from .errors import SetupError
from .init import INIT, UDHCPC

__all__ = ["ENTROPY_MODULES", "MODULES", "build_initramfs", "extract_vmlinux", "kernel_release", "module_closure", "tree_entries", "write_newc"]

MODULES = ("virtio_pci", "virtio_net")
"""What the guest needs for a network device; dependencies are found by :func:`module_closure`."""

ENTROPY_MODULES = ("virtio_pci", "virtio_rng")
"""The same for an entropy device."""

NOT_IN_THE_GUEST = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/lib/x86_64-linux-gnu/gconv")

LZ4_LEGACY_BLOCK = 8 << 20      # the legacy frame format cuts its input into blocks of this size


def _lz4_legacy(payload):
    """Decompress the legacy LZ4 frame format the kernel's build uses (the lz4 module only knows the newer one)."""
    output, position = [], 4
    while position + 4 <= len(payload):
        (size,) = struct.unpack_from("<I", payload, position)
        # The kernel's build appends the uncompressed size, which looks like a last, impossible block.
        if size == 0 or position + 4 + size > len(payload):
            break
        output.append(lz4.block.decompress(payload[position + 4:position + 4 + size], uncompressed_size=LZ4_LEGACY_BLOCK))
        position += 4 + size
    return b"".join(output)


DECOMPRESSORS = (
    (b"\x02\x21\x4c\x18", _lz4_legacy),
    (b"\x28\xb5\x2f\xfd", lambda payload: zstandard.ZstdDecompressor().decompressobj().decompress(payload)),
    (b"\x1f\x8b", lambda payload: zlib.decompressobj(31).decompress(payload)),
    (b"\xfd7zXZ\x00", lambda payload: lzma.LZMADecompressor().decompress(payload)),
)


def extract_vmlinux(image):
    """Return the ELF kernel inside ``image``, the bytes of a bzImage (or of an ELF already).

    Raises
    ------
    SetupError
        If it is no x86 Linux kernel or is compressed in an unknown way.
    """
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        raise SetupError("The kernel is neither an ELF nor an x86 bzImage.")
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start:start + length]
    for magic, decompress in DECOMPRESSORS:
        if payload.startswith(magic):
            try:
                elf = decompress(payload)
            except Exception as error:
                raise SetupError(f"The kernel's payload cannot be decompressed: {error}.") from error
            if elf[:4] != b"\x7fELF":
                raise SetupError("The kernel's payload is not an ELF.")
            return elf
    raise SetupError(f"The kernel's payload is compressed in an unknown way (it begins with {payload[:4].hex()}).")


def kernel_release(image):
    """Return the release of a bzImage's kernel (what ``uname -r`` says), or None."""
    if image[0x202:0x206] == b"HdrS":
        (pointer,) = struct.unpack_from("<H", image, 0x20E)
        return image[pointer + 0x200:pointer + 0x300].split(b"\0")[0].split(b" ")[0].decode("ascii", "replace")
    match = re.search(rb"Linux version (\S+)", image)
    return match and match[1].decode("ascii", "replace")


# -- modules

def _plain_module(path):
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content


def module_closure(folder, names):
    """Return ``[(file name, content)]`` of the modules ``names`` in ``folder`` and all they depend on, in order of loading.

    Dependencies come from the modules themselves (``depends=`` in their information section): an unpacked package has no
    ``modules.dep``. A name that is neither a file nor anything's dependency is taken to be built in.
    """
    files = {}
    for path in sorted(Path(folder).rglob("*.ko*")):
        files.setdefault(path.name.partition(".ko")[0].replace("-", "_"), path)
    order = {}

    def visit(name):
        name = name.replace("-", "_")
        if name in order or name not in files:
            return
        content = _plain_module(files[name])
        match = re.search(rb"\0depends=([^\0]*)\0", content)
        for dependency in match[1].decode().split(",") if match else ():
            visit(dependency)
        order[name] = content

    for name in names:
        visit(name)
    return [(f"{name}.ko", content) for name, content in order.items()]


# -- initramfs

def write_newc(entries):
    """Return a cpio archive (newc) of ``entries``: (path, mode, content), mode with its file type bits."""
    output = bytearray()
    for inode, (path, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        device = (5, 1) if path == "dev/console" else (0, 0)
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        output += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        output += bytes(-len(output) % 4)
        output += content
        output += bytes(-len(output) % 4)
    return bytes(output)


def tree_entries(tree):
    """Return what the guest needs of an unpacked package tree, as entries of :func:`write_newc`: all of it but documentation and translations."""
    entries = []
    for path in sorted(Path(tree).rglob("*")):
        name = path.relative_to(tree).as_posix()
        if name.startswith(NOT_IN_THE_GUEST) or name == "unvirt.json":
            continue
        if path.is_symlink():
            entries.append((name, 0o120777, os.readlink(path).encode()))
        elif path.is_dir():
            entries.append((name, 0o40755, b""))
        else:
            entries.append((name, 0o100000 | path.stat().st_mode & 0o777, path.read_bytes()))
    return entries


def build_initramfs(busybox, modules, settings, script=None, trees=()):
    """Return an initramfs that runs :data:`unvirt_sim.guest.init.INIT`.

    Parameters
    ----------
    busybox
        Path of a static busybox.
    modules
        As :func:`module_closure` returns them.
    settings
        Variables of the init script, by name.
    script
        Bytes of a script to run once the network is up, or None.
    trees
        Folders of unpacked Debian packages whose programs the guest is to have.
    """
    directory, file, program, link, device = 0o40755, 0o100644, 0o100755, 0o120777, 0o20600
    lines = [f"{name}='{str(value).translate({39: None})}'\n" for name, value in settings.items()]
    lines.append(f"MODULES='{' '.join(name for name, _ in modules)}'\n")
    entries = [(name, directory, b"") for name in ("bin", "dev", "etc", "lib", "lib/modules", "proc", "sys", "tmp", "root", "run")]
    entries += [
        ("dev/console", device, b""),
        ("bin/busybox", program, Path(busybox).read_bytes()),
        ("bin/sh", link, b"busybox"),
        ("init", program, INIT.encode()),
        ("etc/udhcpc", program, UDHCPC.encode()),
        ("etc/settings", file, "".join(lines).encode()),
    ]
    entries += [(f"lib/modules/{name}", file, content) for name, content in modules]
    if script is not None:
        entries.append(("etc/script", program, script))
    # Where programs look for their loader: packages rely on the base system for this link.
    found = {"lib64": ("lib64", link, b"usr/lib64")} if trees else {}
    found |= {entry[0]: entry for tree in trees for entry in tree_entries(tree)}
    own = {entry[0] for entry in entries}
    return write_newc(entries + [entry for name, entry in found.items() if name not in own])


def write_atomically(path, content):
    """Write ``content`` to ``path`` so that the file is whole or absent."""
    aside = path.with_name(path.name + f".{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)
