"""Where each family of models keeps its parts: the one table that knows architectures.

A new architecture is one row of `ARCHITECTURES`.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """Names of modules: `decoder` in the base model, `blocks` in it, the rest in a block.

    `attention` and `mlp` are the modules whose output is added to the residual stream: the
    post-norm where a family has one. `pattern` is the attention itself, which returns its
    probabilities second. `parallel` names the entry of the config that says whether attention and
    MLP run side by side. `final_norm` is in the decoder; norms scale by `norm_offset` + weight.
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
        """Whether attention and MLP of a model of this config both read the block's input."""
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
"""Families that are known not to fit, and why."""


def architecture_of(config: Any, name: str) -> Architecture:
    """The row of a model's config.

    Raises:
        ValueError: no row for its type; says why where that is known.
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
