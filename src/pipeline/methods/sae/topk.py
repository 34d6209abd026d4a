"""TopK training with sparse gradients: apart from the top-k step, cost grows with k."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


class _Largest(torch.autograd.Function):
    """The k largest pre-activations, with weight gradients summed over active pairs only.

    With g = ∂loss/∂value, 0 where a value is not above 0, and the sparse matrix G [feature, rows]
    with g at the selected pairs: ∂loss/∂encoder = G (x - centre), ∂loss/∂bias = G 1,
    ∂loss/∂centre = -encoderᵀ G 1.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, centre: Tensor, k: int
    ) -> tuple[Tensor, ...]:
        centred = x - centre
        values, chosen = torch.addmm(bias, centred, encoder.T).topk(k, -1, sorted=False)
        values.relu_()
        ctx.save_for_backward(centred, encoder, values, chosen)
        ctx.mark_non_differentiable(chosen)
        return values, chosen

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        centred, weights, values, chosen = ctx.saved_tensors
        slope = slopes[0] * (values > 0)
        # G (x - centre) as the gradient of a weighted sum of embedding rows.
        with torch.enable_grad():
            rows = weights.detach().requires_grad_()
            sums = decode(slope, chosen, rows)
        (encoder,) = torch.autograd.grad(sums, rows, centred)
        bias = slope.new_zeros(len(weights)).index_add(0, chosen.flatten(), slope.flatten())
        return None, encoder, bias, -(bias @ weights), None


def largest(
    x: Float[Tensor, "rows width"],
    encoder: Float[Tensor, "feature width"],
    bias: Float[Tensor, " feature"],
    centre: Float[Tensor, " width"],
    k: int,
) -> tuple[Float[Tensor, "rows k"], Int[Tensor, "rows k"]]:
    """Return the k largest of (x - centre) encoderᵀ + bias per row, clamped at 0, with indices.

    Gradients equal those of a dense TopK for the weights; x gets none.
    """
    values, chosen = _Largest.apply(x, encoder, bias, centre, k)
    return values, chosen


def decode(
    values: Float[Tensor, "rows k"],
    chosen: Int[Tensor, "rows k"],
    decoder: Float[Tensor, "feature width"],
) -> Float[Tensor, "rows width"]:
    """Sum the selected decoder rows weighted by their values."""
    return embedding_bag(chosen, decoder, mode="sum", per_sample_weights=values)
