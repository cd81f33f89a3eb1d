# SPDX-License-Identifier: BSD-2-Clause
"""Amaranth's simulator, Icarus and Verilator see the same device: every output in every cycle of the same run.

The recording comes from Verilator; the other two get its inputs and must give its outputs.
"""

import shutil
import subprocess

import pytest
from amaranth import ClockDomain, Module
from amaranth.sim import Simulator
from recording import QUIET, RESET_CYCLES

from unvirt.verilog import FlatTop

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


def test_amaranth_simulator_agrees(config, recording):
    """The device in Amaranth's own simulator."""
    inputs, outputs = recording.names("input"), recording.names("output")
    top = Module()
    top.domains.sync = domain = ClockDomain()
    top.submodules.dut = dut = FlatTop(config)
    driven_ports = {name: domain.rst if name == "rst" else getattr(dut, name) for name in inputs}

    async def replay(ctx):
        for name, port in driven_ports.items():
            ctx.set(port, QUIET.get(name, 0))
        for _ in range(RESET_CYCLES):
            await ctx.tick()
        for cycle, (driven, expected) in enumerate(zip(recording.inputs, recording.outputs, strict=True)):
            for name, port in driven_ports.items():
                ctx.set(port, driven[name])
            found = {name: ctx.get(getattr(dut, name)) for name in outputs}
            assert found == expected, f"cycle {cycle}: {found} instead of {expected}"
            await ctx.tick()

    simulator = Simulator(top)
    simulator.add_clock(1e-8)
    simulator.add_testbench(replay)
    simulator.run()


def test_icarus_agrees(verilog, recording, tmp_path):
    """The Verilog in Icarus, which starts with everything unknown that has no initial value."""
    if shutil.which("iverilog") is None:
        pytest.fail("iverilog is needed for this test and was not found; install it (Debian: apt-get install iverilog)")
    inputs, outputs = recording.names("input"), recording.names("output")
    connections, width = [], {}
    for bus, names in (("stimulus", inputs), ("seen", outputs)):
        place = 0
        for name in names:
            connections.append(f".{name}({bus}[{place + recording.width(name) - 1}:{place}])")
            place += recording.width(name)
        width[bus] = place
    for name, names, rows, quiet in (("inputs", inputs, recording.inputs, QUIET), ("outputs", outputs, recording.outputs, {})):
        words = [quiet] * RESET_CYCLES + rows
        (tmp_path / f"{name}.hex").write_text("\n".join(f"{pack(row, recording, names):x}" for row in words) + "\n")
    (tmp_path / "unvirt.v").write_text(verilog)
    (tmp_path / "bench.v").write_text(BENCH.format(
        inputs=width["stimulus"] - 1, outputs=width["seen"] - 1, last=RESET_CYCLES + len(recording.inputs) - 1,
        first=RESET_CYCLES, connections=", ".join(connections)))
    subprocess.run(["iverilog", "-g2005", "-o", "bench", "bench.v", "unvirt.v"], cwd=tmp_path, check=True)
    output = subprocess.run(["vvp", "-n", "bench"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"agreed for {len(recording.inputs)} cycles" in output, output[-2000:]


def test_recording_is_a_real_run(recording):
    """There is traffic on every stream, so that agreement means something."""
    for name in ("rx_tlp_valid", "mac_rx_tvalid"):
        assert any(row[name] for row in recording.inputs), name
    for name in ("tx_tlp_valid", "mac_tx_tvalid", "rx_nonposted_freed"):
        assert any(row[name] for row in recording.outputs), name
