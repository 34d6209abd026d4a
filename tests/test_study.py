"""Studies: every file of conf/ holds to its group's contract, and wrong ones are said in a line."""

import inspect
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.config.study import check_target, compose_study, load_study, save_study, target

ROOT = Path(__file__).parents[1]
CONF = sorted((ROOT / "conf").glob("*/*.yaml"))
# What a target of each group is called with before its own keyword arguments.
CALLED_WITH = {
    "dataset": [],
    "method": ["positive", "negative"],
    "intervention": ["direction", "strength"],
    "metric": ["samples"],
    "logit_metric": ["after"],
    "figure": ["summary", "scores"],
}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", CONF, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_file_holds_to_its_groups_contract(path):
    group, name = path.parent.name, path.stem
    if group == "study":
        study = compose_study(name, root=ROOT)
        assert study.name == name
        assert study.question.endswith("?")
    elif group == "model":
        study = compose_study("refusal", [f"model={name}", "model.path=somewhere"], root=ROOT)
        assert study.model.path == "somewhere"
    elif group == "sae":
        assert compose_study("endings", [f"sae={name}"], root=ROOT).autoencoders.all_sites
    elif group == "tracking":
        assert compose_study("refusal", [f"tracking={name}"], root=ROOT).tracking.mode == name
    else:
        node = yaml.safe_load(path.read_text())
        function = target({"_target_": node["_target_"]}).func
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        keyword = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert positional == CALLED_WITH[group]
        assert set(node) - {"_target_"} <= keyword
        required = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
        if required <= set(node):
            check_target(node, group)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.sed=3", "sweep.sed: unknown key; did you mean seed? valid: arms, layers"),
        ("sweep.seed=abc", "sweep.seed: Value 'abc' of type 'str' could not be converted"),
        ("sweep.arms.add.stregths=[1]", "sweep.arms.add.stregths: unknown key"),
        ("sweep.arms.add.strengths=[1.0,nan]", "sweep.arms.add.strengths: nan is not a finite"),
        ("sweep.arms.add.goal=up", "sweep.arms.add.goal: 'up' is unknown; valid: raise, lower"),
        ("sweep.arms.add.metric=x", "sweep.arms.add.metric: 'x' is unknown; valid: refusal"),
        ("sweep.decoding.top_p=0", "top_p 0.0 must be above 0"),
        ("score.metrics.refusal.substrngs=[a]", "score.metrics.refusal.substrngs: unknown key"),
        ("dataset._target_=os.getcwd", "dataset._target_ 'os.getcwd' is outside of: pipeline"),
        ("packages=[nowhere]", "packages: 'nowhere' is not an installed Python package"),
        ("packages=[math]", "packages: 'math' is not an installed Python package"),
        ("packages=[os.path]", "packages: 'os.path' is not an installed Python package"),
        ("dataset._target_=pipeline.none", "dataset._target_ 'pipeline.none' cannot be imported"),
        ("model=gpt9", "Could not find 'model/gpt9' Available options in 'model': embedded"),
        ("tracking.mode=on", "tracking.mode: 'on' is unknown; valid: offline, online, disabled"),
        ("nonsense", "missing EQUAL"),
        ("sweep.arms.add.components=[]", "components is empty: the arm would change nothing"),
        ("collect.components=[]", "collect.components is empty: there would be nothing to fit"),
        ("score.cluster=topics", "score.cluster: 'topics' is unknown; valid: sample, repeat, spl"),
        ("figures.effect_by_layer.arms=[ad]", "figures.effect_by_layer.arms: 'ad' is unknown; va"),
        ("figures.strength_by_layer.metric=refusl", "figures.strength_by_layer.metric: 'refusl' i"),
        ("sweep.decoding=null", "score.metrics.refusal: there is no completion to score, as sweep"),
        (
            "sweep.logit_metrics.odds={_target_: pipeline.measures.logits.log_odds}",
            "odds.tokens: Mi",
        ),
        (
            "sweep.logit_metrics.refusal={_target_: pipeline.measures.logits.kl_divergence}",
            "sweep.logit_metrics.refusal: 'refusal' is in score.metrics too",
        ),
        (
            "score.metrics.cross_entropy={_target_: pipeline.measures.metrics.n_items}",
            "score.metrics.cross_entropy: 'cross_entropy' is measured on texts already",
        ),
        ("vectors.negative=harmful", "vectors.negative: 'harmful' is vectors.positive too"),
        ("vectors.controls.shuffled=-1", "vectors.controls.shuffled: -1 is less than 0"),
        ("model.batch_tokens=0", "model.batch_tokens: 0 is less than 1"),
        ("collect.rows_per_shard=0", "collect.rows_per_shard: 0 is less than 1"),
        ("vectors.selection.layer_share=0", "vectors.selection.layer_share: 0.0 is not above 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override, message):
    with pytest.raises(ValueError) as caught:
        compose_study("refusal", [override], root=ROOT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_without_strengths_is_refused():
    arms = ("add", "subtract", "project_out")
    with pytest.raises(ValueError, match=r"^sweep\.arms: no arm has strengths"):
        compose_study("refusal", [f"sweep.arms.{arm}.strengths=[]" for arm in arms], root=ROOT)


def test_a_typo_in_a_study_file_is_named_with_the_valid_keys(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file = tmp_path / "conf" / "study" / "lists.yaml"
    file.write_text(file.read_text().replace("  layers: all", "  layer: all"))
    with pytest.raises(ValueError, match=r"^sweep\.layer: unknown key; did you mean layers\?"):
        compose_study("lists", root=tmp_path)
    with pytest.raises(ValueError, match="study 'list' is unknown; valid: endings, lists, refusal"):
        compose_study("list", root=tmp_path)


def test_overrides_may_set_what_a_study_leaves_at_its_default():
    study = compose_study(
        "refusal", ["score.metrics.refusal.substrings=[no]", "model.batch_tokens=99"], root=ROOT
    )
    assert study.score.metrics["refusal"]["substrings"] == ["no"]
    assert study.model.batch_tokens == 99


def test_a_study_comes_back_from_its_file_with_the_same_id(tmp_path):
    study = compose_study("lists", ["sweep.seed=4"], root=ROOT)
    save_study(study, tmp_path / "config.yaml")
    again = load_study(tmp_path / "config.yaml")
    assert again == study
    assert again.id == study.id


def test_the_id_is_that_of_the_whole_config_without_tracking():
    base = compose_study("refusal", root=ROOT).id
    assert compose_study("refusal", ["tracking=disabled"], root=ROOT).id == base
    for override in ("sweep.seed=1", "model.dtype=bfloat16", "model.batch_tokens=8"):
        assert compose_study("refusal", [override], root=ROOT).id != base


def test_every_model_file_says_where_from_how_large_and_whether_it_was_tried():
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        text, given = path.read_text(), yaml.safe_load(path.read_text())
        assert {"path", "revision", "dtype", "device", "batch_tokens"} <= set(given), path.name
        if path.stem not in ("embedded", "local"):
            assert given["path"].count("/") == 1
            assert "# Untested: no such model could be tried." in text
            assert "device_map" in given


def test_params_lists_studies_that_are_there():
    listed = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]
    assert set(listed) <= {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")}
