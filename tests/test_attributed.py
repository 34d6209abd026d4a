"""Attributed features as a fit: of any prompts, for any two tokens, on disk and back."""

import naive
import pandas as pd
import pytest
from families import WIDTH, random_prompts, tiny
from test_sae import autoencoder

from pipeline.data.roles import CONTROL
from pipeline.engine.conditions import Condition
from pipeline.methods.sae.ablation import attributed_ablations, random_ablations, reconstructed
from pipeline.methods.sae.attributed import (
    AttributedFeatures,
    attributed_features,
    checked_attributions,
)
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.model.sites import Site

SITES = ["blocks.2.resid_post", "blocks.0.z"]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    tokens = random_prompts(6, seed=3)
    labels = ["long", "short", "short", "long", "short", "short"]
    return pd.DataFrame({"sample": range(10, 16), "tokens": tokens, "label": labels})


@pytest.fixture(scope="module")
def saes() -> SparseAutoencoders:
    model = tiny("llama")
    by_name = {}
    for text in SITES:
        site = Site.parse(text)
        by_name[text] = autoencoder("topk", site=site, width=model.width(site))
    by_name["size-000012"] = autoencoder(site=Site.parse(SITES[0]), width=WIDTH, features=12)
    return SparseAutoencoders(by_name, "by hand")


@pytest.fixture(scope="module")
def attributed(prompts, saes) -> AttributedFeatures:
    return attributed_features(
        tiny("llama"),
        prompts,
        {"saes": saes},
        fit="saes",
        token="w11",
        foil="w17",
        select="short",
        top=2,
        checked=4,
    )


def test_the_metric_is_that_of_each_selected_prompts_last_token(prompts, attributed):
    model, (first, second) = (
        tiny("llama"),
        tiny("llama").tokenizer.convert_tokens_to_ids(["w11", "w17"]),
    )
    short = prompts[prompts["label"] == "short"].set_index("sample")["tokens"]
    assert attributed.ends["sample"].tolist() == short.index.tolist()
    assert attributed.ends_of(short.index.tolist()) == [len(tokens) - 1 for tokens in short]
    metric = attributed.totals.drop_duplicates("sample").set_index("sample")["metric"]
    for sample, tokens in short.items():
        logits = naive.logits(model, tokens, Condition(), len(tokens))[-1]
        assert metric[sample] == pytest.approx(float(logits[first] - logits[second]), abs=1e-4)
    with pytest.raises(ValueError, match="were not attributed in sample 10"):
        attributed.ends_of([11, 10])


def test_there_are_as_many_chosen_and_checked_as_asked_for(attributed):
    assert attributed.checked.groupby("site").size().to_dict() == dict.fromkeys(SITES, 4)
    assert attributed.chosen.groupby("site").size().to_dict() == dict.fromkeys(SITES, 2)
    assert (attributed.chosen["attribution"] < 0).all()
    ranked = checked_attributions({"a": attributed}, fit="a")
    assert ranked.groupby("site")["rank"].nunique().tolist() == [1, 1]


def test_fits_come_back_from_disk_as_they_were(tmp_path, attributed, saes):
    attributed.save(tmp_path / "attributed")
    back = AttributedFeatures.load(tmp_path / "attributed")
    for name in ("features", "errors", "totals", "checked", "chosen", "ends"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(attributed, name))
    assert back.provenance == attributed.provenance
    saes.save(tmp_path / "saes")
    again = SparseAutoencoders.load(tmp_path / "saes")
    assert list(again.by_name) == list(saes.by_name) and again.provenance == saes.provenance
    assert list(again.at_sites) == SITES and [s.n_features for s in again.by_size] == [12]


def test_fits_of_other_sites_or_models_are_refused(attributed, saes):
    for fit in (attributed, saes):
        fit.check(tiny("llama"), Site.parse(SITES[0]))
        with pytest.raises(ValueError, match=r"at blocks\.1\.z; there are: blocks\.2\.resid_post"):
            fit.check(tiny("llama"), Site(1, "z"))


def test_arms_name_site_source_and_rule_and_random_ones_are_controls(prompts, attributed, saes):
    model, fits = tiny("llama"), {"saes": saes, "attributed": attributed}
    short = prompts[prompts["label"] == "short"]
    options = {"fit": "attributed", "autoencoders": "saes"}
    alone = list(reconstructed(model, fits, fit="saes"))
    chosen = list(attributed_ablations(model, short, fits, **options))
    random = list(random_ablations(model, short, fits, **options, draws=2))
    assert [c.axes["site"] for c in alone] == SITES
    # Two sites; both together and each alone, or two draws; two rules.
    assert len(chosen) == 2 * 3 * 2 and len(random) == 2 * 2 * 2
    assert {c.role for c in random} == {CONTROL} != {c.role for c in chosen}
    assert {c.axes["source"] for c in chosen} == {"attributed", "single"}
    ids = {c.id for c in [*alone, *chosen, *random]}
    assert len(ids) == len(alone) + len(chosen) + len(random)
    with pytest.raises(ValueError, match="not attributed in sample 10"):
        list(attributed_ablations(model, prompts, fits, **options))
