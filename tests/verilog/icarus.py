# SPDX-License-Identifier: BSD-2-Clause
"""A recorded run played to any Verilog of the device in Icarus, which starts with everything unknown that has no initial value."""

import shutil
import subprocess

import pytest
from recording import QUIET, RESET_CYCLES

BENCH = """
`timescale 1ns/1ps
module bench;
  reg clk = 0;
  reg [{inputs}:0] driven [0:{last}];
  reg [{outputs}:0] expected [0:{last}];
  reg [{inputs}:0] stimulus;
  wire [{outputs}:0] seen;
  integer cycle;
  unvirt dut(.clk(clk), {connections});
  initial begin
    $readmemh("inputs.hex", driven);
    $readmemh("outputs.hex", expected);
    for (cycle = 0; cycle <= {last}; cycle = cycle + 1) begin
      stimulus = driven[cycle];
      #5;
      if (cycle >= {first} && seen !== expected[cycle]) begin
        $display("cycle %0d: %h instead of %h", cycle - {first}, seen, expected[cycle]);
        $finish;
      end
      clk = 1;
      #5 clk = 0;
    end
    $display("agreed for %0d cycles", {last} + 1 - {first});
    $finish;
  end
endmodule
"""


def pack(values, recording, names):
    """Return the values of ``names`` as one number, the first name lowest."""
    word, place = 0, 0
    for name in names:
        word |= values.get(name, 0) << place
        place += recording.width(name)
    return word


def agree(recording, folder, *sources):
    """Play the inputs to module ``unvirt`` of these files, and fail at the first cycle whose outputs are not those recorded.

    Parameters
    ----------
    recording : Recording
    folder : Path
        For the bench and its data.
    sources : Path
        Verilog files.
    """
    if shutil.which("iverilog") is None:
        pytest.fail("iverilog is needed for this test and was not found; install it (Debian: apt-get install iverilog)")
    inputs, outputs = recording.names("input"), recording.names("output")
    count = len(recording.inputs)
    connections, width = [], {}
    for bus, names in (("stimulus", inputs), ("seen", outputs)):
        place = 0
        for name in names:
            connections.append(f".{name}({bus}[{place + recording.width(name) - 1}:{place}])")
            place += recording.width(name)
        width[bus] = place
    for name, names, rows, quiet in (("inputs", inputs, recording.inputs, QUIET), ("outputs", outputs, recording.outputs, {})):
        words = [quiet] * RESET_CYCLES + rows
        (folder / f"{name}.hex").write_text("\n".join(f"{pack(row, recording, names):x}" for row in words) + "\n")
    (folder / "bench.v").write_text(BENCH.format(
        inputs=width["stimulus"] - 1, outputs=width["seen"] - 1, last=RESET_CYCLES + count - 1,
        first=RESET_CYCLES, connections=", ".join(connections)))
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "bench.v", *map(str, sources)], cwd=folder, check=True)
    output = subprocess.run(["vvp", "-n", "bench"], cwd=folder, capture_output=True, text=True, check=True).stdout
    assert f"agreed for {count} cycles" in output, output[-2000:]
