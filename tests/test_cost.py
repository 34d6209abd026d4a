"""A dry run's estimate, with a clock that the work itself moves."""

import pytest
from project import ROOT

from pipeline.config.preflight import check
from pipeline.config.study import compose_study
from pipeline.engine.generation import Generation
from pipeline.engine.scorer import Scorer
from pipeline.runs import cost


@pytest.fixture
def clock(monkeypatch):
    """A second for each completed row, ten for each prompt scored under a condition."""
    now = [0.0]
    score = Scorer.__call__

    def complete(run, chunk):
        now[0] += len(chunk.rows)
        return []

    def scored(scorer, only=None):
        scores = score(scorer, only)
        now[0] += 10 * scores.shape[0] * scores.shape[1]
        return scores

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Generation, "complete", complete)
    monkeypatch.setattr(Scorer, "__call__", scored)


def cost_of(monkeypatch, name, *overrides):
    monkeypatch.chdir(ROOT)
    study = compose_study(name, overrides, root=ROOT)
    return cost.cost(study, check(study))


def test_every_completion_counts(monkeypatch, clock):
    estimate = cost_of(monkeypatch, "lists", "text=null", "sweep.layers=[1,2,5]")
    assert estimate.completions > 1000
    assert estimate.seconds == pytest.approx(estimate.completions)


def test_every_scored_prompt_counts_if_the_model_makes_the_conditions(monkeypatch, clock):
    estimate = cost_of(monkeypatch, "back_patching", "sweep.layers=[1,2,5]")
    assert set(estimate.conditions) == {"last", "last_of_others", "subject", "subject_of_others"}
    # Both metrics: answer_is_top of the next token, answer_log_probability of the answer.
    assert estimate.seconds == pytest.approx(2 * 10 * estimate.scored)


def test_texts_are_scored_under_the_compared_conditions(monkeypatch, clock):
    with_texts, without = (
        cost_of(monkeypatch, "refusal", "sweep.layers=[1,2]", *more)
        for more in ((), ("text=null", "~figures.damage"))
    )
    texts = len((ROOT / "data" / "plain_text.jsonl").read_text().splitlines())
    # Of each arm the baseline; of `project_out` a fitted, five shuffled, two covariance and two
    # isotropic directions of both layers. `last`, of the other arms, is no position of a text, but
    # `all` is, which differs from their setting in nothing else.
    conditions = 3 + 2 * (1 + 5 + 2 + 2) + 2
    assert with_texts.seconds - without.seconds == pytest.approx(10 * texts * conditions)
