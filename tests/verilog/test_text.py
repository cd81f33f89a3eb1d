# SPDX-License-Identifier: BSD-2-Clause
"""The generated Verilog as text: its ports, that it is the same each time, that it names no place, that lint has nothing against it."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.back import rtlil
from click.testing import CliRunner

from unvirt.config import preset
from unvirt.verilog import FlatTop, generate, instantiation_template, port_manifest
from unvirt_sim.build import verilator_environment
from unvirt_sim.cli import main

GOLDEN = Path(__file__).parent / "ports"
WIDTHS = (32, 64, 128, 256, 512)

PRINT_HASH = """
import hashlib
from unvirt.config import preset
from unvirt.verilog import generate
print(hashlib.sha256(generate(preset("minimal")).encode()).hexdigest())
"""

WAIVED = ("DECLFILENAME", "UNUSEDSIGNAL", "UNUSEDPARAM", "WIDTHEXPAND", "WIDTHTRUNC", "PROCASSINIT", "CASEINCOMPLETE", "VARHIDDEN",
          "UNDRIVEN", "SYNCASYNCNET", "CASEOVERLAP", "UNSIGNED", "CMPCONST", "EOFNEWLINE", "PINCONNECTEMPTY", "BLKSEQ", "GENUNNAMED",
          "UNOPTFLAT")
"""Complaints about style (and, the last, about simulation speed) that machine-made text draws; whatever is not in this list is an error."""


def golden(name):
    """Return the kept list of ports of a data width, or of another device type, as [(direction, name, width)]."""
    lines = (GOLDEN / f"{name}.txt").read_text().splitlines()
    return [(direction, name, int(bits)) for direction, name, bits in map(str.split, lines)]


def lint(*paths, waived=WAIVED):
    """Return what Verilator says against files, style waived; empty if nothing."""
    command = ["verilator", "--lint-only", "-Wall", *(f"-Wno-{name}" for name in waived), *map(str, paths)]
    result = subprocess.run(command, env=verilator_environment(), capture_output=True, text=True)
    return result.stderr if result.returncode else ""


def ports_of(verilog):
    """Return the ports of the top module of a text as :func:`golden` does, in the order of the text."""
    top = re.search(r"^module unvirt\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)[0]
    return [(direction, name, int(high or 0) + 1) for direction, high, name in
            re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", top, re.MULTILINE)]


@pytest.mark.parametrize("name", [*WIDTHS, "entropy"])
def test_ports(name):
    """The device elaborates at every width, and its ports are exactly those of the list (a mistyped clock domain would add some)."""
    config = preset("entropy") if name == "entropy" else preset("minimal").with_options(data_width=name)
    manifest = [(port["direction"], port["name"], port["width"]) for port in port_manifest(config)]
    assert manifest == golden(name)
    text = rtlil.convert(FlatTop(config), name="unvirt", emit_src=False)
    top = re.search(r"^module \\unvirt\n(.*?)^end\n", text, re.MULTILINE | re.DOTALL)[1]
    found = [(direction, name, int(bits or 1)) for bits, direction, name in
             re.findall(r"^  wire (?:width (\d+) )?(input|output) \d+  \\(\w+)$", top, re.MULTILINE)]
    assert sorted(found) == sorted(golden(name))


def test_ports_of_the_verilog(config, verilog):
    """The text that users get has the same ports."""
    assert sorted(ports_of(verilog)) == sorted(golden(config.data_width))


def test_template_names_every_port(config):
    template = instantiation_template(config)
    assert [name for name in re.findall(r"\.(\w+)\(", template)] == [name for _, name, _ in golden(config.data_width)]


def test_same_text_in_every_process(verilog):
    """Nothing depends on the order of sets or on the process."""
    hashes = {hashlib.sha256(verilog.encode()).hexdigest()}
    for seed in ("1", "77"):
        result = subprocess.run([sys.executable, "-c", PRINT_HASH], env=os.environ | {"PYTHONHASHSEED": seed},
                                capture_output=True, text=True, check=True)
        hashes.add(result.stdout.strip())
    assert len(hashes) == 1


def test_no_local_paths(verilog):
    """Neither the folder of this clone nor any other file name is in the text."""
    assert str(Path.cwd()) not in verilog
    assert str(Path.home()) not in verilog
    assert ".py" not in verilog
    assert not re.search(r"[\w.-]*/[\w.-]+/[\w.-]+", verilog)


def test_lint(verilog, tmp_path):
    """Verilator's lint, style apart, and ALWNEVER (a block that no simulator ever runs) above all."""
    path = tmp_path / "unvirt.v"
    path.write_text(verilog)
    assert lint(path) == ""


def test_lint_would_find_a_block_that_never_runs(tmp_path):
    """The check above can fail: the text that Amaranth's own writer makes of a constant part is refused."""
    path = tmp_path / "trap.v"
    path.write_text("module trap(input a, output reg [1:0] x);\n  always @* x[1] = 1'h0;\n  always @* x[0] = a;\nendmodule\n")
    assert "ALWNEVER" in lint(path)


def test_unknown_sides_are_refused(config):
    with pytest.raises(ValueError, match="^Attachment must be raw, not 'axi'$"):
        generate(config, attachment="axi")
    with pytest.raises(ValueError, match="^MAC interface must be axis, not 'gmii'$"):
        generate(config, mac="gmii")


def test_entropy(tmp_path):
    """The command writes an entropy device by its preset, or of any other by ``personality``; lint has nothing against it."""
    def run(*arguments):
        return CliRunner().invoke(main, ["verilog", "-o", str(tmp_path / "e.v"), *arguments])

    result = run("--preset", "wide", "--set", "personality=toaster")
    assert (result.exit_code, result.output.strip()) == (2, "Personality must be one of net, entropy, not 'toaster'.")
    result = run("--preset", "entropy")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "e.v").read_text()
    assert text.startswith("// unvirt: a virtio-rng PCIe function.")
    assert sorted(ports_of(text)) == sorted(golden("entropy"))
    assert json.loads((tmp_path / "e.ports.json").read_text()) == port_manifest(preset("entropy"))
    assert "entropy_tdata" in (tmp_path / "e.instance.vh").read_text()
    assert lint(tmp_path / "e.v") == ""
    wide = preset("wide").with_options(personality="entropy")
    assert wide.queues == 1 and {port["name"]: port["width"] for port in port_manifest(wide)}["entropy_tdata"] == 32


def test_command(config, verilog, tmp_path):
    """The command writes three files, or with a wrong parameter none, and says so in one sentence with status 2."""
    def run(*arguments):
        return CliRunner().invoke(main, ["verilog", "--preset", "minimal", "-o", str(tmp_path / "d.v"), *arguments])

    for wrong, sentence in (
            (["--set", "rows=3"], "Rows must be a power of two between 2 and 512, not 3."),
            (["--set", "rows"], "A setting must be name=value, such as rows=512, not 'rows'."),
            (["--set", "mac=1:2"], "MAC must be six octets such as 02:00:00:00:00:01, not '1:2'."),
            (["--mac", "gmii"], "MAC interface must be axis, not 'gmii'."),
            (["--preset", "huge"], "Preset must be one of minimal, default, wide, wide512, entropy, not 'huge'.")):
        result = run(*wrong)
        assert (result.exit_code, result.output.strip(), list(tmp_path.iterdir())) == (2, sentence, [])
    result = run()
    assert result.exit_code == 0, result.output
    assert (tmp_path / "d.v").read_text().endswith(verilog)
    assert json.loads((tmp_path / "d.ports.json").read_text()) == port_manifest(config)
    assert (tmp_path / "d.instance.vh").read_text() == instantiation_template(config)
