"""What is wrong with a study is said before it runs, in one line, with what is valid."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from families import write_model
from project import ROOT
from safetensors.numpy import load_file

from pipeline.config.preflight import check
from pipeline.config.study import compose_study
from pipeline.methods.sae import Provenance, SparseAutoencoder
from pipeline.methods.sae_files import save_saelens


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def error_of(*overrides, study="refusal"):
    with pytest.raises(ValueError) as caught:
        check(compose_study(study, overrides, root=ROOT))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_studies_pass():
    for study in ("refusal", "refusal_odds", "lists", "endings"):
        dataset, layers = check(compose_study(study, root=ROOT))
        assert layers == list(range(8)) and {"train", "val", "test"} == set(dataset["split"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.arms.add.components=[resid_ost]", "'resid_ost'; valid: resid_pre"),
        ("collect.components=[resid_ost]", "collect.components: unknown component 'resid_ost'"),
        ("dataset.path=data/list_topics.jsonl", "no column 'instruction'"),
        ("sweep.arms.add.prompts=nice", "no prompt has label 'nice'; valid: harmful, harmless"),
        ("vectors.positive=nice", "has label 'nice'"),
        ("sweep.arms.add.positions=[first]", "position rule 'first' is unknown; valid: all"),
        ("sweep.decoding.max_new_tokens=5000", "max_new_tokens: 5000 after the longest prompt's"),
        ("collect.positions=-1", "position rule -1 is unknown; valid: last, template"),
        ("collect.positions=subject", "positions 'subject' of sample 0: subject '' is not in the"),
        ("collect.positions=generated", "'generated' is unknown; valid: last, template, all"),
        ("collect.components=[pattern]", "collect.components: 'pattern' is no activation of a"),
        ("text=data/none.jsonl", "text: dataset file 'data/none.jsonl' does not exist"),
        ("sweep.layers=[1,1]", "sweep.layers: [1, 1] has a layer twice"),
        ("vectors.component=z", "vectors.component: 'z' is not collected; valid: resid_pre"),
        (
            "sweep.arms.add.components=[mlp_act]",
            "sweep.arms.add.components: a direction of resid_pre does not fit mlp_act; valid: resi",
        ),
        (
            "vectors.selection.refusal_tokens=[I cannot]",
            "vectors.selection.refusal_tokens: 'I cannot' is 2 tokens to the model, not one",
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
            "sweep.arms.add.positions: 'generated' names no token of a prompt, after which refusal",
        ),
        (
            "sweep.logit_metrics.kl={_target_: pipeline.none.nothing}",
            "sweep.logit_metrics.kl._target_ 'pipeline.none.nothing' cannot be imported",
        ),
        ("sweep.logit_metrics.kl.layer=8", "sweep.logit_metrics.kl: layer 8; valid: 0 to 7"),
        (
            "sweep.logit_metrics.foil={_target_: pipeline.measures.logits.answer_over_foil}",
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


def of_no_call(after):
    """A logit metric that takes its argument for something else."""
    return after.logits[:, 0]


def of_all_tokens(after):
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sites=[blocks.9.z]", "autoencoders.sites: blocks.9.z: data/embedded_model has layers 0"),
        ("sites=[blocks.1.z,blocks.1.z]", "has a site twice"),
        ("sites=[blocks.1.zz]", "autoencoders.sites: unknown component 'zz'; valid: resid_pre"),
        ("sites=[blocks.1.pattern]", "autoencoders.sites: 'pattern' is no activation of a layer"),
        ("sites=[]", "autoencoders.sites: there are none"),
        ("label=brief", "autoencoders.label: no prompt has label 'brief'; valid: long, neutral"),
        ("kind=vanilla", "autoencoders: autoencoders of kind 'vanilla' are not trained; valid: l1"),
        ("revive_every=0", "autoencoders: revive_every 0 is less than 1"),
        ("k=600", "autoencoders: k 600 of topk; valid: 1 to 512"),
        ("blank=ab cd", "'ab cd' is"),
        ("sizes_at=null", "autoencoders.sizes_at: None for the sizes [32, 128, 512, 2048]; valid"),
        ("sizes=[8]", "autoencoders: k 16 of topk; valid: 1 to 8"),
        ("top=0", "autoencoders.top: 0 is less than 1"),
        ("recorded=2", "autoencoders.recorded: 2 is less than 5, sweep.decoding.repeats"),
    ],
)
def test_autoencoders_that_cannot_be_are_named(override, message):
    assert message in error_of(f"autoencoders.{override}", study="endings")


def write_autoencoder(folder, width=192, site="blocks.3.resid_post", model="embedded_model"):
    """In both forms: a folder `sae` of SAELens, and `params.npz` as Gemma Scope has it."""
    sae = SparseAutoencoder(
        kind="jumprelu",
        encoder=torch.zeros(width, 4),
        encoder_bias=torch.zeros(4),
        decoder=torch.zeros(4, width),
        decoder_bias=torch.zeros(width),
        threshold=torch.zeros(4),
        provenance=Provenance("", site, ""),
    )
    save_saelens(folder / "sae", sae, model=model)
    arrays = load_file(folder / "sae" / "sae_weights.safetensors")
    np.savez(folder / "params.npz", **arrays)


@pytest.mark.parametrize(
    ("place", "about", "given", "message"),
    [
        ("none", {}, [], "files.blocks.3.resid_post: PATH is neither a file nor a folder"),
        ("params.npz", {}, [], "PATH does not name its model: give autoencoders.trained_at"),
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
            ["autoencoders.trained_at=gemma-2-2b"],
            "autoencoder was trained at model 'gemma-2-2b', this is 'embedded_model'",
        ),
        ("", {}, [], "PATH is no autoencoder of SAELens: there is no cfg.json there"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_both_sides(tmp_path, place, about, given, message):
    write_autoencoder(tmp_path, **about)
    path = tmp_path / place
    files = f"autoencoders.files={{blocks.3.resid_post: {path}}}"
    own = ["autoencoders.sites=[]", "autoencoders.sizes=[]", "autoencoders.sizes_at=null"]
    found = error_of(files, *own, *given, study="endings")
    assert found.startswith("autoencoders.files.blocks.3.resid_post: ")
    assert message.replace("PATH", str(path)) in found


@pytest.mark.parametrize("place", ["sae", "params.npz"])
def test_files_that_fit_pass(tmp_path, place):
    write_autoencoder(tmp_path)
    files = f"autoencoders.files={{blocks.3.resid_post: {tmp_path / place}}}"
    name = "autoencoders.trained_at=embedded_model"
    sites = "autoencoders.sites=[blocks.5.resid_post]"
    check(compose_study("endings", [files, name, sites], root=ROOT))


def test_without_a_selection_the_position_must_be_collected():
    found = error_of("vectors.selection=null", "vectors.position=-99")
    assert "vectors.position: -99 is not collected; valid: [-4, -3, -2, -1]" in found


def test_an_empty_dataset_is_named(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert "empty.jsonl' is empty" in error_of(f"dataset.path={tmp_path}/empty.jsonl")


def test_what_a_parallel_block_does_not_have_is_named(tmp_path):
    write_model("neox", tmp_path, "{% for m in messages %}{{ m['content'] }}<end>{% endfor %}")
    found = error_of(f"model.path={tmp_path}", "sweep.arms.add.components=[resid_mid]")
    assert found.startswith("sweep.arms.add.components: attention and MLP of")
    assert found.endswith("valid: resid_pre, z, attn_out, mlp_act, mlp_down, mlp_out, resid_post")
