"""recorded/, autoencoders/ and attributions/ -> features/: pages, heat maps, coverage by size."""

from itertools import groupby
from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.data.recording import drawn
from pipeline.lists import recorded_lists
from pipeline.methods.sae import load_sae
from pipeline.methods.sae_coverage import coverage
from pipeline.methods.sae_features import STREAM, activations_by_layer, summarise_features
from pipeline.model.loading import load_model
from pipeline.model.sites import Site
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.store.store import ActivationStore
from pipeline.views.dashboard import feature_page
from pipeline.views.features import coverage_by_size, feature_by_layer
from pipeline.views.panels import save
from stages import ROOT, made_from, main

INPUTS = (
    "dataset.parquet",
    "completions.parquet",
    "recorded/index.json",
    "autoencoders/quality.csv",
    "attributions/chosen.csv",
)
OUTPUTS = ("features",)
SECTIONS = ("autoencoders", "model", "sweep")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """A page for each attributed feature, the strongest over one list's layers, and coverage."""
    section = study.autoencoders
    assert section is not None
    model = load_model(study.model)
    store = ActivationStore(folder / "recorded")
    chosen = pd.read_csv(folder / "attributions" / "chosen.csv")
    sentence = recorded_lists(study, folder)["whole"].iloc[0]
    special = [n for n, token in enumerate(sentence) if token in model.tokenizer.all_special_ids]
    provenance = made_from(study, folder, INPUTS, SECTIONS)
    with scratch(folder / "features", key, root=ROOT) as work:
        made = work / "features"
        made.mkdir(exist_ok=True)
        for site, own in groupby(chosen.to_dict("records"), lambda row: row["site"]):
            features = list(dict.fromkeys(int(row["feature"]) for row in own))
            sae = load_sae(folder / "autoencoders" / f"{site}.safetensors").to(model.device)
            for summary in summarise_features(model, sae, store, features):
                page = feature_page(summary, model.piece)
                (made / f"{site}-{summary.feature}.html").write_text(page)
            if Site.parse(site).component in STREAM:
                matrix = activations_by_layer(model, sae, features[0], sentence)
                pieces = [model.piece(token) for token in sentence]
                figure = feature_by_layer(
                    matrix, pieces, feature=features[0], site=site, left_out=special
                )
                save(figure, made / f"{site}-{features[0]}.png", provenance)
        if section.sizes:
            table = _coverage(study, folder, store)
            table.to_csv(made / "coverage.csv", index=False)
            save(coverage_by_size(table), made / "coverage.png", provenance)
            tracked.table("coverage", table)
    for path in sorted((folder / "features").glob("*.png")):
        tracked.figure(path)


def _coverage(study: Study, folder: Path, store: ActivationStore) -> pd.DataFrame:
    """Topics as concepts: of the rows of completions, those of lists of that topic."""
    section = study.autoencoders
    assert section is not None
    files = sorted(folder.glob("autoencoders/size-*.safetensors"))
    prompts = drawn(pd.read_parquet(folder / "dataset.parquet"), section.recorded)
    by_sample = prompts.set_index("sample")
    topics = store.rows["sample"].map(by_sample["topic"])
    # Of each topic there are lists to choose a feature by and others to report on.
    odd = store.rows["sample"].map(by_sample["draw"]) % 2 == 1
    lengths = store.rows["sample"].map(by_sample["tokens"].map(len))
    return coverage(
        sorted(map(load_sae, files), key=lambda sae: sae.n_features),
        store,
        pd.DataFrame({topic: topics == topic for topic in sorted(topics.unique())}),
        (store.rows["position"] >= lengths).to_numpy(),
        seed=section.seed,
        reported=odd.to_numpy(),
    )


if __name__ == "__main__":
    main()
