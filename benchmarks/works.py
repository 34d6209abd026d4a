"""What is measured: each work as we do it and as others do, and the tokens that it takes."""

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import peers
from benchmarks.shapes import Size, random_model, random_prompts
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add
from pipeline.model.sites import Site
from pipeline.store import ActivationStore, Fingerprint
from pipeline.store_writer import StoreWriter

BATCH_TOKENS = 16384


STRENGTHS = (-2.0, -1.0, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Work:
    """Sides that do the same, ours first; `same` raises if an output is not ours.

    `tokens` counts what has to be computed: tokens through all blocks, whatever the side.
    """

    what: str
    sides: Mapping[str, Callable[[], Any]]
    same: Callable[[str, Any, Any], None]
    tokens: Mapping[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    prepare: Callable[[], None] = lambda: None


def collection(size: Size) -> Work:
    """Last-token residuals of all layers, written to disk."""
    model = random_model(size)
    prompts = random_prompts(size.collected, size.vocab)
    sites = [Site(layer, "resid_post") for layer in range(size.layers)]
    folder = Path(tempfile.mkdtemp())

    def ours() -> dict[str, Tensor]:
        made = Path(tempfile.mkdtemp(dir=folder))
        mark = Fingerprint("random", "", "", "", "", tuple(map(str, sites)), "last")
        with StoreWriter(made, mark, [range(len(prompts))], required_bytes=0) as writer:
            values, table = collect(model, prompts, sites, "last", batch_tokens=BATCH_TOKENS)
            table["sample"] = table.pop("prompt")
            named = {str(site): value for site, value in values.items()}
            writer.write(0, named, table)
        return named

    def hooks() -> dict[str, Tensor]:
        found = peers.hidden_states(model, prompts, 32)
        save_file(found, folder / "plain.safetensors")
        return found

    def same(side: str, expected: dict[str, Tensor], found: dict[str, Tensor] | None) -> None:
        for site, value in (found or {}).items():
            _near(side, expected[site], value)

    return Work(
        what=f"last-token residuals of {size.layers} layers, {size.collected} prompts, on disk",
        sides={
            "actsweep": ours,
            "base model alone": lambda: peers.base_forward(model, prompts, BATCH_TOKENS),
            "transformers, plain hooks": hooks,
        },
        same=same,
        tokens={"any": sum(map(len, prompts))},
    )


def forward_sweep(size: Size, rule: str) -> Work:
    """Logits after the last token, layers x strengths x prompts."""
    model = random_model(size)
    prompts = random_prompts(size.scored, size.vocab)
    steered, conditions = _grid(size, rule)

    def ours() -> Tensor:
        return score_last(model, prompts, conditions, lambda x, _: x, batch_tokens=BATCH_TOKENS)

    hooked, missing = peers.hooked(rule)
    clean = sum(map(len, prompts))
    # A condition recomputes the blocks above its own, on average less than half of them.
    above = sum(size.layers - 1 - layer for layer, _ in steered) / size.layers
    each = len(prompts) if rule == "last" else clean
    return Work(
        what=f"forward sweep, {rule}: {len(steered)} conditions x {len(prompts)} prompts",
        sides={"actsweep": ours}
        | {
            name: functools.partial(peers.scores, model, prompts, steered, rule, how)
            for name, how in hooked.items()
        },
        same=_near,
        tokens={"loop": len(steered) * clean, "restarted": clean + above * each},
        missing=missing,
    )


def generation_sweep(size: Size, rule: str) -> Work:
    """Greedy completions, layers x strengths x prompts."""
    model = random_model(size)
    prompts = random_prompts(size.completed, size.vocab)
    steered, conditions = _grid(size, rule)
    decoding = Decoding(size.new_tokens)

    def ours() -> list[list[int]]:
        done = generate(model, prompts, conditions, decoding, batch_tokens=BATCH_TOKENS)
        return [list(completion.tokens) for completion in done]

    hooked, missing = peers.hooked(rule)
    clean, fed = sum(map(len, prompts)), len(prompts) * (size.new_tokens - 1)
    above = sum(size.layers - 1 - layer for layer, _ in steered) / size.layers
    return Work(
        what=f"generation, {rule}: {len(steered)} conditions x {len(prompts)} prompts x "
        f"{size.new_tokens} tokens",
        sides={"actsweep": ours}
        | {
            name: functools.partial(
                peers.completions, model, prompts, steered, rule, size.new_tokens, how
            )
            for name, how in hooked.items()
        },
        same=_alike,
        tokens={
            "loop": len(steered) * (clean + fed),
            "restarted": len(steered) * fed + clean + (above * clean if rule == "all" else 0),
        },
        missing=missing,
    )


def no_condition(size: Size) -> Work:
    """What the engine costs where it has nothing to share."""
    model = random_model(size)
    prompts = random_prompts(size.completed, size.vocab)

    def ours() -> list[list[int]]:
        done = generate(model, prompts, [Condition()], Decoding(size.new_tokens))
        return [list(completion.tokens) for completion in done]

    return Work(
        what=f"no condition: {len(prompts)} prompts x {size.new_tokens} tokens",
        sides={
            "actsweep": ours,
            "transformers' generate": lambda: peers.decode(model, prompts, size.new_tokens),
        },
        same=_alike,
        tokens={"any": sum(map(len, prompts)) + len(prompts) * (size.new_tokens - 1)},
    )


def read_back(size: Size, *, cold: bool) -> Work:
    """Means of two classes of bfloat16 rows."""
    folder = Path(tempfile.mkdtemp())
    site, shards = "blocks.0.resid_post", 8
    per = size.rows // shards
    mark = Fingerprint("random", "", "", "", "", (site,), "last")
    plan = [range(n * per, (n + 1) * per) for n in range(shards)]
    with StoreWriter(folder, mark, plan, required_bytes=0) as writer:
        for number, samples in enumerate(plan):
            rows = pd.DataFrame({"sample": list(samples), "position": 0, "token": 0})
            writer.write(number, {site: torch.randn(per, 512).bfloat16()}, rows)
    files = sorted(folder.glob("*.safetensors"))
    labels = torch.from_numpy(np.arange(size.rows) % 2)

    def drop() -> None:
        for file in files:
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def ours() -> Tensor:
        sums = torch.zeros(2, 512, dtype=torch.float64)
        for place, values in ActivationStore(folder)[site]:
            sums += _class_sums(values, labels[place])
        return sums / (size.rows / 2)

    def plain() -> Tensor:
        sums = torch.zeros(2, 512, dtype=torch.float64)
        for number, file in enumerate(files):
            with safe_open(file, "pt") as stream:
                values = stream.get_tensor(site)
            sums += _class_sums(values, labels[number * per : (number + 1) * per])
        return sums / (size.rows / 2)

    return Work(
        what=f"means of two classes of {size.rows * 1024 / 2**30:.2g} GB, "
        + ("page cache dropped" if cold else "from the page cache"),
        sides={"actsweep": ours, "plain pass over the files": plain},
        same=_near,
        prepare=drop if cold else lambda: None,
    )


WORKS: dict[str, Callable[[Size], Work]] = {
    "collection": collection,
    "forward_last": functools.partial(forward_sweep, rule="last"),
    "forward_all": functools.partial(forward_sweep, rule="all"),
    "generation_all": functools.partial(generation_sweep, rule="all"),
    "generation_generated": functools.partial(generation_sweep, rule="generated"),
    "no_condition": no_condition,
    "read_warm": functools.partial(read_back, cold=False),
    "read_cold": functools.partial(read_back, cold=True),
}


def _grid(size: Size, rule: str) -> tuple[list[peers.Steered], list[Condition]]:
    generator = torch.Generator().manual_seed(2)
    directions = torch.randn(size.layers, size.width, generator=generator)
    pairs = [(layer, s) for layer in range(size.layers) for s in STRENGTHS]
    conditions = [
        Condition(edits=(Edit(Site(layer, "resid_post"), Add(directions[layer], s), rule),))
        for layer, s in pairs
    ]
    return [(layer, s * directions[layer]) for layer, s in pairs], conditions


def _class_sums(values: Tensor, labels: Tensor) -> Tensor:
    blocks = zip(values.split(4096), labels.split(4096), strict=True)
    sums = [
        torch.stack([block.float().T @ (own == c).float() for c in (0, 1)]) for block, own in blocks
    ]
    return torch.stack(sums).double().sum(0)


def _near(side: str, expected: Tensor, found: Tensor) -> None:
    far = float((expected - found).abs().max()) / max(1.0, float(expected.abs().max()))
    if far > 1e-5:
        raise ValueError(f"{side}: an output differs by {far:.1e} of the largest, at most 1e-5")


def _alike(side: str, expected: list[list[int]], found: list[list[int]]) -> None:
    pairs = list(zip(expected, found, strict=True))
    unlike = sum(ours != theirs for ours, theirs in pairs)
    # Near ties fall either way where rows are packed differently.
    if unlike > max(1, 0.01 * len(pairs)):
        raise ValueError(f"{side}: {unlike} of {len(pairs)} completions differ, at most 1 %")
