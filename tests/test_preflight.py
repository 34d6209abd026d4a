"""What is wrong with a study is said before it runs, in one line, with what is valid."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import pytest
import torch
from families import write_model
from project import ROOT, composed_lists
from torch import Tensor

from pipeline.config.preflight import check
from pipeline.config.study import compose_study
from pipeline.engine.conditions import Condition, Edit
from pipeline.measures.scale import Scale
from pipeline.methods.interventions import Add
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return composed_lists(tmp_path_factory.mktemp("composed"))


@pytest.fixture(autouse=True)
def in_the_project(folder, monkeypatch):
    monkeypatch.chdir(folder)


def error_of(*overrides, study="refusal"):
    with pytest.raises(ValueError) as caught:
        check(compose_study(study, overrides, root=ROOT))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "study").glob("*.yaml")), ids=str)
def test_the_studies_pass(path):
    """With all conditions of their arms, but for arms that compute with the model's weights."""
    study = compose_study(path.stem, root=ROOT)
    if not Path(study.model.path).exists():
        pytest.skip(f"{study.model.path} is not there: make smollm2")
    planned = check(study)
    assert len(planned.prompts)
    known = {part.name.removesuffix("-validation") for part in planned.parts}
    arms = set(study.sweep.arms) if study.sweep else set()
    # They collect states, steer with another study's fit, or edit with what is yet to be fitted.
    of_states = ("back_patching", "patchscopes", "key_values", "relations", "tracing")
    unknown = dict.fromkeys(of_states, arms) | {
        "endings": {"steered"},
        "circuits": arms - {"zero"},
        "editing": {"values"},
        "feature_steering": {"feature_clamped", "feature_ablated"},
    }
    assert known == arms - unknown.get(path.stem, set())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.arms.add.components=[resid_ost]", "'resid_ost'; valid: resid_pre"),
        ("collect.components=[resid_ost]", "collect.components: unknown component 'resid_ost'"),
        ("dataset.path=data/list_topics.jsonl", "no column 'instruction'"),
        (
            "sweep.arms.add.prompts=nice",
            "sweep.arms.add.prompts: no prompt has label 'nice'; valid: harmful, harmless",
        ),
        ("sweep.arms.add.prompts={lable: harmful}", "sweep.arms.add.prompts: no column 'lable'; "),
        (
            "fits.direction.positive=nice",
            "fits.direction: no prompt has label 'nice'; valid: harmf",
        ),
        ("sweep.arms.add.positions=[first]", "position rule 'first' is unknown; valid: all"),
        ("sweep.decoding.max_new_tokens=5000", "max_new_tokens: 5000 after the longest prompt's"),
        ("collect.positions=-1", "position rule -1 is unknown; valid: last, template"),
        ("collect.positions=subject", "positions 'subject' of sample 0: subject '' is not in the"),
        ("collect.positions=generated", "'generated' is unknown; valid: last, template, all"),
        ("collect.components=[pattern]", "collect.components: 'pattern' is not a component of a"),
        ("text=data/none.jsonl", "text: dataset file 'data/none.jsonl' does not exist"),
        ("sweep.layers=[1,1]", "sweep.arms.add.layers: [1, 1] has a value twice"),
        (
            "sweep.arms.add.strengths=[1.0,1.0]",
            "sweep.arms.add.strengths: [1.0, 1.0] has a value twice",
        ),
        ("sweep.layers=[9]", "sweep.arms.add: layers: data/embedded_model has no layer 9; valid"),
        ("sweep.layers=some", "sweep.arms.add: layers: 'some' is not `all`, `every N` or a list"),
        (
            "fits.direction.component=z",
            "fits.direction.component: 'z' is not collected; valid: resid",
        ),
        ("fits.direction.negative=harmful", "fits.direction: negative: 'harmful' is positive too"),
        ("fits.direction.controls.shuffled=-1", "fits.direction: controls.shuffled: -1 is less"),
        ("fits.direction.controls={shufled: 1}", "controls: 'shufled' is unknown; valid: shuf"),
        ("fits.direction.layer_share=0", "fits.direction: layer_share: 0.0 is not above 0"),
        (
            "sweep.arms.add.components=[mlp_act]",
            "sweep.arms.add: a direction of resid_pre does not fit mlp_act; valid: resid_pre",
        ),
        (
            "fits.direction.refusal_tokens=[I cannot]",
            "fits.direction: 'I cannot' is 2 tokens to the model, not one",
        ),
    ],
)
def test_what_the_model_or_data_do_not_have_is_named(override, message):
    assert message in error_of(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sweep.logit_metrics.refusal_odds.tokens=[I cannot]",
            "sweep.logit_metrics.refusal_odds: 'I cannot' is 2 tokens to the model, not one",
        ),
        (
            "sweep.arms.add.positions=[last,generated]",
            "sweep.arms.add: positions: 'generated' names no token of a prompt, after which the",
        ),
        (
            "sweep.logit_metrics.kl={_target_: pipeline.none.nothing}",
            "sweep.logit_metrics.kl._target_ 'pipeline.none.nothing' cannot be imported",
        ),
        ("sweep.logit_metrics.kl.layer=8", "sweep.logit_metrics.kl: layer 8; valid: 0 to 7"),
        (
            "sweep.logit_metrics.foil={_target_: pipeline.measures.answer_logits.answer_over_foil}",
            "sweep.logit_metrics.foil: the dataset has no column 'foil'; it has: instruction",
        ),
        (
            "sweep.logit_metrics.odds={_target_: test_preflight.of_all_tokens}",
            "sweep.logit_metrics.odds: scores (2, 6144) of 2 rows; valid: one score for each row",
        ),
        (
            "sweep.logit_metrics.odds={_target_: test_preflight.of_no_call}",
            "sweep.logit_metrics.odds: fails on logits of two rows: 'function' object is not",
        ),
    ],
)
def test_logit_metrics_are_tried_on_the_models_tokens(override, message):
    assert message in error_of(override, "packages=[test_preflight]", study="refusal_odds")


def of_no_call(after) -> Annotated[Tensor, Scale("a score")]:
    """A logit metric that takes its argument for something else."""
    return after.logits[:, 0]


def of_all_tokens(after) -> Annotated[Tensor, Scale("a score")]:
    """A logit metric that is not one score a row."""
    return after.logits()


def test_a_prompt_longer_than_the_context_is_refused_though_nothing_is_generated(tmp_path):
    table = pd.read_json(ROOT / "data/instructions.jsonl", lines=True)
    table.loc[0, "instruction"] = " ".join([table.loc[0, "instruction"]] * 200)
    table.to_json(tmp_path / "long.jsonl", orient="records", lines=True)
    error = error_of(f"dataset.path={tmp_path / 'long.jsonl'}", study="refusal_odds")
    assert re.fullmatch(
        r"dataset: the longest prompt has \d+ tokens; the context of \S+ has 512", error
    )


def test_the_position_of_a_fit_must_be_collected():
    error = error_of("fits.vector.position=-2", study="refusal_odds")
    assert "fits.vector.position: -2 is not collected of every prompt; valid: [-1]" in error
    error = error_of("collect.positions=all", "fits.vector.position=-25", study="refusal_odds")
    assert "fits.vector.position: -25 is not collected of every prompt; valid: [-1" in error
    error = error_of("readings.stability.position=-5", study="concept_vectors")
    assert "readings.stability.position: -5 is not collected of every prompt; valid: [-" in error
    error = error_of("fits.vector.position=-1", study="lists")
    assert "fits.vector.position: -1 is not collected of every prompt; valid: ['subject']" in error


def test_a_column_with_the_name_of_an_axis_is_refused(tmp_path):
    table = pd.read_json(ROOT / "data/instructions.jsonl", lines=True)
    table.assign(layer="ground").to_json(tmp_path / "own.jsonl", orient="records", lines=True)
    error = error_of(f"dataset.path={tmp_path / 'own.jsonl'}")
    assert error.startswith("sweep.arms.")
    assert "the dataset has a column 'layer', the name of one of the arm's axes" in error


def test_scores_of_a_topic_have_no_interval_over_prompts():
    """All its prompts have the same score: an interval over them would have no width."""
    options = ["+score.metrics.d={_target_: pipeline.measures.metrics.diversity}"]
    error = error_of(*options, "score.cluster=sample")
    assert error == (
        "score.cluster: sample: score.metrics.d scores all completions of a topic together; "
        "valid: score.cluster=topic"
    )
    check(compose_study("refusal", [*options, "score.cluster=topic"], root=ROOT))
    # One prompt of each topic is completed, but several times.
    check(compose_study("decoding", ["score.cluster=sample"], root=ROOT))
    error = error_of("score.cluster=repeat", study="decoding")
    assert error.startswith("score.cluster: repeat: score.metrics.self_bleu scores all completions")


def test_prompts_without_a_topic_are_no_cluster_of_their_own(tmp_path):
    table = pd.read_json(ROOT / "data/instructions.jsonl", lines=True)
    table.loc[3, "topic"] = None
    table.to_json(tmp_path / "some.jsonl", orient="records", lines=True)
    options = [f"dataset.path={tmp_path / 'some.jsonl'}", "score.cluster=topic"]
    assert "score.cluster: topic: sample 3 has no topic; all without one" in error_of(*options)
    check(compose_study("refusal", [options[0], "score.cluster=sample"], root=ROOT))


def test_tokens_to_select_by_must_be_given():
    assert "refusal_tokens: there is none" in error_of("fits.direction.refusal_tokens=[]")


def test_the_split_of_fits_must_be_collected():
    error = error_of("collect.splits=[test,val]")
    assert error.startswith("collect.splits: test, val; fits.") and error.endswith(
        "is fitted on train, which must be collected"
    )


def test_an_empty_dataset_is_named(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert "empty.jsonl' is empty" in error_of(f"dataset.path={tmp_path}/empty.jsonl")


def test_what_a_parallel_block_does_not_have_is_named(tmp_path):
    write_model("neox", tmp_path, "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}")
    found = error_of(f"model.path={tmp_path}", "sweep.arms.add.components=[resid_mid]")
    assert found.startswith("sweep.arms.add.components: attention and MLP of")
    assert found.endswith("valid: resid_pre, z, attn_out, mlp_act, mlp_down, mlp_out, resid_post")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "readings.cosines.directions=[french,spanish]",
            "readings.cosines.directions: no fit 'spanish'; valid: french, chinese, own",
        ),
        ("readings.stability.cluster=verb", "readings.stability.cluster: no column 'verb' in the"),
        (
            "readings.stability.contrasts.french=[French,Spanish]",
            "readings.stability.contrasts: no prompt has label 'Spanish'; valid: Chinese",
        ),
    ],
)
def test_names_in_readings_of_vectors_are_checked(override, message):
    assert message in error_of(override, study="concept_vectors")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("readings.texts.variants=[al]", "readings.texts.variants: no fit 'al'; valid: all, co"),
        ("fits.samples.replay_from=web", "fits.samples: replay_from 'web'; valid: texts, model"),
        ("fits.rank_4.rank=65", "fits.rank_4: rank = 65; valid: 1 to 64, or null"),
        ("fits.all.rows=plurals", "fits.all: no prompt has label 'plurals'; valid: English-French"),
    ],
)
def test_options_of_fine_tuning_are_checked(override, message):
    assert message in error_of(override, study="forgetting")


def test_components_of_readings_are_checked():
    study = compose_study("next_token", root=ROOT)
    study.readings["norms"] = {"_target_": "my_methods.stream_norms", "component": "resid_ost"}
    with pytest.raises(ValueError, match=r"readings\.norms\.component: unknown component 'resid_o"):
        check(study)


@pytest.mark.parametrize(
    ("study", "override", "message"),
    [
        (
            "senses",
            "readings.similarity.component=z",
            "readings.similarity: component 'z' is not collected; valid: resid_pre",
        ),
        (
            "senses",
            "readings.planes.layers=[8]",
            "readings.planes: layers: resid_pre of layer 8 is not collected; valid: 0, 1, 2, 3, 4,",
        ),
        (
            "embeddings",
            "readings.tokens.columns=[word]",
            "readings.tokens.columns: no column 'word' in the dataset; it has: instruction, label",
        ),
        (
            "logit_lens",
            "readings.last.columns=[brigde]",
            "readings.last.columns: no column 'brigde' in the dataset; it has: instruction, label",
        ),
    ],
)
def test_a_reading_of_what_there_is_not_is_refused(study, override, message):
    assert message in error_of(override, study=study)


GOAL = {"goal": "lower"}


def controls_only(
    model: LanguageModel, prompts: pd.DataFrame, *, layers: list[int]
) -> Iterator[Condition]:
    """An arm of one's own."""
    for layer in layers:
        edit = Edit(Site(layer, "resid_pre"), Add(torch.ones(model.d_model)), "last")
        yield Condition({"layer": layer}, (edit,), role="control")


@pytest.mark.parametrize(
    ("layers", "arm", "message"),
    [
        ([], {}, "sweep.arms.own: no condition to run with these options; valid: one or"),
        ([], GOAL, "sweep.arms.own: no condition to run with these options; valid: one or"),
        ([1], GOAL, "sweep.arms.own: goal: no condition is a candidate, to be chosen; valid"),
    ],
)
def test_an_arm_with_nothing_to_run_or_to_choose_is_refused(layers, arm, message):
    study = compose_study("refusal", root=ROOT)
    own = {"_target_": "test_preflight.controls_only", "layers": layers}
    study.sweep.arms = {"own": {**own, "metric": "refusal", **arm}}
    with pytest.raises(ValueError, match=message):
        check(study)


def test_an_arm_takes_a_list_of_positions_or_a_list_of_rules_as_its_signature_says():
    check(compose_study("back_patching", ["sweep.arms.last.positions=[-1]"], root=ROOT))
    check(compose_study("refusal", ["sweep.arms.add.positions=[[-1],last]"], root=ROOT))
    message = "sweep.arms.last.positions: position rule 'lst' is unknown; valid: all"
    assert message in error_of("sweep.arms.last.positions=lst", study="back_patching")
