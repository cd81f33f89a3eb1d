# SPDX-License-Identifier: BSD-2-Clause
"""Kernels, modules, initramfs and the package tools, with made-up inputs: nothing is fetched."""

import gzip
import lzma
import os
import shutil
import struct
import subprocess

import lz4.block
import pytest
import zstandard

from unvirt_sim import cache
from unvirt_sim.guest import apt, kernel, packages
from unvirt_sim.guest.errors import SetupError
from unvirt_sim.guest.init import INIT, UDHCPC
from unvirt_sim.guest.kernel import build_initramfs, extract_vmlinux, kernel_release, module_closure, write_newc

ELF = b"\x7fELF" + os.urandom(1000) + bytes(9 << 20) + b"end"


def legacy_lz4(content):
    output = b"\x02\x21\x4c\x18"
    for start in range(0, len(content), 8 << 20):
        block = lz4.block.compress(content[start:start + (8 << 20)], store_size=False)
        output += struct.pack("<I", len(block)) + block
    return output


PACKERS = {
    "lz4": legacy_lz4,
    "zstd": lambda content: zstandard.ZstdCompressor().compress(content),
    "gzip": gzip.compress,
    "xz": lzma.compress,
}


def bzimage(payload, release=b"6.1.0-test (someone) #1"):
    setup = bytearray(512 * 5)
    setup[0x1F1] = 4
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x20E, 0x400)
    setup[0x600:0x600 + len(release)] = release
    payload += struct.pack("<I", len(ELF))
    struct.pack_into("<II", setup, 0x248, 64, len(payload))
    return bytes(setup) + bytes(64) + payload + bytes(100)


@pytest.mark.parametrize("kind", PACKERS)
def test_elf_inside_a_bzimage(kind):
    image = bzimage(PACKERS[kind](ELF))
    assert extract_vmlinux(image) == ELF
    assert kernel_release(image) == "6.1.0-test"
    assert extract_vmlinux(ELF) == ELF


@pytest.mark.parametrize("image, sentence", [
    (b"", "neither an ELF"), (b"MZ" + bytes(4096), "neither an ELF"), (bzimage(b"????"), "unknown way"),
    (bzimage(PACKERS["gzip"](b"text")), "not an ELF"), (bzimage(b"\x28\xb5\x2f\xfd" + b"rubbish" * 9), "cannot be decompressed")])
def test_broken_kernels(image, sentence):
    with pytest.raises(SetupError, match=sentence):
        extract_vmlinux(image)


def test_modules_come_after_what_they_need(tmp_path):
    def module(name, depends, suffix=".ko", pack=bytes):
        path = tmp_path / "kernel/drivers" / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pack(b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=" + name.encode() + b"\0"))

    module("virtio_net", "net_failover,virtio,virtio_ring")
    module("net_failover", "failover", ".ko.xz", lzma.compress)
    module("failover", "", ".ko.zst", zstandard.ZstdCompressor().compress)
    module("virtio", "virtio_ring", ".ko.gz", gzip.compress)
    module("virtio_ring", "")
    module("virtio-pci", "virtio,virtio_ring")
    names = [name for name, _ in module_closure(tmp_path, ("virtio_pci", "virtio_net", "built_in"))]
    assert names == ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko", "failover.ko", "net_failover.ko", "virtio_net.ko"]
    assert all(content.startswith(b"\x7fELF") for _, content in module_closure(tmp_path, ("virtio_net",)))


def test_cpio_archive_unpacks(tmp_path):
    if not shutil.which("cpio"):
        pytest.skip("cpio is not installed")
    archive = write_newc([("folder", 0o40755, b""), ("folder/file", 0o100640, b"content"), ("link", 0o120777, b"folder/file"),
                          ("folder/odd", 0o100755, b"x" * 4097)])
    assert len(archive) % 4 == 0
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "link").read_bytes() == b"content"
    assert (tmp_path / "folder/odd").stat().st_size == 4097


def test_initramfs_has_its_settings(tmp_path):
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"BB")
    image = build_initramfs(busybox, [("a.ko", b"A")], {"NET": "dhcp", "PEER": "10.0.2.2'; reboot #"}, b"echo hello\n")
    assert b"PEER='10.0.2.2; reboot #'\n" in image
    assert b"MODULES='a.ko'\n" in image
    assert b"echo hello\n" in image
    assert b"07070100000" in image


def test_initramfs_has_the_programs_of_packages(tmp_path, monkeypatch):
    """Programs, libraries and links are there, and the link to the loader; documentation is not; nothing replaces what the guest starts with."""
    tree = tmp_path / "tree"
    for name in ("usr/sbin", "usr/lib64", "usr/share/doc/tool", "bin"):
        (tree / name).mkdir(parents=True)
    for name in ("usr/sbin/tool", "usr/lib64/loader", "usr/share/doc/tool/copyright", "bin/busybox", "unvirt.json"):
        (tree / name).write_text(name)
    (tree / "usr/sbin/tool").chmod(0o755)
    (tree / "usr/sbin/other").symlink_to("tool")
    (tmp_path / "busybox").write_bytes(b"BB")
    monkeypatch.setattr(kernel, "write_newc", list)
    entries = build_initramfs(tmp_path / "busybox", [], {}, trees=[tree])
    files = {name: (mode, content) for name, mode, content in entries}
    assert len(files) == len(entries)
    assert files["usr/sbin/tool"] == (0o100755, b"usr/sbin/tool") and files["usr/sbin/other"] == (0o120777, b"tool")
    assert files["lib64"] == (0o120777, b"usr/lib64") and files["usr/lib64/loader"][1] == b"usr/lib64/loader"
    assert files["bin/busybox"][1] == b"BB" and files["usr"][0] == files["bin"][0] == 0o40755
    assert not any(name.startswith("usr/share/doc") or name == "unvirt.json" for name in files)


@pytest.mark.parametrize("script", [INIT, UDHCPC])
def test_scripts_are_good_shell(script):
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)


# -- packages

def test_cache_folder_prefers_what_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg/unvirt"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    monkeypatch.setenv("HOME", "/proc/none")
    assert cache.cache_folder() == tmp_path / "build/cache"


def test_unreachable_mirror_is_one_sentence_and_leaves_no_tree(tmp_path, monkeypatch):
    if not shutil.which("apt-get"):
        pytest.skip("no apt here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("UNVIRT_DEBIAN_MIRROR", "http://127.0.0.1:9/debian")
    monkeypatch.setattr(apt, "KEYRINGS", [str(tmp_path / "ring")])
    (tmp_path / "ring").write_bytes(b"")
    with pytest.raises(SetupError, match=r"^Reading the package lists of forky from http://127.0.0.1:9/debian failed: .*\.$"):
        packages.find_busybox()
    assert not (tmp_path / "unvirt/trees").exists()


def test_system_without_apt(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("UNVIRT_DEBIAN_MIRROR", raising=False)
    with pytest.raises(SetupError, match="no apt and dpkg"):
        apt.system_mirror()


def test_overrides_that_are_wrong(monkeypatch):
    monkeypatch.setenv("UNVIRT_QEMU", "true")
    with pytest.raises(SetupError, match="UNVIRT_QEMU is 'true', which is not a QEMU of at least 10.1"):
        packages.find_qemu()
    monkeypatch.setenv("UNVIRT_PASST", "/none")
    with pytest.raises(SetupError, match="UNVIRT_PASST is '/none'"):
        packages.find_passt()


def test_kernel_by_path(tmp_path):
    with pytest.raises(SetupError, match="Kernel must be one of 6.1, 6.12, 7 or a file, not '5.4'"):
        packages.find_kernel("5.4")
    image = tmp_path / "boot/vmlinuz-6.1.0-test"
    image.parent.mkdir()
    image.write_bytes(b"")
    assert packages.find_kernel(str(image)) == (image, None)
    (tmp_path / "lib/modules/6.1.0-test").mkdir(parents=True)
    (tmp_path / "lib/modules/5.0.0").mkdir()
    assert packages.find_kernel(str(image)) == (image, tmp_path / "lib/modules/6.1.0-test")
