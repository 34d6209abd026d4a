"""Causal tracing: restore clean states, one place at a time, in a run with a noisy subject."""

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config.declared import OneOf, OneOrMore, Range
from pipeline.data.positions import locate
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.measures.tracing import NOTHING, PARTS
from pipeline.methods.interventions import Add, Replace
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, chosen_layers

COMPONENTS = ("resid_post", "mlp_out", "attn_out")
_EMBED = Site(0, "embed")


def causal_trace(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    layers: Any = "all",
    component: Annotated[str, OneOf(*COMPONENTS)] = "resid_post",
    window: OneOrMore = 1,
    noise: Annotated[float, Range(above=0)] = 3.0,
    draws: OneOrMore = 3,
) -> Iterator[Condition]:
    """Yield corrupted runs, and for each layer and part of the prompt a run restored there.

    Corrupted: e_i + noise σ ε at the input of the first block, for every token i of the subject,
    with ε standard normal and σ the standard deviation of all subject tokens' inputs. Restored: the
    component's output at the part's tokens is set to that of the clean run, at `window` layers
    around the layer, while everything else stays corrupted. The runs of one draw share their noise.
    The indirect effect of a place is p(answer | restored) - p(answer | corrupted).

    Differences from the paper: the tokens of a part are restored together, not one by one, and for
    models with position embeddings these are part of σ.

    Args:
        model: the model.
        prompts: facts in the order of the run, with `subject`.
        seed: of the noise.
        layers: `all`, or the layers around which to restore.
        component: one of `COMPONENTS`; `resid_post` is a block's output.
        window: layers that are restored together: from layer - window // 2 on.
        noise: its standard deviation in units of σ.
        draws: of the noise.

    Yields:
        Conditions with the axes `restored`, `draw` and `layer`; of the corrupted run, without
        `layer` and with `restored` = nothing.

    Raises:
        ValueError: an unknown component or layer, or a window, noise or number of draws that is not
            positive.

    Source: Meng et al. 2022, "Locating and editing factual associations in GPT".
    """
    if component not in COMPONENTS:
        raise ValueError(f"component {component!r} is unknown; valid: {', '.join(COMPONENTS)}")
    for name, value in (("window", window), ("noise", noise), ("draws", draws)):
        if value <= 0:
            raise ValueError(f"{name} = {value}; valid: above 0")
    centres = chosen_layers(layers, model.n_layers, model.name)
    tokens, parts = _located(model, prompts)
    states = _clean_states(model, tokens, [Site(n, component) for n in range(model.n_layers)])
    restored = {
        (layer, part): [
            edit
            for near in range(layer - window // 2, layer - window // 2 + window)
            if 0 <= near < model.n_layers
            for edit in _restorations(Site(near, component), rules, states)
        ]
        for layer in centres
        for part, rules in _rules_by_part(parts).items()
    }
    for draw, corrupted in enumerate(_corruptions(model, prompts, tokens, noise, draws, seed)):
        yield Condition({"restored": NOTHING, "draw": draw}, corrupted, role=CONTROL)
        for (layer, part), edits in restored.items():
            yield Condition(
                {"restored": part, "draw": draw, "layer": layer},
                (*corrupted, *edits),
                role=CANDIDATE,
            )


def prompt_parts(model: LanguageModel, prompts: pd.DataFrame) -> pd.DataFrame:
    """Tabulate which parts each prompt has: restoring a part that a prompt lacks changes nothing.

    Returns:
        One row per sample and part: `sample`, `part` and the number of `tokens`.
    """
    _, parts = _located(model, prompts)
    return pd.DataFrame(
        [
            {"sample": sample, "part": part, "tokens": len(positions)}
            for sample, by_part in zip(prompts["sample"], parts, strict=True)
            for part, positions in by_part.items()
        ]
    )


def _located(
    model: LanguageModel, prompts: pd.DataFrame
) -> tuple[list[list[int]], list[dict[str, tuple[int, ...]]]]:
    """Return the tokens of each prompt, and the positions of the parts that it has."""
    tokens, subjects = locate(prompts, model.tokenizer, "subject_tokens", variables=model.template)
    located = []
    for row, subject in zip(tokens.values(), subjects.values(), strict=True):
        end, last = subject[-1], len(row) - 1
        positions = (
            subject[:1] if len(subject) > 1 else (),
            subject[1:-1],
            (end,),
            (end + 1,) if end + 1 < last else (),
            tuple(range(end + 2, last)),
            (last,) if last > end else (),
        )
        located.append({part: at for part, at in zip(PARTS, positions, strict=True) if at})
    return [[int(token) for token in row] for row in tokens.values()], located


def _rules_by_part(parts: list[dict[str, tuple[int, ...]]]) -> dict[str, list[PromptPositions]]:
    """Return a rule for the first token of each part, its second token, and so on."""
    return {
        part: [
            PromptPositions(part, [by_part.get(part, ())[n : n + 1] for by_part in parts])
            for n in range(max(len(by_part.get(part, ())) for by_part in parts))
        ]
        for part in PARTS
        if any(part in by_part for by_part in parts)
    }


def _clean_states(
    model: LanguageModel, tokens: list[list[int]], sites: list[Site]
) -> dict[Site, Float[Tensor, "prompts pos d_model"]]:
    flat, table = collect(model, tokens, sites, "all", batch_tokens=model.batch_tokens)
    places = torch.tensor(table["prompt"].to_numpy()), torch.tensor(table["position"].to_numpy())
    longest = max(map(len, tokens))
    return {
        site: values.new_zeros(len(tokens), longest, values.shape[-1]).index_put(places, values)
        for site, values in flat.items()
    }


def _restorations(
    site: Site,
    rules: list[PromptPositions],
    states: dict[Site, Float[Tensor, "prompts pos d_model"]],
) -> list[Edit]:
    # Prompts without a token get the state of token 0, which their rule never selects.
    places = [torch.tensor([at[0] if at else 0 for at in rule.of]) for rule in rules]
    clean = states[site]
    return [
        Edit(site, Replace(PerPrompt(clean[torch.arange(len(clean)), at])), rule)
        for rule, at in zip(rules, places, strict=True)
    ]


def _corruptions(
    model: LanguageModel,
    prompts: pd.DataFrame,
    tokens: list[list[int]],
    noise: float,
    draws: int,
    seed: int,
) -> Iterator[tuple[Edit, ...]]:
    """Yield for each draw the edits that add noise to the subjects' tokens."""
    _, subjects = locate(prompts, model.tokenizer, "subject_tokens", variables=model.template)
    listed = list(subjects.values())
    inputs, _ = collect(
        model,
        tokens,
        [_EMBED],
        PromptPositions("subject_tokens", listed),
        batch_tokens=model.batch_tokens,
    )
    scale = noise * float(inputs[_EMBED].double().std())
    longest = max(map(len, listed))
    rules = [
        PromptPositions("subject_tokens", [at[n : n + 1] for at in listed]) for n in range(longest)
    ]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draws):
        drawn = scale * torch.randn(longest, len(listed), model.d_model, generator=generator)
        yield tuple(
            Edit(_EMBED, Add(PerPrompt(values)), rule)
            for values, rule in zip(drawn, rules, strict=True)
        )
