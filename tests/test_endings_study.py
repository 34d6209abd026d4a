"""The endings study, small, from the command line: its tables against the model itself."""

from pathlib import Path

import naive
import numpy as np
import pandas as pd
import pytest
from project import copy_project, run

from pipeline.config.contracts import call
from pipeline.config.inputs import Inputs
from pipeline.config.study import load_study
from pipeline.engine.conditions import Condition, Edit
from pipeline.methods.sae import fits
from pipeline.methods.sae.attributed import AttributedFeatures
from pipeline.methods.sae.fits import SparseAutoencoders
from pipeline.methods.sae.interventions import Reconstruct, ablate
from pipeline.methods.sae.saelens import save_saelens
from pipeline.model.loading import load_model
from pipeline.model.sites import Site

pytestmark = pytest.mark.slow
SITES = ["blocks.4.z", "blocks.5.resid_post"]
DECODING = "sweep.decoding={max_new_tokens: 24, temperature: 0.0, top_p: 1.0, repeats: 1}"
LISTS = [
    "study=written_lists",
    "dataset.draws=2",
    "sweep.layers=[4]",
    "sweep.arms.lengthen.prompts.draw=[0]",
    "sweep.arms.lengthen.strengths=[0.5]",
    DECODING,
    "fits.vector.controls.isotropic=0",
]
SMALL = [
    "study=endings",
    DECODING,
    f"fits.saes.sites=[{','.join(SITES)}]",
    "fits.saes.passes=20",
    "fits.saes.n_features=64",
    "fits.saes.k=8",
    "fits.saes.sizes=[16,32]",
    "fits.attributed.select.draw=[0]",
    "fits.attributed.checked=5",
    "fits.attributed.top=2",
    "sweep.arms.random.draws=2",
    "readings.blanks.select.draw=[0]",
    "readings.references.templates.draw=[0]",
    "readings.coverage.reported.draw=[1]",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("endings"))
    done = run(folder, "run", *LISTS)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def lists(project) -> Path:
    (folder,) = (project / "outputs").glob("written_lists-*")
    return folder


@pytest.fixture(scope="module")
def small(lists) -> list[str]:
    """The overrides, with the run of the other study in the place of its name."""
    return [*SMALL, f"dataset.study={lists.name}", f"sweep.arms.steered.study={lists.name}"]


@pytest.fixture(scope="module")
def output(project, small) -> Path:
    done = run(project, "run", *small)
    assert done.returncode == 0, done.stderr
    assert "Asked for a short list the model gives" in done.stdout
    (folder,) = (project / "outputs").glob("endings-*")
    return folder


@pytest.fixture
def inputs(project, output, monkeypatch) -> Inputs:
    monkeypatch.chdir(project)
    return Inputs(load_study(output / "config.yaml"), output)


def short_lists(inputs: Inputs) -> pd.DataFrame:
    rows = inputs.prompts
    chosen = (rows["label"] == "short") & (rows["draw"] == 0) & rows["complete"]
    return rows[chosen].set_index("sample")


def reading(output: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(output / "readings" / f"{name}.parquet")


def test_all_is_there_and_whole(output):
    quality = reading(output, "quality")
    assert quality["site"].tolist() == [*SITES, SITES[1], SITES[1]]
    assert quality["n_features"].tolist() == [64, 64, 16, 32]
    assert quality["l0"].between(1, 8).all()
    assert quality["explained_variance"].between(0.2, 1).all()
    figures = output / "figures"
    names = ["anatomy", "attribution_check", "coverage", "ablations/n_items_mean"]
    names += [f"expression/{site}" for site in SITES]
    for name in names:
        assert (figures / f"{name}.png").stat().st_size > 10_000
    chosen = AttributedFeatures.load(output / "fits" / "attributed").chosen
    for row in chosen.to_dict("records"):
        page = (figures / "features" / f"{row['site']}-{row['feature']}.html").read_text()
        assert f"{row['feature']}" in page and row["site"] in page
    strongest = chosen[chosen["site"] == SITES[1]]["feature"].iloc[0]
    assert (figures / "by_layer" / f"{SITES[1]}-{strongest}.png").stat().st_size > 10_000
    coverage = reading(output, "coverage")
    assert coverage.groupby("n_features").size().to_dict() == {16: 23, 32: 23}
    report = figures / "report"
    assert "autoencoders make lists longer" in (report / "finding.md").read_text()
    assert (report / "results.md").read_text().count(f"| {SITES[0]} |") == 2


def test_prompts_are_the_other_studys_with_its_completions(inputs, lists):
    written = pd.read_parquet(lists / "dataset.parquet").set_index("sample")
    conditions = pd.read_parquet(lists / "conditions.parquet")
    arm = conditions.loc[conditions["arm"] == "written", "condition"]
    completions = pd.read_parquet(lists / "completions.parquet")
    completions = completions[completions["condition"].isin(arm)].set_index("sample")
    prompts = inputs.prompts.set_index("sample")
    assert prompts.index.tolist() == written.index.tolist()
    assert prompts["prompt"].tolist() == written["prompt"].tolist()
    for ours, theirs in (("completion", "completion"), ("stopped", "stopped")):
        assert prompts[ours].to_dict() == completions[theirs].to_dict()
    for sample, row in prompts.iterrows():
        assert row["completion_tokens"].tolist() == completions.at[sample, "tokens"].tolist()
        assert row["complete"] == (row["stopped"] == "end" and bool(row["completion"].strip()))


def test_special_tokens_and_held_out_topics_are_not_trained_on(inputs, monkeypatch):
    class Asked(Exception):  # noqa: N818
        """Carries the rows that training was asked for."""

    def ask(store, recipes, rows, **others):
        raise Asked(rows)

    monkeypatch.setattr(fits, "train", ask)
    with pytest.raises(Asked) as told:
        call(load_study(Path(inputs._folder) / "config.yaml").fits["saes"], inputs)
    (asked,) = told.value.args
    rows = inputs.store.rows
    special = rows["token"].isin(inputs.model.tokenizer.all_special_ids).to_numpy()
    splits = inputs.prompts.set_index("sample")["split"]
    held_out = rows["sample"].map(splits).eq("test").to_numpy()
    assert special.any() and held_out.any()
    assert np.array_equal(asked, ~special & ~held_out)


def test_completions_under_ablations_are_those_of_the_model_one_by_one(inputs):
    """Greedy: every ablated list of five topics against one row without cache or packing."""
    model, short = inputs.model, short_lists(inputs)
    attributed = inputs.fits["attributed"]
    ends = dict(zip(short.index, attributed.ends_of(short.index.tolist()), strict=True))
    assert set(attributed.ends["sample"]) == set(short.index)
    table = inputs.completions
    baselines = table[table["role"] == "baseline"]
    assert set(baselines["arm"]) == {"reconstructed", "ablated", "random", "steered", "restricted"}
    for _, rows in baselines.groupby("arm"):
        assert rows.set_index("sample")["completion"].to_dict() == short["completion"].to_dict()
    rows, changed = [], 0
    for site in SITES:
        sae = inputs.fits["saes"].at_sites[site]
        chosen = attributed.chosen[attributed.chosen["site"] == site]
        features = sorted(set(chosen["feature"]))
        wanted = {
            ("reconstruct", "none", "all"): lambda end, s=sae: [(Reconstruct(s), "after_first")],
            ("ablate", "attributed", "firing"): lambda end, s=sae, f=features: [
                (ablate(s, f), "after_first")
            ],
            ("ablate", "attributed", "recorded"): lambda end, s=sae, c=chosen: [
                # Features are read once: those of one position are one edit.
                (ablate(s, list(pairs["feature"])), (end + place,))
                for place, pairs in c.groupby("from_end")
            ],
        }
        for key, edits in wanted.items():
            axes = (table[["intervention", "source", "positions"]] == list(key)).all(axis=1)
            ablated = table[(table["site"] == site) & axes]
            assert len(ablated) == len(short)
            written = ablated.set_index("sample")["completion"][short.index]
            changed += (written != short["completion"]).sum()
            for row in ablated.head(5).to_dict("records"):
                sample = row["sample"]
                prompt = short.at[sample, "tokens"].tolist()
                condition = Condition(
                    edits=tuple(
                        Edit(Site.parse(site), edit, rule) for edit, rule in edits(ends[sample])
                    )
                )
                expected, logits = naive.generate(model, prompt, condition, 24)
                rows.append((key, row["tokens"].tolist(), expected, logits))
    naive.assert_same(rows)
    assert changed > 0


def test_the_steered_arm_is_the_other_studys_setting(inputs, lists):
    """The same vector, at the layer, strength and position that validation chose there."""
    conditions = pd.read_parquet(lists / "conditions.parquet")
    steered = inputs.conditions[
        (inputs.conditions["arm"] == "steered") & (inputs.conditions["role"] != "baseline")
    ]
    assert steered[["layer", "strength", "positions"]].values.tolist() == [[4, 0.5, "subject"]]
    theirs = pd.read_parquet(lists / "completions.parquet").merge(conditions, on="condition")
    theirs = theirs[(theirs["arm"] == "lengthen") & (theirs["strength"] == 0.5)]
    ours = inputs.completions
    ours = ours[ours["condition"].isin(steered["condition"])].set_index("sample")["completion"]
    common = theirs[theirs["sample"].isin(ours.index)].set_index("sample")["completion"]
    assert len(common) > 2 and common.to_dict() == ours[common.index].to_dict()


def test_random_features_are_controls_and_others(inputs):
    conditions = inputs.conditions
    random = conditions[(conditions["arm"] == "random") & (conditions["role"] != "baseline")]
    assert set(random["role"]) == {"control"} and set(random["source"]) == {"random"}
    assert random.groupby("site").size().to_dict() == dict.fromkeys(SITES, 2 * 2)


def test_the_table_is_the_means_of_the_lists(inputs, output):
    changes = reading(output, "changes")
    table = inputs.completions
    items = table["completion"].map(lambda text: sum(bool(x.strip()) for x in text.split("\n")))
    means = items.groupby(table["condition"]).mean()
    base = means[table.loc[table["role"] == "baseline", "condition"].iloc[0]]
    rows = changes[changes["column"] == "n_items_mean"]
    assert set(rows["site"]) == set(SITES)
    np.testing.assert_allclose(rows["mean"], means[rows["condition"]] - base, atol=1e-9)
    assert set(reading(output, "references")["name"]) == {
        "template: long",
        "template: neutral",
        "vector: lengthen",
        "restricted sampling",
    }


def test_restricted_sampling_has_no_filler_blank(inputs, lists):
    table = inputs.completions
    restricted = table[(table["arm"] == "restricted") & (table["role"] != "baseline")]
    base = table[(table["arm"] == "restricted") & (table["role"] == "baseline")]
    # Each list's first draw that came to an end before the length limit, and no other.
    prompts = pd.read_parquet(lists / "dataset.parquet")
    first = inputs.prompts[(inputs.prompts["label"] == "short") & (inputs.prompts["draw"] == 0)]
    ended = first.loc[first["stopped"] == "end", "sample"]
    assert 15 < len(ended) <= len(prompts) / 6
    assert sorted(restricted["sample"]) == sorted(base["sample"]) == sorted(ended)
    assert not restricted["completion"].str.contains(" \n| $", regex=True).any()
    assert base["completion"].str.contains(" \n| $", regex=True).any()


def test_the_metric_of_a_list_is_that_of_its_last_item(inputs):
    model, short = inputs.model, short_lists(inputs)
    attributed = inputs.fits["attributed"]
    sample, end = attributed.ends.iloc[0][["sample", "end"]].tolist()
    row = short.loc[sample]
    tokens = [*row["tokens"].tolist(), *row["completion_tokens"].tolist()]
    # After the end there is no further item.
    assert not model.decode(tokens[end + 1 :]).strip()
    assert model.decode(tokens[end : end + 1]).strip()
    logits = naive.logits(model, tokens[: end + 1], Condition(), end + 1)[-1]
    blank, line_break = (model.tokenizer.encode(t, add_special_tokens=False)[0] for t in " \n")
    metric = attributed.totals.set_index("sample").at[sample, "metric"].iloc[0]
    assert metric == pytest.approx(float(logits[blank] - logits[line_break]), abs=1e-4)
    assert attributed.checked.groupby("site").size().tolist() == [5, 5]


def test_a_second_run_keeps_all(project, small, output):
    done = run(project, "run", *small)
    assert done.returncode == 0, done.stderr
    names = ("collect_activations", "compute_vectors saes", "compute_vectors attributed")
    for name in (*names, "sweep_layers", "read_activations", "plot_figures"):
        assert f"{name}: finished before, kept" in done.stdout


def test_autoencoders_in_files_do_what_trained_ones_did(project, small, output):
    """The same ones, in SAELens' form: the same lists under every ablation, and quality."""
    for site, sae in SparseAutoencoders.load(output / "fits" / "saes").at_sites.items():
        save_saelens(project / "files" / site, sae, model="embedded_model")
    files = ", ".join(f"{site}: files/{site}" for site in SITES)
    trained = ("fits.saes.sites", "fits.saes.sizes", "readings.coverage")
    given = [item for item in small if not item.startswith(trained)]
    own = [
        "fits.saes.sites=[]",
        f"fits.saes.files={{{files}}}",
        "fits.saes.sizes=[]",
        "fits.saes.sizes_at=null",
        f"collect.sites=[{','.join(SITES)}]",
        "~readings.coverage",
        "~figures.coverage",
    ]
    done = run(project, "run", *given, *own)
    assert done.returncode == 0, done.stderr
    (again,) = set((project / "outputs").glob("endings-*")) - {output}
    quality = reading(output, "quality").head(2)
    pd.testing.assert_frame_equal(reading(again, "quality"), quality, rtol=1e-4)
    before, after = (pd.read_parquet(path / "completions.parquet") for path in (output, again))
    pd.testing.assert_frame_equal(after, before)
    model = load_model(load_study(again / "config.yaml").model)
    assert SparseAutoencoders.load(again / "fits" / "saes").provenance.model == model.weights
