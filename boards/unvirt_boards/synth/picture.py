# SPDX-License-Identifier: BSD-2-Clause
"""A picture of area by hierarchy: each block's width is its share of the logic cells, its parts lie below it."""

from pathlib import Path

__all__ = ["draw_hierarchy"]

_SMALLEST = 0.002          # share of the whole below which a block is not drawn
_LABELLED = 0.012          # share above which it bears its name


def draw_hierarchy(root, title, path):
    """Draw the tree of instances ``root`` as SVG.

    Parameters
    ----------
    root : Instance
    title : str
    path : Path
    """
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    whole = max(root.total.lut, 1)
    colours = colormaps["tab20"]
    # Text as text and a fixed salt: the file is small, can be searched and is the same each time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "unvirt"}):
        figure = Figure(figsize=(16, 7), layout="constrained")
        axes = figure.subplots()

        def draw(instance, left, depth, colour):
            width = instance.total.lut / whole
            if width < _SMALLEST:
                return
            axes.barh(-depth, width, left=left, height=0.94, align="edge", color=colour,
                      edgecolor="white", linewidth=0.6, alpha=max(0.35, 1 - 0.13 * depth))
            if width > _LABELLED:
                axes.text(left + width / 2, -depth + 0.47,
                          f"{instance.name}\n{instance.total.lut:,}", ha="center", va="center",
                          fontsize=7, clip_on=True, rotation=0 if width > 0.05 else 90)
            for index, child in enumerate(sorted(instance.children, key=lambda x: -x.total.lut)):
                draw(child, left, depth + 1, colours(index % 20) if depth < 2 else colour)
                left += child.total.lut / whole

        draw(root, 0.0, 0, colours(14))
        axes.set(xlim=(0, 1), xlabel="share of the logic cells (LUTs, carry and distributed RAM)",
                 yticks=[], title=title)
        for side in ("left", "right", "top"):
            axes.spines[side].set_visible(False)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
