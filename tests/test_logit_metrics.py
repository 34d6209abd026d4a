"""Logit metrics against closed forms, and in a sweep against hooks written out by hand."""

from functools import cache, partial
from itertools import product

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from chunks import assert_alike_alone, count_preparations
from families import FAMILIES, WIDTH, in_batches_of, random_prompts, tiny, tokenizer
from scipy.stats import entropy

from pipeline.engine import chunks, scorer
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.scoring import score_change
from pipeline.engine.sweeps import Part, arm_conditions, score_logits
from pipeline.measures.logits import (
    NextToken,
    divergence,
    kl_divergence,
    label_log_odds,
    log_odds,
    logit_difference,
    summed_log_odds,
    top_token_changes,
)
from pipeline.measures.scores import SCORE_COLUMNS
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site

PROMPTS = random_prompts(6)
DIRECTION = 0.3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])


def given(tensor):
    return lambda layer=None: tensor if layer is None else pytest.fail("no lens is asked for")


def logits(*probabilities):
    return torch.tensor(np.array(probabilities)).log().float()


def test_log_odds_are_those_of_the_summed_probability():
    scores = summed_log_odds(logits([0.5, 0.2, 0.3], [0.01, 0.01, 0.98]), torch.tensor([0, 1]))
    np.testing.assert_allclose(scores, [np.log(0.7 / 0.3), np.log(0.02 / 0.98)], atol=1e-6)


def test_divergence_is_scipys():
    found = divergence(logits(P), logits(Q))
    assert float(found[0]) == pytest.approx(entropy(P, Q), abs=1e-5)


def test_the_divergence_as_a_metric_is_exact_for_rare_tokens():
    """The selection's, after Arditi et al., adds 1e-6 and cannot exceed 13.8 nats."""
    sure, other = torch.full((1, 200), -40.0), torch.full((1, 200), -40.0)
    sure[0, 3], other[0, 4] = 0.0, 0.0
    after = NextToken(given(other), given(sure), tokenizer())
    expected = entropy(sure[0].double().softmax(-1), other[0].double().softmax(-1))
    assert float(kl_divergence(after)[0]) == pytest.approx(expected, rel=1e-9) and expected > 39
    assert float(divergence(sure, other)[0]) < 13.9


def test_label_log_odds_are_of_the_words_of_each_samples_label():
    level = torch.full((3, 200), -20.0)
    level[:, [9, 10, 11]] = torch.tensor(np.array([P, Q, P])).log().float()
    samples = pd.DataFrame({"label": ["a", "b", "neither"]})
    after = NextToken(given(level), given(level), tokenizer(), samples)
    groups = {"a": ["w9"], "b": ["w10"], "c": ["w11"]}
    found = label_log_odds(after, groups=groups)
    expected = np.log([P[0] / (P[1] + P[2]), Q[1] / (Q[0] + Q[2])])
    np.testing.assert_allclose(found[:2], expected, atol=1e-6)
    assert found[2].isnan()
    for wrong, message in (
        ({"a": ["w9"]}, "valid: two labels or more"),
        ({"a": ["w9"], "b": []}, "valid: two labels or more"),
        ({"a": ["w9"], "b": ["w9"]}, "each word once"),
        ({"a": ["w9"], "b": ["w10 w11"]}, "'w10 w11' is 2 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            label_log_odds(after, groups=wrong)


def test_top_token_changes_where_another_token_is_likeliest():
    after = NextToken(given(logits(P, Q, P)), given(logits(P, P, Q)), tokenizer())
    assert top_token_changes(after).tolist() == [0, 1, 1]


def test_metrics_read_the_tokens_that_are_named():
    level = torch.full((2, 200), -20.0)
    level[0, [9, 10, 11]] = torch.tensor(np.log(P)).float()
    level[1, [9, 10, 11]] = torch.tensor(np.log(Q)).float()
    after = NextToken(given(level), given(level.flip(0)), tokenizer())
    np.testing.assert_allclose(
        log_odds(after, tokens=["w9", "w10"]), np.log([0.8 / 0.2, 0.5 / 0.5]), atol=1e-5
    )
    np.testing.assert_allclose(
        logit_difference(after, token="w11", foil="w9"), np.log([0.2 / 0.5, 0.5 / 0.2]), atol=1e-5
    )
    np.testing.assert_allclose(kl_divergence(after), [entropy(Q, P), entropy(P, Q)], atol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([], r"tokens = \[\]; valid: one or more, each once"),
        (["w9", "w9"], "valid: one or more, each once"),
        (["w9 w10"], "'w9 w10' is 2 tokens to the model, not one"),
    ],
)
def test_what_names_no_single_tokens_is_refused(tokens, message):
    level = torch.zeros(1, 200)
    with pytest.raises(ValueError, match=message):
        log_odds(NextToken(given(level), given(level), tokenizer()), tokens=tokens)


@cache
def conditions(rules=("last", "all")) -> tuple[Condition, ...]:
    swept = (
        Condition(
            {"layer": layer, "positions": rule},
            (Edit(Site(layer, "resid_pre"), Add(DIRECTION), rule),),
        )
        for layer in range(4)
        for rule in rules
    )
    return arm_conditions("arm", swept)


def scored(work, metrics, rules=("last", "all"), batch_tokens=30, prompts=PROMPTS) -> pd.DataFrame:
    frame = pd.DataFrame({"sample": range(len(prompts)), "tokens": [np.array(p) for p in prompts]})
    part = Part("arm", conditions(rules), frame.assign(split="x"))
    return score_logits(in_batches_of(batch_tokens), [part], metrics, {}, work)


def axis(table: pd.DataFrame, name: str, rules=("last", "all")) -> pd.Series:
    """The value that the conditions of a table's rows have on an axis; none of the baseline."""
    return table["condition"].map({c.id: c.axes.get(name) for c in conditions(rules)})


METRICS = {
    "odds": lambda after: log_odds(after, tokens=["w9", "w10"]),
    "difference": lambda after: logit_difference(after, token="w11", foil="w12"),
    "kl": kl_divergence,
}


def test_a_sweep_scores_what_hooks_by_hand_give(tmp_path):
    model, table = tiny("llama"), scored(tmp_path, METRICS)
    assert list(table) == SCORE_COLUMNS
    assert len(table) == len(METRICS) * 9 * 6
    scores = table.set_index(["metric", "condition", "sample"])["score"]
    for number, prompt in enumerate(PROMPTS):
        clean = naive.logits(model, prompt, Condition(), len(prompt))[-1:]
        for condition in conditions():
            own = naive.logits(model, prompt, condition, len(prompt))[-1:]
            after = NextToken(given(own), given(clean), model.tokenizer)
            for name, metric in METRICS.items():
                expected = float(metric(after)[0])
                assert scores[name, condition.id, number] == pytest.approx(expected, abs=2e-5)
    kl = table[table["metric"] == "kl"]
    assert ((kl["score"] == 0) == axis(kl, "layer").isna()).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_lens_reads_what_a_hook_by_hand_sees_at_every_layer(family):
    """Edits before, at and behind the layer that is read; final norm, head and soft-capping."""
    model = tiny(family)
    components = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    sites = [Site(layer, component) for layer in range(4) for component in components]
    own = [Condition(edits=(Edit(site, Add(DIRECTION), "last"),)) for site in sites]
    own += [*conditions(), Condition(edits=own[0].edits + own[-1].edits)]
    found = score_change(
        model,
        PROMPTS,
        own,
        lambda read: torch.stack(
            [torch.stack([read.logits(n), read.clean(n)], 1) for n in range(4)], 1
        ),
        batch_tokens=60,
    )
    for (c, condition), (p, prompt), n in product(enumerate(own), enumerate(PROMPTS), range(4)):
        for which, run in enumerate((condition, Condition())):
            stream = naive.stream(model, prompt, run, len(prompt), n)[-1]
            expected = naive.unembedded(model, stream)
            tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
            assert (found[c, p, n, which] - expected).abs().max() <= tolerance


def test_a_metric_at_a_layer_is_that_of_its_lens(tmp_path):
    table = scored(tmp_path, {"kl": partial(kl_divergence, layer=2), "end": kl_divergence})
    kl = table.assign(layer=axis(table, "layer")).set_index(["metric", "layer"])["score"]
    # What is edited from layer 3 on has not reached layer 2 yet.
    assert (kl.loc["kl", 3] == 0).all() and (kl.loc["end", 3] > 0).all()
    assert (kl.loc["kl", 0] > 0).all() and (kl.loc["kl", 2] > 0).all()


def test_finished_chunks_are_taken_up_and_have_the_same_bytes_in_any_order(tmp_path):
    (tmp_path / "whole").mkdir()
    table = scored(tmp_path / "whole", METRICS)
    files = sorted((tmp_path / "whole").glob("arm-logits-*.parquet"))
    assert len(files) > 2
    assert_alike_alone(files, table, partial(scored, metrics=METRICS), tmp_path)
    told = pd.read_parquet(files[0]).assign(score=77.0)
    told.to_parquet(files[0])
    assert (scored(tmp_path / "whole", METRICS)["score"] == 77).sum() == len(told)


def test_a_run_is_checked_once_for_all_its_chunks(tmp_path, monkeypatch):
    swept = conditions()
    counts = count_preparations(monkeypatch, scorer)
    scored(tmp_path, METRICS)
    assert len(list(tmp_path.iterdir())) > 2
    assert counts == {"checks": 1, "hashes": len(swept)}


def test_chunks_are_the_same_on_every_device(tmp_path, monkeypatch):
    """A run that began on one and is taken up on another would lose or repeat prompts."""
    made = []
    for passes in (chunks._PASS, 10**6):
        monkeypatch.setattr(chunks, "_PASS", passes)
        work = tmp_path / str(passes)
        work.mkdir()
        table = scored(work, {"kl": kl_divergence}, batch_tokens=10**6, prompts=PROMPTS * 40)
        made.append(
            {
                file.name: pd.read_parquet(file)["sample"].unique().tolist()
                for file in sorted(work.iterdir())
            }
        )
        assert not table.duplicated(["condition", "sample", "metric"]).any()
    assert made[0] == made[1] and len(made[0]) > 1


def test_conditions_that_touch_completions_only_have_no_score(tmp_path):
    table = scored(tmp_path, METRICS, rules=("last", "generated"))
    positions = axis(table, "positions", ("last", "generated"))
    assert set(positions.dropna()) == {"last"} and positions.isna().sum() == 3 * 6
