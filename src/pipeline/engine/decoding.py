"""Greedy decoding, and Gumbel-max sampling with noise that does not depend on the batch."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NOISE = 2**24
"""Noise values computed at a time: 0.1 GB per 64-bit tensor, of which there are a few."""

_ODD = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number: 2^64 / golden ratio


@dataclass(frozen=True)
class Decoding:
    """Settings for decoding completions.

    Of the model's generation_config the end tokens are followed, and its sampling settings are not.

    Args:
        max_new_tokens: length limit.
        temperature: 0 decodes greedily.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose total probability reaches top_p.
        repeats: completions per prompt.
        forbidden: tokens that are never generated.
        forced: tokens that take the place of an end: budget forcing.
        times: how often they do; a completion ends at its next end.

    Raises:
        ValueError: a value is out of range.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repeats: int = 1
    forbidden: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    times: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "repeats", "times"):
            if type(getattr(self, name)) is not int:
                raise ValueError(f"{name} {getattr(self, name)!r} must be a whole number")
        for name in ("temperature", "top_p"):
            if not isinstance(getattr(self, name), int | float):
                raise ValueError(f"{name} {getattr(self, name)!r} must be a number")
        for name in ("forbidden", "forced"):
            tokens = tuple(getattr(self, name))
            object.__setattr__(self, name, tokens)
            if any(type(token) is not int or token < 0 for token in tokens):
                raise ValueError(f"{name} {tokens} must be tokens")
        if self.times < 0 or (self.times > 0 and not self.forced):
            raise ValueError(f"times {self.times} of {len(self.forced)} forced tokens")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} must be at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature} must be 0 or more, and finite")
        if self.top_k < 0:
            raise ValueError(f"top_k {self.top_k} must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.repeats < 1:
            raise ValueError(f"repeats {self.repeats} must be at least 1")
        if self.repeats > 1 and self.temperature == 0:
            raise ValueError(f"repeats {self.repeats} at temperature 0 would all be the same")


def choose(
    logits: Float[Tensor, "rows vocab"],
    decoding: Decoding,
    keys: Int[Tensor, " rows"],
    steps: Int[Tensor, "#rows"],
) -> Int[Tensor, " rows"]:
    """Choose the next token of each row; rows may be at different steps.

    Sampling takes argmax(logits / temperature + Gumbel noise) over the tokens that top-k and then
    top-p keep; ties at the threshold are all kept. The noise depends only on (row key, step, token
    id): a sample gets the same noise under every condition and in every batch.
    """
    if decoding.forbidden:
        forbidden = torch.tensor(decoding.forbidden, device=logits.device)
        logits = logits.index_fill(-1, forbidden, -torch.inf)
    if decoding.temperature == 0:
        return logits.argmax(-1)
    # Relative to the largest logit, which a tiny temperature would otherwise make infinite.
    scaled = (logits - logits.amax(-1, keepdim=True)).float() / decoding.temperature
    if decoding.top_k and decoding.top_k < scaled.shape[-1]:
        least = scaled.topk(decoding.top_k, -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < least, -torch.inf)
    if decoding.top_p < 1:
        probability = scaled.softmax(-1)
        least = least_kept(probability, decoding.top_p)
        scaled = scaled.masked_fill(probability < least, -torch.inf)
    noisy = _among_kept if decoding.top_k or decoding.top_p < 1 else _among_all
    at_once = max(1, _NOISE // scaled.shape[-1])
    parts = zip(*(x.split(at_once) for x in (scaled, keys, steps.expand(len(keys)))), strict=True)
    return torch.cat([noisy(*part).argmax(-1) for part in parts])


def _among_all(scaled: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
    tokens = torch.arange(scaled.shape[-1], device=scaled.device)
    return scaled + gumbel(keys[:, None], steps[:, None], tokens)


def _among_kept(scaled: Tensor, keys: Tensor, steps: Tensor) -> Tensor:
    """Add noise to the kept tokens only: noise for the whole vocabulary would dominate the cost."""
    rows, tokens = (scaled > -torch.inf).nonzero(as_tuple=True)
    noisy = scaled[rows, tokens] + gumbel(keys[rows], steps[rows], tokens)
    return scaled.index_put((rows, tokens), noisy)


def least_kept(
    probability: Float[Tensor, "rows vocab"], top_p: float, among: int = 256
) -> Float[Tensor, "rows 1"]:
    """Return the lowest probability in the smallest set of tokens that reaches top_p.

    Only the `among` likeliest tokens are sorted; the whole vocabulary, which is far slower, only
    in rows where these do not reach top_p.
    """
    ordered = probability.topk(min(among, probability.shape[-1]), -1).values
    reached = ordered.cumsum(-1)
    # A token is kept while the likelier ones have not reached top_p: the first one always is.
    n_before = (reached[:, :-1] < top_p).sum(-1, keepdim=True)
    least = ordered.gather(-1, n_before)
    short = reached[:, -1] < top_p
    if among < probability.shape[-1] and bool(short.any()):
        least[short] = least_kept(probability[short], top_p, probability.shape[-1])
    return least


def row_keys(seed: int, samples: list[int], repeats: list[int]) -> Int[Tensor, " rows"]:
    """Hash (seed, sample, repeat) to a 64-bit noise key per row, equal for all conditions."""
    key = _mix(torch.full((len(samples),), seed, dtype=torch.long))
    key = _mix(key + _ODD * (torch.tensor(samples, dtype=torch.long) + 1))
    return _mix(key + _ODD * (torch.tensor(repeats, dtype=torch.long) + 1))


def gumbel(
    keys: Int[Tensor, "*#shape"], steps: Int[Tensor, "*#shape"], tokens: Int[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Return standard Gumbel noise -log(-log u), with u hashed from (key, step, token id)."""
    # 23 bits: (n + 1/2) / 2^23 is exact in float32 and never 0 or 1.
    bits = _shift(_mix(_mix(keys + _ODD * (steps + 1)) + _ODD * (tokens + 1)), 41)
    uniform = (bits.float() + 0.5) / 2**23
    return -torch.log(-torch.log(uniform))


def _mix(x: Tensor) -> Tensor:
    """Apply the finaliser of SplitMix64 (Steele, Lea, Flood 2014) to signed 64-bit integers."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right logically: the sign bit moves like any other bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
