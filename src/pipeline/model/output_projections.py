"""What activations inside a block add to the residual stream, through the output projections."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.loading import LanguageModel
from pipeline.model.sites import STREAM_WIDE, Site


def written(
    model: LanguageModel, site: Site, directions: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes d_model"]:
    """Map directions at a site to what they add to the residual stream.

    At `z` and `mlp_act`: through the output projection without its bias, and through the scale of a
    post-norm if any, whose denominator is left out.
    """
    if site.component in (*STREAM_WIDE, "embed"):
        return directions
    projected, after = _projected(model, site, directions), _post_norm(model, site)
    return projected if after is None else projected * norm_scale(model, after)


@torch.no_grad()
def head_outputs(
    model: LanguageModel, layer: int, z: Float[Tensor, "*axes z"]
) -> Float[Tensor, "*axes head d_model"]:
    """Split what a layer's attention adds to the residual stream into its heads' parts.

    Part of head h = z_h W_O[h], in float32 and without the projection's bias, so that the parts sum
    to `attn_out` without it. A post-norm divides every part by the same number, given by their sum.
    """
    site = Site(layer, "z")
    heads = model.n_heads
    # One head at a time in the full width, zero elsewhere.
    z = z.float().unflatten(-1, (heads, -1))
    apart = torch.eye(heads, device=z.device)[:, :, None] * z[..., None, :]
    parts, after = _projected(model, site, apart.flatten(-2)), _post_norm(model, site)
    if after is None:
        return parts
    scaled = parts * norm_scale(model, after)
    total = parts.sum(-2).to(model.dtype)
    factor = after(total).float().norm(dim=-1) / scaled.sum(-2).norm(dim=-1)
    return scaled * factor[..., None, None]


def norm_scale(model: LanguageModel, norm: nn.Module) -> Float[Tensor, " d_model"]:
    """Return what a norm multiplies its normalised input by."""
    weight: Tensor = norm.weight  # type: ignore[assignment]
    return model.architecture.norm_offset + weight.float()


def _projected(
    model: LanguageModel, site: Site, directions: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes d_model"]:
    projection, _ = model.module_of(site)
    weight: Tensor = projection.weight  # type: ignore[assignment]
    # GPT-2 stores its projections transposed, as Conv1D [in, out].
    matrix = weight if projection.__class__.__name__ == "Conv1D" else weight.T
    return directions.to(matrix.device) @ matrix.float()


def _post_norm(model: LanguageModel, site: Site) -> nn.Module | None:
    """Return the norm after the output projection of a site, if there is one."""
    after, _ = model.module_of(Site(site.layer, "attn_out" if site.component == "z" else "mlp_out"))
    # A post-norm has a weight; an attention or MLP module has none of its own.
    return after if hasattr(after, "weight") else None
