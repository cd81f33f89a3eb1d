# SPDX-License-Identifier: BSD-2-Clause
"""cocotb benches on the generated Verilog, each a process of its simulator."""

import os
from pathlib import Path

import pytest

from unvirt.config import preset
from unvirt_sim.driver.scenarios import SCENARIOS
from unvirt_sim.hosts.runner import run_bench

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
HERE = Path(__file__).parent


def scenarios(simulator, names):
    """Run scenarios of the reference driver on a simulator, with the host model of the harness."""
    print(f"seed {SEED}")
    assert run_bench(simulator, "bench_scenarios", preset("default"), path=HERE, seed=SEED, UNVIRT_SCENARIOS=" ".join(names)) == len(names)


def test_scenarios():
    """All of them on Verilator."""
    scenarios("verilator", SCENARIOS)


def test_scenarios_on_icarus():
    """Some: set-up, chains and tables, merged buffers, interrupts, resets. Icarus takes a second for a thousand cycles."""
    scenarios("icarus", ("enumeration", "chains", "mergeable", "msix", "reset_again"))


@pytest.mark.slow
def test_every_scenario_on_icarus():
    """The others too."""
    scenarios("icarus", SCENARIOS)


def test_scenarios_on_a_root_complex():
    """The same scenarios on cocotbext-pcie: a disagreement with it is a bug in the RTL or in the host model."""
    print(f"seed {SEED}")
    assert run_bench("verilator", "bench_root_complex", preset("default"), path=HERE, seed=SEED) == len(SCENARIOS)


def test_requests():
    """Configuration space, byte enables, zero-length reads and unsupported requests, one TLP at a time."""
    print(f"seed {SEED}")
    assert run_bench("verilator", "bench_requests", preset("default"), path=HERE, seed=SEED) == 4
