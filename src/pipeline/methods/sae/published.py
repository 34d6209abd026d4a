"""What published autoencoder formats have in common: names of tensors, and their checks."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def assembled(
    kind: str, tensors: Mapping[str, Tensor], provenance: Provenance, k: int = 0
) -> SparseAutoencoder:
    """Build an autoencoder from the tensors of a file.

    Raises:
        ValueError: values that are not finite, or inconsistent shapes.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of the autoencoder at {provenance.sites[0]} is not finite")
    bias = tensors["b_enc"]
    # Both formats apply max(pre, 0) first, so a negative threshold is equivalent to 0.
    threshold = tensors["threshold"].clamp(min=0) if kind == "jumprelu" else torch.zeros_like(bias)
    return SparseAutoencoder(
        kind=kind,
        encoder=tensors["W_enc"],
        encoder_bias=bias,
        decoder=tensors["W_dec"],
        decoder_bias=tensors["b_dec"],
        threshold=threshold,
        provenance=provenance,
        k=k,
    )


def check_names(where: Path, names: Collection[str], valid: Collection[str]) -> None:
    """Check the names of a file's tensors.

    Raises:
        ValueError: missing or unknown names; names the valid ones.
    """
    missing = [name for name in valid if name not in names]
    unknown = [name for name in names if name not in valid]
    problems = [f"lacks {', '.join(missing)}"] * bool(missing)
    problems += [f"has more besides: {', '.join(unknown)}"] * bool(unknown)
    if problems:
        raise ValueError(f"{where} {'; '.join(problems)}; valid: {', '.join(valid)}")
