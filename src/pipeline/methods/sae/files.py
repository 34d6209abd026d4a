"""Published autoencoder formats: read Gemma Scope files, read and write SAELens files."""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder
from pipeline.model.sites import Site

_KINDS = {"standard": "l1", "topk": "topk", "jumprelu": "jumprelu"}
_TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec")
_CONFIG, _WEIGHTS = "cfg.json", "sae_weights.safetensors"
_SCALED = "expected_average_only_in"
_HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_z": "z",
    "attn.hook_z": "z",
    "hook_attn_out": "attn_out",
    "hook_resid_mid": "resid_mid",
    "mlp.hook_post": "mlp_act",
    "hook_mlp_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
_OLD_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_SCOPES = {"res": "resid_post", "att": "z", "mlp": "mlp_out"}
"""Suffix of a Gemma Scope repository's name -> component."""
_REWRITES = ("center_writing_weights", "fold_value_biases", "refactor_factored_attn_matrices")
"""TransformerLens weight rewrites that change activations but not logits."""


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
        ValueError: no .npz file, a path of another site, missing or unknown arrays, or wrong
            shapes.
    """
    if not is_zipfile(path):
        raise ValueError(f"{path} is no .npz file")
    _check_path(path, site)
    with np.load(path) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]).float() for name in arrays.files}
    _check_names(path, tensors, (*_TENSORS, "threshold"))
    return _assemble("jumprelu", tensors, Provenance(model, sites=(str(site),), named=True))


def load_saelens(
    folder: Path, *, model: str | None = None, scale: float | None = None
) -> SparseAutoencoder:
    """Read an autoencoder that SAELens wrote: `cfg.json` and `sae_weights.safetensors`.

    pre = (scale x - centred b_dec) W_enc + b_enc;  x̂ = (f W_dec + b_dec) / scale, with centred =
    `apply_b_dec_to_input`; with `rescale_acts_by_decoder_norm`, pre is multiplied and f divided by
    the norms of W_dec's rows. All of it is folded into the weights, exactly. Supports architectures
    `standard` (`l1` here), `topk` and `jumprelu`, in the configs of version 6 and the flat configs
    of earlier versions.

    Args:
        folder: contains the two files.
        model: name of the model, if it is loaded under another name than the file's:
            TransformerLens calls `gpt2` gpt2-small.
        scale: factor on activations if `normalize_activations` is `expected_average_only_in`:
            sqrt(width) / mean ||x|| on the training data.

    Raises:
        ValueError: missing files; an unsupported architecture, activation function, hook or
            normalisation; missing or unknown tensors; a missing or superfluous `scale`; a model
            whose weights TransformerLens rewrote. Names the value and the valid ones.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no autoencoder of SAELens: there is no {name} there")
    config = json.loads((folder / _CONFIG).read_text())
    config |= config.get("metadata") or {}
    config = {_OLD_NAMES.get(name, name): value for name, value in config.items()}
    activation = _known(folder, config, "activation_fn", "relu", ("relu", "topk"))
    if activation == "topk":
        config |= {"architecture": "topk"} | (config.get("activation_fn_kwargs") or {})
    kind = _KINDS[_known(folder, config, "architecture", "standard", _KINDS)]
    model = model or config.get("model_name")
    if not model:
        raise ValueError(f"{folder} does not name its model: give `model`")
    kwargs = config.get("model_from_pretrained_kwargs") or {}
    rewritten = [name for name in _REWRITES if kwargs.get(name)]
    if rewritten:
        raise ValueError(
            f"{folder} is of a model changed by {', '.join(rewritten)}; valid: a model as it is"
        )
    site = _site(folder, config)
    tensors = {name: t.float() for name, t in load_file(folder / _WEIGHTS).items()}
    # Versions before 4 always wrote a scaling factor, even an unused one of all ones.
    if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
        del tensors["scaling_factor"]
    extra = ("threshold",) if kind == "jumprelu" else ()
    _check_names(folder / _WEIGHTS, tensors, (*_TENSORS, *extra))
    factor = _scale(folder, config, scale)
    if config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]
    if kind == "topk" and config.get("rescale_acts_by_decoder_norm"):
        lengths = tensors["W_dec"].norm(dim=-1)
        tensors["W_enc"] = tensors["W_enc"] * lengths
        tensors["b_enc"] = tensors["b_enc"] * lengths
        tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]
    tensors["W_enc"] = factor * tensors["W_enc"]
    tensors["W_dec"] = tensors["W_dec"] / factor
    tensors["b_dec"] = tensors["b_dec"] / factor
    dataset = config.get("dataset_path") or ""
    provenance = Provenance(model, dataset=dataset, sites=(str(site),), named=True)
    return _assemble(kind, tensors, provenance, (config.get("k") or 0) if kind == "topk" else 0)


def save_saelens(folder: Path, sae: SparseAutoencoder, *, model: str) -> None:
    """Write an autoencoder in the SAELens 6 format, float32; load it by `SAE.load_from_disk`.

    Args:
        folder: created if missing.
        sae: of any kind.
        model: the name of its model for the config, since users cannot resolve a weight hash.

    Raises:
        ValueError: a site without a SAELens hook.
    """
    site = Site.parse(sae.site)
    hooks = {component: hook for hook, component in _HOOKS.items()}
    if site.component not in hooks or (site.unit is not None and site.component != "z"):
        raise ValueError(f"{site} has no hook; valid: {', '.join(hooks)}, z[HEAD], all in a layer")
    all_heads = site.component == "z" and site.unit is None
    provenance = sae.provenance
    config = {
        "architecture": {kind: name for name, kind in _KINDS.items()}[sae.kind],
        "d_in": sae.width,
        "d_sae": sae.n_features,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "hook_z" if all_heads else "none",
        "metadata": {
            # Without a version, SAELens assumes an older format.
            "sae_lens_version": "6.0.0",
            "model_name": model,
            "hook_name": f"blocks.{site.layer}.{hooks[site.component]}",
            "hook_head_index": site.unit,
            "dataset_path": (provenance.named and provenance.dataset) or None,
        },
    }
    tensors = dict(
        zip(_TENSORS, (sae.encoder, sae.encoder_bias, sae.decoder, sae.decoder_bias), strict=True)
    )
    if sae.kind == "jumprelu":
        tensors["threshold"] = sae.threshold
    if sae.kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({n: t.float().cpu().contiguous() for n, t in tensors.items()}, folder / _WEIGHTS)


def _assemble(
    kind: str, tensors: Mapping[str, Tensor], provenance: Provenance, k: int = 0
) -> SparseAutoencoder:
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


def _check_path(path: Path, site: Site) -> None:
    """Fail if a Gemma Scope path names another layer or component than the site."""
    layer = re.search(r"(?:^|/)layer_(\d+)/", path.as_posix())
    scope = re.search(r"gemma-scope-[^/]*-(res|att|mlp)\b", path.as_posix())
    # Token-embedding autoencoders are in the residual repository but belong to no layer.
    if "embedding" in path.parts:
        return
    stated = (
        int(layer[1]) if layer else site.layer,
        _SCOPES[scope[1]] if scope else site.component,
    )
    if stated != (site.layer, site.component):
        raise ValueError(f"{path} is by its path of blocks.{stated[0]}.{stated[1]}, this is {site}")


def _check_names(where: Path, names: Collection[str], valid: Collection[str]) -> None:
    missing = [name for name in valid if name not in names]
    unknown = [name for name in names if name not in valid]
    problems = [f"lacks {', '.join(missing)}"] * bool(missing)
    problems += [f"has more besides: {', '.join(unknown)}"] * bool(unknown)
    if problems:
        raise ValueError(f"{where} {'; '.join(problems)}; valid: {', '.join(valid)}")


def _known(
    folder: Path, config: Mapping[str, Any], field: str, default: str, valid: Collection[str]
) -> str:
    value = config.get(field, default)
    if value not in list(valid):
        raise ValueError(f"{folder}: {field} {value!r}; valid: {', '.join(valid)}")
    return value


def _site(folder: Path, config: Mapping[str, Any]) -> Site:
    hook = config.get("hook_name")
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(hook))
    if match is None or match[2] not in _HOOKS:
        raise ValueError(
            f"{folder}: hook_name {hook!r}; valid: blocks.LAYER.HOOK with HOOK in "
            + ", ".join(_HOOKS)
        )
    site = Site(int(match[1]), _HOOKS[match[2]], config.get("hook_head_index"))
    shape = config.get("reshape_activations", "none")
    all_heads = site.component == "z" and site.unit is None
    valid = ("none", "hook_z") if all_heads else ("none",)
    if shape not in valid:
        raise ValueError(
            f"{folder}: reshape_activations {shape!r} at {site}; valid: {', '.join(valid)}"
        )
    return site


def _scale(folder: Path, config: Mapping[str, Any], scale: float | None) -> float:
    """Return the constant factor on activations; reject per-activation normalisation."""
    value = config.get("normalize_activations")
    names = {None: "none", False: "none", True: _SCALED}
    name = names[value] if value is None or isinstance(value, bool) else value
    if name not in ("none", _SCALED):
        raise ValueError(f"{folder}: normalize_activations {name!r}; valid: none, {_SCALED}")
    if name == "none" and scale is not None:
        raise ValueError(f"scale {scale} for {folder}, which has normalize_activations 'none'")
    if name == _SCALED and not (scale and scale > 0):
        raise ValueError(
            f"{folder}: normalize_activations {name!r} needs `scale` above 0: "
            "sqrt(width) / mean ||x|| on the training data"
        )
    return scale or 1.0
