"""Sparse autoencoders: an activation as a sum of few of many features, and back."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore, SiteRows

KINDS = ("l1", "topk", "jumprelu")
_TENSORS = ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold")


@dataclass(frozen=True)
class Provenance:
    """What an autoencoder was trained on: the model, the site, the dataset.

    `model` is the hash of its weights. Published files state a name instead: they are `named`, and
    the name is compared with the end of a model's path or hub id. That says less than a hash does:
    other weights under the same name are not found out.
    """

    model: str
    site: str
    dataset: str
    named: bool = False


@dataclass(frozen=True, eq=False)
class SparseAutoencoder:
    """Features of the activation x [width] at one site of one model.

    Shapes: encoder [width, feature], decoder [feature, width], decoder_bias [width], encoder_bias
    and threshold [feature].

    pre = x encoder + encoder_bias;  f = activation(pre) >= 0;  x̂ = f decoder + decoder_bias;
    error = x - x̂. Activations by kind:
    `l1`: f = max(pre, 0). Bricken et al. 2023.
    `topk`: the k largest of pre, then max(pre, 0). Gao et al. 2024.
    `jumprelu`: f = pre where pre > threshold, else 0. Rajamanoharan et al. 2024.

    As in Gemma Scope, the decoder's bias is not subtracted from x, and x is not scaled: where an
    autoencoder was trained otherwise, both are folded into its weights, which changes no value.
    Activations f are in the units of x where the decoder's rows have length 1.

    Raises:
        ValueError: an unknown kind, shapes that do not belong together, a `k` out of its range.
    """

    kind: str
    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor
    provenance: Provenance
    k: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"autoencoder kind {self.kind!r} is unknown; valid: {', '.join(KINDS)}"
            )
        if (self.kind == "topk") != (1 <= self.k <= self.n_features):
            raise ValueError(
                f"k {self.k} of a {self.kind} autoencoder; valid: 1 to {self.n_features} for topk, "
                "0 for the others"
            )
        shape = (self.width, self.n_features)
        expected = dict(
            zip(_TENSORS, (shape, shape[1:], shape[::-1], shape[:1], shape[1:]), strict=True)
        )
        for name, wanted in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != wanted:
                raise ValueError(
                    f"{name} has shape {list(found)}, the encoder asks for {list(wanted)}"
                )

    @property
    def width(self) -> int:
        """Of the activations."""
        return self.encoder.shape[0]

    @property
    def n_features(self) -> int:
        """Size of the dictionary."""
        return self.encoder.shape[1]

    def encode(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes feature"]:
        """Feature activations f."""
        return activate(self.kind, x @ self.encoder + self.encoder_bias, self.k, self.threshold)

    def decode(self, features: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes width"]:
        """Reconstruction x̂ of feature activations."""
        return features @ self.decoder + self.decoder_bias

    def reconstruct(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Reconstruction x̂ of an activation."""
        return self.decode(self.encode(x))

    def to(self, device: torch.device) -> "SparseAutoencoder":
        """The same on another device; the same tensors if they are there."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if this is not the place it was trained at.

        Raises:
            ValueError: another model, layer, component or width; names both sides.
        """
        made = self.provenance
        name = (Path(made.model).name, Path(model.name).name)
        pairs = {
            "site": (made.site, str(site)),
            "width": (self.width, model.width(site)),
            "model": name if made.named else (made.model, model.weights),
        }
        unlike = [
            f"{name} {was!r}, this is {now!r}" for name, (was, now) in pairs.items() if was != now
        ]
        if unlike:
            raise ValueError(f"autoencoder was trained at {'; '.join(unlike)}")

    def rows_of(self, store: ActivationStore) -> SiteRows:
        """The rows of a store that it encodes.

        Raises:
            ValueError: a store of another model, or without its site.
        """
        found = store.fingerprint.model
        if found != self.provenance.model:
            raise ValueError(
                f"autoencoder was trained at model {self.provenance.model!r}, the store is of "
                f"{found!r}"
            )
        return store[self.provenance.site]

    def pinned(self, model: LanguageModel) -> "SparseAutoencoder":
        """The same, stating the hash of this model's weights: what a store knows its model by.

        Raises:
            ValueError: it was trained at another model; names both sides.
        """
        self.check(model, Site.parse(self.provenance.site))
        made = replace(self.provenance, model=model.weights, named=False)
        return replace(self, provenance=made)

    def check_features(self, features: Sequence[int]) -> None:
        """Fail if there is no such feature.

        Raises:
            ValueError: names it and the valid ones.
        """
        for feature in features:
            if not 0 <= feature < self.n_features:
                raise ValueError(
                    f"feature {feature} of the autoencoder at {self.provenance.site}; "
                    f"valid: 0 to {self.n_features - 1}"
                )


def activate(
    kind: str,
    pre: Float[Tensor, "*axes feature"],
    k: int,
    threshold: Float[Tensor, " feature"],
) -> Float[Tensor, "*axes feature"]:
    """Feature activations of pre-activations, as `SparseAutoencoder` says for each kind."""
    if kind == "topk":
        largest = pre.topk(k, -1)
        return torch.zeros_like(pre).scatter(-1, largest.indices, largest.values.relu())
    if kind == "jumprelu":
        return pre * (pre > threshold)
    return pre.relu()


def save_sae(path: Path, sae: SparseAutoencoder) -> None:
    """Write an autoencoder in float32 with its provenance."""
    # One metadata key: several are written in random order and would change the bytes.
    record = {"kind": sae.kind, "k": sae.k, "provenance": asdict(sae.provenance)}
    tensors = {name: getattr(sae, name).float().cpu().contiguous() for name in _TENSORS}
    save_file(tensors, path, metadata={"autoencoder": json.dumps(record, sort_keys=True)})


def load_sae(path: Path) -> SparseAutoencoder:
    """Read an autoencoder back, on the CPU; `check` says whether it fits a place."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["autoencoder"])
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    made = Provenance(**record["provenance"])
    return SparseAutoencoder(kind=record["kind"], k=record["k"], provenance=made, **tensors)
