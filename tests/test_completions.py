"""Completions as prompts: draws, what is collected of them, and the columns that a study gets."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from families import tiny
from project import ROOT

from pipeline.config.study import config_file
from pipeline.data import completions
from pipeline.data.completions import not_completed, recorded_completions
from pipeline.data.datasets import fill_templates, tokenise
from pipeline.data.positions import locate
from pipeline.data.roles import BASELINE, CANDIDATE
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.sweeps import Part, arm_conditions, complete, conditions_table
from pipeline.measures.scores import with_conditions, with_prompts
from pipeline.methods.interventions import Replace
from pipeline.model.sites import Site

TEXTS = ["w7 w8", "w9", "w7 w8", "w9"]


def prompts_of(texts: list[str], draws: list[int]) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "instruction": texts,
            "label": "short",
            "split": "test",
            "topic": texts,
            "demand": "",
            "subject": "",
            "answer": "",
            "raw": True,
            "draw": draws,
        }
    )
    return tokenise(frame, tiny("llama").tokenizer)


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """A study `lists` that wrote: two draws of two prompts, at a condition too."""
    prompts = prompts_of(TEXTS, [0, 0, 1, 1])
    edit = Edit(Site(1, "resid_pre"), Replace(torch.zeros(32)))
    conditions = arm_conditions("written", [Condition({"layer": 1}, (edit,), role=CANDIDATE)])
    part = Part("written", conditions, prompts)
    other = Part("few", arm_conditions("few", []), prompts.head(2))
    folder = tmp_path / "outputs" / "lists"
    folder.mkdir(parents=True)
    table = complete(
        tiny("llama"), [part, other], tmp_path, decoding=Decoding(5, temperature=1.0), seed=0
    )
    prompts.to_parquet(folder / "dataset.parquet")
    conditions_table([part, other]).to_parquet(folder / "conditions.parquet")
    # In another order, as a sweep packs its chunks.
    table.sample(frac=1, random_state=0).to_parquet(folder / "completions.parquet")
    monkeypatch.setattr(completions, "OUTPUTS", tmp_path / "outputs")
    return tmp_path / "outputs"


def test_prompts_keep_their_columns_and_numbers_and_get_their_completions(outputs):
    frame = tokenise(recorded_completions(study="lists", arm="written"), tiny("llama").tokenizer)
    before = pd.read_parquet(outputs / "lists" / "dataset.parquet")
    for column in ("sample", "instruction", "draw", "prompt"):
        assert frame[column].tolist() == before[column].tolist()
    assert [list(x) for x in frame["tokens"]] == [list(x) for x in before["tokens"]]
    table = pd.read_parquet(outputs / "lists" / "completions.parquet")
    conditions = pd.read_parquet(outputs / "lists" / "conditions.parquet")
    written = conditions[(conditions["arm"] == "written") & (conditions["role"] == BASELINE)]
    rows = table[table["condition"].isin(written["condition"])].set_index("sample")
    for row in frame.to_dict("records"):
        recorded = rows.loc[row["sample"]]
        assert row["completion"] == recorded["completion"]
        assert list(row["completion_tokens"]) == list(recorded["tokens"])
        assert row["stopped"] == recorded["stopped"]
        assert row["complete"] == (row["stopped"] == "end" and row["completion"].strip() != "")


def test_what_did_not_complete_every_prompt_once_is_refused(outputs):
    with pytest.raises(
        ValueError, match=r"arm 'few' of study 'lists' did not .*2 completions of 4"
    ):
        recorded_completions(study="lists", arm="few")
    with pytest.raises(ValueError, match="'lists' has no arm 'some'; valid: written, few"):
        recorded_completions(study="lists", arm="some")
    with pytest.raises(ValueError, match="study 'other' has no completions in"):
        recorded_completions(study="other", arm="written")


def test_a_list_is_complete_if_the_model_ended_it_and_it_has_an_item():
    prompts = prompts_of(["w7"] * 4, [0, 1, 2, 3]).drop(columns=["sample", "prompt", "tokens"])
    texts = pd.Series(["a\nb", "a", " \n ", "a"])
    stopped = pd.Series(["end", "length", "end", "end"])
    frame = completions._with_completions(prompts, texts, pd.Series([[1]] * 4), stopped)
    assert frame["complete"].tolist() == [True, False, False, True]
    planned = not_completed(prompts)
    assert list(planned) == list(frame) and planned["complete"].all()
    assert not_completed(prompts.drop(columns="draw"))["draw"].tolist() == [0] * 4


def test_more_draws_leave_the_earlier_ones_as_they_are():
    options = {"path": str(ROOT / "data/list_topics.jsonl"), "templates": {"a": "w7 {topic}"}}
    few, more = (fill_templates(**options, draws=draws) for draws in (2, 5))
    pd.testing.assert_frame_equal(few, more.head(len(few)))
    once = fill_templates(**options)
    assert few["draw"].tolist() == [0] * len(once) + [1] * len(once)
    assert few["topic"].tolist() == 2 * once["topic"].tolist()


def test_a_prompt_is_collected_once_and_every_completion():
    prompts = pd.DataFrame(
        {
            "sample": range(4),
            "tokens": [[5, 6, 7], [5, 6]] * 2,
            "completion_tokens": [[8], [], [8, 9], []],
        }
    )
    tokens, positions = locate(prompts, None, "completion", variables=None)
    assert tokens == {0: [5, 6, 7, 8], 1: [5, 6], 2: [5, 6, 7, 8, 9], 3: [5, 6]}
    assert positions == {0: (1, 2, 3), 1: (1,), 2: (2, 3, 4), 3: (1,)}


def test_an_axis_takes_the_place_of_a_prompts_column():
    prompts = prompts_of(TEXTS, [0, 0, 1, 1])
    conditions = pd.DataFrame({"condition": ["a"], "role": ["control"], "draw": [7]})
    scores = pd.DataFrame({"condition": "a", "sample": [3, 0], "score": [1.0, 2.0]})
    joined = with_conditions(with_prompts(scores, prompts), conditions)
    assert joined["draw"].tolist() == [7, 7] and joined["sample"].tolist() == [3, 0]
    assert joined["topic"].tolist() == ["w9", "w7 w8"]


def test_a_config_beside_outputs_comes_before_that_of_the_same_name(tmp_path):
    assert config_file(tmp_path / "lists") == tmp_path / "config" / "lists.yaml"
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "config.yaml").touch()
    assert config_file(tmp_path / "lists") == tmp_path / "lists" / "config.yaml"
