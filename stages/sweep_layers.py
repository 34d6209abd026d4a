"""vectors/ x conditions -> sweep.parquet (completions), text_losses.parquet (unrelated text)."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from torch import Tensor
from tqdm import tqdm

from pipeline.engine.chunks import Chunk, plan
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate_chunk
from pipeline.engine.scoring import cross_entropy
from pipeline.grid import Part, compared, parts, with_edits
from pipeline.methods.directions import Key, load_directions
from pipeline.model import chat
from pipeline.model.loading import LanguageModel
from pipeline.preflight import chosen_layers, load_model, template_length
from pipeline.scratch import scratch, whole_file
from pipeline.sections import Study
from pipeline.store import sha256
from pipeline.tracking import Run
from stages import ROOT, main

INPUTS = ("dataset.parquet", "texts.parquet", "vectors/directions.safetensors")
OUTPUTS = ("sweep.parquet", "text_losses.parquet")
TEXTS = ("split", "label", "topic", "instruction", "demand")


def run(study: Study, folder: Path, tracked: Run) -> None:
    """Complete every prompt under every condition, a chunk at a time; a killed run goes on."""
    dataset = pd.read_parquet(folder / "dataset.parquet")
    model = load_model(study)
    directions, _ = load_directions(
        folder / "vectors" / "directions.safetensors",
        model=model.weights,
        template=chat.template_digest(model.tokenizer),
    )
    template = template_length(study)
    sweep = [
        Part(
            part.arm,
            tuple(
                with_edits(c, study.sweep.arms[part.arm], directions, model.n_layers, template)
                for c in part.conditions
            ),
            part.samples,
        )
        for part in parts(study, dataset, _layers(study, model, directions))
    ]
    inputs = [sha256(folder / name) for name in INPUTS]
    key = hashlib.sha256(json.dumps([study.section_id("model", "sweep"), *inputs]).encode())
    with scratch(folder / "sweep.parquet", key.hexdigest()[:12], root=ROOT) as work:
        table = _complete(study, model, dataset, sweep, work)
        table.to_parquet(work / "sweep.parquet")
    texts = pd.read_parquet(folder / "texts.parquet")
    with whole_file(folder / "text_losses.parquet") as path:
        _read_texts(study, model, texts, sweep).to_parquet(path)
    tracked.summary(
        {
            "conditions": sum(len(part.conditions) for part in sweep),
            "completions": len(table),
            "cut at length limit": int((table["stopped"] == "length").sum()),
        }
    )


def _layers(study: Study, model: LanguageModel, directions: dict[Key, Tensor]) -> list[int]:
    fitted = sorted(key.layer for key in directions if key.source == "fitted")
    if study.sweep.layers == "all":
        return fitted
    layers = chosen_layers(study, model.n_layers)
    for layer in layers:
        if layer not in fitted:
            raise ValueError(f"sweep.layers: no direction at layer {layer}; valid: {fitted}")
    return layers


def _complete(
    study: Study, model: LanguageModel, dataset: pd.DataFrame, sweep: list[Part], work: Path
) -> pd.DataFrame:
    decoding = Decoding(**asdict(study.sweep.decoding))
    by_sample = dataset.set_index("sample")
    jobs = [
        (number, part, chunk)
        for number, part in enumerate(sweep)
        for chunk in plan(
            len(part.conditions),
            [len(by_sample.at[s, "tokens"]) for s in part.samples],
            batch_tokens=study.model.batch_tokens,
            new_tokens=decoding.max_new_tokens,
            repeats=decoding.repeats,
        )
    ]
    tables = []
    for number, part, chunk in tqdm(jobs, "sweep", unit="chunk", disable=None):
        path = work / f"part-{number:02d}-chunk-{chunk.number:05d}.parquet"
        if not path.exists():
            table = _chunk(study, model, by_sample, part, chunk, decoding)
            with whole_file(path) as temporary:
                table.to_parquet(temporary)
        tables.append(pd.read_parquet(path))
    return pd.concat(tables, ignore_index=True)


def _chunk(
    study: Study,
    model: LanguageModel,
    by_sample: pd.DataFrame,
    part: Part,
    chunk: Chunk,
    decoding: Decoding,
) -> pd.DataFrame:
    completions = generate_chunk(
        model,
        [by_sample.at[s, "tokens"].tolist() for s in part.samples],
        part.conditions,
        chunk,
        decoding,
        seed=study.sweep.seed,
        samples=part.samples,
    )
    columns = [condition.columns for condition in part.conditions]
    rows = []
    for completion in completions:
        sample = part.samples[completion.prompt]
        rows.append(
            {
                **columns[completion.condition],
                "sample": sample,
                "repeat": completion.repeat,
                **{name: by_sample.at[sample, name] for name in TEXTS},
                "completion": completion.text,
                "n_tokens": len(completion.tokens),
                "stopped": completion.stopped,
            }
        )
    return pd.DataFrame(rows).astype({"layer": "Int64"})


def _read_texts(
    study: Study, model: LanguageModel, texts: pd.DataFrame, sweep: list[Part]
) -> pd.DataFrame:
    """Cross-entropy of unrelated text under the conditions that are compared over layers."""
    if texts.empty:
        return pd.DataFrame({"condition": []})
    conditions = [c for part in sweep for c in part.conditions if compared(study, c)]
    losses = cross_entropy(
        model, texts["tokens"].tolist(), conditions, batch_tokens=study.model.batch_tokens
    )
    rows = [
        {**condition.columns, "sample": sample, "cross_entropy": loss}
        for condition, row in zip(conditions, losses.tolist(), strict=True)
        for sample, loss in zip(texts["sample"], row, strict=True)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64"})


if __name__ == "__main__":
    main()
