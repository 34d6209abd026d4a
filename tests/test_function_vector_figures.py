"""Figures of function vectors draw the means of planted scores, and frame the top heads."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import Rectangle

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.methods.function_vectors.fits import head_effects
from pipeline.methods.function_vectors.task_vectors import FunctionVectors
from pipeline.methods.provenance import Provenance
from pipeline.views.function_vectors import head_effects_map, insertion_bars, insertion_by_layer

TASKS, LAYERS, ITEMS = ("up", "down"), (0, 1, 2), 10
RIGHT = {"up": {0: 2, 1: 8, 2: 4}, "down": {0: 0, 1: 6, 2: 1}}
"""Task -> layer -> items of ten that the task's vector makes right."""
FIGURE = {"shown": "shown", "metric": "correct"}


def scores() -> pd.DataFrame:
    none = {"source": None, "draw": pd.NA, "layer": pd.NA, "strength": np.nan}
    conditions = [("zero", BASELINE, none), ("shown", BASELINE, none)]
    for source, draws in (("fitted", 1), ("other_task", 2)):
        for draw in range(draws):
            for layer in LAYERS:
                axes = {"source": source, "draw": draw, "layer": layer, "strength": 1.0}
                conditions.append(("zero", CANDIDATE if source == "fitted" else CONTROL, axes))
    tables = []
    for arm, role, axes in conditions:
        for t, task in enumerate(TASKS):
            right = {"zero": 1, "shown": 9}[arm]
            if role == CANDIDATE:
                right = RIGHT[task][axes["layer"]]
            elif role == CONTROL:
                right = axes["draw"]
            table = pd.DataFrame({"score": [1.0] * right + [0.0] * (ITEMS - right)})
            chosen = role == CANDIDATE and axes["layer"] == 1
            tables.append(
                table.assign(
                    arm=arm,
                    role=role,
                    topic=task,
                    sample=np.arange(ITEMS) + 100 * t,
                    condition=str((arm, role, axes["source"], axes["draw"], axes["layer"])),
                    split="test",
                    metric="correct",
                    intervention=None if role == BASELINE else "add",
                    at_setting=role != BASELINE,
                    is_setting=chosen,
                    **axes,
                )
            )
    return pd.concat(tables, ignore_index=True)


def summary() -> pd.DataFrame:
    label = "the answer is the top token"
    return pd.DataFrame({"metric": ["correct"], "share": [True], "metric_label": [label]})


def test_curves_are_the_means_of_each_task():
    figure = insertion_by_layer(summary(), scores(), "sample", 0, arm="zero", **FIGURE)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["down, n = 10", "up, n = 10"]
    for axis, task in zip(figure.axes, sorted(TASKS), strict=True):
        (curve,) = (line for line in axis.lines if line.get_label() == task)
        assert list(curve.get_ydata()) == pytest.approx([RIGHT[task][n] / ITEMS for n in LAYERS])
        dashed = sorted(line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--")
        assert dashed == pytest.approx([0.1, 0.9])
        (ring,) = (line for line in axis.lines if line.get_color() == "black")
        assert ring.get_xydata().tolist() == [[1, RIGHT[task][1] / ITEMS]]


def test_bars_are_at_the_chosen_layer_and_end_in_the_mean_of_tasks():
    figure = insertion_bars(summary(), scores(), "sample", 0, arms=["zero"], **FIGURE)
    (axis,) = figure.axes
    heights = [bar.get_height() for bar in axis.patches if isinstance(bar, Rectangle)]
    bars = np.reshape(heights, (4, 3))
    expected = [[0.1, 0.1, 0.1], [0.05, 0.05, 0.05], [0.6, 0.8, 0.7], [0.9, 0.9, 0.9]]
    assert np.allclose(bars, expected)
    assert axis.get_title(loc="left") == "zero: layer 1, strength 1"


def test_top_heads_are_framed_and_significant_ones_counted():
    layer, head = np.indices((3, 4)).reshape(2, -1)
    effects = np.where((layer == 2) & (head == 1), 0.5, 0.0)
    table = pd.DataFrame({"task": "all", "layer": layer, "head": head, "effect": effects})
    table = table.assign(stderr=0.1, n=50, label="mixed", p_adjusted=1 - effects * 1.99)
    table = table.assign(is_top=effects > 0)
    figure = head_effects_map({"heads": table}, reading="heads")
    (frame,) = figure.axes[0].patches
    assert frame.get_xy() == (0.5, 1.5)
    text = figure.get_supxlabel().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
    assert "Strongest: 2.1, +0.500, 95" in text and "1 of 12 heads" in text and "mixed" in text


def test_heads_of_one_prompt_a_task_are_not_tested():
    """One prompt has no variance, hence no interval and no finding, however large its effects."""
    effects = torch.rand(2, 3, 4, generator=torch.manual_seed(0))
    zeros = torch.zeros(2, 3, 4)
    fitted = FunctionVectors(
        TASKS, zeros, torch.zeros(2, 3, 4, 4), effects, TASKS, "mixed", ((0, 0),), Provenance("")
    )
    with warnings.catch_warnings(action="error"):
        table = head_effects({"f": fitted}, fit="f")
    assert table[["stderr", "p", "p_adjusted"]].isna().all(axis=None)
    text = " ".join(head_effects_map({"h": table}, reading="h").get_supxlabel().split())
    assert "nan" not in text and "false discovery rate" not in text
    assert "No head is tested: one prompt of a task has no variance." in text


def test_what_cannot_be_drawn_is_named():
    means = summary().assign(share=False)
    with pytest.raises(ValueError, match="metric correct is no share"):
        insertion_bars(means, scores(), "sample", 0, arms=["zero"], **FIGURE)
    with pytest.raises(ValueError, match="no rows with arm = mixed; present: shown, zero"):
        insertion_by_layer(summary(), scores(), "sample", 0, arm="mixed", **FIGURE)
