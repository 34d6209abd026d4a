"""Figures of probes draw the numbers of their tables, with intervals and controls."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import r2_score

from pipeline.measures.bands import band_over
from pipeline.measures.regression import r_squared_estimate
from pipeline.measures.trees import edges_of, parse_heads
from pipeline.views.labels import label_points
from pipeline.views.panels import panels
from pipeline.views.planes import probed_plane, probed_values
from pipeline.views.probes import probe_by_layer
from pipeline.views.trees import read_trees

LAYERS = [0, 1, 2]
SOURCES = [("fitted", 0), ("shuffled", 0), ("shuffled", 1)]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    samples = np.arange(48)
    frame = pd.DataFrame({"sample": samples, "topic": [f"the t{n // 4}" for n in samples]})
    return frame.assign(side=np.where(samples % 2, "left", "right"), land=samples // 16)


@pytest.fixture(scope="module")
def table(prompts) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for layer in LAYERS:
        for source, draw in SOURCES:
            part = prompts[["sample", "topic"]].assign(layer=layer, source=source, draw=draw)
            fitted = source == "fitted"
            part["score"] = (rng.random(len(part)) < (0.9 if fitted and layer else 0.5)) * 1.0
            part["north_target"] = rng.normal(size=12)[prompts["sample"] // 4]
            part["east_target"] = rng.normal(size=12)[prompts["sample"] // 4]
            for name in ("north", "east"):
                noise = rng.normal(size=len(part)) * (0.3 if fitted and layer == 1 else 2)
                part[f"{name}_prediction"] = part[f"{name}_target"] + noise
                part[f"{name}_reference"] = part[f"{name}_target"] * 0.5
            parts.append(part.assign(fit_score=float(layer == 1)))
    return pd.concat(parts).assign(split="test", label="l", reference=0.5)


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().split()).replace("\xa0", " ")


def curves(axis) -> dict[str, np.ndarray]:
    return {line.get_label(): line.get_ydata() for line in axis.lines if len(line.get_ydata()) == 3}


@pytest.mark.parametrize("by", [None, "side"])
def test_scores_and_selectivity_are_means_over_prompts(by, prompts, table):
    figure = probe_by_layer(prompts, {"r": table}, "topic", 0, reading="r", by=by)
    left, right = figure.axes
    joined = table if by is None else table.merge(prompts[["sample", by]])
    for value in ["probe"] if by is None else ["left", "right"]:
        rows = joined if by is None else joined[joined[by] == value]
        fitted = rows[rows["source"] == "fitted"]
        band = band_over(
            fitted, "layer", LAYERS, cluster="topic", share=False, bounded=True, seed=0
        )
        np.testing.assert_allclose(curves(left)[value], band.mean)
        control = rows[rows["source"] == "shuffled"].groupby("layer")["score"].mean()
        expected = fitted.groupby("layer")["score"].mean() - control
        np.testing.assert_allclose(curves(right)[value], expected)
    controls = [line for line in left.lines if line.get_marker() == "^"]
    means = table[table["source"] == "shuffled"].groupby("layer")["score"].mean()
    np.testing.assert_allclose(controls[0].get_ydata(), means)
    assert "Test split, n = 48 prompts of 12 topics" in caption(figure)
    best = table[(table["source"] == "fitted") & (table["layer"] == 1)]["score"].mean()
    assert f"Layer 1, chosen without this split: {best:.2f}." in caption(figure)


def test_values_are_r_squared_with_its_interval(prompts, table):
    figure = probed_values(prompts, {"r": table}, "topic", 0, reading="r", reference="the land")
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["north", "east"]
    for axis, name in zip(figure.axes, ("north", "east"), strict=True):
        fitted = table[table["source"] == "fitted"]
        for place, layer in enumerate(LAYERS):
            rows = fitted[fitted["layer"] == layer]
            target, predicted = rows[f"{name}_target"], rows[f"{name}_prediction"]
            assert curves(axis)[name][place] == pytest.approx(r2_score(target, predicted))
            found = r_squared_estimate(target, predicted, rows["topic"], seed=0)
            edges = axis.collections[0].get_paths()[0].vertices
            at = edges[edges[:, 0] == layer, 1]
            assert at.min() == pytest.approx(found.low) and at.max() == pytest.approx(found.high)
        rows = fitted[fitted["layer"] == 0]
        known = r2_score(rows[f"{name}_target"], rows[f"{name}_reference"])
        dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert dashed[0].get_ydata()[0] == pytest.approx(known)
    with pytest.raises(ValueError, match="reading r predicts no numbers"):
        columns = ["sample", "layer", "source", "draw", "score", "split"]
        probed_values(prompts, {"r": table[columns]}, "topic", 0, reading="r")


@pytest.mark.parametrize("column", ["north_reference", "north_prediction"])
def test_what_is_far_below_the_mean_is_inside_of_the_axes(prompts, table, column):
    far = table.assign(**{column: table["north_target"] + 9 * np.arange(len(table)) % 7})
    figure = probed_values(prompts, {"r": far}, "topic", 0, reading="r")
    axis = figure.axes[0]
    band = axis.collections[0].get_paths()[0].vertices[:, 1].min()
    lowest = min(band, *(np.min(line.get_ydata()) for line in axis.lines))
    assert lowest < -2 and axis.get_ylim()[0] < lowest


def test_a_plane_shows_means_over_prompts_at_the_layer_chosen_without_them(prompts, table):
    options = {"reading": "r", "x": "east", "y": "north", "colour": "land"}
    figure = probed_plane(prompts, {"r": table}, **options, unit="degrees")
    rows = table[(table["source"] == "fitted") & (table["layer"] == 1)]
    for axis, kind in zip(figure.axes, ("target", "prediction"), strict=True):
        means = rows.merge(prompts[["sample", "land"]]).groupby(["topic", "land"])
        expected = means[[f"east_{kind}", f"north_{kind}"]].mean()
        drawn = np.concatenate([points.get_offsets() for points in axis.collections])
        np.testing.assert_allclose(drawn, expected.sort_index(level="land", kind="stable"))
        names = {text.get_text() for text in axis.texts}
        assert names <= {f"t{n}" for n in range(12)} and len(names) > 8
        assert axis.get_xlabel() == "east (degrees)"
    assert figure.axes[1].get_title(loc="left") == "Read from the input of layer 1"
    assert "n = 12 topics" in caption(figure) and "means over 4 prompts" in caption(figure)
    with pytest.raises(ValueError, match=r"does not predict 'up'; valid: \['north', 'east'\]"):
        probed_plane(prompts, {"r": table}, **{**options, "y": "up"})


def test_names_overlap_neither_each_other_nor_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(150, 2))
    with panels(1) as (figure, (axis,)):
        axis.scatter(*points.T)
        label_points(figure, axis, points, [f"name {n}" for n in range(150)], ["DejaVu Sans"])
        renderer = figure.canvas.get_renderer()
        boxes = [text.get_window_extent(renderer) for text in axis.texts]
    dots = axis.transData.transform(points)
    assert 30 < len(boxes) < 150
    for number, box in enumerate(boxes):
        assert box.count_overlaps(boxes) == 1, number
        assert box.count_contains(dots) == 0


def test_trees_are_drawn_with_wrong_edges_in_colour():
    prompts = pd.DataFrame(
        {"sample": [0, 1, 2], "instruction": ["The old key shines."] * 3, "heads": "3 3 4 0"}
    )
    edges = ["0-1 1-2 2-3", "0-2 1-2 2-3", "0-3 1-3 2-3"]
    table = pd.DataFrame({"sample": [0, 1, 2], "edges": edges, "score": [2 / 3, 1, 1 / 3]})
    table = table.assign(layer=5, split="test", source="fitted", fit_score=0.0, reference=2 / 3)
    figure = read_trees(prompts, {"r": table}, reading="r", samples=3)
    assert isinstance(figure, Figure)
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles == ["Sample 2: UUAS 0.33", "Sample 0: UUAS 0.67", "Sample 1: UUAS 1.00"]
    true = edges_of(parse_heads("3 3 4 0"))
    for axis, sample in zip(figure.axes, (2, 0, 1), strict=True):
        assert [text.get_text() for text in axis.texts] == ["The", "old", "key", "shines."]
        below = [p for p in axis.patches if p.get_path().vertices[0, 1] < 0]
        wrong = [p for p in below if p.get_edgecolor()[0] > 0.5]
        read = {tuple(map(int, edge.split("-"))) for edge in edges[sample].split()}
        assert (len(below), len(wrong)) == (3, len(read - true))
    assert "3 of n = 3 sentences" in caption(figure) and "layer 5" in caption(figure)
    with pytest.raises(ValueError, match="samples: 4; valid: 1 to 3"):
        read_trees(prompts, {"r": table}, reading="r", samples=4)


def test_more_values_than_colours_are_told_apart_or_refused(prompts, table):
    figure = probe_by_layer(prompts, {"r": table}, "topic", 0, reading="r", by="topic")
    lines = [line for line in figure.axes[1].lines if line.get_label().startswith("the t")]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 12
    options = {"reading": "r", "x": "east", "y": "north"}
    plane = probed_plane(prompts, {"r": table}, **options, colour="topic")
    marked = [(key.get_color(), key.get_marker()) for key in plane.legends[0].get_lines()]
    assert len(set(marked)) == 12
    drawn = np.concatenate([points.get_offsets() for points in plane.axes[0].collections])
    assert len(drawn) == 12
    with pytest.raises(ValueError, match=r"48 names in a legend .*; valid: up to 18"):
        probed_plane(prompts, {"r": table}, **options, colour="sample")


def test_captions_say_what_the_probes_know_of_the_split(prompts, table):
    options = {"reading": "r", "x": "east", "y": "north", "colour": "land"}

    def captions(split, **columns):
        readings = {"r": table.assign(split=split, **columns)}
        return [
            caption(probe_by_layer(prompts, readings, "topic", 0, reading="r", split=split)),
            caption(probed_values(prompts, readings, "topic", 0, reading="r", split=split)),
            caption(probed_plane(prompts, readings, **options, split=split)),
        ]

    assert all("the probes were fitted on" in said for said in captions("train"))
    assert all("no probe was fitted on" in said for said in captions("val"))
    assert "Layer 1, chosen on this split:" in captions("train")[0]
    assert "Layer 1, chosen without this split:" in captions("val")[0]
    assert "Layer 1, chosen on this split:" in captions("val", chosen_on="val")[0]


def test_probes_without_controls_have_no_selectivity(prompts, table):
    alone = {"r": table[table["source"] == "fitted"]}
    figure = probe_by_layer(prompts, alone, "topic", 0, reading="r")
    assert len(figure.axes) == 1 and "No controls." in caption(figure)
    assert "No controls." in caption(probed_values(prompts, alone, "topic", 0, reading="r"))
