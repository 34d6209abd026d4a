"""Lines, points and bars of one figure all look different, however many there are."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from pipeline.config.declared import LEGEND
from pipeline.views.ablations import list_anatomy
from pipeline.views.axis_curves import curves_by_axis
from pipeline.views.panels import COLOURS, styles_of
from pipeline.views.stability import stability_by_layer


def looks(lines) -> set[tuple[object, ...]]:
    """Return what tells drawn lines apart."""
    return {(line.get_color(), str(line._unscaled_dash_pattern)) for line in lines}


@pytest.mark.parametrize("varied", ["ls", "marker", "hatch"])
def test_colours_come_by_turns_with_another_style_in_each_round(varied):
    styles = list(styles_of(range(18), varied).values())
    assert [style["color"] for style in styles] == COLOURS * 3
    for mixed in (False, True):
        styles = styles_of(range(18), varied, mixed=mixed).values()
        assert len({tuple(map(str, style.values())) for style in styles}) == LEGEND == 18
    assert all(a[varied] != b[varied] for a, b in pairwise(styles))
    with pytest.raises(
        ValueError, match=r"19 names in a legend \(0, 1, 2, \.\.\.\); valid: up to 18"
    ):
        styles_of(range(19), varied)
    with pytest.raises(ValueError, match=r"7 names in a legend .*; valid: up to 6"):
        styles_of(range(7), varied, once=True)


def test_a_grid_of_many_values_has_a_line_of_its_own_for_each():
    grid = pd.DataFrame(
        [
            {"temperature": temperature, "top_p": p, "sample": sample, "score": temperature}
            for temperature in np.arange(8) / 10
            for p in (0.5, 1.0)
            for sample in range(4)
        ]
    )
    grid = pd.concat([grid.assign(role="candidate"), grid.head(4).assign(role="baseline")])
    grid = grid.assign(arm="grid", metric="m", split="test", repeat=0)
    summary = grid.assign(metric_label="m", percent=False, share=False)
    options = {"arm": "grid", "metric": "m", "x": "top_p", "line": "temperature"}
    figure = curves_by_axis(summary, grid, "sample", 0, **options)
    lines = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    assert len(lines) == len(looks(lines)) == 8
    assert looks(lines) == looks(figure.legends[0].get_lines()[:8])


def test_many_contrasts_have_a_line_of_their_own_each():
    columns = {"layer": 0, "bootstrap": 0.9, "halves": 0.8, "prompts": 9, "clusters": 3, "draw": 0}
    rows = [
        {"contrast": f"c{n}", "labels": labels, **columns}
        for n in range(8)
        for labels in ("fitted", "shuffled")
    ]
    figure = stability_by_layer({"s": pd.DataFrame(rows)}, reading="s")
    assert len(looks(figure.axes[0].lines)) == 8


def test_many_labels_of_lists_have_a_line_of_their_own_each():
    rows = [
        {"label": f"l{n}", "sample": n, "from_end": end, "blank": 0.5}
        for n in range(8)
        for end in (0, 1)
    ]
    assert len(looks(list_anatomy(pd.DataFrame(rows)).axes[0].lines)) == 8
