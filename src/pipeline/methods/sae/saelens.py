"""Read and write the autoencoder folders of SAELens."""

import json
import re
from collections.abc import Collection, Mapping
from math import inf
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

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

_KINDS = {"standard": "l1", "topk": "topk", "jumprelu": "jumprelu"}
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
_ABOUT = (
    "model_name",
    "hook_name",
    "hook_name_out",
    "hook_head_index",
    "dataset_path",
    "model_from_pretrained_kwargs",
)
"""Fields that version 6 keeps in `metadata`; its other fields there are ignored, as by SAELens."""
_TYPES: dict[str, type] = {
    "k": int,
    "d_in": int,
    "d_sae": int,
    "hook_head_index": int,
    "apply_b_dec_to_input": bool,
    "rescale_acts_by_decoder_norm": bool,
    "model_name": str,
    "dataset_path": str,
    "activation_fn_kwargs": dict,
    "model_from_pretrained_kwargs": dict,
    "metadata": dict,
}
"""Types of fields, each of which may also be null."""
_WORDS = {int: "an integer", bool: "true or false", str: "text", dict: "an object"}
_REWRITES = ("center_writing_weights", "fold_value_biases", "refactor_factored_attn_matrices")
"""TransformerLens weight rewrites that change activations but not logits."""


def load_saelens(
    folder: Path,
    *,
    model: str | None = None,
    scale: float | None = None,
    unmodified: bool = False,
) -> SparseAutoencoder:
    """Read an autoencoder that SAELens wrote: `cfg.json` and `sae_weights.safetensors`.

    pre = (scale x - centred b_dec) W_enc + b_enc;  x̂ = (f W_dec + b_dec) / scale, with centred =
    `apply_b_dec_to_input`; with `rescale_acts_by_decoder_norm`, pre is multiplied and f divided by
    the norms of the rows of W_dec / scale. All of it is folded into the weights, exactly, and f is
    that of SAELens after `fold_activation_norm_scaling_factor`. Supports architectures
    `standard` (`l1` here), `topk` and `jumprelu`, in the configs of version 6 and the flat configs
    of earlier versions.

    Args:
        folder: contains the two files.
        model: name of the model, if it is loaded under another name than the file's:
            TransformerLens calls `gpt2` gpt2-small.
        scale: factor on activations if `normalize_activations` is `expected_average_only_in`:
            sqrt(width) / mean ||x|| on the training data.
        unmodified: whether the model's weights were used as they are, for the folders of early
            versions that do not say so: gpt2-small-res-jb was trained on centred weights.

    Raises:
        ValueError: missing or damaged files; an unsupported architecture, activation function, hook
            or normalisation; a field of the wrong type; missing, unknown, wrongly sized tensors,
            or values that are not finite numbers;
            a missing or superfluous `scale`; a transcoder; a model whose weights TransformerLens
            rewrote or may have rewritten. Names the value and the valid ones.
    """
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no autoencoder of SAELens: there is no {name} there")
    config = _config(folder)
    if _known(folder, config, "activation_fn", "relu", ("relu", "topk")) == "topk":
        config["architecture"] = "topk"
    kind = _KINDS[_known(folder, config, "architecture", "standard", _KINDS)]
    if kind == "topk" and "k" not in config:
        config["k"] = (config.get("activation_fn_kwargs") or {}).get("k")
        _check_types(folder, config)
    model = model or config.get("model_name")
    if not model:
        raise ValueError(f"{folder} does not name its model: give `model`")
    kwargs = config.get("model_from_pretrained_kwargs") or {}
    rewritten = [name for name in _REWRITES if kwargs.get(name)]
    if rewritten:
        raise ValueError(
            f"{folder} is of a model changed by {', '.join(rewritten)}; valid: a model as it is"
        )
    if "model_from_pretrained_kwargs" not in config and not (config["versioned"] or unmodified):
        raise ValueError(
            f"{folder} does not say whether its model's weights were rewritten (no "
            "model_from_pretrained_kwargs); give `unmodified: true` if they were used as they are"
        )
    site = _site(folder, config)
    factor = _scale(folder, config, scale)
    tensors = _tensors(folder, kind)
    width, n_features = tensors["W_enc"].shape
    for field, size in (("d_in", width), ("d_sae", n_features)):
        if config.get(field) not in (None, size):
            raise ValueError(
                f"{folder / _CONFIG}: {field} {config[field]}; valid: {size}, as W_enc of "
                f"{_WEIGHTS} is {[width, n_features]}"
            )
    k = (config.get("k") or 0) if kind == "topk" else 0
    if kind == "topk" and not 1 <= k <= n_features:
        raise ValueError(
            f"{folder / _CONFIG}: k {json.dumps(config['k'])}; valid: 1 to {n_features}, the "
            "number of features"
        )
    if config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = tensors["b_enc"] - tensors["b_dec"] @ tensors["W_enc"]
    tensors["W_enc"] = factor * tensors["W_enc"]
    tensors["W_dec"] = tensors["W_dec"] / factor
    tensors["b_dec"] = tensors["b_dec"] / factor
    if kind == "topk" and config.get("rescale_acts_by_decoder_norm"):
        lengths = tensors["W_dec"].norm(dim=-1)
        tensors["W_enc"] = tensors["W_enc"] * lengths
        tensors["b_enc"] = tensors["b_enc"] * lengths
        tensors["W_dec"] = tensors["W_dec"] / lengths[:, None]
    dataset = config.get("dataset_path") or ""
    provenance = Provenance(model, dataset=dataset, sites=(str(site),), named=True)
    return assembled(folder / _WEIGHTS, kind, tensors, provenance, k)


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
        zip(TENSORS, (sae.encoder, sae.encoder_bias, sae.decoder, sae.decoder_bias), strict=True)
    )
    if sae.kind == "jumprelu":
        tensors["threshold"] = sae.threshold
    if sae.kind == "topk":
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file({n: t.float().cpu().contiguous() for n, t in tensors.items()}, folder / _WEIGHTS)


def _tensors(folder: Path, kind: str) -> dict[str, Tensor]:
    """Read the weights in float32, and check their names, types and shapes."""
    path = folder / _WEIGHTS
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    # Versions before 4 always wrote a scaling factor, even an unused one of all ones.
    if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
        del tensors["scaling_factor"]
    check_names(path, tensors, (*TENSORS, *(("threshold",) if kind == "jumprelu" else ())))
    for name, tensor in tensors.items():
        check_number(path, name, tensor.dtype, floating=tensor.is_floating_point())
    check_shapes(path, tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


def _config(folder: Path) -> dict[str, Any]:
    """Read cfg.json under the names of version 6; `versioned`: whether it is of version 6."""
    try:
        config = json.loads((folder / _CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{folder / _CONFIG} has {json.dumps(config)}; valid: an object")
    _check_types(folder, config)
    metadata = config.get("metadata") or {}
    config = {_OLD_NAMES.get(name, name): value for name, value in config.items()}
    config |= {name: metadata[name] for name in _ABOUT if name in metadata}
    _check_types(folder, config)
    config["versioned"] = "sae_lens_version" in {**config, **metadata}
    hook, out = config.get("hook_name"), config.get("hook_name_out")
    if out is not None and out != hook:
        raise ValueError(f"{folder} is a transcoder, from {hook} to {out}")
    return config


def _check_types(folder: Path, config: Mapping[str, Any]) -> None:
    for field, kind in _TYPES.items():
        value = config.get(field)
        # Not `isinstance`: to Python, true is an integer.
        if value is not None and type(value) is not kind:
            raise ValueError(
                f"{folder / _CONFIG}: {field} {json.dumps(value)}; valid: {_WORDS[kind]}"
            )


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
    if name == _SCALED and not (scale and 0 < scale < inf):
        raise ValueError(
            f"{folder}: normalize_activations {name!r} needs a finite `scale` above 0: "
            "sqrt(width) / mean ||x|| on the training data"
        )
    return scale or 1.0
