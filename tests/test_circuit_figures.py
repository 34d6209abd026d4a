"""Figures of circuits, from scores whose effects and shares are planted."""

from itertools import combinations

import pandas as pd
import pytest
from matplotlib.patches import FancyArrowPatch, Rectangle

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL
from pipeline.views.attribution_agreement import attribution_agreement
from pipeline.views.circuit_graphs import circuit_graph
from pipeline.views.circuits import circuit_parts, recovered_by_size
from pipeline.views.component_maps import component_maps
from pipeline.views.selection import select

EFFECTS = {
    (0, "head 0"): 0.0, (0, "head 1"): -2.0, (0, "mlp"): -3.0,
    (1, "head 0"): 0.5, (1, "head 1"): -1.0, (1, "mlp"): 0.0,
}  # fmt: skip
KEPT = [(0, "head 1"), (0, "mlp"), (1, "head 1")]
EDGES = {
    ("input", "0.1"): -2.0, ("0.1", "mlp 0"): -1.0, ("mlp 0", "1.1"): -0.02,
    ("1.1", "logits"): 0.4, ("input", "1.1"): 0.0,
}  # fmt: skip


def rows(arm, role, level, **axes):
    """Twelve samples of six topics: the level, and a part of each sample's own that cancels out."""
    return pd.DataFrame(
        {
            "arm": arm,
            "role": role,
            "split": "test",
            "metric": "difference",
            "sample": range(12),
            "repeat": 0,
            "topic": [n // 2 for n in range(12)],
            "score": [level + 0.1 * (-1) ** n for n in range(12)],
            **axes,
        }
    )


def noisy(table):
    """With effects that differ by topic, so that a test has something to test."""
    return table.assign(score=table["score"] + 0.02 * ((table["topic"] % 3) - 1))


def scores() -> pd.DataFrame:
    tables = [rows(arm, BASELINE, 4.0) for arm in ("zero", "patched", "circuit", "ranked")]
    tables += [rows(arm, BASELINE, 4.0) for arm in ("random", "parts", "edges")]
    for (layer, component), effect in EFFECTS.items():
        axes = {"layer": layer, "component": component}
        tables.append(noisy(rows("patched", CANDIDATE, 4 + effect, **axes)))
        tables.append(noisy(rows("zero", CANDIDATE, 4 + 0.5 * effect, **axes)))
    for n, level in ((0, 0.0), (3, 3.6)):
        axes = {"n_kept": n, "draw": 0, "n_components": 6}
        tables.append(rows("circuit", CANDIDATE, level, **axes))
    for n, level in ((1, 0.4), (3, 3.2), (6, 4.0)):
        axes = {"n_kept": n, "n_components": 6}
        tables.append(rows("ranked", CANDIDATE, level, draw=0, **axes))
        for draw in range(2):
            tables.append(rows("random", CONTROL, 0.2 * n * draw, draw=draw, **axes))
    parts = {"0.1": (1.2, 2.0), "mlp 0": (0.4, 1.0), "1.1": (2.4, 3.0)}
    parts |= {f"subset {n}": (0.4 * n, 0.4 * n + 0.2) for n in (1, 2, 3)}
    for removed, levels in parts.items():
        for base, level in zip(("circuit", "model"), levels, strict=True):
            tables.append(rows("parts", CANDIDATE, level, base=base, removed=removed))
    for (source, target), effect in EDGES.items():
        axes = {"source": source, "target": target}
        kind = "random" if (source, target) == ("input", "1.1") else "circuit"
        tables.append(noisy(rows("edges", CANDIDATE, 4 + effect, edges=kind, **axes)))
    for n in range(3):
        axes = {"source": "input", "target": f"mlp {n}", "edges": "random"}
        tables.append(noisy(rows("edges", CONTROL, 4 - 0.01 * n * n, **axes)))
    return pd.concat(tables, ignore_index=True)


def readings() -> dict[str, pd.DataFrame]:
    table = pd.DataFrame(
        [
            {"layer": layer, "component": name, "effect": effect, "is_kept": (layer, name) in KEPT}
            for (layer, name), effect in EFFECTS.items()
        ]
    )
    roles = []
    for (layer, component), effect in EFFECTS.items():
        for sample in range(12):
            for role, share in (
                ("last", 0.75 if layer else 0.25),
                ("foil", 0.25 if layer else 0.75),
            ):
                value = share * effect
                axes = {"layer": layer, "component": component, "role": role, "sample": sample}
                roles.append({**axes, "gradient": -value, "integrated": value})
    edges = pd.DataFrame(
        [(a, b, -e, e) for (a, b), e in EDGES.items()]
        + [("input", f"mlp {n}", float(n), -float(n)) for n in range(3)],
        columns=["source", "target", "gradient", "integrated"],
    )
    return {"components": table, "attributions": pd.DataFrame(roles), "edges": edges}


def summary() -> pd.DataFrame:
    arms = scores()["arm"].unique()
    return pd.DataFrame({"arm": arms, "metric": "difference", "metric_label": "difference (nats)"})


def text_of(figure) -> str:
    return " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())


def test_maps_have_the_effects_and_frame_the_circuit():
    arms = ["patched", "zero"]
    options = {"arms": arms, "metric": "difference", "reading": "components"}
    figure = component_maps(summary(), scores(), readings(), "topic", **options)
    patched, zero = figure.axes[:2]
    for axis, factor in ((patched, 1.0), (zero, 0.5)):
        grid = axis.images[0].get_array()
        assert grid.shape == (2, 4) and grid.mask[:, 2].all()
        for (layer, component), effect in EFFECTS.items():
            column = 3 if component == "mlp" else int(component[-1])
            assert grid[layer, column] == pytest.approx(factor * effect)
        framed = {
            (round(p.get_y() + 0.47), round(p.get_x() + 0.47))
            for p in axis.patches
            if isinstance(p, Rectangle)
        }
        assert framed == {(0, 1), (0, 3), (1, 1)}
        assert axis.get_title(loc="left").endswith("4 of 6 not 0")
    assert "without intervention 4.00" in text_of(figure) and "n = 12 prompts" in text_of(figure)


@pytest.mark.parametrize(
    ("clean", "sign", "limit", "arrow"),
    [
        (0.0, 1, 3.0, "neither"),
        (2.0, 1, 2.0, "min"),
        (2.0, -1, 2.0, "max"),
        (4.0, 1, 3.0, "neither"),
    ],
)
def test_a_maps_colours_end_at_what_can_be_lost(clean, sign, limit, arrow):
    """A metric that is 0 without intervention has no such end: all its changes have colours."""
    table = scores()
    changed = clean + sign * (table["score"] - 4)
    table = table.assign(score=changed.where(table["role"] != BASELINE, clean))
    options = {"arms": ["patched"], "metric": "difference", "reading": "components"}
    figure = component_maps(summary(), table, readings(), "topic", **options)
    (image,) = figure.axes[0].images
    assert image.get_clim() == pytest.approx((-limit, limit), abs=0.11)
    assert figure.axes[-1]._colorbar.extend == arrow


def test_maps_count_what_is_scored_and_tested():
    table = scores()
    unscored = table["topic"].isin(sorted(table["topic"].unique())[:2])
    is_gone = (table["layer"] == 0) & (table["component"] == "head 0")
    score = table["score"].where(~unscored & ~is_gone)
    options = {"arms": ["patched"], "metric": "difference", "reading": "components"}
    figure = component_maps(summary(), table.assign(score=score), readings(), "topic", **options)
    assert figure.axes[0].get_title(loc="left").endswith(" of 5 not 0")
    topics, samples = table["topic"].nunique() - 2, table.loc[~unscored, "sample"].nunique()
    assert f"n = {samples} prompts, {topics} topics." in text_of(figure)


def test_recovered_shares_stand_beside_random_sets():
    options = {"circuit": "circuit", "ranked": "ranked", "random": "random"}
    correct = select(scores(), arm="circuit")
    is_right = (correct["role"] == BASELINE) | ((correct["n_kept"] == 3) & (correct["sample"] < 3))
    both = pd.concat([scores(), correct.assign(metric="correct", score=is_right.astype(float))])
    options |= {"metric": "difference", "correct": "correct"}
    figure = recovered_by_size(both, "topic", 0, **options)
    (axis,) = figure.axes
    assert axis.get_title(loc="left") == "3 of 6 components (50 %) recover 90 %"
    ranked = next(line for line in axis.lines if line.get_marker() == ".")
    assert ranked.get_xdata().tolist() == [1, 3, 6]
    assert ranked.get_ydata().tolist() == pytest.approx([10, 80, 100])
    drawn = next(line for line in axis.lines if line.get_marker() == "o")
    assert drawn.get_ydata().tolist() == pytest.approx([2.5, 7.5, 15])
    assert "90 % (90 to 90)" in text_of(figure)
    assert "top token on 25 % (" in text_of(figure)
    assert "in the model on 100 %" in text_of(figure)
    assert "random sets of its size: 8 % in the mean, 0 to 15 %" in text_of(figure)
    at_random = (both["arm"] == "random") & (both["role"] != BASELINE)
    harmful = both.assign(score=both["score"] - 30 * at_random)
    (axis,) = recovered_by_size(harmful, "topic", 0, **options).axes
    drawn = next(line for line in axis.lines if line.get_marker() == "o")
    assert axis.get_ylim()[0] <= drawn.get_ydata().min() < -100


def test_parts_show_what_is_lost_and_the_distance_from_the_model():
    options = {"circuit": "circuit", "parts": "parts", "metric": "difference"}
    figure = circuit_parts(scores(), "topic", 0, **options)
    left, right = figure.axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["MLP 0", "0.1", "1.1"]
    bars = [patch for patch in left.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == pytest.approx([80, 60, 30])
    alone, subsets = (line for line in right.lines if line.get_marker() in "os")
    assert sorted(zip(subsets.get_xdata(), subsets.get_ydata(), strict=True)) == [
        pytest.approx(pair) for pair in ((15, 10), (25, 20), (35, 30))
    ]
    assert len(alone.get_xdata()) == 3
    assert "is 5 percentage points in the mean over 3 random halves" in text_of(figure)


def test_the_graph_has_the_edges_that_matter():
    options = {"edges": "edges", "metric": "difference", "components": "components"}
    options["attributions"] = "attributions"
    figure = circuit_graph(scores(), readings(), "topic", **options)
    (axis,) = figure.axes
    arrows = [patch for patch in axis.patches if isinstance(patch, FancyArrowPatch)]
    widths = {round(arrow.get_linewidth(), 2) for arrow in arrows}
    assert len(arrows) == 3
    assert widths == {round(0.8 + 9 * share, 2) for share in (0.5, 0.25, 0.1)}
    assert {text.get_text() for text in axis.texts} == {"input", "logits", "0.1", "1.1", "MLP 0"}
    assert axis.get_title(loc="left") == "The circuit: 3 of 6 components"
    assert "3 of 4 in the circuit; of 4 random edges of the model, 1 reach this" in text_of(figure)
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert keys[:2] == ["the foil's first mention", "the last token"]
    with pytest.raises(ValueError, match=r"least: 1\.0; valid: 0 to below 1"):
        circuit_graph(scores(), readings(), "topic", least=1.0, **options)


def test_attributions_are_drawn_against_effects():
    options = {"arm": "patched", "edges": "edges", "metric": "difference"}
    options |= {"attributions": "attributions", "edge_attributions": "edges"}
    figure = attribution_agreement(summary(), scores(), readings(), "topic", 0, **options)
    plain, integrated, *_ = figure.axes
    for axis, sign in ((plain, -1), (integrated, 1)):
        points = [line for line in axis.lines if line.get_marker() in ("o", "s")]
        pairs = [pair for line in points for pair in line.get_xydata().tolist()]
        assert sorted(pairs) == [
            pytest.approx(p) for p in sorted([sign * e, e] for e in EFFECTS.values())
        ]
    # Names stand within the axes, and away from each other.
    for axis in (plain, integrated):
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in axis.texts]
        assert len(boxes) == 4 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))
        left, right = axis.get_window_extent().intervalx
        assert all(left < box.x0 and box.x1 < right for box in boxes)
    assert "components, at the prompt -1.00 (-1.00 to -1.00)" in text_of(figure)
    assert "components, integrated 1.00 (1.00 to 1.00)" in text_of(figure)
    assert "over 6 components and 4 random edges" in text_of(figure)


def test_unscored_components_and_edges_have_no_rank():
    table = scores()
    is_gone = (table["layer"] == 0) & (table["component"] == "head 0") & (table["arm"] == "patched")
    is_gone |= (table["source"] == "input") & (table["target"] == "mlp 2")
    options = {"arm": "patched", "edges": "edges", "metric": "difference"}
    options |= {"attributions": "attributions", "edge_attributions": "edges"}
    rest = table.assign(score=table["score"].where(~is_gone))
    figure = attribution_agreement(summary(), rest, readings(), "topic", 0, **options)
    assert "components, integrated 1.00 (1.00 to 1.00)" in text_of(figure)
    assert "over 5 components and 3 random edges" in text_of(figure)
