"""Read the autoencoders of Gemma Scope."""

import re
from pathlib import Path
from zipfile import BadZipFile, is_zipfile

import numpy as np
import torch

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.methods.sae.published import (
    TENSORS,
    assembled,
    check_names,
    check_number,
    check_shapes,
)
from pipeline.model.sites import Site

_SCOPES = {"res": "resid_post", "att": "z", "mlp": "mlp_out"}
"""Suffix of a Gemma Scope repository's name -> component."""


def load_gemma_scope(path: Path, *, model: str, site: Site) -> SparseAutoencoder:
    """Read an autoencoder of Gemma Scope: `params.npz`.

    pre = x W_enc + b_enc;  f = max(pre, 0) where pre > threshold, else 0;  x̂ = f W_dec + b_dec,
    with W_enc [width, feature], W_dec [feature, width]. Lieberum et al. 2024.

    Args:
        path: the file.
        model: the name of its model, such as `gemma-2-2b`; not stored in the file.
        site: its site, not stored in the file either; attention autoencoders use `z`. If the path
            contains a folder `layer_N` or a repository name such as `gemma-scope-2b-pt-res` (or
            `att`, `mlp`), the site must agree with it.

    Raises:
        ValueError: no .npz file, a path of another site or of a transcoder, missing or unknown
            arrays, wrong types or shapes, or values that are not finite.
    """
    if not is_zipfile(path):
        raise ValueError(f"{path} is no .npz file")
    _check_path(path, site)
    valid = (*TENSORS, "threshold")
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name in valid}
            names = file.files
    except (BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    check_names(path, names, valid)
    for name, array in arrays.items():
        check_number(path, name, array.dtype, floating=array.dtype.kind == "f")
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    check_shapes(path, tensors)
    provenance = Provenance(model, sites=(str(site),), named=True)
    return assembled(path, "jumprelu", tensors, provenance)


def _check_path(path: Path, site: Site) -> None:
    """Fail if a Gemma Scope path names a transcoder or another layer or component than the site."""
    if "transcoder" in path.as_posix():
        raise ValueError(f"{path} is by its path a transcoder: it does not reconstruct its input")
    layer = re.search(r"(?:^|/)layer_(\d+)/", path.as_posix())
    scope = re.search(r"gemma-scope-[^/]*-(res|att|mlp)\b", path.as_posix())
    # Token-embedding autoencoders are in the residual repository but belong to no layer.
    if re.search(r"(?:^|/)embedding/width_", path.as_posix()):
        if site.component not in ("embed", "resid_pre") or site.layer != 0:
            raise ValueError(
                f"{path} is by its path of the embeddings (blocks.0.embed or, where these are not "
                f"scaled, blocks.0.resid_pre), this is {site}"
            )
        return
    stated = (
        int(layer[1]) if layer else site.layer,
        _SCOPES[scope[1]] if scope else site.component,
    )
    if stated != (site.layer, site.component):
        raise ValueError(f"{path} is by its path of blocks.{stated[0]}.{stated[1]}, this is {site}")
