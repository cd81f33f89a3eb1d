# SPDX-License-Identifier: BSD-2-Clause
"""Amaranth's simulator, Icarus and Verilator see the same device: every output in every cycle of the same run.

The recording comes from Verilator; the other two get its inputs and must give its outputs.
"""

from amaranth import ClockDomain, Module
from amaranth.sim import Simulator
from icarus import agree
from recording import QUIET, RESET_CYCLES

from unvirt.verilog import FlatTop

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
    """The Verilog in Icarus."""
    (tmp_path / "unvirt.v").write_text(verilog)
    agree(recording, tmp_path, tmp_path / "unvirt.v")


def test_recording_is_a_real_run(recording):
    """There is traffic on every stream, so that agreement means something."""
    for name in ("rx_tlp_valid", "mac_rx_tvalid"):
        assert any(row[name] for row in recording.inputs), name
    for name in ("tx_tlp_valid", "mac_tx_tvalid", "rx_nonposted_freed"):
        assert any(row[name] for row in recording.outputs), name
