# SPDX-License-Identifier: BSD-2-Clause
"""Linux on the RTL speaks with the host's own TCP over a TAP interface."""

import contextlib
import subprocess

from scripts import CHANGES
from unvirt_sim.guest.content import ContentServer
from unvirt_sim.guest.runner import BootOptions, boot

NETWORK = "198.18.107"      # of the range for measurements, which nobody routes


def test_rings_change_below_downloads(tmp_path, tap):
    """Three downloads while rings and channels change, 24 times in all: what is lost comes again, and every file is equal.

    The host's TCP repeats what was lost with the bytes that it sent before, which passt does not always: here nothing needs excuse.
    """
    subprocess.run(["ip", "addr", "add", f"{NETWORK}.1/24", "dev", tap], check=True)
    subprocess.run(["ip", "link", "set", tap, "up"], check=True)
    with contextlib.closing(ContentServer(address=f"{NETWORK}.1")) as content:
        script = tmp_path / "script"
        script.write_text(f"ADDRESS={NETWORK}.2/24 PEER={NETWORK}.1 PORT={content.port}\n{CHANGES}")
        lines = []
        summary = boot(BootOptions(queue_pairs=4, package=("ethtool",), script=str(script), net=f"tap:{tap}"), show=lines.append)
        print("\n".join(lines))
        assert summary.ok, summary.reason
        assert f"STATE sum {content.sha256}" in lines
        assert not [line for line in lines if line.startswith("DMESG")]
        assert summary.violations == [] and summary.server["failed"] == summary.server["errors"] == 0
