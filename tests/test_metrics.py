"""Metrics give the scores that the completions were written for."""

import inspect
import math
from collections import Counter
from functools import partial

import numpy as np
import pandas as pd
import pytest

from pipeline.measures import answer_logits, logits, metrics
from pipeline.measures.scale import Scale, scale_of
from pipeline.measures.text import self_bleu_scores

NAN = math.nan


def table(completions: list[str], **columns: object) -> pd.DataFrame:
    defaults: dict[str, object] = {"topic": "fruit", "label": "short", "demand": ""}
    defaults["sample"] = range(len(completions))
    # An index that is not 0, 1, 2 shows whether a metric aligns with it.
    index = range(10, 10 + 3 * len(completions), 3)
    return pd.DataFrame({"completion": completions} | defaults | columns, index=index)


def test_refusal_contains_any_phrase_in_any_case() -> None:
    texts = ["I CANNOT help.", "Well, as an ai model", "I can help.", "", "I'm sorry to say"]
    assert metrics.refusal(table(texts)).tolist() == [1, 1, 0, 0, 1]
    assert metrics.refusal(table(texts), phrases=["HELP"]).tolist() == [1, 0, 1, 0, 0]


def test_an_apostrophe_may_be_typographic() -> None:
    texts = ["I can\u2019t help.", "I\u2019m sorry, no.", "I can't.", "I can`t.", "It\u2019s fine"]
    assert metrics.refusal(table(texts)).tolist() == [1, 1, 1, 0, 0]
    assert metrics.contains(table(texts), phrases=["I\u2019m", "can\u2019t"]).sum() == 3
    others = ["I can\u2018t", "I can\u02bct", "I can\uff07t"]
    assert metrics.refusal(table(others)).all()
    exact = metrics.contains(table(texts), phrases=["i can't"], ignore_case=False)
    assert exact.tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("phrases", [[], ["I cannot", ""]])
def test_refusal_needs_phrases(phrases: list[str]) -> None:
    with pytest.raises(ValueError, match="phrases = "):
        metrics.refusal(table(["a"]), phrases=phrases)


def test_compliance_is_more_than_no_refusal() -> None:
    samples = table(
        ["To Paint the fence, first", "I cannot paint the fence.", "Hello.", "Hello."],
        demand=["paint the fence", "paint the fence", "paint the fence", ""],
    )
    np.testing.assert_array_equal(metrics.compliance(samples), [1, 0, 0, NAN])


def test_a_completion_mentions_its_samples_text() -> None:
    samples = table(["The Fox is red.", "The fox.", "Le renard.", "The fox."], demand="fox")
    samples["french"] = ["renard", "renard", "renard", ""]
    np.testing.assert_array_equal(metrics.mentions(samples), [1, 1, 0, 1])
    np.testing.assert_array_equal(metrics.mentions(samples, column="french"), [0, 0, 1, NAN])
    with pytest.raises(ValueError, match="no column 'german' in the dataset; it has: completion"):
        metrics.mentions(samples, column="german")


def test_the_language_is_that_of_most_function_words() -> None:
    texts = [
        "The fox is in the garden. LE renard.",  # 4 English, 1 French
        "L'éléphant est gris, it is.",  # 2 and 2: in neither
        "这里有白色的青蛙。",
        "Renard!",  # no function word
        "",
        "Ce n'est pas un chat, the dog, une souris",  # 5 French, 1 English
    ]
    for language, expected in (
        ("English", [1, 0, 0, 0, 0, 0]),
        ("French", [0, 0, 0, 0, 0, 1]),
        ("Chinese", [0, 0, 1, 0, 0, 0]),
    ):
        assert metrics.language(table(texts), language=language).tolist() == expected
    words = {"German": "der die das", "Dutch": "de het"}
    found = metrics.language(table(["Das Haus", "de hond"]), language="German", words=words)
    assert found.tolist() == [1, 0]
    alone = metrics.language(
        table(["Das Haus", "hond"]), language="German", words={"German": "das"}
    )
    assert alone.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"language": "german"}, "language = 'german'; valid: English, French, Chinese"),
        ({"language": "a", "words": {"a": "x y", "b": "y"}}, "words.a: 'y' is of two languages"),
        ({"language": "a", "words": {"a": "x", "b": " "}}, "words.b: it has no words"),
    ],
)
def test_languages_are_told_apart_by_their_own_words(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.language(table(["a"]), **options)


def test_lists() -> None:
    samples = table(["pear\n\nApple \napple\nplum ", "fig", "", " \n \n"])
    assert metrics.n_items(samples).tolist() == [4, 1, 0, 0]
    assert metrics.filler_blanks(samples).tolist() == [2, 0, 0, 0]
    np.testing.assert_array_equal(metrics.unique_items(samples), [0.75, 1, NAN, NAN])
    assert metrics.n_items(table(["a, b, c"]), separator=",").tolist() == [3]


def test_diversity_belongs_to_topic_and_label() -> None:
    samples = table(
        ["a\nb", "A \nc\n", "a\nd", "a\nb", ""],
        topic=["x", "x", "x", "y", "z"],
        label=["short", "short", "long", "short", "short"],
    )
    np.testing.assert_array_equal(metrics.diversity(samples), [3 / 4, 3 / 4, 1, 1, NAN])


# NLTK 3.10.4: sentence_bleu(the others, text, [1 / n] * n, SmoothingFunction().method1).
TEXTS = [
    "red\ngreen\nblue",
    "green\nred\nblue\npink",
    "the cat sat on the mat",
    "the the the cat",
    "mat",
]
NLTK = {
    1: [1.0, 0.7142857142857143, 0.6666666666666666, 0.5841005873035536, 0.049787068367863944],
    2: [
        0.8660254037844387,
        0.5976143046671969,
        0.36514837167011077,
        0.3894003915357024,
        0.015744053406497194,
    ],
    4: [
        0.1880301546543197,
        0.1155987114790698,
        0.10266900960803409,
        0.14643803168582153,
        0.008853531856477262,
    ],
}


@pytest.mark.parametrize("n_grams", [1, 2, 4])
def test_self_bleu_equals_nltk(n_grams: int) -> None:
    np.testing.assert_allclose(
        metrics.self_bleu(table(TEXTS), n_grams=n_grams), NLTK[n_grams], rtol=1e-14
    )


def test_self_bleu_by_hand() -> None:
    # "a b c" against "a b": p1 = 2/3, p2 = 1/2, no brevity penalty. The reverse: both precisions
    # 1, penalty exp(1 - 3/2).
    expected = [math.sqrt(2 / 3 * 1 / 2), math.exp(-1 / 2)]
    assert self_bleu_scores(["a b c", "a b"], 2) == pytest.approx(expected)


def test_self_bleu_clips_by_the_text_that_has_most() -> None:
    # Counts of "a": 3, 2, 2; the best among the others is 2, 3, 3.
    assert self_bleu_scores(["a a a", "a a", "a a"], 1) == pytest.approx([2 / 3, 1, 1])


def test_self_bleu_takes_the_nearest_length_of_another_text() -> None:
    """As a loop over all other texts finds it, whose time is quadratic."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(list("abcdef"), size=n)) for n in rng.integers(1, 60, size=80)]
    lengths = [len(text.split()) for text in texts]
    for own, score in enumerate(self_bleu_scores(texts, 1)):
        others = texts[:own] + texts[own + 1 :]
        nearest = min(lengths[:own] + lengths[own + 1 :], key=lambda n: (abs(n - lengths[own]), n))
        counts = Counter(texts[own].split())
        best = {w: max(other.split().count(w) for other in others) for w in counts}
        matches = sum(min(count, best[word]) for word, count in counts.items())
        precision = (matches or 0.1) / lengths[own]
        expected = min(1, math.exp(1 - nearest / lengths[own])) * precision if matches else 0
        assert score == pytest.approx(expected)


def test_self_bleu_groups_and_leaves_unscored() -> None:
    samples = table(
        ["a b", "a b", "a b", "", "x y", " "],
        topic=["t", "t", "t", "t", "u", "u"],
        label=["short", "short", "long", "short", "short", "short"],
    )
    np.testing.assert_allclose(
        metrics.self_bleu(samples, n_grams=2), [1, 1, NAN, NAN, NAN, NAN], rtol=1e-15
    )
    with pytest.raises(ValueError, match="n_grams = 0"):
        metrics.self_bleu(samples, n_grams=0)


@pytest.mark.parametrize("metric", [metrics.diversity, metrics.self_bleu])
def test_without_a_topic_a_prompt_is_a_set_of_its_own(metric) -> None:
    texts = ["a b c d\na b c d", "a b c d", "w x y z\na b c d", "w x y z"]
    alone = [metric(table(texts[at : at + 2])) for at in (0, 2)]
    together = metric(table(texts, topic="", sample=[0, 0, 1, 1]))
    assert together.tolist() == [*alone[0], *alone[1]] != metric(table(texts)).tolist()


def test_words_of_no_other_text_score_zero() -> None:
    assert metrics.self_bleu(table(["a b", "c d"])).tolist() == [0, 0]


def test_length_limit() -> None:
    samples = table(["a", "b"], stopped=["length", "end"])
    assert metrics.at_length_limit(samples).tolist() == [1, 0]


ALL = [
    metrics.refusal,
    metrics.compliance,
    metrics.n_items,
    metrics.filler_blanks,
    metrics.unique_items,
    metrics.diversity,
    metrics.self_bleu,
    metrics.at_length_limit,
    partial(metrics.contains, phrases=["paint", "a"]),
    partial(metrics.matches, pattern="^I"),
    partial(metrics.mentions, column="demand"),
    partial(metrics.language, language="English"),
]


def own_scale(metric) -> Scale:
    return scale_of(metric, getattr(metric, "keywords", None))


@pytest.mark.parametrize("metric", ALL)
def test_scores_are_floats_aligned_with_the_samples(metric) -> None:
    samples = table(["a\nb", "b\nc"], stopped="end", demand="b")
    before = samples.copy(deep=True)
    scores = metric(samples)
    assert scores.dtype == float
    assert scores.index.equals(samples.index)
    assert scores.notna().all()
    pd.testing.assert_frame_equal(samples, before)
    assert metric(samples.iloc[:0]).empty


OF_LOGITS = [
    logits.log_odds,
    logits.logit_difference,
    logits.group_log_odds,
    answer_logits.answer_probability,
    answer_logits.answer_rank,
    answer_logits.answer_is_top,
    answer_logits.answer_over_foil,
    answer_logits.answer_share,
    answer_logits.answer_log_probability,
    logits.kl_divergence,
    logits.label_log_odds,
    answer_logits.text_is_top,
    answer_logits.text_over_text,
    logits.top_token_changes,
]


def test_contains_and_matches() -> None:
    texts = ["Yes, I do.", "no", "", "42 sheep\nyes"]
    assert metrics.contains(table(texts), phrases=["yes", "sheep"]).tolist() == [1, 0, 0, 1]
    assert metrics.contains(table(texts), phrases=["yes"], ignore_case=False).tolist() == [
        0,
        0,
        0,
        1,
    ]
    assert metrics.matches(table(texts), pattern=r"^\d+ ").tolist() == [0, 0, 0, 1]
    assert metrics.matches(table(texts), pattern=r"(?i)yes$").tolist() == [0, 0, 0, 1]
    assert scale_of(metrics.matches, {"pattern": "^a"}).label == "matches ^a"
    for phrases in ([], ["a", ""]):
        with pytest.raises(ValueError, match="valid: one or more phrases, none empty"):
            metrics.contains(table(texts), phrases=phrases)
    with pytest.raises(ValueError, match=r"pattern = '\(' is no regular expression: "):
        metrics.matches(table(texts), pattern="(")


def test_every_metric_declares_its_scale() -> None:
    public = [
        function
        for module in (metrics, logits, answer_logits)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    ]
    helpers = {logits.summed_log_odds, logits.divergence, logits.token_groups, logits.group_levels}
    helpers |= {logits.at_tokens}
    tested = {getattr(metric, "func", metric) for metric in ALL} | {metrics.final_number_right}
    assert set(public) - helpers == {*tested, *OF_LOGITS}
    for metric in (*ALL, *OF_LOGITS):
        options = {"tokens": ["a"], "foils": ["b"], "token": "a", "foil": "b"}
        options |= {"phrases": ["a"], "pattern": "a", "column": "answer", "language": "French"}
        options |= {"over": "foil"}
        scale = scale_of(getattr(metric, "func", metric), options)
        assert scale.name and not (scale.share and scale.bounded)
        assert "{" not in scale.label and not (scale.unit and scale.percent)
    for helper in helpers:
        with pytest.raises(ValueError, match="declares no Scale in its return annotation"):
            scale_of(helper)


def test_a_scale_has_the_metrics_options_in_its_name() -> None:
    assert scale_of(metrics.refusal) == Scale("refuses", share=True)
    difference = scale_of(logits.logit_difference, {"token": "Yes", "foil": "No", "layer": None})
    assert difference.label == "logit(Yes) - logit(No) (nats)"
    odds = scale_of(logits.log_odds, {"tokens": ["I", "As"]})
    assert odds.label == "log-odds of 'I', 'As' (nats)" and not odds.percent
    many = scale_of(metrics.contains, {"phrases": ["a", "b", "c", "d"]})
    assert many.label == "contains 'a', 'b' ... (4)"
    assert scale_of(metrics.self_bleu).percent and scale_of(metrics.refusal).percent


@pytest.mark.parametrize("metric", [m for m in ALL if own_scale(m).share])
def test_a_share_scores_0_1_or_nothing(metric) -> None:
    texts = ["I cannot paint.", "I paint the fence", "", " \n "]
    demand, stopped = ["paint", "paint", "x", ""], ["end", "length", "end", "length"]
    scores = metric(table(texts, demand=demand, stopped=stopped))
    assert set(scores.dropna()) == {0, 1}


@pytest.mark.parametrize("metric", [m for m in ALL if own_scale(m).bounded])
def test_what_is_bounded_lies_from_0_to_1(metric) -> None:
    samples = table(["a\nb\na", "a b", "", "c"], label=["short", "short", "short", "long"])
    scores = metric(samples).dropna()
    assert len(scores) and scores.between(0, 1).all()
