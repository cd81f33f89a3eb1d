# SPDX-License-Identifier: BSD-2-Clause
"""Pictures of the figures as SVG, written by hand: no packages, the same text every time."""

from math import log2

from .link import LINKS

__all__ = ["latency_plot", "throughput_plot"]

_COLOURS = ("#1b6ca8", "#d9822b", "#3d9950", "#a83279", "#6b6b6b", "#b8a200", "#17877d", "#8a4fd3", "#c0392b", "#2c3e50")


class _Svg:
    """Elements of a picture on white."""

    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = []
        self.text(width / 2, 22, title, size=15, anchor="middle")

    def line(self, x1, y1, x2, y2, colour="#999", width=1, dash=""):
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
                          f'stroke-width="{width}"{dashes}/>')

    def rect(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
                          f'stroke="white" stroke-width="0.6"/>')

    def circle(self, x, y, colour):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>')

    def text(self, x, y, text, *, size=11, anchor="start", colour="#222"):
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
                          f'{text}</text>')

    def __str__(self):
        body = "\n".join(self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')


def throughput_plot(rows, width):
    """Return throughput against frame size at one width, measured and (dashed) limit, in bytes a cycle; None without figures."""
    series = {}
    for row in rows:
        if row.unit == "cycles" and row.limit and row.width == width and row.host_latency_cycles == 0 \
                and row.link == LINKS[width].name:
            series.setdefault(row.quantity.split(" cycles")[0], []).append(
                (row.frame_size, row.frame_size / row.value, row.frame_size / row.limit))
    if not series:
        return None
    svg = _Svg(640, 380, f"Throughput, {width} bits, host latency 0 (dashed: limit)")
    left, right, top, bottom = 60, 500, 45, 330
    high = max(max(point[2] for point in points) for points in series.values()) * 1.05
    sizes = sorted({point[0] for points in series.values() for point in points})
    low_size, high_size = log2(sizes[0]), log2(max(sizes[-1], sizes[0] * 2))

    def x(size):
        return left + (log2(size) - low_size) / (high_size - low_size) * (right - left)

    def y(rate):
        return bottom - rate / high * (bottom - top)

    svg.line(left, bottom, right, bottom, "#222")
    svg.line(left, top, left, bottom, "#222")
    for size in sizes:
        svg.text(x(size), bottom + 16, str(size), anchor="middle")
    svg.text((left + right) / 2, bottom + 36, "bytes of a frame", anchor="middle")
    for step in range(5):
        rate = high * step / 4
        svg.line(left, y(rate), right, y(rate), "#e4e4e4")
        svg.text(left - 6, y(rate) + 4, f"{rate:.1f}", anchor="end")
    svg.text(12, top - 8, "bytes a cycle each way")
    for (name, points), colour in zip(series.items(), _COLOURS, strict=False):
        points.sort()
        for (size, rate, most), (size2, rate2, most2) in zip(points, points[1:], strict=False):
            svg.line(x(size), y(rate), x(size2), y(rate2), colour, 2)
            svg.line(x(size), y(most), x(size2), y(most2), colour, 1.2, "5 4")
        for size, rate, _ in points:
            svg.circle(x(size), y(rate), colour)
        place = top + 20 + 20 * list(series).index(name)
        svg.line(right + 12, place - 4, right + 34, place - 4, colour, 2)
        svg.text(right + 40, place, name)
    return str(svg)


def latency_plot(stages):
    """Return the way of a 64-byte packet as stacked stages; grey is the host. ``stages``: (width, direction) -> stages."""
    svg = _Svg(860, 70 + 66 * len(stages), "A 64-byte packet through an idle device, cycles (grey: round trips to the host)")
    longest = max(sum(stage.cycles for stage in way) for way in stages.values())
    for number, ((width, way), parts) in enumerate(sorted(stages.items(), key=lambda item: (item[0][1] != "tx", item[0][0]))):
        top, at = 46 + 66 * number, 90.0
        svg.text(8, top + 18, f"{way.upper()} {width} bits")
        for index, stage in enumerate(parts):
            length = stage.cycles / longest * 750
            svg.rect(at, top, length, 26, "#c8c8c8" if stage.host else _COLOURS[index // 2 % len(_COLOURS)])
            svg.text(at + length / 2, top + 17, f"{stage.cycles:.0f}", anchor="middle", size=10,
                     colour="#222" if stage.host else "white")
            if not stage.host:
                name = stage.name.removeprefix("to the ").replace("read of ", "")
                svg.text(at + length / 2, top + 38 + 10 * (index // 2 % 2), name, anchor="middle", size=8.5)
            at += length
    return str(svg)
