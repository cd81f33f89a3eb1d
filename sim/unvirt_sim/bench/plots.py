# SPDX-License-Identifier: BSD-2-Clause
"""Which figures make which picture."""

from .link import LINKS
from .svg import COLOURS, Svg, curves

__all__ = ["pictures"]

_NANOSECONDS = 4
"""Of a cycle."""


def pictures(rows, stages):
    """Return the text of each picture by file name; those without figures are missing.

    ``stages``: (width, direction, ring, feature) -> the stages of one packet.
    """
    out = {}
    for width in sorted({row.width for row in rows}):
        plain = [row for row in rows if row.width == width and row.link == LINKS[width].name and row.limit]
        cycles = [row for row in plain if row.quantity.endswith(" cycles per packet")]
        out[f"throughput-{width}.svg"] = _throughput(cycles, width)
        out[f"host-latency-{width}.svg"] = _host_latency(cycles, width)
        out[f"queues-{width}.svg"] = _queues(cycles, width)
        out[f"batch-{width}.svg"] = _batch(plain, width)
    out["latency.svg"] = _latency(stages) if stages else ""
    return {name: text for name, text in out.items() if text}


def _series(rows, x, y, name=lambda row: row.quantity.split(" cycles")[0], *, least=2):
    """Return the curves of rows, each with at least so many points: ``y`` gives a figure from the measured cycles and from the limit's."""
    series = {}
    for row in rows:
        series.setdefault(name(row), []).append((x(row), y(row, row.value), y(row, row.limit)))
    return {name: points for name, points in series.items() if len({point[0] for point in points}) >= least}


def _way_and_ring(row):
    return f"{row.quantity.split(' ')[0]}{' each' * row.quantity.startswith('both')}, {row.ring}"


def _throughput(rows, width):
    rows = [row for row in rows if (row.ring, row.queues, row.host_latency_cycles) == ("split", 1, 0)]
    series = _series(rows, lambda row: row.frame_size, lambda row, cycles: row.frame_size / cycles, least=1)
    return series and curves(f"Throughput, {width} bits, host latency 0 (dashed: limit)", "bytes of a frame", "bytes a cycle each way",
                             series)


def _host_latency(rows, width):
    rows = [row for row in rows if (row.queues, row.frame_size) == (1, 64)]
    series = _series(rows, lambda row: row.host_latency_cycles * _NANOSECONDS, lambda row, cycles: row.frame_size / cycles, _way_and_ring)
    return series and curves(f"Throughput of 64-byte frames, {width} bits, one queue pair (dashed: limit)",
                             "nanoseconds that the host adds to a read", "bytes a cycle each way", series, logarithmic=False)


def _queues(rows, width):
    rows = [row for row in rows if (row.host_latency_cycles, row.frame_size) == (0, 64)]
    series = _series(rows, lambda row: row.queues, lambda row, cycles: row.frame_size / cycles, _way_and_ring)
    return series and curves(f"Throughput of 64-byte frames, {width} bits, host latency 0 (dashed: limit)", "queue pairs",
                             "bytes a cycle each way", series)


def _batch(rows, width):
    rows = [row for row in rows if row.given and row.unit == "bytes"]
    series = _series(rows, lambda row: row.given, lambda row, size: size, _way_and_ring)
    return series and curves(f"PCIe bytes of a 64-byte packet, {width} bits (dashed: limit)", "packets given to the device at once",
                             "bytes on the link, both ways", series)


def _latency(stages):
    """Return the way of a 64-byte packet as stacked stages; grey is the host."""
    svg = Svg(960, 70 + 66 * len(stages), "A 64-byte packet through an idle device, cycles (grey: round trips to the host)")
    longest = max(sum(stage.cycles for stage in way) for way in stages.values())
    order = sorted(stages.items(), key=lambda item: (item[0][1] != "tx", item[0][2] == "packed", item[0][3], item[0][0]))
    for number, ((width, way, ring, feature), parts) in enumerate(order):
        top, at = 46 + 66 * number, 190.0
        svg.text(8, top + 12, f"{way.upper()} {width} bits, {ring}")
        svg.text(8, top + 25, feature, size=9)
        for index, stage in enumerate(parts):
            length = stage.cycles / longest * 750
            svg.rect(at, top, length, 26, "#c8c8c8" if stage.host else COLOURS[index // 2 % len(COLOURS)])
            svg.text(at + length / 2, top + 17, f"{stage.cycles:.0f}", anchor="middle", size=10,
                     colour="#222" if stage.host else "white")
            if not stage.host:
                name = stage.name.removeprefix("to the ").replace("read of ", "")
                svg.text(at + length / 2, top + 38 + 10 * (index // 2 % 2), name, anchor="middle", size=8.5)
            at += length
    return str(svg)
