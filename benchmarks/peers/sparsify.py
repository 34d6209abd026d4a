"""Autoencoders of sparsify, with Adam, the learning rate and its decay of ours.

Its trainer takes activations from a running model only, not from memory or disk: here its steps are
taken in a plain loop.
"""

import torch
from torch import Tensor

from pipeline.methods.sae.training import SaeRecipe


def trained(batches: list[Tensor], recipe: SaeRecipe) -> dict[str, Tensor]:
    """Weights after a step on each batch."""
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=recipe.n_features, k=recipe.k)
    sae = SparseCoder(batches[0].shape[1], config, dtype=torch.float32)
    sae.b_dec.data = batches[0].mean(0)
    adam = torch.optim.Adam(sae.parameters(), lr=recipe.learning_rate)
    decay = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1.0, 5 * (1 - step / len(batches)))
    )
    for x in batches:
        sae.set_decoder_norm_to_unit_norm()
        sae(x).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        decay.step()
    encoder = sae.encoder.weight.T
    assert sae.W_dec is not None
    return {
        "encoder": encoder,
        "encoder_bias": sae.encoder.bias - sae.b_dec @ encoder,
        "decoder": sae.W_dec,
        "decoder_bias": sae.b_dec,
    }
