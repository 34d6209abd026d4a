"""Sparse autoencoders: encode an activation as a sparse sum of features, and decode it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.methods.provenance import Provenance
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.store.store import ActivationStore, SiteRows

KINDS = ("l1", "topk", "jumprelu")
_TENSORS = ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold")


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

    The provenance has exactly one site, the training site.

    As in Gemma Scope, the decoder bias is not subtracted from x, and x is not scaled. Autoencoders
    trained with either have them folded into the weights, which is exact. Activations f are in the
    units of x if the decoder rows have norm 1.

    Raises:
        ValueError: an unknown kind, inconsistent shapes, or `k` out of range.
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
        sizes = (self.width, self.n_features)
        expected = dict(
            zip(_TENSORS, (sizes, sizes[1:], sizes[::-1], sizes[:1], sizes[1:]), strict=True)
        )
        for name, expected_shape in expected.items():
            shape = tuple(getattr(self, name).shape)
            if shape != expected_shape:
                raise ValueError(
                    f"{name} has shape {list(shape)}, the encoder asks for {list(expected_shape)}"
                )

    @property
    def width(self) -> int:
        """Dimension of the activations."""
        return self.encoder.shape[0]

    @property
    def n_features(self) -> int:
        """Size of the dictionary."""
        return self.encoder.shape[1]

    @property
    def site(self) -> str:
        """The site it was trained at."""
        (site,) = self.provenance.sites
        return site

    def encode(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes feature"]:
        """Compute the feature activations f."""
        return activate(self.kind, x @ self.encoder + self.encoder_bias, self.k, self.threshold)

    def decode(self, features: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes width"]:
        """Decode feature activations to the reconstruction x̂."""
        return features @ self.decoder + self.decoder_bias

    def reconstruct(self, x: Float[Tensor, "*axes width"]) -> Float[Tensor, "*axes width"]:
        """Encode and decode an activation to its reconstruction x̂."""
        return self.decode(self.encode(x))

    def to(self, device: torch.device) -> "SparseAutoencoder":
        """Return a copy on another device; tensors already there are shared."""
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail at any other site or model than it was trained at.

        Raises:
            ValueError: another model, layer, component or width; names both values.
        """
        provenance = self.provenance
        name = (Path(provenance.model).name, Path(model.name).name)
        pairs = {
            "site": (self.site, str(site)),
            "width": (self.width, model.width(site)),
            "model": name if provenance.named else (provenance.model, model.weights),
        }
        unlike = [
            f"{name} {was!r}, this is {now!r}" for name, (was, now) in pairs.items() if was != now
        ]
        if unlike:
            raise ValueError(f"autoencoder was trained at {'; '.join(unlike)}")

    def rows_of(self, store: ActivationStore) -> SiteRows:
        """Return the store's rows at its site.

        Raises:
            ValueError: a store of another model, or without its site.
        """
        of_store = store.fingerprint.model
        if of_store != self.provenance.model:
            raise ValueError(
                f"autoencoder was trained at model {self.provenance.model!r}, the store is of "
                f"{of_store!r}"
            )
        return store[self.site]

    def pinned(self, model: LanguageModel) -> "SparseAutoencoder":
        """Return a copy whose provenance has the hash of this model's weights, as stores have.

        Raises:
            ValueError: it was trained on another model; names both.
        """
        self.check(model, Site.parse(self.site))
        pinned = replace(self.provenance, model=model.weights, named=False)
        return replace(self, provenance=pinned)

    def check_features(self, features: Sequence[int]) -> None:
        """Fail if a feature index is out of range.

        Raises:
            ValueError: names the feature and the valid range.
        """
        for feature in features:
            if not 0 <= feature < self.n_features:
                raise ValueError(
                    f"feature {feature} of the autoencoder at {self.site}; "
                    f"valid: 0 to {self.n_features - 1}"
                )


def activate(
    kind: str,
    pre: Float[Tensor, "*axes feature"],
    k: int,
    threshold: Float[Tensor, " feature"],
) -> Float[Tensor, "*axes feature"]:
    """Apply the activation function of the kind to pre-activations: see `SparseAutoencoder`."""
    if kind == "topk":
        largest = pre.topk(k, -1)
        return torch.zeros_like(pre).scatter(-1, largest.indices, largest.values.relu())
    if kind == "jumprelu":
        return pre * (pre > threshold)
    return pre.relu()


def save_sae(path: Path, sae: SparseAutoencoder) -> None:
    """Write an autoencoder in float32 with its provenance."""
    # One metadata key: several would be written in random order and change the file's bytes.
    record = {"kind": sae.kind, "k": sae.k, "provenance": sae.provenance.record}
    tensors = {name: getattr(sae, name).float().cpu().contiguous() for name in _TENSORS}
    save_file(tensors, path, metadata={"autoencoder": json.dumps(record, sort_keys=True)})


def load_sae(path: Path) -> SparseAutoencoder:
    """Read an autoencoder back, on the CPU; call `check` before using it at a site."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["autoencoder"])
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    provenance = Provenance.parse(record["provenance"])
    return SparseAutoencoder(kind=record["kind"], k=record["k"], provenance=provenance, **tensors)
