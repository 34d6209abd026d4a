"""Studies: every file of conf/ holds to its group's contract, and wrong ones are said in a line."""

import inspect
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from pipeline.config.contracts import KINDS, check_function, check_node, imported
from pipeline.config.listing import params_of
from pipeline.config.study import compose_study, load_study, save_study

ROOT = Path(__file__).parents[1]
CONF = sorted((ROOT / "conf").glob("*/*.yaml"))


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
    elif group == "tracking":
        assert compose_study("refusal", [f"tracking={name}"], root=ROOT).tracking.mode == name
    else:
        node = yaml.safe_load(path.read_text())
        function = imported(node["_target_"])
        check_function(function, group)
        parameters = inspect.signature(function).parameters.values()
        options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert set(node) - {"_target_"} <= set(options)
        required = {name for name, default in options.items() if default is inspect._empty}
        if required <= set(node):
            check_node({n: v for n, v in node.items() if "${" not in str(v)}, "key", group)


def reads_a_stranger(model, wanted, *, layer: int = 0) -> pd.DataFrame:
    """Reads what no node is given."""


def has_an_untyped_option(model, *, layer=0) -> pd.DataFrame:
    """Has an option that YAML could set to anything."""


def returns_nothing(model, *, layer: int = 0):
    """Does not say what it returns."""


def declares_no_scale(samples, *, word: str = "") -> pd.Series:
    """A metric of which nobody knows whether it is a share."""


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("reads_a_stranger", "reading", "reads 'wanted', which a reading is not given; valid: mod"),
        ("has_an_untyped_option", "reading", "has an option without a type: layer"),
        ("returns_nothing", "reading", "returns nothing that is annotated; a reading returns a Da"),
        ("returns_nothing", "metric", "reads 'model', which a metric is not given; valid: samples"),
        ("declares_no_scale", "metric", "returns Series; a metric returns Annotated[Series, Scale"),
    ],
)
def test_a_function_that_is_no_node_is_refused(name, kind, message):
    node = {"_target_": f"test_study.{name}"}
    with pytest.raises(ValueError) as caught:
        check_node(node, "readings.x", kind, ["test_study"])
    assert message in str(caught.value)


def test_a_node_file_in_the_wrong_folder_is_refused():
    """Whatever kind a file of conf/ is of, every other kind of node refuses it."""
    for path in CONF:
        if path.parent.name not in KINDS:
            continue
        function = imported(yaml.safe_load(path.read_text())["_target_"])
        for kind in set(KINDS) - {path.parent.name}:
            with pytest.raises(ValueError, match=r"reads|returns|option"):
                check_function(function, kind)


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
        ("packages=[nowhere]", "packages: 'nowhere' is no Python package or module"),
        ("packages=[math]", "packages: 'math' is no Python package or module"),
        ("packages=[os.path]", "packages: 'os.path' is no Python package or module"),
        ("dataset._target_=pipeline.none", "dataset._target_ 'pipeline.none' cannot be imported"),
        ("model=gpt9", "Could not find 'model/gpt9' Available options in 'model': embedded"),
        ("tracking.mode=on", "tracking.mode: 'on' is unknown; valid: offline, online, disabled"),
        ("nonsense", "override 'nonsense' has no value; valid: KEY=VALUE, such as sweep.seed=1"),
        ("=", "override '=' has no key; valid: KEY=VALUE, such as sweep.seed=1"),
        ("+=1", "override '+=1' has no key; valid: KEY=VALUE"),
        ("", "override '' has no key; valid: KEY=VALUE"),
        (
            "sweep.seed=1,2",
            "override 'sweep.seed=1,2' has several values, and a run has one; ",
        ),
        (
            "model=a,b",
            "override 'model=a,b' has several values, and a run has one; ",
        ),
        ("sweep.seed=range(1,3)", "override 'sweep.seed=range(1,3)' has several values"),
        (
            "study=lists",
            "override 'study=lists' names another study than refusal; valid: actsw",
        ),
        ("+study=lists", "override '+study=lists' names another study than refusal"),
        ("~study", "override '~study' names another study than refusal; valid: actsw"),
        (
            "hydra.run.dir=/tmp/x",
            "override 'hydra.run.dir=/tmp/x' is a setting of Hydra, which h",
        ),
        ("++hydra.job.name=x", "override '++hydra.job.name=x' is a setting of Hydra"),
        ("hydra/launcher=basic", "override 'hydra/launcher=basic' is a setting of Hydra"),
        ("~hydra", "override '~hydra' is a setting of Hydra, which has no effect; outputs are in"),
        ("sweep.arms.add.components=[]", "components is empty: the arm would change nothing"),
        ("sweep.arms.add.fit=directoin", "sweep.arms.add.fit: 'directoin' is unknown; valid: dire"),
        ("sweep.arms.add.gaol=raise", "sweep.arms.add.gaol: unknown key; did you mean goal? vali"),
        ("sweep.arms.add.splits=[tset]", "sweep.arms.add.splits: 'tset' is unknown; valid: train"),
        ("collect.components=[]", "collect.components is empty, as collect.sites is: nothing to"),
        ("collect=null", "fits.direction reads store, but the study has no section `collect`"),
        ("fits.direction.position=3", "fits.direction.position: unknown key; "),
        ("score.cluster=topics", "score.cluster: 'topics' is unknown; valid: sample, repeat, spl"),
        ("figures.effect_by_layer.arms=[ad]", "figures.effect_by_layer.arms: 'ad' is unknown; va"),
        ("figures.strength_by_layer.metric=refusl", "figures.strength_by_layer.metric: 'refusl' i"),
        (
            "figures.effect_by_layer.split=val",
            "figures.effect_by_layer.split: 'val' is unknown; valid: test, text",
        ),
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
        ("model.batch_tokens=0", "model.batch_tokens: 0 is less than 1"),
        ("collect.rows_per_shard=0", "collect.rows_per_shard: 0 is less than 1"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(override, message):
    with pytest.raises(ValueError) as caught:
        compose_study("refusal", [override], root=ROOT)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and "multirun" not in str(caught.value)


def test_a_split_of_a_figure_and_a_value_for_a_list_are_checked_at_compose():
    for override, message in (
        ("figures.effect_by_layer.split=dev", "figures.effect_by_layer.split: 'dev' is unknown"),
        ("sweep.arms.add.positions=last", "sweep.arms.add.positions: it must be a list, such as"),
    ):
        with pytest.raises(ValueError, match=message):
            compose_study("refusal", [override], root=ROOT)


def test_a_typo_in_a_study_file_is_named_with_the_valid_keys(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    file = tmp_path / "conf" / "study" / "lists.yaml"
    file.write_text(file.read_text().replace("  layers: all", "  layer: all"))
    with pytest.raises(ValueError, match=r"^sweep\.layer: unknown key; did you mean layers\?"):
        compose_study("lists", root=tmp_path)
    with pytest.raises(ValueError, match="study 'list' is unknown; valid: "):
        compose_study("list", root=tmp_path)


def test_overrides_may_set_what_a_study_leaves_at_its_default():
    study = compose_study(
        "refusal", ["score.metrics.refusal.phrases=[no]", "model.batch_tokens=99"], root=ROOT
    )
    assert study.score.metrics["refusal"]["phrases"] == ["no"]
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


def test_arms_in_another_order_are_another_study():
    """Their results are the same numbers in other bytes."""
    study = compose_study("refusal", root=ROOT)
    base = study.id
    study.sweep.arms = dict(reversed(study.sweep.arms.items()))
    assert study.id != base


def test_every_model_file_says_where_from_how_large_and_whether_it_was_tried():
    for path in sorted((ROOT / "conf" / "model").glob("*.yaml")):
        text, given = path.read_text(), yaml.safe_load(path.read_text())
        assert {"path", "revision", "dtype", "device", "batch_tokens"} <= set(given), path.name
        if path.stem not in ("embedded", "local", "smollm2_135m_instruct"):
            assert given["path"].count("/") == 1
            assert "# Untested: no such model could be tried." in text
            assert "device_map" in given


def test_params_lists_studies_that_are_there():
    listed = yaml.safe_load((ROOT / "params.yaml").read_text())["studies"]
    assert set(listed) <= {path.stem for path in (ROOT / "conf" / "study").glob("*.yaml")}


def test_a_fit_waits_for_the_last_of_the_fits_that_it_uses():
    study = compose_study("endings", root=ROOT)
    assert params_of(study)["fits"]["endings-attributed"]["after"] == "fits/saes"
    # An option names the later one first: what it was made from need not be waited for.
    study.fits["further"] = study.fits["attributed"] | {"fit": "attributed", "foil": "saes"}
    assert params_of(study)["fits"]["endings-further"]["after"] == "fits/attributed"
    study.fits["saes_too"] = dict(study.fits["saes"])
    study.fits["apart"] = study.fits["attributed"] | {"fit": "saes", "foil": "saes_too"}
    with pytest.raises(ValueError, match=r"fits\.apart uses saes_too and saes, neither"):
        params_of(study)


def test_a_study_waits_for_the_study_whose_fits_it_reads():
    read = "readings.cosines.directions=[harmful,{}]"
    study = compose_study("concept_vectors", [read.format("language/french")], root=ROOT)
    assert params_of(study)["studies"]["concept_vectors"]["reads"] == "outputs/language/fits"
    both = read.format("language/french,refusal/direction")
    study = compose_study("concept_vectors", [both], root=ROOT)
    with pytest.raises(ValueError, match=r"outputs of language and refusal; DVC can wait for one"):
        params_of(study)


def test_an_override_that_cannot_be_parsed_says_how_to_quote_it():
    message = r"override fits\.x\.token=<\|end\|> cannot be parsed; quote the value within"
    with pytest.raises(ValueError, match=message):
        compose_study("refusal", ["fits.x.token=<|end|>"], root=ROOT)
