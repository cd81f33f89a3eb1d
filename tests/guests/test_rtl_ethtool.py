# SPDX-License-Identifier: BSD-2-Clause
"""Linux changes rings, channels and coalescing of the RTL with ethtool; pings and downloads go on."""

import json
import re

import pytest

from scripts import ETHTOOL
from downloads import download, told
from unvirt_sim.driver.spec import Feature, mask
from unvirt_sim.guest.runner import BootOptions, boot

MICROSECOND = 125


def states(lines):
    """Return what the script printed about each step: {step: settings}."""
    found = dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STATE "))
    return {name: json.loads(text)[0] if text.startswith("[") else text for name, text in found.items()}


def check_rings(state, **expected):
    """``expected`` are (rx, tx) by step."""
    assert {name: (state[name]["rx"], state[name]["tx"]) for name in expected} == expected


def check_coalescing(state, **expected):
    """``expected`` are (rx-usecs, rx-frames, tx-usecs, tx-frames) by step."""
    fields = ("rx-usecs", "rx-frames", "tx-usecs", "tx-frames")
    assert {name: tuple(state[name][field] for field in fields) for name in expected} == expected


def run(tmp_path, **options):
    """Boot with the script and check all that every kernel must do; return its summary and what it read back."""
    (tmp_path / "script").write_text(ETHTOOL)
    lines = []
    summary = boot(BootOptions(queue_pairs=4, package=("ethtool",), script=str(tmp_path / "script"), pcap=str(tmp_path / "frames"), **options),
                   show=lines.append)
    print("\n".join(lines), summary.negotiated, sep="\n")
    assert summary.ok, summary.reason
    assert summary.download["equal"]
    assert summary.server["failed"] == summary.server["errors"] == 0
    assert {"CTRL_VQ", "MQ", "RING_RESET", "NOTF_COAL", "VQ_NOTF_COAL"} <= set(summary.negotiated)
    text = "\n".join(lines)
    assert set(re.findall(r"(\d+)% packet loss", text)) == {"0"}
    assert "DMESG" not in text
    check_under_way(lines, tmp_path / "frames")
    return summary, states(lines)


def check_under_way(lines, frames):
    """What is different in the file that came while rings changed is as it came in, byte by byte: then not the device made it so."""
    began, different = told(lines)
    sent = download(frames, -2) if different else {}
    wrong = [place for place, byte in enumerate(different, began) if byte not in sent.get(place, ())]
    assert not wrong, f"{len(wrong)} bytes of the download are none that came in there, the first at {wrong[0]}"


def check(summary, state):
    """Compare what was read back with what was set."""
    check_rings(state, **{"rings-at-first": (1024, 1024), "tiny-rings": (4, 24), "rings": (64, 32), "odd-rings": (100, 24),
                          "rings-while-coalescing": (256, 256), "rings-at-last": (1024, 1024)})
    assert [state[name] for name in ("pairs-at-first", "two-pairs", "one-pair", "four-pairs", "pairs-at-last")] == ["4", "2", "1", "4", "4"]
    check_coalescing(state, **{"coalescing-at-first": (0, 0, 0, 1), "tx-coalescing": (0, 0, 1000, 64), "rx-coalescing": (100, 8, 1000, 64),
                               "coalescing-after-rings": (100, 8, 1000, 64), "at-once": (0, 0, 0, 1)})
    assert state["queues"].split() == ["30", "40", "100"]
    assert int(state["under-way"]) == summary.download["bytes"]
    assert state["adaptive"]["adaptive-rx"] and not state["at-once"]["adaptive-rx"]
    statistics = dict(word.split("=") for word in state["statistics"].split())
    assert int(statistics["tx_tx_timeouts"]) == int(statistics["rx_drops"]) == 0
    # An answer was told of when its 100 us were up; the interrupt of a frame sent takes longer in that step.
    assert any(100 * MICROSECOND <= ping["receive"] < 108 * MICROSECOND for ping in summary.ping_cycles), summary.ping_cycles


def test_rings_channels_and_coalescing(tmp_path):
    """Packed rings: every setting reads back as set, no ping is lost, every download is equal, the kernel has nothing to complain about.

    Rings and channels change below a download too. Covers: NET-MQ-05
    """
    summary, state = run(tmp_path)
    assert "RING_PACKED" in summary.negotiated
    check(summary, state)


RINGS = {"packed": 0, "packed flags": mask(Feature.EVENT_IDX), "split": mask(Feature.RING_PACKED),
         "split flags": mask(Feature.RING_PACKED, Feature.EVENT_IDX)}


@pytest.mark.slow
@pytest.mark.parametrize("without", RINGS.values(), ids=RINGS)
@pytest.mark.parametrize("kernel", ["6.12", "7"])
def test_rings(tmp_path, kernel, without):
    """The same with the other rings and a newer kernel; 6.1 knows no coalescing of single queues."""
    summary, state = run(tmp_path, kernel=kernel, without=without)
    assert ("RING_PACKED" in summary.negotiated) == (not without & mask(Feature.RING_PACKED))
    assert state["odd-rings"]["rx"] == (100 if "RING_PACKED" in summary.negotiated else 128)
    assert state["queues"].split() == ["30", "40", "100"] and state["pairs-at-last"] == "4"
