"""The endings study, small, from the command line: its tables against the model itself."""

from pathlib import Path

import naive
import numpy as np
import pandas as pd
import pytest
from project import copy_project, run

from pipeline.config.study import load_study
from pipeline.data.recording import drawn
from pipeline.engine.conditions import Condition, Edit
from pipeline.lists import list_ends, recorded_lists
from pipeline.methods.sae import load_sae
from pipeline.methods.sae_files import save_saelens
from pipeline.methods.sae_interventions import Reconstruct, ablate
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore
from stages import train_autoencoders

pytestmark = pytest.mark.slow
SITES = ["blocks.4.z", "blocks.5.resid_post"]
SMALL = [
    "study=endings",
    "sweep.layers=[4]",
    "sweep.arms.lengthen.strengths=[0.5]",
    "sweep.decoding={max_new_tokens: 24, temperature: 0.0, top_p: 1.0, repeats: 1}",
    "vectors.controls.isotropic=0",
    f"autoencoders.sites=[{','.join(SITES)}]",
    "autoencoders.recorded=2",
    "autoencoders.passes=20",
    "autoencoders.n_features=64",
    "autoencoders.k=8",
    "autoencoders.checked=5",
    "autoencoders.sizes=[16,32]",
    "autoencoders.top=2",
    "autoencoders.random=2",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("endings"))
    done = run(folder, "run", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "Asked for a short list the model gives" in done.stdout
    return folder


@pytest.fixture(scope="module")
def output(project) -> Path:
    (found,) = (project / "outputs").iterdir()
    return found


def test_all_is_there_and_whole(output):
    quality = pd.read_csv(output / "autoencoders" / "quality.csv")
    assert quality["site"].tolist() == [*SITES, SITES[1], SITES[1]]
    assert quality["n_features"].tolist() == [64, 64, 16, 32]
    assert quality["l0"].between(1, 8).all()
    assert quality["explained_variance"].between(0.2, 1).all()
    report = output / "report"
    for name in ("anatomy", "attribution_check", "ablations_n_items_mean", *map(_heat, SITES)):
        assert (report / f"{name}.png").stat().st_size > 10_000
    chosen = pd.read_csv(output / "attributions" / "chosen.csv")
    for row in chosen.to_dict("records"):
        page = (output / "features" / f"{row['site']}-{row['feature']}.html").read_text()
        assert f"{row['feature']}" in page and row["site"] in page
    coverage = pd.read_csv(output / "features" / "coverage.csv")
    assert coverage.groupby("n_features").size().to_dict() == {16: 23, 32: 23}
    assert "autoencoders make lists longer" in (report / "finding.md").read_text()


def _heat(site: str) -> str:
    return f"expression_{site}"


def test_special_tokens_and_held_out_topics_are_not_trained_on(project, output, monkeypatch):
    class Asked(Exception):  # noqa: N818
        """Carries the rows that training was asked for."""

    def ask(store, wanted, kept, **others):
        raise Asked(kept)

    monkeypatch.chdir(project)
    monkeypatch.setattr(train_autoencoders, "train", ask)
    study = load_study(output / "config.yaml")
    with pytest.raises(Asked) as told:
        train_autoencoders.run(study, output, None, "")
    (kept,) = told.value.args
    rows = ActivationStore(output / "recorded").rows
    special = rows["token"].isin(load_model(study.model).tokenizer.all_special_ids).to_numpy()
    prompts = drawn(pd.read_parquet(output / "dataset.parquet"), study.autoencoders.recorded)
    held_out = rows["sample"].map(prompts.set_index("sample")["split"]).eq("test").to_numpy()
    assert special.any() and held_out.any()
    assert np.array_equal(kept, ~special & ~held_out)


def test_completions_under_ablations_are_those_of_the_model_one_by_one(
    project, output, monkeypatch
):
    """Greedy: every ablated list of five topics against one row without cache or packing."""
    monkeypatch.chdir(project)
    study = load_study(output / "config.yaml")
    model = load_model(study.model)
    lists = recorded_lists(study, output)
    found = list_ends(model.tokenizer, lists)
    lists = lists.loc[found.index]
    ends = dict(zip(lists["sample"], found, strict=True))
    table = pd.read_parquet(output / "ablations.parquet")
    base = table[table["arm"] == ""].set_index("sample")["completion"]
    assert base.to_dict() == dict(zip(lists["sample"], lists["completion"], strict=True))
    chosen = pd.read_csv(output / "attributions" / "chosen.csv")
    rows, changed = [], 0
    for site in SITES:
        sae = load_sae(output / "autoencoders" / f"{site}.safetensors")
        own = chosen[chosen["site"] == site]
        features = sorted(set(own["feature"]))
        wanted = {
            ("reconstruct", "none", "all"): lambda end, s=sae: [(Reconstruct(s), "after_first")],
            ("ablate", "attributed", "firing"): lambda end, s=sae, f=features: [
                (ablate(s, f), "after_first")
            ],
            ("ablate", "attributed", "recorded"): lambda end, s=sae, o=own: [
                # Features are read once: those of one position are one edit.
                (ablate(s, list(here["feature"])), (end + place,))
                for place, here in o.groupby("from_end")
            ],
        }
        for key, edits in wanted.items():
            here = table[
                (table["arm"] == site)
                & (table[["intervention", "source", "positions"]] == list(key)).all(axis=1)
            ]
            assert len(here) == len(lists)
            changed += (here.set_index("sample")["completion"] != base).sum()
            for row in here.head(5).to_dict("records"):
                sample = row["sample"]
                prompt = lists.set_index("sample").at[sample, "tokens"].tolist()
                condition = Condition(
                    edits=tuple(
                        Edit(Site.parse(site), edit, rule) for edit, rule in edits(ends[sample])
                    )
                )
                expected, logits = naive.generate(model, prompt, condition, 24)
                rows.append((key, row["tokens"].tolist(), expected, logits))
    naive.assert_same(rows)
    assert changed > 0


def test_the_table_is_the_means_of_the_lists(output):
    changes = pd.read_csv(output / "report" / "ablations.csv")
    table = pd.read_parquet(output / "ablations.parquet")
    items = table["completion"].map(lambda text: sum(bool(x.strip()) for x in text.split("\n")))
    means = items.groupby(table["condition"]).mean()
    base = means[table.loc[table["arm"] == "", "condition"].iloc[0]]
    rows = changes[changes["column"] == "n_items_mean"]
    assert set(rows["site"]) == set(SITES)
    np.testing.assert_allclose(rows["mean"], means[rows["condition"]] - base, atol=1e-9)
    references = pd.read_csv(output / "report" / "references.csv")
    assert set(references["name"]) == {
        "template: long",
        "template: neutral",
        "vector: lengthen",
        "restricted sampling",
    }


def test_restricted_sampling_has_no_filler_blank(output):
    table = pd.read_parquet(output / "ablations.parquet")
    restricted = table[table["arm"] == "restricted sampling"]
    base = table[table["arm"] == ""]
    # Each list's first draw that came to an end before the length limit, and no other.
    recorded = pd.read_parquet(output / "completions.parquet")
    prompts = len(pd.read_parquet(output / "dataset.parquet"))
    first = recorded[(recorded["label"] == "short") & (recorded["sample"] < prompts)]
    ended = first.loc[first["stopped"] == "end", "sample"]
    assert 15 < len(ended) <= prompts / 3
    assert sorted(restricted["sample"]) == sorted(base["sample"]) == sorted(ended)
    assert not restricted["completion"].str.contains(" \n| $", regex=True).any()
    assert base["completion"].str.contains(" \n| $", regex=True).any()


def test_the_metric_of_a_list_is_that_of_its_last_item(project, output, monkeypatch):
    monkeypatch.chdir(project)
    study = load_study(output / "config.yaml")
    model = load_model(study.model)
    lists = recorded_lists(study, output)
    ends = list_ends(model.tokenizer, lists)
    number, end = ends.index[0], ends.iloc[0]
    logits = naive.logits(model, lists["whole"][number][: end + 1], Condition(), end + 1)[-1]
    blank, line_break = (model.tokenizer.encode(t, add_special_tokens=False)[0] for t in " \n")
    totals = pd.read_parquet(output / "attributions" / "totals.parquet")
    metric = totals.loc[totals["prompt"] == number, "metric"].iloc[0]
    assert metric == pytest.approx(float(logits[blank] - logits[line_break]), abs=1e-4)
    checked = pd.read_parquet(output / "attributions" / "checked.parquet")
    assert checked.groupby("site").size().tolist() == [5, 5]


def test_a_second_run_keeps_all(project):
    done = run(project, "run", *SMALL)
    assert done.returncode == 0, done.stderr
    for name in ("record_completions", "train_autoencoders", "ablate_features", "report_features"):
        assert f"{name}: finished before, kept" in done.stdout


def test_autoencoders_in_files_do_what_trained_ones_did(project, output):
    """The same ones, in SAELens' form: the same lists under every ablation, and quality."""
    before = pd.read_parquet(output / "ablations.parquet")
    quality = pd.read_csv(output / "autoencoders" / "quality.csv").head(2)
    for site in SITES:
        sae = load_sae(output / "autoencoders" / f"{site}.safetensors")
        save_saelens(project / "files" / site, sae, model="embedded_model")
    files = ", ".join(f"{site}: files/{site}" for site in SITES)
    given = [item for item in SMALL if "sites" not in item and "sizes" not in item]
    own = ["autoencoders.sites=[]", f"autoencoders.files={{{files}}}"]
    done = run(project, "run", *given, *own, "autoencoders.sizes=[]", "autoencoders.sizes_at=null")
    assert done.returncode == 0, done.stderr
    (again,) = set((project / "outputs").iterdir()) - {output}
    found = pd.read_csv(again / "autoencoders" / "quality.csv")
    pd.testing.assert_frame_equal(found, quality, rtol=1e-4)
    pd.testing.assert_frame_equal(pd.read_parquet(again / "ablations.parquet"), before)
