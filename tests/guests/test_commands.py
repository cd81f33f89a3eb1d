# SPDX-License-Identifier: BSD-2-Clause
"""What the commands say when they cannot work: one sentence, exit status 2, nothing half-written, nothing fetched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from unvirt_sim.cli import COMMANDS, main
from unvirt_sim.guest import packages

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch):
    """Fetching a package tree, or compiling, would be the wrong order of things."""
    def refuse(*arguments, **options):
        raise AssertionError("something was fetched before the options were looked at")

    monkeypatch.setattr(packages, "_build_tree", refuse)
    monkeypatch.setattr("unvirt_sim.build._compile", refuse)


def refused(*arguments):
    """Return the one sentence with which the command line refuses."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


@pytest.mark.parametrize("arguments, sentence", [
    (["--preset", "huge"], "huge"),
    (["--kernel", "5.4"], "Kernel must be one of 6.1, 6.12, 7 or a file, not '5.4'."),
    (["--net", "wifi"], "Network must be one of echo, passt, tap:NAME, pcap:FILE, loopback, not 'wifi'."),
    (["--net", "pcap:/none"], "The capture file /none does not exist."),
    (["--json", "/none/json"], "The folder of /none/json does not exist; make it first."),
    (["--pcap", "/none/pcap"], "The folder of /none/pcap does not exist; make it first."),
    (["--json", "/tmp"], "/tmp cannot be written; choose another path."),
    (["--script", "/none"], "The script /none cannot be read (No such file or directory)."),
    (["--package", "Ethtool!"], "Package must be the name of a Debian package, as ethtool, not 'Ethtool!'."),
    (["--shell", "--script", "x"], "Error: --shell and --script exclude each other; choose one."),
    (["--frob"], "Error: No such option '--frob'."),
    (["--preset", "entropy", "--queue-pairs", "2"], "Preset entropy is no network device: it has no queue pairs; leave out --queue-pairs."),
    (["--preset", "entropy", "--pcap", "/tmp/none.pcap"], "Preset entropy is no network device: there are no frames to write; leave out --pcap."),
])
def test_boot_refuses(arguments, sentence):
    assert sentence in refused("boot", *arguments)


@pytest.mark.parametrize("arguments, sentence", [
    ([], "Missing option '--socket'"),
    (["--socket", "/none/socket"], "The folder of /none/socket does not exist; make it first."),
    (["--socket", "/tmp/" + "x" * 120], "Socket must be a path of at most 107 bytes"),
    (["--socket", "/tmp/unvirt-test-socket", "--preset", "huge"], "huge"),
    (["--socket", "/tmp/unvirt-test-socket", "--net", "tap:none0"], "There is no TAP interface none0"),
])
def test_serve_refuses(arguments, sentence):
    assert sentence in refused("serve", *arguments)


@pytest.mark.parametrize("arguments, sentence", [
    (["nonsense"], "No such command 'nonsense'."),
    (["verilog", "--preset", "huge"], "Preset must be one of"),
    (["verilog", "--set", "rows=3"], "Rows must be a power of two"),
    (["verilog", "-o", "/proc/none/x.v"], "cannot be written"),
    (["synth", "--preset", "huge"], "Preset must be one of"),
    (["synth", "--json", "/proc/none/json"], "/proc/none/json cannot be written"),
    (["bench", "--width", "100"], "'100' is not one of"),
    (["bench", "--json", "/proc/none/json"], "Results cannot be written to /proc/none"),
    (["conformance", "--json", "/proc/none/json"], "There is no folder /proc/none"),
])
def test_other_commands_refuse(arguments, sentence):
    assert sentence in refused(*arguments)


def test_serve_refuses_a_path_that_is_no_socket_and_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setattr("unvirt_sim.guest.runner.make_simulation", lambda *arguments: pytest.fail("built before the socket was looked at"))
    (tmp_path / "file").write_text("keep me")
    assert "exists and is no socket; choose another path" in refused("serve", "--socket", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "keep me"


def test_serve_refuses_a_socket_in_use(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr("unvirt_sim.guest.runner.make_simulation", lambda *arguments: pytest.fail("built before the socket was looked at"))
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(tmp_path / "socket"))
        busy.listen()
        assert "is in use by another program; choose another path" in refused("serve", "--socket", tmp_path / "socket")
        assert (tmp_path / "socket").exists()


@pytest.mark.parametrize("missing", ["g++", "make", "perl"])
def test_missing_tools_are_named(missing, tmp_path, monkeypatch):
    """A simulation that would have to be compiled names the tool and the way to get it."""
    from unvirt_sim import build

    (tmp_path / "bin").mkdir()
    for tool in {"g++", "make", "perl"} - {missing}:
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    from unvirt.config import preset
    with pytest.raises(build.BuildError, match=rf"{missing.replace('+', '.')} is needed .*apt-get install {missing.replace('+', '.')}"):
        build.build_library(preset("default"), tmp_path / "rtl", verilog="module unvirt(); endmodule")
    assert not list((tmp_path / "rtl").glob("*/*"))


@pytest.mark.parametrize("command", ["boot", "serve"])
def test_help_is_complete(command):
    result = CliRunner().invoke(main, [command, "--help"])
    assert result.exit_code == 0
    assert command in COMMANDS
    for option in ("--net", "--pcap", "--preset"):
        assert option in result.output


def test_an_ordinary_user_is_told_what_to_install(tmp_path):
    """The Makefile's set-up names what is missing; it never calls sudo by itself."""
    # Stand-ins by absolute paths: some systems have wrappers for python3 that need the whole PATH.
    programs = {tool: f"exec {shutil.which(tool)} \"$@\"" for tool in ("apt-get", "g++", "make")}
    programs |= {"python3": f"exec {sys._base_executable} \"$@\"", "id": "echo 1000"}
    for tool, command in programs.items():
        (tmp_path / tool).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / tool).chmod(0o755)
    result = subprocess.run(["/bin/sh", ROOT / "scripts/system-packages"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Missing: perl iverilog" in result.stderr
    assert "sudo apt-get install perl iverilog" in result.stderr


def test_two_processes_build_one_library(tmp_path):
    """Of two that want the same library one compiles it, the other waits for it."""
    program = (
        "import sys, time, pathlib\n"
        "from unvirt.config import preset\n"
        "from unvirt_sim import build\n"
        "def compile(text, config, folder, *others):\n"
        "    with open(folder / 'built', 'a') as file: file.write('x')\n"
        "    time.sleep(0.5)\n"
        "    (folder / 'libunvirt.tmp.so').write_text('library')\n"
        "build._compile = compile\n"
        "print(build.build_library(preset('default'), sys.argv[1], verilog='module unvirt(); endmodule').read_text())\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "hdl", ROOT / "sim", ROOT / "boards")))}
    children = [subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    assert [child.communicate()[0] for child in children] == ["library\n"] * 3
    (built,) = tmp_path.glob("*/built")
    assert built.read_text() == "x"
