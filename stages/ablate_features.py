"""attributions/ and autoencoders/ -> ablations.parquet: lists as features are ablated in them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd

from pipeline.completing import complete, decoding_of
from pipeline.config.sections import Study
from pipeline.data.positions import resolve
from pipeline.engine.conditions import Condition
from pipeline.grid import Part, intervention_name, with_edits
from pipeline.lists import list_ends, recorded_lists
from pipeline.measures.choice import Setting
from pipeline.methods.directions import load_directions
from pipeline.methods.feature_sets import ablations, feature_sets
from pipeline.methods.sae import load_sae
from pipeline.model import chat
from pipeline.model.chat import single_tokens
from pipeline.model.loading import LanguageModel, load_model
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from stages import ROOT, main

INPUTS = (
    "dataset.parquet",
    "completions.parquet",
    "autoencoders/quality.csv",
    "attributions/features.parquet",
    "attributions/chosen.csv",
    "vectors/directions.safetensors",
    "settings.json",
)
OUTPUTS = ("ablations.parquet",)
SECTIONS = ("autoencoders", "model", "sweep", "vectors")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Complete the recorded lists' prompts anew under every ablation, and under what is beside.

    Of lists that have an end: see `list_ends`.
    """
    section = study.autoencoders
    assert section is not None
    model = load_model(study.model)
    recorded = recorded_lists(study, folder)
    ends = list_ends(model.tokenizer, recorded)
    lists = recorded.loc[ends.index].reset_index(drop=True)
    features = pd.read_parquet(folder / "attributions" / "features.parquet")
    chosen = pd.read_csv(folder / "attributions" / "chosen.csv")
    conditions = [
        Condition(),
        *ablations(
            feature_sets(features, chosen, draws=section.random, seed=section.seed),
            {s: load_sae(folder / "autoencoders" / f"{s}.safetensors") for s in section.all_sites},
            ends.tolist(),
        ),
        *_steered(study, model, lists, folder),
    ]
    samples = tuple(lists["sample"])
    usual = replace(decoding_of(study), repeats=1)
    (blank,) = single_tokens(model.tokenizer, [section.blank])
    parts = {
        Part("ablations", "ablations", tuple(conditions), samples): usual,
        Part("restricted", "restricted", (Condition("restricted sampling"),), samples): replace(
            usual, forbidden=(blank,)
        ),
    }
    with scratch(folder / "ablations.parquet", key, root=ROOT) as work:
        tables = [
            complete(
                model,
                lists,
                [part],
                work,
                decoding=decoding,
                seed=study.sweep.seed,
                batch_tokens=study.model.batch_tokens,
            )
            for part, decoding in parts.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        table.to_parquet(work / "ablations.parquet")
    tracked.summary(
        {
            "conditions": table["condition"].nunique(),
            "completions": len(table),
            "lists": len(lists),
            "lists without an end": len(recorded) - len(lists),
        }
    )


def _steered(
    study: Study, model: LanguageModel, lists: pd.DataFrame, folder: Path
) -> list[Condition]:
    """The steering vectors of the arms on the same prompts, as validation chose them."""
    assert study.autoencoders is not None
    directions, _ = load_directions(
        folder / "vectors" / "directions.safetensors",
        model=model.weights,
        template=chat.template_digest(model.tokenizer),
    )
    found = []
    for name, recorded in json.loads((folder / "settings.json").read_text()).items():
        arm, setting = study.sweep.arms[name], Setting(**recorded)
        if arm.prompts != study.autoencoders.label:
            continue
        rule = resolve(
            lists, model.tokenizer, arm.rules[setting.positions], variables=study.model.template
        )
        condition = Condition(
            name,
            intervention_name(arm),
            "fitted",
            0,
            setting.layer,
            setting.strength,
            setting.positions,
        )
        rules = {setting.positions: rule}
        found.append(with_edits(condition, arm, directions, model.n_layers, rules))
    return found


if __name__ == "__main__":
    main()
