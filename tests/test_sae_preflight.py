"""What is wrong with autoencoders of a study is said before it runs, in one line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from project import ROOT, composed_lists
from safetensors.numpy import load_file

from pipeline.config.preflight import check
from pipeline.config.study import compose_study, save_study
from pipeline.data import completions
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.saelens import save_saelens


@pytest.fixture(autouse=True)
def before_lists_are_written(monkeypatch, tmp_path_factory):
    """The study that the prompts come from is composed and has not run."""
    monkeypatch.chdir(composed_lists(tmp_path_factory.mktemp("composed")))


def error_of(*overrides):
    with pytest.raises(ValueError) as caught:
        check(compose_study("endings", overrides, root=ROOT))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_study_passes_and_its_conditions_are_counted():
    planned = check(compose_study("endings", root=ROOT))
    counts = {part.name: len(part.conditions) for part in planned.parts}
    # A baseline each; 10 sites; 5 chosen features together and alone, 3 draws, by two rules.
    assert counts == {"reconstructed": 11, "ablated": 121, "random": 61, "restricted": 2}
    assert {len(part.prompts) for part in planned.parts} == {115}
    assert {"train", "val", "test"} == set(planned.prompts["split"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "saes.sites=[blocks.9.z]",
            "fits.saes.sites: blocks.9.z: data/embedded_model has no layer",
        ),
        ("saes.sites=[blocks.1.z,blocks.1.z]", "has a value twice"),
        ("saes.sites=[blocks.1.zz]", "fits.saes.sites: unknown component 'zz'; valid: resid_pre"),
        ("saes.sites=[blocks.1.pattern]", "fits.saes: sites: 'pattern' is not a component of a"),
        ("saes.sites=[]", "collect.components is empty, as collect.sites is"),
        (
            "saes.kind=vanilla",
            "fits.saes: autoencoders of kind 'vanilla' are not trained; valid: l1",
        ),
        ("saes.revive_every=0", "fits.saes: revive_every 0 is less than 1"),
        ("saes.k=600", "fits.saes: k 600 of topk; valid: 1 to 512"),
        (
            "saes.sizes_at=null",
            "fits.saes: sizes_at: None for the sizes [32, 128, 512, 2048]; valid",
        ),
        ("saes.sizes=[8]", "fits.saes: k 16 of topk; valid: 1 to 8"),
        ("saes.passes=0", "fits.saes: passes: 0 is less than 1"),
        (
            "saes.held_out=dev",
            "fits.saes: held_out: autoencoders are trained on prompts that are not",
        ),
        ("attributed.select.label=brief", "select: no prompt has label 'brief'; valid: long, neut"),
        ("attributed.token=ab cd", "fits.attributed: 'ab cd' is"),
        ("attributed.top=0", "fits.attributed: top: 0 is less than 1"),
        ("attributed.checked=1", "fits.attributed: checked: 1 is less than 2"),
        ("attributed.fit=sae", "fits.attributed.fit: 'sae' is unknown; valid: saes, attributed"),
    ],
)
def test_autoencoders_that_cannot_be_are_named(override, message):
    assert message in error_of(f"fits.{override}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "sweep.arms.random.draws=-1",
            "sweep.arms.random.draws: -1 is out of range; valid: 0 or more",
        ),
        (
            "sweep.arms.ablated.autoencoders=sae",
            "sweep.arms.ablated: no fit 'sae'; valid: saes, at",
        ),
        ("sweep.arms.restricted.tokens=[ab cd]", "sweep.arms.restricted: 'ab cd' is"),
        (
            "sweep.arms.steered.arm=shorten",
            "sweep.arms.steered: arm: 'shorten' of written_lists; va",
        ),
        (
            "sweep.arms.ablated.prompts.draw=7",
            "sweep.arms.ablated: features were not attributed in",
        ),
        ("dataset.study=lists", "dataset.study: 'lists' is neither composed nor run"),
        (
            "collect.sites=[blocks.1.z]",
            "fits.saes: blocks.0.resid_post is not collected; collect.si",
        ),
    ],
)
def test_arms_that_do_not_fit_are_named(override, message):
    assert message in error_of(override)


def test_without_a_held_out_split_nothing_can_be_measured(tmp_path):
    topics = pd.read_json(ROOT / "data" / "list_topics.jsonl", lines=True)
    topics[topics["split"] != "test"].to_json(
        tmp_path / "topics.jsonl", orient="records", lines=True
    )
    path = f"dataset.path={tmp_path}/topics.jsonl"
    lists = compose_study("written_lists", [path], root=ROOT)
    save_study(lists, completions.OUTPUTS / "config" / "written_lists.yaml")
    found = error_of()
    assert found.startswith("fits.saes: held_out: autoencoders are trained on prompts that are not")
    assert found.endswith("the dataset has splits: train, val")


def write_autoencoder(folder, width=192, site="blocks.3.resid_post", model="embedded_model"):
    """In both forms: a folder `sae` of SAELens, and `params.npz` as Gemma Scope has it."""
    sae = SparseAutoencoder(
        kind="jumprelu",
        encoder=torch.zeros(width, 4),
        encoder_bias=torch.zeros(4),
        decoder=torch.zeros(4, width),
        decoder_bias=torch.zeros(width),
        threshold=torch.zeros(4),
        provenance=Provenance("", sites=(site,)),
    )
    save_saelens(folder / "sae", sae, model=model)
    arrays = load_file(folder / "sae" / "sae_weights.safetensors")
    np.savez(folder / "params.npz", **arrays)


@pytest.mark.parametrize(
    ("place", "about", "given", "message"),
    [
        ("none", {}, [], "files.blocks.3.resid_post: PATH is neither a file nor a folder"),
        ("params.npz", {}, [], "PATH does not name its model: give `trained_at`"),
        ("sae", {"width": 8}, [], "blocks.3.resid_post: autoencoder was trained at width 8, this"),
        (
            "sae",
            {"site": "blocks.2.z"},
            [],
            "trained at site 'blocks.2.z', this is 'blocks.3.resid",
        ),
        ("sae", {"model": "gpt2"}, [], "trained at model 'gpt2', this is 'embedded_model'"),
        (
            "params.npz",
            {},
            ["fits.saes.trained_at=gemma-2-2b"],
            "autoencoder was trained at model 'gemma-2-2b', this is 'embedded_model'",
        ),
        ("", {}, [], "PATH is no autoencoder of SAELens: there is no cfg.json there"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_both_sides(tmp_path, place, about, given, message):
    write_autoencoder(tmp_path, **about)
    path = tmp_path / place
    found = error_of(*of_files(path), *given)
    assert found.startswith("fits.saes: files.blocks.3.resid_post: ")
    assert message.replace("PATH", str(path)) in found


def of_files(path: Path) -> list[str]:
    return [
        f"fits.saes.files={{blocks.3.resid_post: {path}}}",
        "fits.saes.sites=[]",
        "fits.saes.sizes=[]",
        "fits.saes.sizes_at=null",
        "collect.sites=${oc.dict.keys:fits.saes.files}",
    ]


@pytest.mark.parametrize("place", ["sae", "params.npz"])
def test_files_that_fit_pass(tmp_path, place):
    write_autoencoder(tmp_path)
    name = "fits.saes.trained_at=embedded_model"
    check(compose_study("endings", [*of_files(tmp_path / place), name], root=ROOT))
    both = ["fits.saes.sites=[blocks.5.resid_post]", "collect.components=[resid_post]"]
    check(compose_study("endings", [*of_files(tmp_path / place), name, *both], root=ROOT))


def test_there_must_be_a_site():
    given = ["fits.saes.sites=[]", "fits.saes.sizes=[]", "fits.saes.sizes_at=null"]
    assert error_of(*given, "collect.components=[z]") == "fits.saes: sites: there are none"


def test_files_of_gemma_scope_can_be_chosen_in_the_place_of_training():
    chosen = ["fit@fits.saes=gemma_scope", "fits.saes.sizes=[]", "fits.saes.sizes_at=null"]
    sites = "collect.sites=${oc.dict.keys:fits.saes.files}"
    study = compose_study(
        "endings", [*chosen, sites, "~readings.coverage", "~figures.coverage"], root=ROOT
    )
    assert study.collect.sites == list(study.fits["saes"]["files"])
    assert len(study.collect.sites) == 10 and study.fits["saes"]["sites"] == []
    with pytest.raises(ValueError, match=r"collect\.sites: blocks\.10\.resid_post: data"):
        check(study)
