# SPDX-License-Identifier: BSD-2-Clause
"""Pictures as SVG, written by hand: no packages, the same text every time."""

from math import log2

__all__ = ["COLOURS", "Svg", "curves"]

COLOURS = ("#1b6ca8", "#d9822b", "#3d9950", "#a83279", "#6b6b6b", "#b8a200", "#17877d", "#8a4fd3", "#c0392b", "#2c3e50")


class Svg:
    """Elements of a picture on white."""

    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = []
        self.text(width / 2, 22, title, size=15, anchor="middle")

    def line(self, x1, y1, x2, y2, colour="#999", width=1, dash=""):
        """Draw a line."""
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
                          f'stroke-width="{width}"{dashes}/>')

    def rect(self, x, y, width, height, colour):
        """Draw a filled rectangle."""
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}" '
                          f'stroke="white" stroke-width="0.6"/>')

    def circle(self, x, y, colour):
        """Draw a point."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="{colour}"/>')

    def text(self, x, y, text, *, size=11, anchor="start", colour="#222"):
        """Write a line."""
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
                          f'{text}</text>')

    def __str__(self):
        body = "\n".join(self.parts)
        return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'font-family="sans-serif">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n')


def curves(title, across, upwards, series, *, logarithmic=True):
    """Return a picture of curves, measured and (dashed) limit.

    Parameters
    ----------
    title, across, upwards : str
        What it shows, and what its axes are.
    series : dict
        Name of a curve -> list of (x, measured, limit).
    logarithmic : bool
        The horizontal axis is, to base 2.
    """
    svg = Svg(680, 380, title)
    left, right, top, bottom = 60, 500, 45, 330
    high = max(max(point[1:]) for points in series.values() for point in points) * 1.05
    places = sorted({point[0] for points in series.values() for point in points})
    scale = log2 if logarithmic else float
    low_place = scale(places[0])
    width = scale(places[-1]) - low_place or 1.0

    def x(place):
        return left + (scale(place) - low_place) / width * (right - left)

    def y(value):
        return bottom - value / high * (bottom - top)

    svg.line(left, bottom, right, bottom, "#222")
    svg.line(left, top, left, bottom, "#222")
    for place in places:
        svg.text(x(place), bottom + 16, str(place), anchor="middle")
    svg.text((left + right) / 2, bottom + 36, across, anchor="middle")
    for step in range(5):
        value = high * step / 4
        svg.line(left, y(value), right, y(value), "#e4e4e4")
        svg.text(left - 6, y(value) + 4, f"{value:.1f}", anchor="end")
    svg.text(12, top - 8, upwards)
    for number, ((name, points), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        points = sorted(points)
        for (place, value, most), (place2, value2, most2) in zip(points, points[1:], strict=False):
            svg.line(x(place), y(value), x(place2), y(value2), colour, 2)
            svg.line(x(place), y(most), x(place2), y(most2), colour, 1.2, "5 4")
        for place, value, _ in points:
            svg.circle(x(place), y(value), colour)
        line = top + 20 + 20 * number
        svg.line(right + 12, line - 4, right + 34, line - 4, colour, 2)
        svg.text(right + 40, line, name)
    return str(svg)
