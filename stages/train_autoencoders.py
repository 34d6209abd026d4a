"""recorded/ -> autoencoders/: trained or from files, and quality.csv on held-out topics."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.config.feature_checks import from_files, recipes
from pipeline.config.sections import Study
from pipeline.data.recording import drawn, whole
from pipeline.methods.sae import save_sae
from pipeline.methods.sae_quality import losses_recovered, quality
from pipeline.methods.sae_training import train
from pipeline.model.loading import load_model
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.store.store import ActivationStore
from stages import ROOT, main

INPUTS = ("dataset.parquet", "completions.parquet", "recorded/index.json")
OUTPUTS = ("autoencoders",)
SECTIONS = ("autoencoders", "model")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Train at all sites in one pass over topics that are not of the test split; measure on it.

    Special tokens are in neither. Autoencoders that are ready are measured beside them.
    """
    section = study.autoencoders
    assert section is not None
    store = ActivationStore(folder / "recorded")
    prompts = drawn(pd.read_parquet(folder / "dataset.parquet"), section.recorded)
    held_out = prompts.loc[prompts["split"] == "test", "sample"]
    unseen = store.rows["sample"].isin(held_out).to_numpy()
    model = load_model(study.model)
    ordinary = ~store.rows["token"].isin(model.tokenizer.all_special_ids).to_numpy()
    found = {site: sae.pinned(model) for site, sae in from_files(section, model).items()}
    wanted = recipes(section)
    if wanted:
        trained = train(
            store,
            list(wanted.values()),
            ~unseen & ordinary,
            passes=section.passes,
            seed=section.seed,
            device=str(model.device),
        )
        found |= dict(zip(wanted, trained, strict=True))
    tokens = whole(prompts, pd.read_parquet(folder / "completions.parquet"))
    texts = [tokens[sample] for sample in _few(held_out.to_numpy(), section.seed)]
    rows = []
    with scratch(folder / "autoencoders", key, root=ROOT) as work:
        made = work / "autoencoders"
        made.mkdir(exist_ok=True)
        lost = losses_recovered(
            model, list(found.values()), texts, batch_tokens=study.model.batch_tokens
        )
        for (name, sae), recovered in zip(found.items(), lost, strict=True):
            save_sae(made / f"{name}.safetensors", sae)
            about = {"site": sae.provenance.site, "kind": sae.kind, "n_features": sae.n_features}
            measured = asdict(quality(sae, store, unseen & ordinary))
            rows.append({**about, **measured, **asdict(recovered)})
        table = pd.DataFrame(rows)
        table.to_csv(made / "quality.csv", index=False)
    tracked.table("quality", table)


def _few(samples: np.ndarray, seed: int, count: int = 50) -> np.ndarray:
    """Texts that the loss is read on: reading all would take longer than training."""
    return np.sort(np.random.default_rng(seed).permutation(samples)[:count])


if __name__ == "__main__":
    main()
