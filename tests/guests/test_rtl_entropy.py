# SPDX-License-Identifier: BSD-2-Clause
"""An unmodified Linux reads random bytes from the RTL as an entropy device, and they are those that it was fed."""

import json

import pytest
from click.testing import CliRunner

from unvirt_sim.cli import main
from unvirt_sim.driver.spec import Feature, mask
from unvirt_sim.entropy import EntropyStream
from unvirt_sim.guest.packages import KERNELS
from unvirt_sim.guest.runner import BootOptions, boot


def check_summary(summary, size=512):
    """What every passed boot of an entropy device has."""
    assert summary["ok"], summary["reason"]
    assert summary["violations"] == [] and summary["server"]["failed"] == summary["server"]["errors"] == 0
    assert summary["driver"] == "virtio_rng" and summary["network"] == "none"
    read, entropy = bytes.fromhex(summary["entropy_read"]), summary["entropy"]
    assert len(read) == entropy["bytes"] == size
    stream, end = EntropyStream(0), 0
    for place, count in entropy["runs"]:
        assert place >= end and place + count <= entropy["fed"]
        assert stream.read(place, count) == read[:count]
        read, end = read[count:], place + count
    assert not read
    assert summary["server"]["interrupts"] >= size // 64
    assert summary["tlps"]["dma_write_bytes"] >= size


def test_linux_reads_entropy(tmp_path):
    """``unvirt boot --preset entropy``: Debian's 6.12 with its virtio_rng reads /dev/hwrng, all of it bytes that the RTL was fed, in order."""
    result = CliRunner().invoke(main, ["boot", "--preset", "entropy", "--json", str(tmp_path / "json")])
    print(result.output)
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "json").read_text())
    check_summary(summary)
    assert summary["release"].startswith("6.12.")
    assert "RING_PACKED" in summary["negotiated"]
    assert "equal to the stream fed" in result.output and "passed" in result.output


def test_a_difference_is_noticed(monkeypatch):
    """Bytes that lie in the stream are found whatever the kernel drew in between; one that is wrong, twice there, or out of order is not."""
    stream = EntropyStream(5)
    assert stream.read(0, 16) == stream.read(0, 4) + stream.read(4, 12)
    data = stream.read(0, 4096)
    assert stream.runs(data[64:576], 4096) == [(64, 512)]
    assert stream.runs(data[64:128] + data[256:320] + data[1000:1003], 4096) == [(64, 64), (256, 64), (1000, 3)]
    wrong = bytearray(data[64:576])
    wrong[100] ^= 1
    assert stream.runs(bytes(wrong), 4096) is None
    assert stream.runs(data[64:128] * 2, 4096) is None
    assert stream.runs(data[128:192] + data[64:128], 4096) is None
    assert stream.runs(data[64:576], 575) is None
    assert stream.runs(EntropyStream(6).read(0, 64), 4096) is None


@pytest.mark.slow
@pytest.mark.parametrize("without", [0, mask(Feature.RING_PACKED), mask(Feature.RING_PACKED, Feature.EVENT_IDX)],
                         ids=["packed", "split", "split flags"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels(kernel, without):
    """Every kernel, with either ring."""
    summary = boot(BootOptions(preset="entropy", kernel=kernel, without=without, entropy_bytes=2048))
    check_summary(summary.as_dict(), 2048)


@pytest.mark.slow
def test_intx():
    """Without MSI-X."""
    check_summary(boot(BootOptions(preset="entropy", append="pci=nomsi")).as_dict())
