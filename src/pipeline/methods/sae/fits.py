"""Fit sparse autoencoders of one model: trained on a store or read from files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from pipeline.config.errors import at_key
from pipeline.methods.provenance import Provenance
from pipeline.methods.sae.autoencoder import SparseAutoencoder, load_sae, save_sae
from pipeline.methods.sae.gemma_scope import load_gemma_scope
from pipeline.methods.sae.rows import ordinary_rows, rows_of_split
from pipeline.methods.sae.saelens import load_saelens
from pipeline.methods.sae.training import SaeRecipe, train
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site, check_component
from pipeline.store.store import ActivationStore

_NAMES = "names.json"


@dataclass(frozen=True, eq=False)
class SparseAutoencoders:
    """Autoencoders of one model by name, in order; the name is the site.

    Further dictionary sizes at one site are named `size-` and the size.
    """

    by_name: Mapping[str, SparseAutoencoder]
    how: str = ""

    @property
    def at_sites(self) -> dict[str, SparseAutoencoder]:
        """Site -> its autoencoder, without those of further sizes."""
        return {name: sae for name, sae in self.by_name.items() if name == sae.site}

    @property
    def by_size(self) -> list[SparseAutoencoder]:
        """Autoencoders of further sizes, smallest first."""
        further = [sae for name, sae in self.by_name.items() if name != sae.site]
        return sorted(further, key=lambda sae: sae.n_features)

    @property
    def provenance(self) -> Provenance:
        """Provenance: model and dataset of the first autoencoder, sites of all."""
        first = next(iter(self.by_name.values())).provenance
        return replace(first, sites=tuple(self.at_sites), how=self.how)

    def save(self, folder: Path) -> None:
        """Write each autoencoder to a file, and their order."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, sae in self.by_name.items():
            save_sae(folder / f"{name}.safetensors", sae)
        record = {"names": list(self.by_name), "how": self.how}
        (folder / _NAMES).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "SparseAutoencoders":
        """Read the autoencoders back, on the CPU."""
        record = json.loads((folder / _NAMES).read_text())
        return cls(
            {name: load_sae(folder / f"{name}.safetensors") for name in record["names"]},
            record["how"],
        )

    def check(self, model: LanguageModel, site: Site) -> None:
        """Fail if the site has no autoencoder, or one of another model.

        Raises:
            ValueError: names the actual and the expected value.
        """
        if str(site) not in self.at_sites:
            raise ValueError(f"no autoencoder at {site}; there are: {', '.join(self.at_sites)}")
        self.at_sites[str(site)].check(model, site)

    @classmethod
    def stand_in(
        cls,
        model: LanguageModel,
        prompts: pd.DataFrame,
        *,
        sites: Sequence[str],
        files: Mapping[str, str],
        trained_at: str | None,
        scales: Mapping[str, float],
        unmodified: bool,
        kind: str,
        n_features: int,
        k: int,
        sparsity: float,
        learning_rate: float,
        revive_every: int | None,
        passes: int,
        sizes: Sequence[int],
        sizes_at: str | None,
        held_out: str,
    ) -> "SparseAutoencoders":
        """Build zero autoencoders in place of those to be trained, and load those of `files`.

        Raises:
            ValueError: no sites, a duplicate site, a value out of range, a file that does not fit,
                or no prompts to train or measure on; names the value and the valid ones.
        """
        everywhere = [*files, *sites]
        if not everywhere:
            raise ValueError("sites: there are none")
        for name in sites:
            site = Site.parse(name)
            with at_key("sites"):
                if name in files:
                    raise ValueError(f"{name} has a file already")
                if site.component != "embed":
                    check_component(site.component, model.name, parallel=model.parallel)
        if bool(sizes) != (sizes_at in everywhere):
            raise ValueError(
                f"sizes_at: {sizes_at!r} for the sizes {list(sizes)}; "
                f"valid: {', '.join(everywhere)}, and none without sizes"
            )
        if passes < 1:
            raise ValueError(f"passes: {passes} is less than 1")
        splits = set(prompts["split"])
        if held_out not in splits or splits == {held_out}:
            raise ValueError(
                f"held_out: autoencoders are trained on prompts that are not of the {held_out} "
                "split, and measured on those that are; the dataset has splits: "
                + ", ".join(sorted(splits))
            )
        recipes = _recipes(
            sites, sizes, sizes_at, kind, n_features, k, sparsity, learning_rate, revive_every
        )
        trained = {name: _zeros(model, recipe) for name, recipe in recipes.items()}
        return cls(_from_files(model, files, trained_at, scales, unmodified) | trained)


def sparse_autoencoders(
    model: LanguageModel,
    prompts: pd.DataFrame,
    store: ActivationStore,
    *,
    sites: list[str] = [],  # noqa: B006 - never changed
    files: dict[str, str] = {},  # noqa: B006 - never changed
    trained_at: str | None = None,
    scales: dict[str, float] = {},  # noqa: B006 - never changed
    unmodified: bool = False,
    kind: str = "topk",
    n_features: int = 512,
    k: int = 16,
    sparsity: float = 0.0,
    learning_rate: float = 1e-3,
    revive_every: int | None = None,
    passes: int = 5,
    sizes: list[int] = [],  # noqa: B006 - never changed
    sizes_at: str | None = None,
    held_out: str = "test",
    seed: int = 0,
) -> SparseAutoencoders:
    """Train autoencoders at `sites`, all in one pass over the store, and read those of `files`.

    Special tokens of the tokenizer and prompts of the split `held_out` are not trained on.

    Args:
        model: the model of the activations.
        prompts: the dataset, for the split of each sample.
        store: activations at all sites.
        sites: sites to train at.
        files: site -> a Gemma Scope `.npz` or a SAELens folder.
        trained_at: model name of `files` that do not state one, or that state another name than
            the model is loaded under.
        scales: site -> factor on activations, for SAELens folders that ask for one.
        unmodified: see `saelens.load_saelens`.
        kind: see `training.SaeRecipe`, as for the next five.
        n_features: dictionary size.
        k: active features per row, for `topk`.
        sparsity: sparsity weight, for the other kinds.
        learning_rate: of Adam.
        revive_every: steps between resampling dead features.
        passes: epochs over the rows.
        sizes: further dictionary sizes, trained at `sizes_at`.
        sizes_at: one of the sites.
        held_out: the split excluded from training.
        seed: of initialisation and row order.

    Raises:
        ValueError: as `SparseAutoencoders.stand_in`, or training diverged.
    """
    read = _from_files(model, files, trained_at, scales, unmodified)
    saes = {name: sae.pinned(model) for name, sae in read.items()}
    recipes = _recipes(
        sites, sizes, sizes_at, kind, n_features, k, sparsity, learning_rate, revive_every
    )
    if recipes:
        trained = train(
            store,
            list(recipes.values()),
            ordinary_rows(model, store) & ~rows_of_split(store, prompts, held_out),
            passes=passes,
            seed=seed,
            device=str(model.device),
        )
        saes |= dict(zip(recipes, trained, strict=True))
    return SparseAutoencoders(saes, f"{len(recipes)} trained, {len(files)} from files")


def _recipes(
    sites: Sequence[str],
    sizes: Sequence[int],
    sizes_at: str | None,
    kind: str,
    n_features: int,
    k: int,
    sparsity: float,
    learning_rate: float,
    revive_every: int | None,
) -> dict[str, SaeRecipe]:
    """Return the training recipes by name: one per site and one per further size."""
    sites_and_sizes = {site: (site, n_features) for site in sites}
    if sizes_at is not None:
        sites_and_sizes |= {f"size-{size:06d}": (sizes_at, size) for size in sizes}
    return {
        name: SaeRecipe(
            site,
            kind,
            size,
            k=k if kind == "topk" else 0,
            sparsity=sparsity,
            learning_rate=learning_rate,
            revive_every=revive_every,
        )
        for name, (site, size) in sites_and_sizes.items()
    }


def _from_files(
    model: LanguageModel,
    files: Mapping[str, str],
    trained_at: str | None,
    scales: Mapping[str, float],
    unmodified: bool,
) -> dict[str, SparseAutoencoder]:
    for name in scales:
        if not Path(files.get(name, "")).is_dir() or name not in files:
            raise ValueError(f"scales.{name}: it is no SAELens folder of `files`")
    saes = {}
    for name, text in files.items():
        path, site = Path(text), Site.parse(name)
        with at_key(f"files.{name}"):
            if path.is_dir():
                scale = scales.get(name)
                sae = load_saelens(path, model=trained_at, scale=scale, unmodified=unmodified)
            elif not path.is_file():
                raise ValueError(f"{path} is neither a file nor a folder")
            elif trained_at is None:
                raise ValueError(f"{path} does not name its model: give `trained_at`")
            else:
                sae = load_gemma_scope(path, model=trained_at, site=site)
            sae.check(model, site)
        saes[name] = sae
    return saes


def _zeros(model: LanguageModel, recipe: SaeRecipe) -> SparseAutoencoder:
    """Build a zero autoencoder of the right shapes that takes no memory."""
    width, zero = model.width(model.check(Site.parse(recipe.site))), torch.zeros(1)
    return SparseAutoencoder(
        kind=recipe.kind,
        encoder=zero.expand(width, recipe.n_features),
        encoder_bias=zero.expand(recipe.n_features),
        decoder=zero.expand(recipe.n_features, width),
        decoder_bias=zero.expand(width),
        threshold=zero.expand(recipe.n_features),
        provenance=Provenance(model.weights, sites=(recipe.site,)),
        k=recipe.k,
    )
