# SPDX-License-Identifier: BSD-2-Clause
"""Linux uses all of 255 queue pairs of the RTL, each queue with a vector of its own."""

from scripts import MANY_PAIRS

from unvirt_sim.guest.runner import BootOptions, boot

PAIRS, FLOWS = 255, 8


def test_all_pairs_are_used(tmp_path):
    """All 255 receive queues get buffers, eight downloads at once come out equal, each flow by interrupts of the queues that it went by.

    Covers: NET-MQ-05
    """
    (tmp_path / "script").write_text(MANY_PAIRS)
    lines = []
    summary = boot(BootOptions(queue_pairs=PAIRS, package=("ethtool",), script=str(tmp_path / "script")), show=lines.append)
    text = "\n".join(lines)
    print(text)
    assert summary.ok, summary.reason
    assert summary.download["equal"] and text.count(" 0% packet loss") == 2
    told = [line.split() for line in lines]
    assert ["FILLED", str(PAIRS)] in told
    called = {words[1]: int(words[2]) for words in told if words[:1] == ["CALLED"]}
    assert called["input"] >= FLOWS // 2, "the flows share few queues"
