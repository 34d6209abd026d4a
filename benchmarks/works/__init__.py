"""What is measured: each work as we do it and as others do. A work is one row of `WORKS`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.shapes import Size
from benchmarks.work import Work
from benchmarks.works.autoencoding import autoencoder
from benchmarks.works.collecting import collection
from benchmarks.works.completing import (
    generation_sweep,
    mixed_lengths,
    no_condition,
    on_chat,
    on_gpu,
)
from benchmarks.works.differentiating import jacobians
from benchmarks.works.neurons import neuron_sweep
from benchmarks.works.patching import heads, patchscopes, rank_ones, tracing
from benchmarks.works.reading import read_back
from benchmarks.works.scoring import forward_sweep

WORKS: dict[str, Callable[[Size, Path], Work]] = {
    "collection": collection,
    "forward_last": partial(forward_sweep, rule="last"),
    "forward_all": partial(forward_sweep, rule="all"),
    "neurons": neuron_sweep,
    "heads": heads,
    "patchscopes": patchscopes,
    "tracing": tracing,
    "rank_ones": rank_ones,
    "jacobians": jacobians,
    "generation_all": partial(generation_sweep, rule="all"),
    "generation_generated": partial(generation_sweep, rule="generated"),
    "generation_few_all": partial(generation_sweep, rule="all", few=True),
    "generation_few_generated": partial(generation_sweep, rule="generated", few=True),
    "mixed_lengths": mixed_lengths,
    "no_condition": no_condition,
    "generation_chat": on_chat,
    "no_condition_chat": partial(no_condition, chat=True),
    "read_warm": partial(read_back, cold=False),
    "read_cold": partial(read_back, cold=True),
    "autoencoder": autoencoder,
    "collection_wide": partial(collection, wide=True),
    "generation_gpu": on_gpu,
}
"""Each makes its work from how much there is of it and a folder for what it writes."""
