"""What the benchmark is to show: how many times our seconds another side takes at least."""

from typing import Any

_LIBRARY = "TransformerLens", "nnsight"
_HOOKS = "transformers, plain hooks"

# 0.77: within 1.3 times the plain pass. 0.95: at most 5 % over `generate`.
AIMS: dict[str, dict[str, float]] = {
    "collection": {"base model alone": 0.9} | dict.fromkeys(_LIBRARY, 1.4),
    "collection_wide": {"base model alone": 0.9} | dict.fromkeys(_LIBRARY, 2.0),
    "forward_last": {"TransformerLens": 25.0},
    "neurons": {"TransformerLens": 25.0, _HOOKS: 25.0},
    "heads": {"TransformerLens": 20.0},
    "patchscopes": {_HOOKS: 10.0},
    "tracing": {_HOOKS: 3.0},
    "rank_ones": {_HOOKS: 3.0},
    "jacobians": {_HOOKS: 2.0},
    "forward_all": {"TransformerLens": 1.8},
    "generation_all": {"steering-vectors": 1.6},
    "generation_generated": {_HOOKS: 2.5},
    "generation_few_all": {"steering-vectors": 3.0},
    "generation_few_generated": {_HOOKS: 3.0},
    "mixed_lengths": {"actsweep, no row leaves before the longest": 2.0},
    "no_condition": {"transformers' generate": 0.95},
    "generation_chat": {_HOOKS: 2.5},
    "no_condition_chat": {"transformers' generate": 0.95},
    "read_cold": {"plain pass over the files": 0.77, "datasets column": 5.0},
    "read_warm": {"plain pass over the files": 0.77, "datasets column": 5.0},
    "autoencoder": {"sae_lens": 1.5, "sparsify": 1.5},
    "generation_gpu": {"steering-vectors": 20.0},
}


def missed(name: str, found: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Sides of a measured work whose ratio is below its aim: the ratio's median, and the aim."""
    ratios = found.get("ratios", {})
    return {
        side: (ratios[side]["median"], aim)
        for side, aim in AIMS.get(name, {}).items()
        if side in ratios and ratios[side]["median"] < aim
    }
