"""The feature-expression matrix as a clustered heat map, coloured by topic."""

from collections import Counter
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import dendrogram

from pipeline.measures.expression import Clusters
from pipeline.views.marks import GREY, legend_key
from pipeline.views.panels import caption, panels

MOST_COLOURS = 10
"""Topics that colours can tell apart."""


def feature_expression(
    clusters: Clusters, topics: Mapping[int, str], *, value: str, site: str, which: str = "all"
) -> Figure:
    """Draw samples (rows) x features (columns) in dendrogram order, with a colour per topic.

    With more topics than colours, a colour stands for a cluster of samples.
    `which` describes the shown features in the caption.
    Colour: the value, on a logarithmic scale; white: not expressed, 0 at all positions.
    """
    matrix = clusters.matrix
    groups, kind = _groups(clusters, topics)
    names = sorted(set(groups.values()))
    shades = [to_hex(shade) for shade in colormaps["tab10"].colors]  # type: ignore[attr-defined]
    colours = dict(zip(names, shades, strict=False))
    width = float(np.clip(0.08 * matrix.shape[1] + 4.5, 9, 17))
    height = float(np.clip(0.07 * matrix.shape[0] + 2.5, 6, 14))
    with panels(1, width, height) as (figure, (axis,)):
        axis.grid(False)
        values = matrix.to_numpy(dtype=float)
        largest = float(values.max())
        image = axis.imshow(
            np.ma.masked_less_equal(values, 0),
            aspect="auto",
            interpolation="none",
            cmap="viridis_r",
            norm=LogNorm(float(values[values > 0].min()), largest),
        )
        axis.set_xlabel("features, clustered")
        axis.set_ylabel("samples, clustered")
        axis.set_xticks([])
        axis.set_yticks([])
        for row, sample in enumerate(matrix.index):
            corner = (-0.035, row - 0.5)
            axis.add_patch(
                Rectangle(
                    corner,
                    0.025,
                    1,
                    color=colours[groups[sample]],
                    lw=0,
                    clip_on=False,
                    transform=axis.get_yaxis_transform(),
                )
            )
        axis.yaxis.labelpad = 0.035 * width * 72
        for tree, side in ((clusters.feature_tree, "top"), (clusters.sample_tree, "right")):
            _draw_tree(axis.inset_axes(_margin(side)), tree, side)
        figure.colorbar(image, ax=axis, label=f"{value} (log scale)", shrink=0.6, pad=0.14)
        axis.set_title(f"Which features does a sample express? {site}", pad=60)
        keys = [legend_key(color=colour, lw=6) for colour in colours.values()]
        figure.legend(keys, list(colours), loc="outside right upper", title=kind)
        share = 100 * float((values > 0).mean())
        caption(
            figure,
            [
                f"{matrix.shape[0]} samples, {matrix.shape[1]} features ({which});",
                f"{share:.0f} % of cells are expressed, white: 0 throughout. Cells: largest",
                f"{value} at any position of the completion.",
                "Average linkage over Euclidean distances of what is expressed (1) or not (0).",
                f"Strip at the left: {kind}.",
            ],
        )
    return figure


def _groups(clusters: Clusters, topics: Mapping[int, str]) -> tuple[dict[int, str], str]:
    """Name what a sample's colour stands for: its topic, or with many topics its cluster."""
    samples = clusters.samples.index
    if len({topics[sample] for sample in samples}) <= MOST_COLOURS:
        return {int(sample): topics[sample] for sample in samples}, "topic"
    groups: dict[int, str] = {}
    for cluster, members in clusters.samples.groupby(clusters.samples):
        counts = Counter(topics[sample] for sample in members.index)
        topic, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        name = f"{cluster}: {topic} {count} of {len(members)}"
        groups |= {int(sample): name for sample in members.index}
    return groups, "cluster: its commonest topic"


def _margin(side: str) -> tuple[float, float, float, float]:
    return (0.0, 1.005, 1.0, 0.1) if side == "top" else (1.005, 0.0, 0.1, 1.0)


def _draw_tree(axes: Axes, tree: np.ndarray, side: str) -> None:
    tree_lines = dendrogram(tree, no_plot=True)
    leaves = len(tree_lines["leaves"])
    for leaf_positions, heights in zip(tree_lines["icoord"], tree_lines["dcoord"], strict=True):
        # Scipy draws leaf i at 10 i + 5.
        along = np.asarray(leaf_positions) / 10 - 0.5
        x, y = (along, heights) if side == "top" else (heights, along)
        axes.plot(x, y, color=GREY, lw=0.6)
    if side == "top":
        axes.set_xlim(-0.5, leaves - 0.5)
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylim(leaves - 0.5, -0.5)
        axes.set_xlim(left=0)
    axes.axis("off")
