"""Collection of activations."""

import tempfile
from functools import partial
from pathlib import Path

import psutil
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.arithmetic import Need, forward_need
from benchmarks.peers import doing, loops
from benchmarks.shapes import Shape, Size, random_model, random_prompts
from benchmarks.work import NotMeasurable, Work, near
from benchmarks.works.grid import BATCH_TOKENS
from pipeline.engine.collection import collect
from pipeline.model.sites import Site
from pipeline.store.store import Fingerprint
from pipeline.store.writer import StoreWriter

TOGETHER = 32
"""Prompts of a batch where one chooses it by hand."""


def collection(size: Size, folder: Path, *, wide: bool = False) -> Work:
    """Last-token residuals of all layers, written to disk."""
    shape = size.wide if wide else size.model
    _check_memory(shape)
    model = random_model(shape)
    prompts = random_prompts(size.collected_wide if wide else size.collected, shape.vocab)
    sites = [Site(layer, "resid_post") for layer in range(shape.layers)]

    def ours() -> dict[str, Tensor]:
        made = Path(tempfile.mkdtemp(dir=folder))
        mark = Fingerprint("random", "", "", "", "", tuple(map(str, sites)), "last")
        with StoreWriter(made, mark, [range(len(prompts))], required_bytes=0) as writer:
            values, table = collect(model, prompts, sites, "last", batch_tokens=BATCH_TOKENS)
            table["sample"] = table.pop("prompt")
            named = {str(site): value for site, value in values.items()}
            writer.write(0, named, table)
        return named

    def theirs(of: loops.Residuals) -> dict[str, Tensor]:
        found = loops.residuals(model, prompts, TOGETHER, of)
        save_file(found, folder / "theirs.safetensors")
        return found

    def same(side: str, expected: dict[str, Tensor], found: dict[str, Tensor] | None) -> None:
        # The base model alone keeps nothing.
        for site, value in (found or {}).items():
            near(side, expected[site], value)

    def need(found: dict[str, Tensor]) -> Need:
        return forward_need(model, sum(map(len, prompts)), logits=0)

    found, missing = doing("residuals")
    return Work(
        what=f"last-token residuals of {shape.layers} layers, {len(prompts)} prompts, on disk; "
        f"{shape.vocab} words",
        sides={
            "actsweep": ours,
            "base model alone": lambda: loops.base_forward(model, prompts, BATCH_TOKENS),
            **{name: partial(theirs, of) for name, of in found.items()},
        },
        same=same,
        need=need,
        tokens={"any": sum(map(len, prompts))},
        missing=missing,
    )


def _check_memory(shape: Shape) -> None:
    block = shape.width * (shape.heads + shape.kv_heads) * 2 * shape.head_width
    block += 3 * shape.width * shape.inner
    weights = 4 * (shape.layers * block + 2 * shape.vocab * shape.width)
    # Two peers hold a copy, and one batch has logits [32, 64, vocab] twice.
    needed = 3 * weights + 2 * 4 * TOGETHER * 64 * shape.vocab
    free = psutil.virtual_memory().available
    if free < needed:
        raise NotMeasurable(
            f"needs {needed / 2**30:.0f} GB of free memory; there are {free / 2**30:.0f} GB"
        )
