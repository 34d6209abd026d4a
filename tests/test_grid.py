"""The conditions of a study, and which of them are reported."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.config.study import compose_study
from pipeline.engine.conditions import Places
from pipeline.grid import compared, report_parts, validation_parts, with_edits
from pipeline.measures.choice import Setting
from pipeline.measures.headline import headline
from pipeline.methods.directions import Key
from pipeline.methods.interventions import ProjectOut

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


SETTINGS = {
    "add": Setting(1, 1.0, "last", "validation"),
    "subtract": Setting(2, 2.0, "all", "validation"),
    "project_out": Setting(1, 1.0, "all", "selection"),
}


def test_validation_runs_the_whole_grid_and_the_report_its_slices(study):
    grid = validation_parts(study, dataset(), [1, 2])
    assert [(p.arm, len(p.conditions), len(p.samples)) for p in grid] == [
        ("add", 1 + 2 * 4 * 3, 1),
        ("subtract", 1 + 2 * 4 * 3, 1),
        ("project_out", 1 + 2, 1),
    ]
    found = report_parts(study, dataset(), [1, 2], SETTINGS)
    assert [(p.arm, len(p.conditions), len(p.samples)) for p in found] == [
        ("add", 1 + 2 * (4 + 2 + 3), 2),  # strengths at `last`, two other rules, three controls
        ("subtract", 1 + 2 * (4 + 2 + 3), 2),
        ("project_out", 1 + 2 + 2 * 3, 2),
    ]
    for parts in (grid, found):
        conditions = [c for p in parts for c in p.conditions]
        assert len({c.id for c in conditions}) == len(conditions)
    assert grid[0].samples == (5,) and found[0].samples == (6, 7)  # harmless, val and test
    controls = [c for c in found[0].conditions if c.source in ("shuffled", "covariance")]
    assert {(c.strength, c.positions) for c in controls} == {(1.0, "last")}
    assert len(controls) == 2 * 3 and all(compared(c, SETTINGS) for c in controls)
    others = [c for c in found[0].conditions if c.positions == "all"]
    assert {c.strength for c in others} == {1.0} and not any(compared(c, SETTINGS) for c in others)


def test_ids_do_not_depend_on_the_other_conditions(study):
    def ids(layers):
        grid = validation_parts(study, dataset(), layers)
        return {str(c): c.id for part in grid for c in part.conditions}

    assert ids([1]).items() <= ids([0, 1, 2]).items()


RULES = {"all": "all", "last": "last", "generated": "generated"}


def test_edits_are_the_arms_sites_with_the_layers_direction(study):
    directions = {Key("fitted", 0, 1): torch.ones(4), Key("fitted", 0, 2): torch.zeros(4)}
    grid = {str(c): c for p in validation_parts(study, dataset(), [1, 2]) for c in p.conditions}
    added = with_edits(
        grid["add: add layer 1 x 2 at all"], study.sweep.arms["add"], directions, 3, RULES
    )
    assert [(str(e.site), e.positions) for e in added.edits] == [("blocks.1.resid_pre", "all")]
    assert added.edits[0].intervention.strength == 2.0
    ablated = with_edits(
        grid["project_out: project_out layer 1 x 1 at all"],
        study.sweep.arms["project_out"],
        directions,
        3,
        RULES,
    )
    assert len(ablated.edits) == 9
    assert {e.site.component for e in ablated.edits} == {"resid_pre", "attn_out", "mlp_out"}
    assert all(isinstance(e.intervention, ProjectOut) for e in ablated.edits)
    assert all(torch.equal(e.intervention.direction, torch.ones(4)) for e in ablated.edits)


def test_a_list_of_positions_goes_by_its_text_and_acts_where_it_says(study):
    directions = {Key("fitted", 0, 1): torch.ones(4)}
    arm = study.sweep.arms["add"]
    arm.positions = [[-2, -1]]
    condition = validation_parts(study, dataset(), [1])[0].conditions[1]
    rules = {"[-2, -1]": Places("[-2, -1]", [(5, 6)])}
    (edit,) = with_edits(condition, arm, directions, 3, rules).edits
    assert condition.positions == "[-2, -1]"
    assert edit.positions is rules["[-2, -1]"]


def test_labels_without_prompts_are_refused(study):
    study.sweep.arms["add"].prompts = "neutral"
    with pytest.raises(ValueError, match=r"sweep.arms.add.prompts: .* 'neutral'; valid: harmful,"):
        validation_parts(study, dataset(), [1])


def scores(study) -> pd.DataFrame:
    """Refusals on two test prompts: one of two at layer 1 and both at layer 2, controls none."""
    rows = []
    for part in report_parts(study, dataset(), [1, 2], SETTINGS):
        for condition in part.conditions:
            for number, sample in enumerate(part.samples):
                score = float(condition.source == "fitted" and condition.layer > number)
                row = {**condition.columns, "sample": sample, "repeat": 0, "split": "test"}
                chosen = compared(condition, SETTINGS)
                rows.append(
                    {**row, "topic": "", "metric": "refusal", "score": score, "chosen": chosen}
                )
                if chosen:
                    loss = 0.5 + 0.1 * number
                    text = {"split": "text", "metric": "cross_entropy", "score": loss}
                    rows.append({**rows[-1], **text})
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def test_the_report_is_of_the_chosen_setting(study):
    reported = headline(study, scores(study), SETTINGS)["add"]
    assert (reported["layer"], reported["strength"], reported["positions"]) == (1, 1.0, "last")
    assert (reported["steered"]["mean"], reported["steered"]["n"]) == (0.5, 2)
    assert reported["baseline"]["mean"] == 0
    assert reported["difference"]["mean"] == 0.5
    control = reported["controls"]["shuffled"]
    assert (control["n"], control["mean"]) == (4, 0)
    text = reported["perplexity"]["steered"]
    assert text["mean"] == pytest.approx(1.7333, abs=1e-3)
    assert text["low"] < text["mean"] < text["high"]
    lower = headline(study, scores(study), SETTINGS)["subtract"]
    assert (lower["goal"], lower["layer"], lower["steered"]["mean"]) == ("lower", 2, 1.0)
