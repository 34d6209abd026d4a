"""Logit lens: apply the final norm and unembedding to residual streams and directions."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.model.hooks import run_to_logits
from pipeline.model.loading import LanguageModel
from pipeline.model.output_projections import norm_scale, written
from pipeline.model.sites import Site
from pipeline.model.starting import starting_at


@torch.inference_mode()
def lens_logits(
    model: LanguageModel, streams: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """Apply the model's final norm and unembedding to residual streams (logit lens).

    Source: nostalgebraist 2020 (logit lens).
    """
    return unembedded(model, streams)


def unembedded(
    model: LanguageModel, streams: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """Compute `lens_logits`, differentiable with respect to the streams."""
    # One sequence per row: a single sequence would need an attention mask [rows, rows].
    zeros = torch.zeros(len(streams), 1, dtype=torch.long, device=model.device)
    with starting_at(model, model.n_layers, streams[:, None]):
        return run_to_logits(model, zeros, torch.ones_like(zeros))[:, 0]


@torch.no_grad()
def direct_logits(
    model: LanguageModel, site: Site, directions: Float[Tensor, "*axes width"]
) -> Float[Tensor, "*axes vocab"]:
    """Project directions at a site to the vocabulary, bypassing all later blocks.

    logits = (scale * d) W_U, minus their mean over the vocabulary. scale is the weight of the final
    norm; if that is a LayerNorm, d is centred first. At `z` and `mlp_act`, d first goes through the
    output projection, and through the scale of a post-norm if any. Denominators of norms depend on
    the rest of the residual stream and are left out, so logits hold up to one positive factor.
    Logit soft-capping is left out too.

    Raises:
        ValueError: a site that the model does not have, a single head or neuron, `mlp_down`, or
            directions of another width.

    Source: nostalgebraist 2020 (logit lens); Dar et al. 2023 (weights in embedding space).
    """
    if model.check(site).unit is not None:
        raise ValueError(f"{site}: directions of single heads or neurons are not read")
    if site.component == "mlp_down":
        raise ValueError(f"{site}: directions of a projection's input and output are not read")
    width = model.width(site)
    if directions.shape[-1] != width:
        raise ValueError(f"directions are {directions.shape[-1]} wide, {site} is {width}")
    directions = written(model, site, directions.float())
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    if isinstance(norm, nn.LayerNorm):
        directions = directions - directions.mean(-1, keepdim=True)
    read = directions.to(norm.weight.device) * norm_scale(model, norm)
    # In parts: an unembedding of 256 000 tokens in float32 may exceed the model's own weights.
    parts = model.hf.get_output_embeddings().weight.split(16384)
    logits = torch.cat([read.to(part.device) @ part.float().T for part in parts], -1)
    return logits - logits.mean(-1, keepdim=True)


@torch.no_grad()
def value_vectors(model: LanguageModel, layer: int) -> Float[Tensor, "neurons d_model"]:
    """Return what each neuron of an MLP adds to the residual stream per unit of activation.

    Rows of the down projection, times the scale of a post-norm if any; its denominator, which
    depends on the prompt, is left out.

    Source: Geva et al. 2021, "Transformer feed-forward layers are key-value memories".
    """
    site = Site(layer, "mlp_act")
    identity = torch.eye(model.width(site), device=model.device_of(site))
    return written(model, site, identity)


@torch.no_grad()
def readout_vectors(
    model: LanguageModel, tokens: Int[Tensor, " tokens"]
) -> Float[Tensor, "tokens d_model"]:
    """Return r with logit = (r . h) / σ for the final residual stream h and the final norm's σ.

    The token's row of the unembedding times the norm's scale; centred if that is a LayerNorm. A
    norm's or unembedding's bias and soft-capping are left out.
    """
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    weight = model.hf.get_output_embeddings().weight
    rows = weight[tokens.to(weight.device)].float().to(norm.weight.device) * norm_scale(model, norm)
    return rows - rows.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else rows


@torch.no_grad()
def final_factors(
    model: LanguageModel, streams: Float[Tensor, "rows d_model"]
) -> Float[Tensor, " rows"]:
    """Return 1 / σ of the model's final norm for residual streams."""
    return _factors(model, model.decoder.get_submodule(model.architecture.final_norm), streams)


@torch.no_grad()
def post_norm_factors(
    model: LanguageModel, layer: int, outputs: Float[Tensor, "rows d_model"]
) -> Float[Tensor, " rows"]:
    """Return 1 / σ of the norm after an MLP for outputs of its down projection; 1 without one."""
    after, _ = model.module_of(Site(layer, "mlp_out"))
    if not hasattr(after, "weight"):
        return torch.ones(len(outputs), device=outputs.device)
    return _factors(model, after, outputs)


def _factors(
    model: LanguageModel, norm: nn.Module, streams: Float[Tensor, "rows d_model"]
) -> Float[Tensor, " rows"]:
    """Compute 1 / σ from a norm's input and output; epsilons have different names by family."""
    centred = streams.float()
    if isinstance(norm, nn.LayerNorm):
        centred = centred - centred.mean(-1, keepdim=True)
    scaled = centred * norm_scale(model, norm)
    bias = getattr(norm, "bias", None)
    output = norm(streams).float() - (0 if bias is None else bias.float())
    return (output * scaled).sum(-1) / scaled.pow(2).sum(-1)
