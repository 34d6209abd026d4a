"""How well a state's next token is read from it: Patchscopes beside the logit lens, by layer."""

from collections.abc import Iterable
from typing import Annotated, Any

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.config.declared import Label, OneOf
from pipeline.data.positions import locate
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import RowLogits, score_change, score_last
from pipeline.methods.patchscopes import donors, patchscope, source_prompts
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import chosen_layers

_LENS_COMPONENTS = {"resid_pre": 0, "resid_post": 1}
"""Components that the logit lens reads, and how many layers later they are a layer's input."""


def next_token_precision(
    model: LanguageModel,
    prompts: pd.DataFrame,
    seed: int,
    *,
    label: Label,
    method: Annotated[str, OneOf("patchscope", "logit_lens")] = "patchscope",
    split: str = "test",
    source_positions: Any = "subject",
    positions: Any = "subject",
    layers: Any = "all",
    component: str = "resid_pre",
) -> pd.DataFrame:
    """Compare the token read from a state at each layer with what the source model says next.

    p is the source prompt's next-token distribution at the position of the state. `patchscope`: the
    state replaces the placeholder's at the same layer of the target prompt, and the target prompt's
    likeliest next token is read; an identity prompt repeats what stands at the placeholder.
    `logit_lens`: the likeliest token by the logit lens at the position itself.

    Args:
        model: the model.
        prompts: target prompts, as of `patchscopes.patchscope`.
        seed: of the other source prompts.
        label: of the target prompts.
        method: `patchscope` or `logit_lens`.
        split: of the dataset.
        source_positions: as of `patchscope`, like the options below.
        positions: see there.
        layers: `all` or a list.
        component: see there; of the logit lens, `resid_pre` or `resid_post`.

    Returns:
        One row per sample and layer: `sample`, `label`, `split`, `topic`, `layer`, `agreement` (1
        if the token is the likeliest of p: precision@1), `surprisal` (-log p of the token, nats),
        and `other_agreement` and `other_surprisal`, for the state of a row with another answer.
        Layer n_layers is the likeliest token of p itself.

    Raises:
        ValueError: an unknown method, no such prompts, or as `patchscope`.

    Source: Ghandeharioun et al. 2024, "Patchscopes" (next-token prediction, section 4.1).
    """
    if method not in ("patchscope", "logit_lens"):
        raise ValueError(f"method: {method!r} is unknown; valid: patchscope, logit_lens")
    if method == "logit_lens" and component not in _LENS_COMPONENTS:
        valid = ", ".join(_LENS_COMPONENTS)
        raise ValueError(f"component: the logit lens does not read {component!r}; valid: {valid}")
    rows = prompts[(prompts["label"] == label) & (prompts["split"] == split)]
    if rows.empty:
        present = ", ".join(sorted(prompts["label"].unique()))
        raise ValueError(f"no prompts labelled {label!r} in split {split!r}; labels: {present}")
    rows = rows.reset_index(drop=True)
    sources = source_prompts(model, rows)
    tokens, places = locate(sources, model.tokenizer, source_positions, variables=model.template)
    read = [list(map(int, tokens[n][: places[n][0] + 1])) for n in sources["sample"]]
    p = score_last(
        model,
        read,
        [Condition()],
        lambda logits: logits.log_softmax(-1),
        batch_tokens=model.batch_tokens,
    )[0].cpu()
    chosen = chosen_layers(layers, model.n_layers, model.name)
    order = donors(rows["answer"], seed)
    if method == "logit_lens":
        by_layer = _by_lens(model, read, chosen, component)
        of_others = {layer: texts[order] for layer, texts in by_layer.items()}
    else:
        by_layer, of_others = (
            _by_patchscope(
                model,
                rows,
                patchscope(
                    model,
                    rows,
                    seed,
                    source_positions=source_positions,
                    positions=positions,
                    source_layers=chosen,
                    target_layers=chosen,
                    component=component,
                    donor=donor,
                ),
            )
            for donor in ("same", "other")
        )
    best, sample = p.argmax(-1), torch.arange(len(rows))
    # After the last layer: what the source prompts themselves say next.
    by_layer[model.n_layers], of_others[model.n_layers] = best, best[order]
    tables = []
    for layer in (*chosen, model.n_layers):
        columns = {
            f"{prefix}{name}": values.double().numpy()
            for prefix, tokens_read in (("", by_layer[layer]), ("other_", of_others[layer]))
            for name, values in (
                ("agreement", tokens_read == best),
                ("surprisal", -p[sample, tokens_read]),
            )
        }
        named = rows[["sample", "label", "split", "topic"]]
        tables.append(named.assign(layer=layer, **columns))
    return pd.concat(tables, ignore_index=True)


def _by_lens(
    model: LanguageModel, tokens: list[list[int]], layers: list[int], component: str
) -> dict[int, Int[Tensor, " prompts"]]:
    """Read the likeliest token by the logit lens after each prompt, at each layer's component."""
    inputs = [layer + _LENS_COMPONENTS[component] for layer in layers]

    def measure(row_logits: RowLogits) -> Tensor:
        read = [row_logits.clean(at if at < model.n_layers else None) for at in inputs]
        return torch.stack([logits.argmax(-1).double() for logits in read], -1)

    read = score_change(model, tokens, [Condition()], measure, batch_tokens=model.batch_tokens)[0]
    return {layer: read[:, number].long().cpu() for number, layer in enumerate(layers)}


def _by_patchscope(
    model: LanguageModel, rows: pd.DataFrame, conditions: Iterable[Condition]
) -> dict[int, Int[Tensor, " prompts"]]:
    """Read the likeliest next token of each target prompt, patched at the source's own layer."""
    same = [
        condition
        for condition in conditions
        if condition.axes["source_layer"] == condition.axes["target_layer"]
    ]
    tokens = [list(map(int, row)) for row in rows["tokens"]]
    read = score_last(
        model,
        tokens,
        same,
        lambda logits: logits.argmax(-1).double(),
        batch_tokens=model.batch_tokens,
    )
    return {
        int(condition.axes["source_layer"]): read[number].long().cpu()
        for number, condition in enumerate(same)
    }
