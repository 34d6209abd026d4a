"""YAML scalars of another type than the field's: refused, never converted."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config.study import compose_study, load_model_section
from pipeline.data.prompts import select_prompts

ROOT = Path(__file__).parents[1]
BOOLEAN = "YAML reads this as the boolean {}, but it must be text; quote it"
NUMBER = "YAML reads this as the boolean {}, but it must be a number"


@pytest.fixture
def compose(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "data").symlink_to(ROOT / "data")

    def composed(study: str, old: str, new: str):
        file = tmp_path / "conf" / "study" / f"{study}.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        return compose_study(study, root=tmp_path)

    return composed


@pytest.mark.parametrize(
    ("study", "old", "new", "message"),
    [
        (
            "refusal_odds",
            "  logit_metrics:\n",
            "  logit_metrics:\n    yes_no:\n"
            "      {_target_: pipeline.measures.logits.logit_difference, token: Yes, foil: No}\n",
            f"sweep.logit_metrics.yes_no.token: {BOOLEAN.format('true')}",
        ),
        (
            "refusal_odds",
            "  logit_metrics:\n",
            "  logit_metrics:\n    no:\n"
            "      {_target_: pipeline.measures.logits.log_odds, tokens: [no]}\n",
            f"sweep.logit_metrics.False: {BOOLEAN.format('false')}",
        ),
        (
            "refusal_odds",
            "  logit_metrics:\n",
            "  logit_metrics:\n    odds:\n"
            "      {_target_: pipeline.measures.logits.log_odds, tokens: [a, no]}\n",
            f"sweep.logit_metrics.odds.tokens[1]: {BOOLEAN.format('false')}",
        ),
        ("refusal", "positive: harmful", "positive: yes", f"positive: {BOOLEAN.format('true')}"),
        ("refusal", "name: refusal", "name: refusal\nmodel: {system: yes}", "model.system: YAM"),
        ("refusal", "name: refusal", "name: refusal\nmodel: {revision: 1e3}", "number 1000.0, but"),
        ("refusal", "name: refusal", "name: refusal\ndataset: {path: 007}", "dataset.path: YAML"),
        ("refusal", "question: ", "question: yes # ", f"question: {BOOLEAN.format('true')}"),
        ("refusal", "  cluster: sample\n", "  cluster: on\n", "score.cluster: YAML reads this as"),
        ("refusal", "strengths: [", "strengths: ['0.5', ", "strengths[0]: '0.5' is text, but it"),
        ("refusal", "strengths: [", "strengths: [yes, ", f"strengths[0]: {NUMBER.format('true')}"),
    ],
)  # fmt: skip
def test_what_yaml_takes_for_something_else_is_refused(compose, study, old, new, message):
    with pytest.raises(ValueError) as caught:
        compose(study, old, new)
    assert message in str(caught.value)


def test_a_key_that_stands_twice_is_one_line(compose):
    with pytest.raises(ValueError, match="found duplicate key seed"):
        compose("refusal", "\n  seed: 0\n", "\n  seed: 0\n  seed: 1\n")


def test_quoted_text_stays_as_it_is(compose):
    quoted = (
        "  logit_metrics:\n    'yes':\n      {_target_: pipeline.measures.logits."
        "logit_difference, token: 'Yes', foil: \"No\"}\n"
    )
    study = compose("refusal_odds", "  logit_metrics:\n", quoted)
    assert study.sweep.logit_metrics["yes"]["token"] == "Yes"
    assert study.sweep.logit_metrics["yes"]["foil"] == "No"


def test_a_model_file_is_held_to_the_same(tmp_path):
    (tmp_path / "m.yaml").write_text("path: 2024\n")
    with pytest.raises(
        ValueError, match=r"m\.yaml: model\.path: YAML reads this as the number 2024"
    ):
        load_model_section(tmp_path / "m.yaml")


def test_a_label_that_yaml_took_for_a_boolean_is_told_so():
    prompts = pd.DataFrame({"label": ["yes", "no"], "hops": [1, 2], "split": "test"})
    for wanted in ({"label": True}, {"label": [True, "no"]}):
        with pytest.raises(
            ValueError, match=r"label True \(no text: quote it in the YAML\); valid"
        ):
            select_prompts(prompts, wanted)
    with pytest.raises(ValueError, match="no prompt has hops 3; valid: 1, 2"):
        select_prompts(prompts, {"hops": 3})
    assert len(select_prompts(prompts, {"hops": 1})) == 1
