"""What the final norm and the head alone make of a stream or of a direction: the next token."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.hooks import starting_at
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import STREAM, Site


@torch.inference_mode()
def lens_logits(
    model: LanguageModel, streams: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """Logits that the model's own final norm and head make of residual streams.

    Source: nostalgebraist 2020 (logit lens).
    """
    # Each is a sequence of its own: of one sequence transformers would make a mask [rows, rows].
    nothing = torch.zeros(len(streams), 1, dtype=torch.long, device=model.device)
    with starting_at(model, model.n_layers, streams[:, None]):
        return model.hf(
            nothing,
            attention_mask=torch.ones_like(nothing),
            position_ids=nothing,
            use_cache=False,
        ).logits[:, 0]


@torch.no_grad()
def direct_logits(
    model: LanguageModel, site: Site, directions: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes vocab"]:
    """Logits that directions at a site add past all later blocks, less their mean over tokens.

    logits = (scale * d) W_U, where scale is the final norm's; a LayerNorm's centring of d is kept.
    From `z` and `mlp_act` d goes through the output projection first, and through the scale of a
    post-norm where the family has one. Denominators of norms depend on the rest of the stream and
    are left out, so the logits hold up to one positive factor. Soft-capping is left out too.

    Raises:
        ValueError: a site the model does not have, of a single head or neuron, or `mlp_down`;
            another width.

    Source: nostalgebraist 2020 (logit lens); Dar et al. 2023 (weights in embedding space).
    """
    if model.check(site).unit is not None:
        raise ValueError(f"{site}: directions of single heads or neurons are not read")
    if site.component == "mlp_down":
        raise ValueError(f"{site}: directions of a projection's input and output are not read")
    width = model.width(site)
    if directions.shape[-1] != width:
        raise ValueError(f"directions are {directions.shape[-1]} wide, {site} is {width}")
    written = _written(model, site, directions.float())
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    if isinstance(norm, nn.LayerNorm):
        written = written - written.mean(-1, keepdim=True)
    read = written.to(norm.weight.device) * _scale(model, norm)
    # In parts: a vocabulary of 256 000 in float32 is larger than the model's own weights.
    parts = model.hf.get_output_embeddings().weight.split(16384)
    logits = torch.cat([read.to(part.device) @ part.float().T for part in parts], -1)
    return logits - logits.mean(-1, keepdim=True)


def _written(
    model: LanguageModel, site: Site, directions: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes d_model"]:
    """What directions at a site add to the residual stream."""
    if site.component in (*STREAM, "embed"):
        return directions
    projection, _ = model.place(site)
    weight: Tensor = projection.weight  # type: ignore[assignment]
    # GPT-2 keeps its projections transposed.
    matrix = weight if projection.__class__.__name__ == "Conv1D" else weight.T
    written = directions.to(matrix.device) @ matrix.float()
    after, _ = model.place(Site(site.layer, "attn_out" if site.component == "z" else "mlp_out"))
    # The module that adds to the stream has a weight of its own where it is a post-norm.
    return written * _scale(model, after) if hasattr(after, "weight") else written


def _scale(model: LanguageModel, norm: nn.Module) -> Float[Tensor, " d_model"]:
    weight: Tensor = norm.weight  # type: ignore[assignment]
    return model.architecture.norm_offset + weight.float()
