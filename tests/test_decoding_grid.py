"""The grid of decodings: its conditions, planted effects, and the direction of self-BLEU."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from pipeline.data.datasets import fill_templates, tokenise
from pipeline.engine.decoding import Decoding
from pipeline.engine.sweeps import Part, arm_conditions, complete, conditions_table
from pipeline.measures.contrasts import contrast
from pipeline.measures.metrics import self_bleu
from pipeline.measures.scores import score_completions, with_conditions, with_prompts
from pipeline.methods.prompting.decodings import decoding_grid
from pipeline.model.loading import LanguageModel
from pipeline.views.axis_curves import curves_by_axis

GRID = {"temperatures": [0.5, 1.5], "top_k": [3, 0], "top_p": [0.6, 1.0]}
OTHERS = {"max_new_tokens": 30, "temperature": 1.0, "repeats": 4}
AXES = ["temperature", "top_k", "top_p"]
CLUSTER = {"cluster": "topic", "seed": 0}


def test_every_combination_is_a_condition_with_its_decoding():
    conditions = list(decoding_grid(**GRID, decoding=OTHERS))
    expected = list(product(*GRID.values()))
    assert [tuple(c.axes.values()) for c in conditions] == expected
    assert [c.decoding for c in conditions] == [
        Decoding(30, temperature=t, top_k=k, top_p=p, repeats=4) for t, k, p in expected
    ]
    assert not any(c.edits for c in conditions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": []}, "no value of top_k; valid: one or more"),
        ({"top_p": [0.0]}, "top_p 0.0 must be above 0"),
        ({"temperatures": [0.0]}, "repeats 4 at temperature 0 would all be the same"),
        ({"decoding": {"heat": 1}}, "decoding: 'heat' is unknown; valid: max_new_tokens"),
    ],
)
def test_what_cannot_be_decoded_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        list(decoding_grid(**{**GRID, "decoding": OTHERS, **options}))


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> pd.DataFrame:
    """Self-BLEU of the embedded model's lists on a few topics, under the grid."""
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    lists = fill_templates(path="data/list_topics.jsonl", templates={"list": "List {topic}."})
    prompts = tokenise(lists.head(5), model.tokenizer)
    conditions = arm_conditions("grid", decoding_grid(**GRID, decoding=OTHERS))
    parts = [Part("grid", conditions, prompts)]
    work = tmp_path_factory.mktemp("work")
    completions = complete(model, parts, work, decoding=Decoding(**OTHERS), seed=0)
    table = score_completions(with_prompts(completions, prompts), {"self_bleu": self_bleu})
    return with_conditions(with_prompts(table, prompts), conditions_table(parts))


@pytest.mark.parametrize(
    ("axis", "low", "high"), [("temperature", 0.5, 1.5), ("top_k", 3, 0), ("top_p", 0.6, 1.0)]
)
def test_self_bleu_falls_with_temperature_top_k_and_top_p(scores, axis, low, high):
    grid = scores[scores["role"] != "baseline"]
    others = [name for name in AXES if name != axis]
    change = contrast(grid, axis, low, high, others=others, share=False, **CLUSTER)
    assert change.high < 0
    means = grid.groupby([axis, *others])["score"].mean().unstack(axis)
    assert change.mean == pytest.approx((means[high] - means[low]).mean())


def test_a_planted_effect_is_found_and_the_others_are_not():
    """Score = 2 temperature + noise of each sample and repeat, the same under all conditions."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(10, 3))
    rows = [
        {"temperature": t, "top_k": k, "top_p": p, "sample": s, "topic": s, "repeat": r}
        | {"score": 2 * t + 3 * noise[s, r]}
        for t, k, p in product(*GRID.values())
        for s in range(10)
        for r in range(3)
    ]
    table = pd.DataFrame(rows)
    hot = contrast(table, "temperature", 0.5, 1.5, others=AXES[1:], share=False, **CLUSTER)
    assert (hot.low, hot.mean, hot.high) == pytest.approx((2, 2, 2))
    wide = contrast(table, "top_k", 3, 0, others=["temperature", "top_p"], share=False, **CLUSTER)
    assert (wide.low, wide.mean, wide.high) == pytest.approx((0, 0, 0))
    with pytest.raises(ValueError, match="is on one side only; valid: both"):
        contrast(table.iloc[1:], "temperature", 0.5, 1.5, others=AXES[1:], share=False, **CLUSTER)


def test_the_figure_draws_the_means_with_no_limit_last(scores):
    summary = scores.assign(metric_label="self-BLEU", percent=True, share=False)
    figure = curves_by_axis(
        summary,
        scores,
        "topic",
        0,
        arm="grid",
        metric="self_bleu",
        x="temperature",
        line="top_p",
        panel="top_k",
        split=None,
    )
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == ["top-k 3", "top-k all"]
    means = scores.groupby(["top_k", "top_p", "temperature"])["score"].mean()
    for axis, k in zip(figure.axes, (3, 0), strict=True):
        lines = {line.get_label(): line.get_ydata() for line in axis.lines}
        for p in (0.6, 1.0):
            np.testing.assert_allclose(lines[str(p)], means.loc[k, p].to_numpy())
    text = figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert "n = 20 completions per mean: 5 topics, 4 completions of each prompt" in text
    assert "Top-k 3 to all, all else equal: -" in text


def test_lines_may_be_of_a_column_of_the_dataset(scores):
    """Other prompts have another label: there are no pairs, and no change is stated."""
    one = (scores["role"] == "baseline") | ((scores["top_k"] == 3) & (scores["top_p"] == 0.6))
    split = scores[one].assign(
        label=scores["sample"].map(lambda n: "even" if n % 2 == 0 else "odd")
    )
    summary = split.assign(metric_label="self-BLEU", percent=True, share=False)
    options = {"arm": "grid", "metric": "self_bleu", "x": "temperature", "split": None}
    figure = curves_by_axis(summary, split, "topic", 0, **options, line="label")
    assert "Label even" not in figure.get_supxlabel()
    assert "Temperature 0.5 to 1.5" in figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ")
