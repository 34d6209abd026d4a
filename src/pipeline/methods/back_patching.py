"""Back-patching: patch the residual stream of a later layer into an earlier layer."""

from collections.abc import Iterator
from typing import Annotated, Any

import pandas as pd
import torch

from pipeline.config.declared import OneOf
from pipeline.data.positions import locate
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.methods.interventions import Replace
from pipeline.methods.layer_pairs import COMPONENTS, DONORS, source_and_target_layers
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def back_patch(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    positions: Any = "subject",
    source_layers: Any = "all",
    target_layers: Any = "all",
    component: Annotated[str, OneOf(*COMPONENTS)] = "resid_post",
    donor: Annotated[str, OneOf(*DONORS)] = "same",
) -> Iterator[Condition]:
    """Yield a condition for every source layer s and target layer t < s.

    h_t[i] := h_s[i] at every position i that the position rule selects, with h_s from the clean
    run; everything downstream of the patched site then sees the state of layer s at these
    positions. States come from the same prompt or, as a control, from the positions that the rule
    selects in another prompt.

    Args:
        model: the model.
        prompts: the prompts of the run, in order, with the columns of a dataset.
        seed: of the assignment of other prompts.
        positions: a rule of `positions.COLLECTED` that names the same number of positions in each
            prompt, or a list of positions.
        source_layers: `all`, or layers to read states from.
        target_layers: `all`, or layers to patch.
        component: one of `layer_pairs.COMPONENTS`; the paper uses `resid_post`, a block's output.
        donor: `same`, or `other`: the states of another prompt; each prompt is used once.

    Yields:
        Conditions with the axes `source_layer`, `target_layer`, `positions` and `donor`.

    Raises:
        ValueError: an unknown component, donor, layer or position; no pair with t < s; a rule that
            selects different numbers of positions in different prompts; or donor `other` with only
            one prompt.

    Source: Biran et al. 2024, "Hopping too late".
    """
    sources, targets = source_and_target_layers(
        model, source_layers, target_layers, component=component, donor=donor
    )
    pairs = [(source, target) for source in sources for target in targets if target < source]
    if not pairs:
        raise ValueError(f"no target of layers {targets} is below a source of layers {sources}")
    tokens, by_sample = locate(prompts, model.tokenizer, positions, variables=model.template)
    positions_by_prompt = list(by_sample.values())
    counts = sorted({len(listed) for listed in positions_by_prompt})
    if len(counts) != 1:
        raise ValueError(
            f"positions {positions!r} name {counts[0]} to {counts[-1]} tokens a prompt; valid: "
            "equally many"
        )
    sites = [Site(source, component) for source in sorted({source for source, _ in pairs})]
    rows = [[int(token) for token in row] for row in tokens.values()]
    rule = PromptPositions(str(positions), positions_by_prompt)
    flat, _ = collect(model, rows, sites, rule, batch_tokens=model.batch_tokens)
    order = (
        _donors(len(positions_by_prompt), seed)
        if donor == "other"
        else torch.arange(len(positions_by_prompt))
    )
    states = {
        site: values.unflatten(0, (len(positions_by_prompt), -1))[order]
        for site, values in flat.items()
    }
    rules = [
        PromptPositions(str(positions), [(listed[n],) for listed in positions_by_prompt])
        for n in range(counts[0])
    ]
    for source, target in pairs:
        edits = tuple(
            Edit(
                Site(target, component),
                Replace(PerPrompt(states[Site(source, component)][:, n])),
                position_rule,
            )
            for n, position_rule in enumerate(rules)
        )
        yield Condition(
            axes={
                "source_layer": source,
                "target_layer": target,
                "positions": str(positions),
                "donor": donor,
            },
            edits=edits,
            role=CONTROL if donor == "other" else CANDIDATE,
        )


def _donors(prompts: int, seed: int) -> torch.Tensor:
    """Assign each prompt another prompt, each used once: a random cycle.

    Raises:
        ValueError: there is only one prompt.
    """
    if prompts < 2:
        raise ValueError(f"{prompts} prompts have no donor other than themselves; valid: 2 or more")
    cycle = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
    donors = torch.empty_like(cycle)
    donors[cycle] = cycle.roll(1)
    return donors
