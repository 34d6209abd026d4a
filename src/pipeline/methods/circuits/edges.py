"""Edges of a circuit: what a component reads from another one, patched and estimated."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config.declared import OneOrMore
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit, PerToken
from pipeline.methods.circuits.components import (
    activations,
    check_options,
    components,
    corrupted_tokens,
    name_of,
    token_mask,
    tokens_of,
)
from pipeline.methods.circuits.fits import circuit_of
from pipeline.methods.circuits.gradients import EMBED
from pipeline.methods.interventions import Add, Replace, Subtract
from pipeline.model.loading import LanguageModel
from pipeline.model.output_projections import head_outputs
from pipeline.model.sites import Site, undivided

INPUT, LOGITS = "input", "logits"
"""The first and the last node: the embeddings, and what the unembedding reads."""


class Edge(NamedTuple):
    """A component's output as it is read by a later one; None: the input, or the logits."""

    source: Site | None
    target: Site | None

    @property
    def names(self) -> tuple[str, str]:
        """The names of both ends."""
        return (
            INPUT if self.source is None else name_of(self.source),
            LOGITS if self.target is None else name_of(self.target),
        )


def edges_of(model: LanguageModel, sites: list[Site]) -> list[Edge]:
    """List the edges between components, the input and the logits, in the order of targets.

    A head reads earlier layers; an MLP also the heads of its layer, unless both run in parallel.
    """
    sources, targets = [None, *sites], [*sites, None]
    return [Edge(a, b) for b in targets for a in sources if _is_before(model, a, b)]


def patched_edges(
    model: LanguageModel,
    prompts: pd.DataFrame,
    fits: Mapping[str, Any],
    seed: int,
    *,
    fit: str,
    most: OneOrMore = 150,
    draws: OneOrMore = 100,
) -> Iterator[Condition]:
    """Patch single edges: a component reads another one's output as on the corrupted prompt.

    The target computes with its input x + (u' - u), u and u' what the source adds to the residual
    stream of the clean and the corrupted prompt, at all tokens; all other components read x as it
    is, and everything after the target sees its changed output. A source's u includes its share of
    a post-norm. Edges of the circuit, with the input and the logits, and random edges of the model.

    Args:
        model: the model.
        prompts: the prompts of the run, with `answer`, `foil` and `corrupted`.
        fits: contains the circuit.
        seed: of the random edges.
        fit: name of the `Circuit`.
        most: edges of the circuit at most, those between its components of the largest effect.
        draws: random edges.

    Yields:
        Conditions with the axes `source` and `target` (names of components, `input`, `logits`) and
        `edges` (`circuit` or `random`).

    Raises:
        ValueError: a number below 1, a circuit of another model, or as `corrupted_tokens`.

    Source: Wang et al. 2023 (path patching); Goldowsky-Dill et al. 2023.
    """
    for name, number in (("most", most), ("draws", draws)):
        if number < 1:
            raise ValueError(f"{name}: {number} is less than 1")
    check_options(prompts, "patched", "all")
    circuit = circuit_of(fits, fit)
    for site in circuit.sites:
        circuit.check(model, site)
    of_circuit: list[Edge] = []
    by_size = [site for site in circuit.ranked if site in circuit.kept]
    for count in range(len(by_size) + 1):
        sites = [site for site in circuit.kept if site in by_size[:count]]
        edges = edges_of(model, sites)
        if len(edges) > most:
            break
        of_circuit = edges
    others = [edge for edge in edges_of(model, components(model)) if edge not in set(of_circuit)]
    drawn = np.random.default_rng(seed).permutation(len(others))[:draws]
    listed = [(edge, "circuit", CANDIDATE) for edge in of_circuit]
    listed += [(others[n], "random", CONTROL) for n in sorted(drawn)]
    patches = _Patches(model, prompts)
    for edge, kind, role in listed:
        source, target = edge.names
        axes = {"edges": kind, "source": source, "target": target}
        yield Condition(axes, patches.edits(edge), role=role)


def _is_before(model: LanguageModel, source: Site | None, target: Site | None) -> bool:
    if source is None or target is None:
        return True
    if source.layer != target.layer:
        return source.layer < target.layer
    return source.component == "z" and target.component == "mlp_out" and not model.parallel


class _Patches:
    """The edits that patch edges, with the outputs of all components, clean and corrupted."""

    def __init__(self, model: LanguageModel, prompts: pd.DataFrame) -> None:
        self._model = model
        clean, corrupted = tokens_of(prompts), corrupted_tokens(model, prompts)
        sites = [EMBED, *components(model)]
        read_at = undivided(sites)
        self._clean = activations(model, clean, [*sites, *read_at])
        before, after = self._clean, activations(model, corrupted, read_at)
        self._changes: dict[Site | None, Tensor] = {None: after[EMBED] - before[EMBED]}
        real = token_mask(clean)[..., None, None]
        for site in read_at[1:]:
            if site.component == "mlp_out":
                self._changes[site] = after[site] - before[site]
                continue
            with torch.no_grad():
                heads = [
                    head_outputs(model, site.layer, values[site].to(model.device)).cpu()
                    for values in (before, after)
                ]
            # Padding adds nothing, which a post-norm cannot divide by.
            changes = torch.where(real, heads[1] - heads[0], 0.0)
            for head, change in enumerate(changes.unbind(-2)):
                self._changes[Site(site.layer, "z", head)] = change

    def edits(self, edge: Edge) -> tuple[Edit, ...]:
        """Add the source's change to what the target reads, and nothing else.

        Added to the residual stream where the target reads it, and subtracted after it; other
        components that read the stream in between are put back to their clean outputs.
        """
        model, change = self._model, PerToken(self._changes[edge.source])
        if edge.target is None:
            return (Edit(Site(model.n_layers - 1, "resid_post"), Add(change)),)
        layer, target = edge.target.layer, edge.target
        is_head = target.component == "z"
        start = "resid_pre" if is_head or model.parallel else "resid_mid"
        end = "resid_mid" if is_head and not model.parallel else "resid_post"
        beside: list[Site] = []
        if is_head:
            beside = [
                Site(layer, "z", head) for head in range(model.n_heads) if head != target.unit
            ]
        if model.parallel:
            beside += [Site(layer, "mlp_out" if is_head else "z")]
        restored = [Edit(site, Replace(PerToken(self._clean[site]))) for site in beside]
        return (
            Edit(Site(layer, start), Add(change)),
            *restored,
            Edit(Site(layer, end), Subtract(change)),
        )
