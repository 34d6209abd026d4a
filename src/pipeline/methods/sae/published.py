"""What published autoencoder formats have in common: names of tensors, and their checks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder

TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")


def assembled(
    where: Path,
    kind: str,
    tensors: Mapping[str, Tensor],
    provenance: Provenance,
    k: int = 0,
) -> SparseAutoencoder:
    """Build an autoencoder from the tensors of the file `where`, after `check_tensors`.

    Raises:
        ValueError: values that are not finite.
    """
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{where}: {name} is not finite")
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


def check_number(where: Path, name: str, dtype: Any, *, floating: bool) -> None:
    """Check that a tensor holds floating-point numbers.

    Integers are refused too: quantised weights, or the bits of another type.

    Raises:
        ValueError: names the tensor and its type.
    """
    if not floating:
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(f"{where}: {name} is of type {kind}; valid: floating-point numbers")


def check_shapes(where: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that the shapes agree with that of W_enc [width, feature].

    Raises:
        ValueError: names the tensor, its shape and the valid one.
    """
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    encoder = shapes["W_enc"]
    if len(encoder) != 2:
        raise ValueError(f"{where}: W_enc has shape {encoder}; valid: [width, feature]")
    width, feature = encoder
    expected = {
        "b_enc": [feature],
        "W_dec": [feature, width],
        "b_dec": [width],
        "threshold": [feature],
    }
    wrong = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    if wrong:
        name = wrong[0]
        turned = (shapes["b_enc"], shapes["b_dec"]) == ([width], [feature])
        hint = "; by the biases, W_enc is transposed" if turned else ""
        raise ValueError(
            f"{where}: {name} has shape {shapes[name]}; valid: {expected[name]}, as W_enc "
            f"[width, feature] is {encoder}{hint}"
        )
