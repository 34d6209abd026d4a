"""The same work in plain transformers or with another library: `PEERS` says who does what.

A peer gives up to four functions, of one batch each; `loops` is what repeats them. Its package is
optional: what cannot be imported is not measured, and said so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from benchmarks.peers import nnsight, plain, pyvene, steering_vectors, transformer_lens
from pipeline.model.loading import LanguageModel

REQUIREMENTS = "make bench installs it"


@dataclass(frozen=True)
class Peer:
    """How a library does the works.

    Attributes:
        package: what has to be importable.
        residuals: from ids and mask, each block's output at the last token [batch, d_model].
        logits: after the last token [batch, vocab], of one hooked pass.
        tokens: [batch, new tokens], greedy, of one hooked `generate`.
        ablated: the same with one neuron set to 0 at the last token.
        patched: the same with activations set to others.
        head: the same with one head's output set to another.
        updated: the same with a rank-one update of a layer's weights.
        jacobian: rows of the mean Jacobian of the last state by an earlier one.
        lacks: position rules that it does not have.
    """

    package: str
    residuals: Callable[[LanguageModel, Tensor, Tensor], list[Tensor]] | None = None
    logits: Callable[[LanguageModel, Tensor, Tensor, plain.Steered, str], Tensor] | None = None
    tokens: Callable[[LanguageModel, Tensor, Tensor, plain.Steered, str, int], Tensor] | None = None
    ablated: Callable[[LanguageModel, Tensor, Tensor, plain.Neuron], Tensor] | None = None
    patched: Callable[[LanguageModel, Tensor, Tensor, Sequence[plain.Patch]], Tensor] | None = None
    head: Callable[[LanguageModel, Tensor, Tensor, Sequence[plain.Patch]], Tensor] | None = None
    updated: Callable[[LanguageModel, Tensor, Tensor, plain.Update], Tensor] | None = None
    jacobian: Callable[..., Tensor] | None = None
    lacks: tuple[str, ...] = ()


PEERS = {
    "transformers, plain hooks": Peer(
        "transformers",
        plain.residuals,
        plain.logits,
        plain.tokens,
        plain.ablated,
        patched=plain.patched,
        head=plain.patched,
        updated=plain.updated,
        jacobian=plain.jacobian,
    ),
    "steering-vectors": Peer(
        "steering_vectors",
        logits=steering_vectors.logits,
        tokens=steering_vectors.tokens,
        lacks=("generated",),
    ),
    "TransformerLens": Peer(
        "transformer_lens",
        transformer_lens.residuals,
        transformer_lens.logits,
        transformer_lens.tokens,
        transformer_lens.ablated,
        head=transformer_lens.head,
    ),
    "TransformerLens, stopped before the logits": Peer(
        "transformer_lens", partial(transformer_lens.residuals, stop=True)
    ),
    "nnsight": Peer("nnsight", nnsight.residuals, nnsight.logits, nnsight.tokens),
    "nnsight, stopped before the logits": Peer("nnsight", nnsight.residuals_alone),
    "pyvene": Peer("pyvene", pyvene.residuals, pyvene.logits, pyvene.tokens),
}


def doing(work: str, rule: str = "all") -> tuple[dict[str, Callable[..., Any]], list[str]]:
    """The function `work` of every peer that has it here, and why others cannot be measured."""
    found: dict[str, Callable[..., Any]] = {}
    missing = []
    for name, peer in PEERS.items():
        function = getattr(peer, work)
        if function is None:
            continue
        if rule in peer.lacks:
            missing.append(f"{name}: has no position rule {rule!r}")
        elif find_spec(peer.package) is None:
            missing.append(f"{name}: not installed; {REQUIREMENTS}")
        else:
            found[name] = function
    return found, missing
