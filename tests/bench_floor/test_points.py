# SPDX-License-Identifier: BSD-2-Clause
"""The grid of the bench as a list of independent jobs, and the pictures of its rows."""

import pickle

import pytest

from unvirt_sim.bench.grid import Outcome, assemble
from unvirt_sim.bench.latency import Stage
from unvirt_sim.bench.link import LINKS
from unvirt_sim.bench.plots import pictures
from unvirt_sim.bench.points import Point, choose
from unvirt_sim.bench.rows import Row


@pytest.mark.parametrize("extent", ["quick", "usual", "full", "root-complex"])
def test_points_are_plain(extent):
    """Each point is there once, says what it is, and can be handed to another process."""
    points = choose(extent=extent)
    assert len(set(points)) == len(points)
    assert len({point.name for point in points}) == len(points)
    assert pickle.loads(pickle.dumps(points)) == points
    assert all(point.config.data_width == point.width for point in points)


def test_the_whole_grid():
    """Every width, ring, number of queue pairs, host latency, size and direction of the design; the usual points are among them."""
    full = set(choose(extent="full"))
    grid = {(point.width, point.ring, point.queues, point.latency, point.frame, point.way) for point in full
            if point.kind == "throughput" and not point.hard and not point.wide_link}
    assert len(grid) == 3 * 2 * 3 * 3 * 4 * 3
    assert set(choose()) <= full
    assert len(choose(extent="root-complex")) == 8


@pytest.mark.parametrize("extent", ["quick", "usual", "full"])
def test_figures_are_of_a_steady_state(extent):
    """The window of the figures begins when the device has sent as many packets as it takes in at first."""
    for point in choose(extent=extent):
        if point.kind == "throughput":
            assert 0.3 * point.packets >= point.queues * min(point.config.queue_window, point.ring_size)


def row(point, value, **values):
    return Row(quantity="TX cycles per packet", width=point.width, ring=point.ring, queues=point.queues, frame_size=point.frame,
               host_latency_cycles=point.latency, value=value, unit="cycles", limit=value / 2, link=LINKS[point.width].name, **values)


def test_rows_that_follow_from_two_points():
    """The rate at a microsecond is compared with the one at none of the same ring and queues, wherever it was measured."""
    points = [Point(kind="throughput", width=64, ring=ring, latency=latency) for ring in ("split", "packed") for latency in (0, 250)]
    rows = assemble(points, [Outcome([row(point, value)]) for point, value in zip(points, (10, 12, 20, 30), strict=True)])
    assert [(one.quantity, one.ring, one.value, one.met) for one in rows if one.unit == "times"] == [
        ("TX at 1 us against 0", "split", 1.2, False), ("TX at 1 us against 0", "packed", 1.5, False)]
    assert [one.unit for one in rows] == ["cycles", "cycles", "times"] * 2


def test_pictures():
    """One for each question, the same text every time."""
    points = [Point(kind="throughput", width=64, queues=queues, latency=latency, frame=frame)
              for queues, latency, frame in [(1, 0, 64), (1, 0, 1500), (1, 250, 64), (8, 0, 64)]]
    rows = [row(point, 20.0 + number) for number, point in enumerate(points)]
    rows += [Row(quantity=f"TX PCIe bytes per packet, {given} at once", width=64, frame_size=64, value=400 / given, unit="bytes",
                 limit=300 / given, given=given, link=LINKS[64].name) for given in (1, 8)]
    stages = {(64, "tx", "packed", ""): [Stage("to the read of data", 9), Stage("data round trip", 8, host=True)]}
    drawn = pictures(rows, stages)
    assert set(drawn) == {"throughput-64.svg", "host-latency-64.svg", "queues-64.svg", "batch-64.svg", "latency.svg"}
    assert all(text.startswith("<svg") and text.endswith("</svg>\n") for text in drawn.values())
    assert pictures(rows, stages) == drawn
    assert pictures(rows[:1], {}).keys() == {"throughput-64.svg"}
