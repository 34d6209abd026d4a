"""activations/ -> vectors/: a direction per layer, controls, and the (position, layer) chosen."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.config.sections import Study
from pipeline.config.study import target
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_last
from pipeline.measures.logits import summed_log_odds
from pipeline.methods.directions import Provenance, save_directions
from pipeline.methods.fitting import Classes, with_controls
from pipeline.methods.selection import (
    evaluate_candidates,
    keep_clear,
    select_direction,
)
from pipeline.model.chat import single_tokens
from pipeline.model.loading import LanguageModel, load_model
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.store.store import ActivationStore
from stages import ROOT, main

log = logging.getLogger(__name__)
INPUTS = ("dataset.parquet", "activations/index.json")
OUTPUTS = ("vectors",)
SECTIONS = ("model", "vectors")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Fit at every position and layer, choose one, and draw controls at the chosen position."""
    vectors = study.vectors
    dataset = pd.read_parquet(folder / "dataset.parquet")
    model = load_model(study.model) if vectors.selection else None
    if model is not None:
        dataset = _clear(study, model, dataset)
    store = ActivationStore(folder / "activations")
    classes = Classes(
        store,
        dataset,
        positive=vectors.positive,
        negative=vectors.negative,
        component=vectors.component,
    )
    fit = target(vectors.method)
    positions = classes.positions if model else [vectors.position]
    candidates = {(p, n): fit(*classes.at(p, n)) for p in positions for n in classes.layers}
    same = sorted(place for place, direction in candidates.items() if not direction.any())
    if same:
        log.warning("no direction where all prompts are alike, at (position, layer) %s", same)
    candidates = {place: candidates[place] for place in candidates if place not in same}
    with scratch(folder / "vectors", key, root=ROOT) as work:
        made = work / "vectors"
        made.mkdir(exist_ok=True)
        choice: dict[str, Any] = {"position": vectors.position, "layer": None}
        if model is not None and vectors.selection is not None:
            table = _scores(study, model, dataset, candidates)
            table.to_json(made / "candidates.json", orient="records", indent=1)
            tracked.table("candidates", table)
            limits = {k: v for k, v in asdict(vectors.selection).items() if k != "refusal_tokens"}
            choice = asdict(select_direction(table, n_layers=model.n_layers, **limits))
        position = choice["position"]
        fitted = {layer: v for (p, layer), v in candidates.items() if p == position}
        draws = asdict(vectors.controls)
        directions = with_controls(
            classes, fitted, position=position, draws=draws, seed=vectors.seed
        )
        (made / "choice.json").write_text(json.dumps(choice, indent=1) + "\n")
        provenance = Provenance(
            model=store.fingerprint.model,
            template=store.fingerprint.template,
            dataset=store.fingerprint.dataset,
            component=study.vectors.component,
            position=position,
        )
        save_directions(made / "directions.safetensors", directions, provenance)
    norms = [float(direction.norm()) for direction in fitted.values()]
    tracked.summary({f"choice/{name}": value for name, value in choice.items()})
    tracked.curve(pd.DataFrame({"layer": list(fitted), "norm": norms}))


def _clear(study: Study, model: LanguageModel, dataset: pd.DataFrame) -> pd.DataFrame:
    """Train and validation prompts that the model itself refuses or answers as labelled."""
    assert study.vectors.selection is not None
    used = dataset[dataset["split"].isin(["train", "val"])]
    tokens = _refusals(study, model)
    scores = score_last(
        model,
        used["tokens"].tolist(),
        [Condition()],
        lambda logits: summed_log_odds(logits, tokens),
        batch_tokens=study.model.batch_tokens,
    )[0]
    clear = keep_clear(used, scores, harmful=study.vectors.positive)
    for label in (study.vectors.positive, study.vectors.negative):
        for split in ("train", "val"):
            if not ((clear["label"] == label) & (clear["split"] == split)).any():
                raise ValueError(
                    f"vectors.selection: the model answers no {label} prompt of {split} as its "
                    f"label says, by whether {study.vectors.selection.refusal_tokens} begin it"
                )
    return clear


def _scores(
    study: Study,
    model: LanguageModel,
    dataset: pd.DataFrame,
    candidates: dict[tuple[int, int], Tensor],
) -> pd.DataFrame:
    """Bypass, induce and kl of the candidates on validation prompts."""
    val = dataset[dataset["split"] == "val"]
    return evaluate_candidates(
        model,
        candidates,
        component=study.vectors.component,
        harmful=val.loc[val["label"] == study.vectors.positive, "tokens"].tolist(),
        harmless=val.loc[val["label"] == study.vectors.negative, "tokens"].tolist(),
        refusal_tokens=_refusals(study, model),
        batch_tokens=study.model.batch_tokens,
    )


def _refusals(study: Study, model: LanguageModel) -> Tensor:
    assert study.vectors.selection is not None
    ids = single_tokens(model.tokenizer, study.vectors.selection.refusal_tokens)
    return torch.tensor(ids, device=model.device)


if __name__ == "__main__":
    main()
