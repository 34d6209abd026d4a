"""Module names of each supported model family; a new architecture is one row of `ARCHITECTURES`.

No other file knows about architectures.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Module names: `decoder` in the base model, `blocks` in the decoder, the others in a block.

    Attributes:
        decoder: decoder in the base model; empty if it is the base model itself.
        blocks: list of blocks in the decoder.
        pattern: attention module, whose second output is the attention pattern.
        heads: output projection of attention, whose input is `z`.
        attention: module whose output attention adds to the residual stream; a post-norm if any.
        middle: module whose input is `resid_mid`.
        neurons: down projection of the MLP, whose input is `mlp_act`.
        mlp: module whose output the MLP adds to the residual stream; a post-norm if any.
        parallel: config entry that says whether attention and MLP run in parallel.
        final_norm: final norm in the decoder.
        norm_offset: norms scale by `norm_offset` + weight.
    """

    decoder: str = ""
    blocks: str = "layers"
    pattern: str = "self_attn"
    heads: str = "self_attn.o_proj"
    attention: str = "self_attn"
    middle: str = "post_attention_layernorm"
    neurons: str = "mlp.down_proj"
    mlp: str = "mlp"
    parallel: str | None = None
    final_norm: str = "norm"
    norm_offset: float = 0.0

    def side_by_side(self, config: Any) -> bool:
        """Whether attention and MLP run in parallel: both read the block's input."""
        return self.parallel is not None and bool(getattr(config, self.parallel))


_GEMMA: dict[str, Any] = {
    "norm_offset": 1.0,
    "attention": "post_attention_layernorm",
    "middle": "pre_feedforward_layernorm",
    "mlp": "post_feedforward_layernorm",
}
ARCHITECTURES: dict[str, Architecture] = {
    "gemma": Architecture(norm_offset=1.0),
    "gemma2": Architecture(**_GEMMA),
    "gemma3": Architecture(decoder="language_model", **_GEMMA),
    "gemma3_text": Architecture(**_GEMMA),
    "gpt2": Architecture(
        blocks="h",
        pattern="attn",
        heads="attn.c_proj",
        attention="attn",
        middle="ln_2",
        neurons="mlp.c_proj",
        final_norm="ln_f",
    ),
    "gpt_neox": Architecture(
        pattern="attention",
        heads="attention.dense",
        attention="attention",
        neurons="mlp.dense_4h_to_h",
        parallel="use_parallel_residual",
        final_norm="final_layer_norm",
    ),
    "llama": Architecture(),
    "mistral": Architecture(),
    "olmo2": Architecture(
        attention="post_attention_layernorm", middle="mlp", mlp="post_feedforward_layernorm"
    ),
    "phi3": Architecture(),
    "qwen2": Architecture(),
    "qwen3": Architecture(),
}

_KEYS_SHARED = "its later layers share keys and values with earlier ones"
_EXPERTS = "its MLP is a mixture of experts, without one down projection"
REFUSED = {
    "gemma3n": _KEYS_SHARED,
    "gemma3n_text": _KEYS_SHARED,
    "gemma4": _KEYS_SHARED,
    "gemma4_text": _KEYS_SHARED,
    "gpt_oss": _EXPERTS,
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
}
"""Unsupported model families, and why."""


def architecture_of(config: Any, name: str) -> Architecture:
    """Look up the architecture of a model by its config.

    Raises:
        ValueError: the model type is not supported; says why if known.
    """
    model_type = config.model_type
    if model_type in REFUSED:
        raise ValueError(f"{name} ({model_type}) cannot be supported: {REFUSED[model_type]}")
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"model type {model_type!r} of {name} is not supported; "
            f"valid: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]
