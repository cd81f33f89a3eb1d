# SPDX-License-Identifier: BSD-2-Clause
"""What several tests of the generated Verilog need, made once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from recording import record  # noqa: E402

from unvirt.config import preset  # noqa: E402
from unvirt.verilog import generate  # noqa: E402
from unvirt_sim.build import build_library  # noqa: E402


@pytest.fixture(scope="session")
def config():
    """The device these tests use: the smallest."""
    return preset("minimal")


@pytest.fixture(scope="session")
def verilog(config):
    """Its Verilog."""
    return generate(config)


@pytest.fixture(scope="session")
def recording(config, tmp_path_factory):
    """A short run on Verilator, port by port and cycle by cycle."""
    return record(build_library(config), config, tmp_path_factory.mktemp("recording") / "ports.bin")
