"""What options may be is declared in annotations, and checked before anything runs."""

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, get_args

import pandas as pd
import pytest
import yaml
from project import ROOT, composed_lists

from pipeline.config.contracts import check_node, imported, returns
from pipeline.config.declared import Check, OneOf, OneOrMore, Range, ValueOf, declared, plain
from pipeline.config.preflight import check
from pipeline.config.study import compose_study

FREE = {
    *("seed", "min_steering", "betas", "strength", "strengths", "multiples"),
    # Layers of arms are checked against the model or the sweep, steps against the fits.
    *("layer", "layers", "target_layer", "step"),
}
"""Options whose numbers are of any size, or are checked elsewhere."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return composed_lists(tmp_path_factory.mktemp("composed"))


@pytest.fixture(autouse=True)
def in_the_project(folder, monkeypatch):
    monkeypatch.chdir(folder)


def error_of(study, *overrides):
    with pytest.raises(ValueError) as caught:
        check(compose_study(study, overrides, root=ROOT))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reading(
    model,
    *,
    top: OneOrMore = 1,
    share: Annotated[float, Range(above=0, below=1)] = 0.5,
    kinds: list[Annotated[str, OneOf("a", "b")]] | None = None,
    goals: dict[Annotated[str, OneOf("x")], Annotated[str, OneOf("up", "down")]] = {},  # noqa: B006
) -> pd.DataFrame:
    """Declares what its options may be."""
    return pd.DataFrame()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "r.top: 0 is out of range; valid: 1 or more"),
        ({"share": 1.0}, "r.share: 1 is out of range; valid: above 0 to below 1"),
        ({"share": 0.0}, "r.share: 0 is out of range; valid: above 0 to below 1"),
        ({"kinds": ["a", "c"]}, "r.kinds: 'c' is unknown; valid: a, b"),
        ({"goals": {"y": "up"}}, "r.goals: 'y' is unknown; valid: x"),
        ({"goals": {"x": "on"}}, "r.goals.x: 'on' is unknown; valid: up, down"),
        ({"goals": ["x"]}, "r.goals: it must be a mapping, such as {a: b}"),
        ({"top": "many"}, "r.top: "),
    ],
)
def test_a_node_is_refused_with_the_option_the_value_and_what_is_valid(options, message):
    node = {"_target_": "test_declared.reading", **options}
    with pytest.raises(ValueError) as caught:
        check_node(node, "r", "reading", ["test_declared"])
    assert str(caught.value).startswith(message)


def test_what_is_declared_passes_with_its_defaults_filled_in():
    node = {"_target_": "test_declared.reading", "kinds": ["b"], "goals": {"x": "down"}}
    checked = check_node(node, "r", "reading", ["test_declared"])
    assert checked == {**node, "top": 1, "share": 0.5}
    found = list(declared(reading, checked, OneOf))
    assert [(key, value) for key, _, value in found] == [
        *(("kinds", "b"), ("goals", "x"), ("goals.x", "down"))
    ]


def either(
    model, *, top: OneOrMore | str = "all", most: Annotated[float, Range(most=1)] = 0.5
) -> pd.DataFrame:
    """Declares a number or a text, and a range without a lower end."""
    return pd.DataFrame()


def test_notes_of_a_union_are_of_the_values_own_type():
    node = {"_target_": "test_declared.either"}
    assert check_node(node, "r", "reading", ["test_declared"])["top"] == "all"
    for options, message in (
        ({"top": 0}, "r.top: 0 is out of range; valid: 1 or more"),
        ({"most": 1.5}, "r.most: 1.5 is out of range; valid: up to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            check_node({**node, **options}, "r", "reading", ["test_declared"])
    ends = [Range(below=5), Range(above=0), Range(0, most=1), Range(least=2)]
    assert list(map(str, ends)) == ["below 5", "above 0", "0 to 1", "2 or more"]


def test_annotations_may_be_text():
    """As `from __future__ import annotations` makes them."""
    node = {"_target_": "postponed.reading", "top": 2}
    checked = check_node(node, "r", "reading", ["postponed"])
    assert checked == {**node, "weights": [1.0, 1.0]}
    with pytest.raises(ValueError, match=r"r\.top: 0 is out of range; valid: 1 or more"):
        check_node({**node, "top": 0}, "r", "reading", ["postponed"])


def test_an_annotation_without_its_notes_is_what_omegaconf_takes():
    note = Annotated[str, ValueOf("topic")]
    assert plain(note) is str
    assert plain(list[note] | None) == list[str] | None
    assert plain(dict[note, OneOrMore]) == dict[str, int]
    assert plain(Any) is Any


@pytest.mark.parametrize(
    ("study", "override", "message"),
    [
        ("refusal", "figures.damage.goals={ad: raise}", "figures.damage.goals: 'ad' is unknown; v"),
        (
            "lists",
            "figures.counts_by_condition.layers=[1,9]",
            "figures.counts_by_condition.layers: no condition of ",
        ),
        (
            "probes",
            "figures.number.by=topic",
            "figures.number.by: topic has 24 values; valid: up to 18",
        ),
        (
            "world_map",
            "figures.map.colour=topic",
            "figures.map.colour: topic has 22 values; valid: up to 18",
        ),
        (
            "circuits",
            "figures.recovered.correct=difference",
            "figures.recovered.correct: metric difference is no share; valid: ",
        ),
        ("attention", "figures.layer.layer=8", "figures.layer.layer: layer 8; valid: 0 to 7"),
        (
            "concept_vectors",
            "figures.languages.strength=3",
            "figures.languages.strength: no condition of",
        ),
        (
            "refusal",
            "figures.damage.goals.add=rise",
            "figures.damage.goals.add: 'rise' is unknown; valid: raise, lower",
        ),
        (
            "refusal",
            "figures.damage.goals=[add]",
            "figures.damage.goals: it must be a mapping, such",
        ),
        ("refusal", "text=null", "figures.damage needs unrelated text, but text is null; valid: t"),
        ("lenses", "text=null", "fits.jacobian needs unrelated text, but text is null; valid: tex"),
        ("senses", "figures.pca.method=umap", "figures.pca.method: 'umap' is unknown; valid: pca"),
        (
            "senses",
            "readings.planes.samples.topic=[bnk]",
            "readings.planes.samples: no prompt has topic 'bnk'; valid: apple, bank",
        ),
        (
            "next_token",
            "figures.next_token.topics=[foo]",
            "figures.next_token.topics: no prompt has topic 'foo'; valid: ",
        ),
        ("next_token", "readings.next_token.top=0", "readings.next_token.top: 0 is out of range; "),
        ("refusal", "fits.direction.max_kl=-1", "fits.direction.max_kl: -1 is out of range; valid"),
        (
            "probes",
            "collect.splits=[train]",
            "readings.number.split: 'test' is not collected; collect.splits has: train",
        ),
        (
            "probes",
            "figures.number.split=train",
            "figures.number.split: 'train' is unknown; valid: test",
        ),
        (
            "feature_steering",
            "+collect.prompts=harmful",
            "fits.feature.negative: no prompt has label 'harmless'; valid: harmful",
        ),
        (
            "vector_fits",
            "+collect.prompts=believed",
            "fits.means.negative: no prompt has label 'true'; valid: believed",
        ),
        (
            "parse_trees",
            "collect.splits=[train,test]",
            "fits.distances reads activations of val; collect.splits has: train, test",
        ),
        (
            "patchscopes",
            "readings.texts.target_layer=8",
            "readings.texts.target_layer: data/embedded_model has no layer 8; valid: 0 to 7",
        ),
        ("lenses", "fits.tuned.layers=[8]", "fits.tuned: layers: data/embedded_model has no layer"),
        (
            "circuits",
            "readings.attributions.select=nothing",
            "readings.attributions.select: no prompt has label 'nothing'; valid: ",
        ),
        (
            "probes",
            "figures.number.by=atractor",
            "figures.number.by: no column 'atractor' in the dataset; it has: instruction, label",
        ),
        ("editing", "fits.rome.target=tarqet", "fits.rome.target: no column 'tarqet' in the datas"),
        (
            "decoding",
            "figures.n_items.x=heat",
            "figures.n_items.x: no axis 'heat'; valid: arm, temperature, top_k, top_p, or a column",
        ),
        (
            "circuits",
            "sweep.arms.ranked.sets=best",
            "sweep.arms.ranked.sets: 'best' is unknown; valid: c",
        ),
        (
            "endings",
            "readings.expressed.autoencoders=sae",
            "readings.expressed.autoencoders: 'sae' is unknown; valid: ",
        ),
        ("attention", "figures.layer.sample=9999", "figures.layer.sample: no prompt has sample"),
        ("circuits", "figures.graph.edges=none", "figures.graph.edges: 'none' is unknown; valid: "),
    ],
)
def test_what_used_to_be_refused_by_the_stage_is_refused_before_anything_runs(
    study, override, message
):
    assert error_of(study, override).startswith(message)


def test_a_figure_of_losses_needs_an_arm_that_applies_to_texts():
    arms = ("add", "subtract", "project_out")
    options = [f"sweep.arms.{arm}.positions=[last]" for arm in arms]
    assert error_of("refusal", *options).startswith(
        "figures.damage: no condition of add, subtract, project_out applies to unrelated text; "
    )
    check(compose_study("refusal", options[:2], root=ROOT))


def test_metrics_of_one_figure_have_one_scale():
    added = "+metric@score.metrics.items=n_items"
    drawn = "figures.effect_by_layer.metrics=[refusal,items]"
    assert error_of("refusal", added, drawn) == (
        "figures.effect_by_layer.metrics: refusal, items have no common scale; valid: one, or "
        "several of those in per cent: refusal, compliance, at_length_limit"
    )
    check(compose_study("refusal", [added, "figures.effect_by_layer.metrics=[items]"], root=ROOT))


@pytest.mark.parametrize("figure", ["effect_by_layer", "strength_by_layer"])
def test_a_figure_at_the_chosen_setting_names_the_arm_that_has_no_goal(figure):
    options = ["sweep.arms.add.goal=null"]
    if figure == "strength_by_layer":
        options += ["~figures.effect_by_layer"]
    name = "arms" if figure == "effect_by_layer" else "arm"
    assert error_of("refusal", *options) == (
        f"figures.{figure}.{name}: no setting of arm 'add' is chosen, as it has no goal; set "
        "sweep.arms.add.metric and .goal; valid: subtract, project_out"
    )


def test_without_texts_their_loss_is_no_metric():
    options = ["text=null", "~figures.damage", "figures.strength_by_layer.metric=cross_entropy"]
    message = "figures.strength_by_layer.metric: 'cross_entropy' is unknown; valid: refusal, compl"
    assert message in error_of("refusal", *options)


def notes_of(annotation):
    yield from getattr(annotation, "__metadata__", ())
    for part in get_args(annotation):
        yield from notes_of(part)


@pytest.mark.parametrize("kind", ["reading", "figure", "fit"])
def test_every_number_is_declared_or_checked_with_the_fits_stand_in(kind):
    """A number out of range is not found out by the stage that it stops."""
    left = []
    for path in sorted((ROOT / "conf" / kind).glob("*.yaml")):
        node = yaml.safe_load(Path(path).read_text())
        stand_in = getattr(returns(node), "stand_in", None)
        checked = set(inspect.signature(stand_in).parameters) if stand_in else set()
        for name, option in inspect.signature(imported(node["_target_"])).parameters.items():
            numbers = {int, float} & {plain(option.annotation), *get_args(plain(option.annotation))}
            is_option = option.kind is option.KEYWORD_ONLY and name not in FREE | checked
            noted = any(isinstance(n, Check | ValueOf) for n in notes_of(option.annotation))
            if is_option and numbers and not noted:
                left.append(f"{path.stem}.{name}")
    assert left == []


@pytest.mark.parametrize(
    ("study", "data", "column", "split", "message"),
    [
        (
            "best_of_n",
            "sums",
            "demand",
            "test",
            "readings.accuracy: sample \\d+ has no number in its",
        ),
        (
            "templates",
            "quoted_questions",
            "topic",
            "test",
            "readings.ratings: sample \\d+ has no topic",
        ),
        (
            "next_token",
            "quoted_questions",
            "topic",
            "test",
            "figures.next_token: sample \\d+ has no to",
        ),
    ],
)
def test_what_every_prompt_needs_is_looked_for_before_anything_runs(
    study, data, column, split, message, tmp_path
):
    table = pd.read_json(ROOT / "data" / f"{data}.jsonl", lines=True, dtype=False)
    table.loc[table["split"] == split, column] = ""
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    options = [f"dataset={data}", f"dataset.path={tmp_path / 't.jsonl'}", "score.cluster=sample"]
    error = error_of(study, *options)
    assert re.match(message, error)


def test_prompts_that_no_arm_completes_need_no_demand(tmp_path):
    table = pd.read_json(ROOT / "data" / "sums.jsonl", lines=True, dtype=False)
    table["split"] = table["split"].where(table.index > 0, "val")
    table.loc[0, "demand"] = ""
    table.to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    check(compose_study("best_of_n", [f"dataset.path={tmp_path / 't.jsonl'}"], root=ROOT))
