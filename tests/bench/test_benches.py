# SPDX-License-Identifier: BSD-2-Clause
"""cocotb benches on the generated Verilog, each a process of its simulator."""

import os
from pathlib import Path

import pytest

from unvirt.config import preset
from unvirt_sim.driver.scenarios import SCENARIOS
from unvirt_sim.hosts.runner import SIMULATORS, run_bench

SEED = int(os.environ.get("UNVIRT_SEED", "1"))
HERE = Path(__file__).parent


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_scenarios(simulator):
    """The reference driver's scenarios on two simulators, with the host model of the harness."""
    print(f"seed {SEED}")
    assert run_bench(simulator, "bench_scenarios", preset("default"), path=HERE, seed=SEED) == len(SCENARIOS)


def test_scenarios_on_a_root_complex():
    """The same scenarios on cocotbext-pcie: a disagreement with it is a bug in the RTL or in the host model."""
    print(f"seed {SEED}")
    assert run_bench("verilator", "bench_root_complex", preset("default"), path=HERE, seed=SEED) == len(SCENARIOS)


def test_requests():
    """Configuration space, byte enables, zero-length reads and unsupported requests, one TLP at a time."""
    print(f"seed {SEED}")
    assert run_bench("verilator", "bench_requests", preset("default"), path=HERE, seed=SEED) == 4
