"""The conditions of a study, and which of them are reported."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.grid import compared, parts, with_edits
from pipeline.measures.headline import best_layer, headline
from pipeline.methods.directions import Key
from pipeline.methods.interventions import ProjectOut
from pipeline.study import compose_study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides = ["vectors.controls={shuffled: 2, covariance: 1, isotropic: 0}"]
    for arm in ("add", "subtract"):
        overrides.append(f"sweep.arms.{arm}.strengths=[0.5,1.0,2.0,4.0]")
        overrides.append(f"sweep.arms.{arm}.positions=[all,last,generated]")
    return compose_study("refusal", overrides, root=ROOT)


def dataset() -> pd.DataFrame:
    rows = [
        (label, split)
        for label in ("harmful", "harmless")
        for split in ("train", "val", "test", "test")
    ]
    frame = pd.DataFrame(rows, columns=["label", "split"])
    return frame.assign(sample=range(len(frame)))


def test_every_arm_has_its_baseline_fitted_grid_and_controls(study):
    found = parts(study, dataset(), [1, 2])
    assert [(p.arm, len(p.conditions), len(p.samples)) for p in found] == [
        ("add", 1 + 2 * (4 + 1 + 1), 3),  # strengths at `all`, the reference at the two others
        ("add", 2 * 3, 2),
        ("subtract", 1 + 2 * (4 + 1 + 1), 3),
        ("subtract", 2 * 3, 2),
        ("project_out", 1 + 2, 3),
        ("project_out", 2 * 3, 2),
    ]
    conditions = [c for p in found for c in p.conditions]
    assert len({c.id for c in conditions}) == len(conditions)
    assert found[0].samples == (5, 6, 7)  # harmless, val and test
    assert found[1].samples == (6, 7)
    assert {c.source for c in found[1].conditions} == {"shuffled", "covariance"}


def test_ids_do_not_depend_on_the_other_conditions(study):
    few = {str(c): c.id for p in parts(study, dataset(), [1]) for c in p.conditions}
    many = {str(c): c.id for p in parts(study, dataset(), [0, 1, 2]) for c in p.conditions}
    assert few.items() <= many.items()


def test_edits_are_the_arms_sites_with_the_layers_direction(study):
    directions = {Key("fitted", 0, 1): torch.ones(4), Key("fitted", 0, 2): torch.zeros(4)}
    grid = {str(c): c for p in parts(study, dataset(), [1, 2]) for c in p.conditions}
    added = with_edits(
        grid["add: add layer 1 x 2 at all"], study.sweep.arms["add"], directions, 3, 2
    )
    assert [(str(e.site), e.positions) for e in added.edits] == [("blocks.1.resid_pre", "all")]
    assert added.edits[0].intervention.strength == 2.0
    ablated = with_edits(
        grid["project_out: project_out layer 1 x 1 at all"],
        study.sweep.arms["project_out"],
        directions,
        3,
        2,
    )
    assert len(ablated.edits) == 9
    assert {e.site.component for e in ablated.edits} == {"resid_pre", "attn_out", "mlp_out"}
    assert all(isinstance(e.intervention, ProjectOut) for e in ablated.edits)
    assert all(torch.equal(e.intervention.direction, torch.ones(4)) for e in ablated.edits)


def test_the_template_is_the_prompts_last_tokens(study):
    directions = {Key("fitted", 0, 1): torch.ones(4)}
    arm = study.sweep.arms["add"]
    arm.positions = ["template"]
    condition = parts(study, dataset(), [1])[0].conditions[1]
    (edit,) = with_edits(condition, arm, directions, 3, 2).edits
    assert (condition.positions, edit.positions) == ("template", (-2, -1))


def test_labels_without_prompts_are_refused(study):
    study.sweep.arms["add"].prompts = "neutral"
    with pytest.raises(ValueError, match=r"sweep.arms.add.prompts: .* 'neutral'; valid: harmful,"):
        parts(study, dataset(), [1])


def scores(study) -> pd.DataFrame:
    """On harmless test prompts layer 1 refuses 1 of 2 and layer 2 both; on val it is reversed."""
    rows = []
    for part in parts(study, dataset(), [1, 2]):
        for condition in part.conditions:
            for sample in part.samples:
                split = dataset().at[sample, "split"]
                score = 0.0
                if condition.source == "fitted":
                    strong = condition.layer == (2 if split == "test" else 1)
                    score = float(strong or (split == "test" and sample % 2))
                row = {**condition.columns, "sample": sample, "repeat": 0, "split": split}
                rows.append({**row, "topic": "", "metric": "refusal", "score": score})
                if compared(study, condition) and condition.layer == 1:
                    rows.append(
                        {**rows[-1], "split": "text", "metric": "cross_entropy", "score": 0.5}
                    )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def test_the_layer_is_chosen_on_validation_and_reported_on_test(study):
    from pipeline.measures.statistics import summarise

    long = scores(study)
    by = ["condition", "arm", "source", "layer", "strength", "positions", "split", "metric"]
    summary = summarise(long, by, cluster="sample", seed=0)
    assert best_layer(study.sweep.arms["add"], summary[summary["arm"] == "add"]) == 1
    reported = headline(study, summary, long, {"layer": None})["add"]
    assert (reported["layer"], reported["steered"]["mean"], reported["steered"]["n"]) == (1, 0.5, 2)
    assert reported["baseline"]["mean"] == 0
    assert reported["difference"]["mean"] == 0.5
    assert reported["controls"]["shuffled"]["mean"] == 0
    assert reported["perplexity"]["steered"] == pytest.approx(1.6487, abs=1e-3)
    forced = headline(study, summary, long, {"layer": 2})["add"]
    assert (forced["layer"], forced["steered"]["mean"]) == (2, 1.0)
    lower = headline(study, summary, long, {"layer": None})["subtract"]
    assert lower["goal"] == "lower" and lower["layer"] == 2
