"""Logit metrics of each sample's own answer: by hand, against the naive loop, and in a study."""

from functools import partial

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from families import (
    BOS,
    WIDTH,
    byte_tokenizer,
    in_batches_of,
    random_prompts,
    tiny,
    tokenizer,
)

from pipeline.data.datasets import tokenise
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.sweeps import Part, score_logits
from pipeline.measures.answer_logits import (
    answer_is_top,
    answer_log_probability,
    answer_over_foil,
    answer_probability,
    answer_rank,
    answer_share,
    text_over_text,
)
from pipeline.measures.logits import NextToken, group_log_odds
from pipeline.measures.metrics import mentions
from pipeline.measures.text import texts_of
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site
from pipeline.model.tokenization import encode, first_token

PROMPTS = random_prompts(6)
ANSWERS = [" w20", "", " w30 w31", " w7", None, " w199"]
FOILS = [" w21", " w22", " w23 w9", np.nan, " w24", " w20"]


def text(tokens: list[int]) -> str:
    return " ".join(tokenizer().convert_ids_to_tokens(tokens))


def dataset() -> pd.DataFrame:
    frame = pd.DataFrame({"instruction": map(text, PROMPTS), "answer": ANSWERS, "foil": FOILS})
    frame[["label", "split", "topic", "demand"]] = "x"
    return tokenise(frame.assign(raw=True), tokenizer())


def after(level: torch.Tensor, samples: pd.DataFrame) -> NextToken:
    lens = lambda layer=None: level if layer is None else level.flip(-1)  # noqa: E731
    return NextToken(lens, lens, tokenizer(), samples)


def assert_scores(scores: torch.Tensor, expected: list[float]) -> None:
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_metrics_of_hand_set_logits():
    samples = dataset().iloc[:4]
    level = torch.full((4, 200), -np.inf)
    level[0, [20, 21, 5]] = torch.tensor([0.5, 0.3, 0.2]).log()
    level[1, [20, 21, 5]] = torch.tensor([0.5, 0.3, 0.2]).log()
    level[2, [30, 23, 31, 4]] = torch.tensor([0.1, 0.2, 0.6, 0.1]).log()
    level[3, [7, 8, 9, 10]] = torch.tensor([0.25, 0.25, 0.25, 0.25]).log()
    now = after(level, samples)
    nan = np.nan
    assert_scores(answer_probability(now), [0.5, nan, 0.1, 0.25])
    assert_scores(answer_over_foil(now), [np.log(5 / 3), nan, np.log(0.5), nan])
    assert_scores(answer_share(now), [5 / 8, nan, 1 / 3, nan])
    # The third shares its place with another token, the fourth with three.
    assert_scores(answer_rank(now), [0, nan, 2.5, 1.5])
    # No token may be as likely as one that is at the top.
    assert_scores(answer_is_top(now), [1, nan, 0, 0])
    aimed = after(level, samples.assign(target=[" w21", " w20", " w31", ""]))
    assert_scores(answer_is_top(aimed, column="target"), [0, 1, 1, nan])
    # Read from the other end of the vocabulary, 20 is 179: all tokens but three are as likely.
    assert_scores(answer_probability(now, layer=0), [0, nan, 0, 0])
    assert_scores(answer_rank(now, layer=0), [3 + 196 / 2, nan, 4 + 195 / 2, 4 + 195 / 2])


def test_one_column_is_compared_with_another():
    samples = dataset().iloc[[0, 1, 2, 5]].reset_index(drop=True)
    level = torch.zeros(4, 200)
    level[0, 20], level[2, 23], level[3, 199] = 1.0, 1.0, 0.0
    prefers = partial(text_over_text, after(level, samples))
    # Equal logits prefer neither; a sample without a text has no score.
    assert_scores(prefers(column="answer", over="foil"), [1, np.nan, 0, 0])
    assert_scores(prefers(column="foil", over="answer"), [0, np.nan, 1, 0])
    with pytest.raises(ValueError, match=r"answer ' w20' and answer ' w20' of 'w.* begin with the"):
        prefers(column="answer", over="answer")


def test_groups_of_tokens_are_compared_by_their_summed_probability():
    level = torch.full((2, 200), -20.0)
    level[0, [9, 10, 11]] = torch.tensor([0.5, 0.3, 0.2]).log()
    level[1, [9, 10, 11]] = torch.tensor([0.2, 0.3, 0.5]).log()
    now = after(level, pd.DataFrame())
    scores = group_log_odds(now, tokens=["w9", "w10"], foils=["w11"])
    assert_scores(scores, [np.log(0.8 / 0.2), 0.0])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"tokens": [], "foils": ["w9"]}, r"tokens = \[\], foils = \['w9'\]; valid: one or more"),
        ({"tokens": ["w9"], "foils": []}, "valid: one or more, each once"),
        ({"tokens": ["w9"], "foils": ["w8", "w9"]}, "valid: one or more, each once"),
        ({"tokens": ["w9"], "foils": ["w8 w9"]}, "'w8 w9' is 2 tokens to the model, not one"),
    ],
)
def test_what_is_no_two_groups_of_tokens_is_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        group_log_odds(after(torch.zeros(1, 200), pd.DataFrame()), **groups)


def test_a_column_that_is_not_there_is_named():
    now = after(torch.zeros(6, 200), dataset().drop(columns="foil"))
    with pytest.raises(ValueError, match="the dataset has no column 'foil'; it has: instruction"):
        answer_over_foil(now)


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_first_token_is_the_one_that_follows_the_prompts(adds_bos):
    backend = byte_tokenizer(None, adds_bos=adds_bos)
    prompt = "The capital of France is"
    ids = encode(backend, prompt + " Paris.", raw=True)
    start = len(encode(backend, prompt, raw=True))
    assert first_token(backend, prompt, " Paris.", raw=True) == ids[start]
    assert (backend.convert_ids_to_tokens(ids)[0] == BOS) == adds_bos
    # " Paris" is one token to it: a prompt that ends in a blank is no beginning of it.
    message = "answer 'Paris' begins inside of the last token of its prompt, which ends in 'France "
    with pytest.raises(ValueError, match=message):
        first_token(backend, prompt + " ", "Paris", raw=True)


METRICS = {
    "p": answer_probability,
    "rank": answer_rank,
    "foil": answer_over_foil,
    "deep": partial(answer_probability, layer=2),
    "groups": partial(group_log_odds, tokens=["w9"], foils=["w20", "w21"]),
}


def conditions() -> tuple[Condition, ...]:
    direction = torch.linspace(-0.5, 0.5, WIDTH)
    return tuple(
        Condition({"layer": layer}, (Edit(Site(layer, "resid_pre"), Add(direction), "last"),))
        for layer in range(4)
    )


def test_a_sweep_scores_each_samples_own_answer(tmp_path):
    """Samples in another order than the dataset's, in chunks, against a hook by hand."""
    model, frame = tiny("llama"), dataset()
    part = Part("arm", conditions(), frame.iloc[[5, 0, 3, 2, 1, 4]])
    table = score_logits(in_batches_of(30), [part], METRICS, {}, tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    scores = table.set_index(["metric", "condition", "sample"])["score"]
    assert len(scores) == len(METRICS) * 4 * 6
    answers, foils = [20, None, 30, 7, None, 199], [21, 22, 23, None, 24, 20]
    for condition in conditions():
        for n, prompt in enumerate(PROMPTS):
            logits = naive.logits(model, prompt, condition, len(prompt))[-1].double()
            stream = naive.stream(model, prompt, condition, len(prompt), 2)[-1]
            p, lens = logits.softmax(-1), naive.unembedded(model, stream).double().softmax(-1)
            answer, foil = answers[n], foils[n]
            expected = {"groups": p[9].log() - p[[20, 21]].sum().log()}
            if answer is not None:
                expected |= {"p": p[answer], "deep": lens[answer]}
                expected["rank"] = (p > p[answer]).sum()
            if answer is not None and foil is not None:
                expected["foil"] = logits[answer] - logits[foil]
            for name in METRICS:
                score = scores[name, condition.id, n]
                value = float(expected.get(name, np.nan))
                assert score == pytest.approx(value, abs=2e-5, nan_ok=True), (name, n)


def test_a_sweep_scores_answers_of_several_tokens(tmp_path):
    """log p of the whole answer, by the naive loop; samples without an answer have no row."""
    model, frame = tiny("llama"), dataset().fillna({"answer": ""})
    part = Part("arm", conditions(), frame.iloc[[5, 0, 3, 2, 1, 4]])
    metrics = {"log_p": answer_log_probability, "half": lambda logs: logs / 2}
    table = score_logits(in_batches_of(40), [part], {}, metrics, tmp_path)
    assert len(list(tmp_path.iterdir())) > 1
    assert table["sample"].unique().tolist() != sorted(table["sample"].unique())
    scores = table.set_index(["metric", "condition", "sample"])["score"]
    assert len(scores) == 2 * 4 * 4
    for condition in conditions():
        for n, answer in {0: [20], 2: [30, 31], 3: [7], 5: [199]}.items():
            prompt = PROMPTS[n]
            logits = naive.logits(model, prompt + answer, condition, len(prompt))
            logs = logits[len(prompt) - 1 : -1].double().log_softmax(-1)
            expected = float(logs[range(len(answer)), answer].sum())
            assert scores["log_p", condition.id, n] == pytest.approx(expected, abs=3e-5)
            assert scores["half", condition.id, n] == scores["log_p", condition.id, n] / 2


def test_answers_that_do_not_follow_their_prompts_are_named(tmp_path):
    frame = dataset().fillna({"answer": ""}).assign(tokens=[[9]] * 6)
    part = Part("arm", conditions(), frame)
    with pytest.raises(ValueError, match="the tokens of answer ' w20' do not follow those of 'w"):
        metrics = {"log_p": answer_log_probability}
        score_logits(tiny("llama"), [part], {}, metrics, tmp_path)


def test_a_column_of_numbers_is_no_text():
    """Of a JSON file: read as no answer, every sample would be unscored without a word."""
    samples = pd.DataFrame({"foil": ["a", 5, None], "prompt": "p", "raw": True})
    with pytest.raises(ValueError, match="column 'foil' has 5, which is no text; quote"):
        texts_of(samples, "foil")
    assert texts_of(samples.drop(index=1), "foil") == ["a", ""]
    completed = pd.DataFrame({"completion": ["A fox", "a"], "thing": ["fox", np.nan]})
    assert mentions(completed, column="thing").tolist()[0] == 1
    assert np.isnan(mentions(completed, column="thing").iloc[1])
