"""Names of points, placed so that they do not overlap where there is room."""

from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_PLACES = (
    ((5, 0), "left", "center"),
    ((-5, 0), "right", "center"),
    ((0, 5), "center", "bottom"),
    ((0, -5), "center", "top"),
    ((4, 4), "left", "bottom"),
    ((-4, 4), "right", "bottom"),
    ((4, -4), "left", "top"),
    ((-4, -4), "right", "top"),
)
"""Offset in points from the point, and alignment, in order of preference."""


def label_points(
    figure: Figure,
    axis: Axes,
    points: Float[np.ndarray, "points 2"],
    names: list[str],
    fonts: list[str],
    *,
    size: float = 8.5,
) -> None:
    """Write each name beside its point at the first free place, if there is one.

    A place is free if it overlaps neither a name that is written nor a point, inside of the axes.
    """
    figure.draw_without_rendering()
    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    inside = axis.get_window_extent(renderer)
    dots = axis.transData.transform(points)
    boxes: list[Any] = []
    # Points with the most neighbours have the fewest free places.
    crowding = (np.linalg.norm(dots[:, None] - dots[None], axis=-1) < 60).sum(1)
    for number in np.argsort(crowding, kind="stable")[::-1]:
        for offset, horizontal, vertical in _PLACES:
            text = axis.annotate(
                names[number],
                points[number],
                xytext=offset,
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=size,
                fontfamily=fonts,
                color="#333333",
            )
            box = text.get_window_extent(renderer)
            others = np.delete(dots, number, axis=0)
            covers = box.count_contains(others) if len(others) else 0
            within = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0
            if not covers and within and box.y1 <= inside.y1 and not box.count_overlaps(boxes):
                boxes.append(box)
                break
            text.remove()
