"""Run a model with other weights of its blocks, and put its own ones back."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.model.loading import LanguageModel


def block_weights(model: LanguageModel) -> dict[str, nn.Parameter]:
    """Return the parameters of all blocks by their names in the transformers model.

    The embedding, the final norm and the unembedding are not among them.
    """
    in_blocks = {id(parameter) for parameter in model.blocks.parameters()}
    return {name: p for name, p in model.hf.named_parameters() if id(p) in in_blocks}


@contextmanager
def replaced_weights(model: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run the model with other weights; its own are put back, bit for bit, whatever happens.

    The weights are not copied: the model points to the new ones and then to its own again. Inside,
    `model.weights` is another hash, so that no fit of the unchanged model is taken for its own.

    Args:
        model: the model.
        weights: name of a block's parameter -> its value, in the model's dtype.

    Raises:
        ValueError: a name that no block has, or another shape or dtype; names both.
    """
    own = block_weights(model)
    for name, value in weights.items():
        if name not in own:
            raise ValueError(f"{model.name} has no weight {name!r} in its blocks")
        expected = own[name]
        if (value.shape, value.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"weight {name} is {[*value.shape]} of {value.dtype}; {model.name} has "
                f"{[*expected.shape]} of {expected.dtype}"
            )
    originals = {name: own[name].data for name in weights}
    digest = model.weights
    try:
        for name, value in weights.items():
            own[name].data = value.to(own[name].device)
        model.weights = weights_digest(digest, weights)
        yield
    finally:
        for name, value in originals.items():
            own[name].data = value
        model.weights = digest


def weights_digest(model: str, weights: Mapping[str, Tensor]) -> str:
    """Hash a model's hash together with the weights that replace some of its own."""
    digest = hashlib.sha256(model.encode())
    for name in sorted(weights):
        digest.update(name.encode())
        # bfloat16 has no numpy dtype.
        digest.update(weights[name].detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
