"""Sweeps: tables of conditions and prompts, and their chunks on disk, the unit of resuming."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import naive
import numpy as np
import pandas as pd
import pytest
import torch
from chunks import assert_alike_alone, count_preparations
from families import WIDTH, in_batches_of, random_prompts, tiny, tokenizer

from pipeline.data.roles import BASELINE, CONTROL
from pipeline.engine import generation, scorer
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.sweeps import (
    COMPLETION_COLUMNS,
    Part,
    arm_conditions,
    complete,
    conditions_table,
    is_scored_after_prompt,
    score_logits,
    score_texts,
)
from pipeline.measures.answer_logits import answer_log_probability
from pipeline.measures.logits import kl_divergence
from pipeline.measures.scores import SCORE_COLUMNS
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site

PROMPTS = random_prompts(6)
DIRECTION = torch.full((WIDTH,), 0.3)
DECODING = Decoding(5, temperature=1.0, repeats=2)


def adding(layer: int, rule: object = "all", **axes: object) -> Condition:
    edit = Edit(Site(layer, "resid_pre"), Add(DIRECTION), rule)
    return Condition({"layer": layer, **axes}, (edit,))


CONDITIONS = tuple(adding(layer) for layer in range(4))


def frame(samples=range(6)) -> pd.DataFrame:
    words = [" ".join(tokenizer().convert_ids_to_tokens(prompt)) for prompt in PROMPTS]
    answers = [" w20", "", " w30 w31", " w7 w8 w9", " w40", " w50 w51"]
    columns = {"prompt": words, "tokens": list(map(np.array, PROMPTS)), "answer": answers}
    table = pd.DataFrame({"sample": range(6), **columns}).assign(split="val", raw=True)
    return table.iloc[list(samples)]


def completed(work: Path) -> pd.DataFrame:
    """Two arms; the second runs on some of the prompts, in another order."""
    parts = [Part("first", CONDITIONS, frame()), Part("second", CONDITIONS[:2], frame([4, 1, 2]))]
    return complete(in_batches_of(60), parts, work, decoding=DECODING, seed=0)


def scored(work: Path) -> pd.DataFrame:
    part = Part("first", CONDITIONS, frame())
    metrics, answers = {"kl": kl_divergence}, {"log_p": answer_log_probability}
    return score_logits(in_batches_of(40), [part], metrics, answers, work)


def read_texts(work: Path) -> pd.DataFrame:
    texts = pd.DataFrame({"sample": range(6), "tokens": PROMPTS})
    return score_texts(in_batches_of(20), texts, CONDITIONS, work)


Sweep = Callable[[Path], pd.DataFrame]
SWEEPS = [(completed, "completion"), (scored, "score"), (read_texts, "score")]


@pytest.mark.parametrize(("sweep", "column"), SWEEPS)
def test_what_is_finished_is_not_done_again(sweep: Sweep, column: str, tmp_path: Path):
    (tmp_path / "unbroken").mkdir()
    table = sweep(tmp_path / "unbroken")
    chunks = sorted((tmp_path / "unbroken").glob("*.parquet"))
    assert len(chunks) > 2
    told = "as it lay there" if column == "completion" else 77.0
    (tmp_path / "resumed").mkdir()
    lying = [pd.read_parquet(path).assign(**{column: told}) for path in chunks[::2]]
    for path, chunk in zip(chunks[::2], lying, strict=True):
        chunk.to_parquet(tmp_path / "resumed" / path.name)
    resumed = sweep(tmp_path / "resumed")
    taken = resumed[column] == told
    assert 0 < sum(map(len, lying)) == taken.sum() < len(table)
    assert resumed[~taken].equals(table[~taken])


@pytest.mark.parametrize(("sweep", "column"), SWEEPS)
def test_each_chunk_has_the_same_bytes_whoever_makes_it_and_when(
    sweep: Sweep, column: str, tmp_path: Path
):
    (tmp_path / "unbroken").mkdir()
    table = sweep(tmp_path / "unbroken")
    assert column in table
    assert_alike_alone(sorted((tmp_path / "unbroken").iterdir()), table, sweep, tmp_path)


@pytest.mark.parametrize(
    ("sweep", "module", "checks", "hashes"),
    # Two parts of completions; logits and answers of one; texts.
    [(completed, generation, 2, 6), (scored, scorer, 2, 8), (read_texts, scorer, 1, 4)],
)
def test_a_run_is_checked_once_for_all_its_chunks(
    sweep, module, checks, hashes, tmp_path, monkeypatch
):
    counts = count_preparations(monkeypatch, module)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) > checks
    assert counts == {"checks": checks, "hashes": hashes}


def test_completions_are_those_of_the_engine_for_each_sample(tmp_path):
    table = completed(tmp_path)
    assert list(table) == COMPLETION_COLUMNS
    assert len(table) == (4 * 6 + 2 * 3) * 2
    numbers = {condition.id: number for number, condition in enumerate(CONDITIONS)}
    done = generate(tiny("llama"), PROMPTS, CONDITIONS, DECODING, seed=0)
    by_row = {(c.condition, c.prompt, c.repeat): c for c in done}
    for row in table.to_dict("records"):
        expected = by_row[numbers[row["condition"]], row["sample"], row["repeat"]]
        assert tuple(row["tokens"]) == expected.tokens and row["n_tokens"] == len(row["tokens"])
        assert (row["completion"], row["stopped"]) == (expected.text, expected.stopped)


def test_a_condition_is_stored_once_beside_its_rows():
    """Rows of completions and scores hold the id alone; axes and roles are in one table."""
    first = arm_conditions("first", [adding(1, strength=0.5), adding(2, strength=2)])
    control = Condition({"source": "isotropic", "unit": "z[3]"}, role=CONTROL)
    second = arm_conditions("second", [control])
    table = conditions_table([Part("a", first, frame()), Part("b", second, frame())])
    assert list(table) == ["condition", "role", "arm", "layer", "strength", "source", "unit"]
    assert table["condition"].tolist() == [c.id for c in (*first, *second)]
    assert table["role"].tolist() == [BASELINE, "candidate", "candidate", BASELINE, CONTROL]
    assert table["arm"].tolist() == ["first"] * 3 + ["second"] * 2
    # Whole numbers stay whole beside conditions without that axis; strengths are numbers.
    assert {name: str(table[name].dtype) for name in ("layer", "strength")} == {
        "layer": "Int64",
        "strength": "float64",
    }
    assert table["layer"].tolist() == [pd.NA, 1, 2, pd.NA, pd.NA]
    assert table["strength"].dropna().tolist() == [0.5, 2.0]
    assert table["unit"].isna().tolist() == [True] * 4 + [False]


def test_axes_of_numpy_and_torch_are_numbers_and_none_is_number_and_text():
    numbers = [Condition({"layer": kind(2), "strength": 0.5}) for kind in (int, np.int64)]
    numbers.append(Condition({"layer": torch.tensor(2), "strength": np.float64(0.5)}))
    assert len({condition.id for condition in numbers}) == 1
    mixed = (Condition({"layer": 0}), Condition({"layer": "all"}))
    with pytest.raises(ValueError, match="axis 'layer' is a number in some conditions, 0, and tex"):
        conditions_table([Part("a", mixed, frame())])


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), np.float32("-inf"), torch.tensor(1) / 0]
)
def test_an_axis_of_no_finite_number_is_refused(value):
    """Tables would show NaN as they show the baseline, which has no such axis."""
    with pytest.raises(
        ValueError, match=r"axis 'scale' is (nan|inf|-inf); valid: text or a finite"
    ):
        Condition({"layer": 1, "scale": value})


def test_the_baseline_comes_first_and_the_arm_is_an_axis():
    baseline, condition = arm_conditions("add", [adding(1)])
    assert (dict(baseline.axes), baseline.role, baseline.edits) == ({"arm": "add"}, BASELINE, ())
    assert list(condition.axes.items()) == [("arm", "add"), ("layer", 1)]
    assert [str(edit.site) for edit in condition.edits] == ["blocks.1.resid_pre"]
    assert (baseline,) == arm_conditions("add", [])


def test_conditions_with_equal_axes_are_refused():
    message = "two conditions have the same axes: arm add, layer 1, strength 2"
    with pytest.raises(ValueError, match=message):
        arm_conditions("add", [adding(n, strength=2) for n in (0, 1, 2, 1)])
    # Without an axis an arm's condition could not be told from the baseline.
    with pytest.raises(ValueError, match=r"two conditions have the same axes: arm add$"):
        arm_conditions("add", [Condition(edits=adding(1).edits)])


def test_ids_are_those_of_the_axes_whatever_their_order():
    one, other = Condition({"layer": 1, "rank": 2}), Condition({"rank": 2, "layer": 1})
    assert one.id == other.id != Condition({"layer": 2, "rank": 1}).id
    assert one.id == adding(1, rank=2).id


def test_conditions_that_touch_completions_only_have_no_logit_score(tmp_path):
    answers = PromptPositions("answer", [(len(prompt),) for prompt in PROMPTS])
    subjects = PromptPositions("subject", [(0,)] * 6)
    late = [adding(1, "generated", number=1), adding(1, answers, number=2)]
    early = [adding(1, "last", number=3), adding(1, subjects, number=4), Condition({"number": 5})]
    both = Condition({"number": 6}, late[0].edits + early[0].edits)
    assert [is_scored_after_prompt(c) for c in (*late, *early, both)] == [False] * 2 + [True] * 4
    part = Part("arm", (*late, *early, both), frame())
    table = score_logits(tiny("llama"), [part], {"kl": kl_divergence}, {}, tmp_path)
    assert set(table["condition"]) == {c.id for c in (*early, both)}
    # Of a condition that edits both, what a prompt's forward pass has is done.
    scores = {key: rows["score"].tolist() for key, rows in table.groupby("condition")}
    same, other = (scores[condition.id] for condition in early[:2])
    assert scores[both.id] == pytest.approx(same, rel=1e-4) != pytest.approx(other, rel=1e-4)


def test_nothing_to_score_is_a_table_of_the_same_columns(tmp_path):
    part = Part("arm", (adding(1, "generated"),), frame())
    model, metrics = tiny("llama"), {"kl": kl_divergence}
    empty = score_logits(model, [part], metrics, {}, tmp_path)
    assert empty.empty and list(empty) == SCORE_COLUMNS
    silent = Part("arm", CONDITIONS, frame([1]))
    log_p = {"log_p": answer_log_probability}
    assert score_logits(model, [silent], {}, log_p, tmp_path).empty
    assert list(tmp_path.iterdir()) == []


def test_scores_are_of_their_samples_and_splits(tmp_path):
    part = Part("arm", CONDITIONS, frame([4, 1, 2]).assign(split=["val", "test", "test"]))
    answers = {"log_p": answer_log_probability}
    table = score_logits(tiny("llama"), [part], {"kl": kl_divergence}, answers, tmp_path)
    assert list(table) == SCORE_COLUMNS and set(table["repeat"]) == {0}
    splits = table.groupby(["metric", "sample"])["split"].unique().map(list).to_dict()
    # Sample 1 has no answer.
    assert splits == {
        ("kl", 4): ["val"],
        ("kl", 1): ["test"],
        ("kl", 2): ["test"],
        ("log_p", 4): ["val"],
        ("log_p", 2): ["test"],
    }


def test_texts_are_read_at_rules_that_any_text_has(tmp_path):
    model, texts = tiny("llama"), pd.DataFrame({"sample": range(6), "tokens": PROMPTS})
    each = PerPrompt(DIRECTION.repeat(6, 1))
    differing = Condition({"number": 1}, (Edit(Site(1, "resid_pre"), Add(each), "all"),))
    fit = arm_conditions("fit", [adding(2), adding(2, "after_first", number=2)])
    others = [
        adding(2, "last", number=3),
        adding(2, PromptPositions("subject", [(0,)] * 6), number=4),
        differing,
    ]
    (tmp_path / "some").mkdir()
    table = score_texts(in_batches_of(60), texts, [*fit, *others], tmp_path / "some")
    assert list(table) == SCORE_COLUMNS
    assert set(table["metric"]) == {"cross_entropy"} and set(table["split"]) == {"text"}
    assert set(table["condition"]) == {c.id for c in fit}
    scores = table.set_index(["condition", "sample"])["score"]
    for condition in fit:
        for number, text in enumerate(PROMPTS):
            logits = naive.logits(model, text, condition, 1)[:-1]
            expected = torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]))
            assert scores[condition.id, number] == pytest.approx(float(expected), abs=1e-5)
    nothing = score_texts(model, texts.iloc[:0], fit, tmp_path / "none")
    assert nothing.empty and list(nothing) == list(table)


def test_all_metrics_of_a_part_share_one_pass(tmp_path, monkeypatch):
    calls = []
    forward = scorer.BaseRun.streams

    def counted(*args):
        calls.append(args)
        return forward(*args)

    monkeypatch.setattr(scorer.BaseRun, "streams", counted)
    counts = []
    for number in (1, 3):
        calls.clear()
        metrics = {str(n): partial(kl_divergence, layer=None) for n in range(number)}
        (tmp_path / str(number)).mkdir()
        part = Part("arm", CONDITIONS, frame())
        score_logits(tiny("llama"), [part], metrics, {}, tmp_path / str(number))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0
