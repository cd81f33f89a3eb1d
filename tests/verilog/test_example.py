# SPDX-License-Identifier: BSD-2-Clause
"""The example of the integration guide fits the Verilog that users get."""

import re
from pathlib import Path

import pytest
from test_text import WAIVED, lint

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_nic.v"


def stub(text, name):
    """Return an empty module ``name`` with the ports that the example connects, all of them inputs or outputs as wide as the wires."""
    ports = re.search(rf"{name} \w+\((.*?)\);", text, re.DOTALL)[1]
    widths = {}
    for high, names in re.findall(r"^  wire (?:\[(\d+):0\] )?([\w, ]+);", text, re.MULTILINE):
        widths |= {wire.strip(): int(high or 0) + 1 for wire in names.split(",")}
    # What unvirt or the module's own pins drive is an input of the stub; the rest it drives.
    driven = re.search(r"unvirt \w+\((.*?)\);", text, re.DOTALL)[1]
    outputs = ("rx_tlp_ready", "tx_tlp_", "mac_tx_t", "rx_nonposted_freed")
    by_unvirt = {wire for port, wire in re.findall(r"\.(\w+)\((\w+)\)", driven)
                 if port.startswith(outputs) and port not in ("tx_tlp_ready", "mac_tx_tready")}
    lines, drives = [], []
    for port, wire in re.findall(r"\.(\w+)\((\w+)\)", ports):
        # The PCIe core makes clock and reset.
        takes = wire in by_unvirt or port == "serial_rx" or (name == "my_mac" and port in ("clk", "rst"))
        lines.append(f"{'input' if takes else 'output'} [{widths.get(wire, 1) - 1}:0] {port}")
        if not takes:
            drives.append(f"  assign {port} = 0;")
    return f"module {name}({', '.join(lines)});\n" + "\n".join(drives) + "\nendmodule\n"


def border(verilog):
    """Return the generated top module without its contents."""
    top = re.search(r"^module unvirt\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)[0]
    ports = re.findall(r"^  (?:input|output) .*;$", top, re.MULTILINE)
    return "\n".join([top[:top.index(";") + 1], *ports, "endmodule\n"])


def complaints(text, verilog, folder):
    """Return what lint says about the example; the widths and drivers of its own wires are looked at too."""
    original = EXAMPLE.read_text()
    (folder / "my_nic.v").write_text(text)
    (folder / "rest.v").write_text(
        "/* verilator lint_off UNDRIVEN */\n/* verilator lint_off UNUSEDSIGNAL */\n"
        + stub(original, "my_pcie") + stub(original, "my_mac") + border(verilog))
    strict = ("WIDTHEXPAND", "WIDTHTRUNC", "UNDRIVEN", "UNUSEDSIGNAL")
    return lint(folder / "my_nic.v", folder / "rest.v", waived=[name for name in WAIVED if name not in strict])


def test_example_lints(verilog, tmp_path):
    """Every port exists, has the width of its wire, and has one driver."""
    assert complaints(EXAMPLE.read_text(), verilog, tmp_path) == ""


@pytest.mark.parametrize("wires, right, wrong", [
    (True, "wire [63:0] rx_data, tx_data;", "wire [63:0] rx_data; wire [31:0] tx_data;"),
    (False, ".link_up(link_up),", ""),
    (False, ".rx_tlp_last(rx_last)", ".rx_tlp_final(rx_last)"),
    (False, ".fc_ph(ph)", ".fc_ph(8'd0)")])
def test_a_wrong_example_does_not(wires, right, wrong, verilog, tmp_path):
    """The check above sees a wrong width, a pin left out, a name that does not exist, a wire that nobody uses."""
    before, nic, after = EXAMPLE.read_text().partition("  unvirt nic")
    assert right in (before if wires else after)
    changed = before.replace(right, wrong) + nic + after if wires else before + nic + after.replace(right, wrong, 1)
    assert complaints(changed, verilog, tmp_path) != ""


def test_example_names_every_port():
    """None is left out, so that no input floats."""
    golden = (Path(__file__).parent / "ports" / "64.txt").read_text().split("\n")
    instance = re.search(r"unvirt \w+\((.*?)\);", EXAMPLE.read_text(), re.DOTALL)[1]
    assert sorted(re.findall(r"\.(\w+)\(", instance)) == sorted(line.split()[1] for line in golden if line)
