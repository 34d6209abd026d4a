"""Figures of ablations, attributions and expression: axes named, titles and colours apart."""

import numpy as np
import pandas as pd

from pipeline.measures.expression import cluster
from pipeline.views.ablations import AXES, ablation_effects, attribution_check
from pipeline.views.autoencoders import feature_pages
from pipeline.views.expression import feature_expression

SITE = "blocks.1.z"


def test_each_measure_has_a_title_of_its_own():
    table = pd.DataFrame(
        {"site": SITE, "source": "attributed", "positions": "firing", "column": list(AXES)}
    ).assign(mean=1.0, low=0.5, high=1.5, n=6)
    references = pd.DataFrame({"name": ["other"], "column": ["n_items_mean"], "mean": [0.4]})
    titles = {
        ablation_effects(table, references, column).axes[0].get_title(loc="left") for column in AXES
    }
    assert len(titles) == len(AXES)


def test_attributions_have_names_on_both_axes():
    checked = pd.DataFrame(
        {"site": SITE, "attribution": [-1.0, 0.5, 2.0], "effect": [-0.9, 0.4, 1.0]}
    )
    figure = attribution_check(checked, {SITE: 1.0}, "logit(a) - logit(b)")
    assert figure.axes[0].get_xlabel() == "attribution"
    assert figure.get_supylabel() == "change of the metric when ablated"


def colours_of(figure) -> dict[str, str]:
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    return dict(zip(texts, [line.get_color() for line in legend.get_lines()], strict=True))


def test_many_topics_are_told_apart_by_cluster():
    rng = np.random.default_rng(0)
    samples = list(range(46))
    matrix = pd.DataFrame(rng.random((46, 12)) * (rng.random((46, 12)) < 0.4), index=samples)
    clusters = cluster(matrix, samples=6, features=4)
    topics = {sample: f"t{sample % 23:02d}" for sample in samples}
    figure = feature_expression(clusters, topics, value="activation", site=SITE)
    colours = colours_of(figure)
    assert len(colours) == len(set(colours.values())) == clusters.samples.nunique()
    assert all(" of " in name for name in colours)
    assert "Strip at the left: cluster: its commonest topic." in figure.get_supxlabel()
    few = {sample: f"t{sample % 5}" for sample in samples}
    figure = feature_expression(clusters, few, value="activation", site=SITE)
    assert set(colours_of(figure)) == {f"t{n}" for n in range(5)}


def test_feature_pages_have_an_index():
    table = pd.DataFrame(
        {"site": [SITE, SITE], "feature": [3, 7], "active": [1200, 5], "rows": 5000, "page": "<p>"}
    ).assign(density=lambda t: t["active"] / t["rows"], unit="feature")
    pages = feature_pages({"pages": table}, reading="pages")
    assert set(pages) == {f"{SITE}-3.html", f"{SITE}-7.html", "index.html"}
    assert f'<a href="{SITE}-3.html">3</a>' in pages["index.html"]
    assert "<td>1,200</td><td>5,000</td><td>24.00 %</td>" in pages["index.html"]
