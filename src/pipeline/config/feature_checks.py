"""What can be wrong with a study's autoencoders is found before it runs."""

from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.sections import Autoencoders, Study
from pipeline.config.study import at_key
from pipeline.methods.sae import SparseAutoencoder
from pipeline.methods.sae_files import load_gemma_scope, load_saelens
from pipeline.methods.sae_training import Recipe
from pipeline.model.chat import single_tokens
from pipeline.model.loading import LanguageModel, without_weights
from pipeline.model.sites import Site, check_component


def recipes(section: Autoencoders) -> dict[str, Recipe]:
    """How autoencoders are trained, by their files' names: one of each site, one of each size.

    Raises:
        ValueError: a kind that is not trained, or a value out of its range.
    """
    wanted = {site: (site, section.n_features) for site in section.sites}
    if section.sizes_at:
        wanted |= {f"size-{size:06d}": (section.sizes_at, size) for size in section.sizes}
    return {
        name: Recipe(
            site,
            section.kind,
            size,
            k=section.k if section.kind == "topk" else 0,
            sparsity=section.sparsity,
            learning_rate=section.learning_rate,
            revive_every=section.revive_every,
        )
        for name, (site, size) in wanted.items()
    }


def from_files(section: Autoencoders, model: LanguageModel) -> dict[str, SparseAutoencoder]:
    """The autoencoders that are not trained, by their sites.

    Raises:
        ValueError: a path where there is none, or one of another model, site or width; names both.
    """
    found = {}
    for name, path in section.files.items():
        place, site = Path(path), Site.parse(name)
        with at_key(f"autoencoders.files.{name}"):
            if place.is_dir():
                sae = load_saelens(place, model=section.trained_at)
            elif not place.is_file():
                raise ValueError(f"{path} is neither a file nor a folder")
            elif section.trained_at is None:
                raise ValueError(f"{path} does not name its model: give autoencoders.trained_at")
            else:
                sae = load_gemma_scope(place, model=section.trained_at, site=site)
            sae.check(model, site)
        found[name] = sae
    return found


def check_autoencoders(
    study: Study, n_layers: int, dataset: pd.DataFrame, tokenizer: Any, *, parallel: bool
) -> None:
    """Fail if autoencoders cannot be trained, or their features not be ablated, in this model.

    Raises:
        ValueError: a site, label, count or word that is not there; names it and the valid ones.
    """
    section = study.autoencoders
    if section is None:
        return
    with at_key("autoencoders.sites"):
        _check_sites(section.all_sites, n_layers, study.model.path, parallel)
    if bool(section.sizes) != (section.sizes_at in section.all_sites):
        raise ValueError(
            f"autoencoders.sizes_at: {section.sizes_at!r} for the sizes {section.sizes}; "
            f"valid: {', '.join(section.all_sites)}, and none without sizes"
        )
    if section.files:
        from_files(section, without_weights(study.model, tokenizer))
    with at_key("autoencoders"):
        recipes(section)
        single_tokens(tokenizer, [section.blank, section.line_break])
    labels = sorted(dataset["label"].unique())
    if section.label not in labels:
        raise ValueError(
            f"autoencoders.label: no prompt has label {section.label!r}; valid: {', '.join(labels)}"
        )
    splits = set(dataset["split"])
    if "test" not in splits or splits == {"test"}:
        raise ValueError(
            "autoencoders: they are trained on topics that are not of the test split, and measured "
            f"on those that are; the dataset has splits: {', '.join(sorted(splits))}"
        )
    for name, least in (("top", 1), ("random", 0), ("checked", 2), ("passes", 1)):
        if getattr(section, name) < least:
            raise ValueError(f"autoencoders.{name}: {getattr(section, name)} is less than {least}")
    assert study.sweep.decoding is not None
    repeats = study.sweep.decoding.repeats
    if section.recorded < max(repeats, 2):
        raise ValueError(
            f"autoencoders.recorded: {section.recorded} is less than {max(repeats, 2)}, "
            "sweep.decoding.repeats and at least 2"
        )


def _check_sites(sites: list[str], n_layers: int, model: str, parallel: bool) -> None:
    if not sites:
        raise ValueError("there are none")
    if len(set(sites)) < len(sites):
        raise ValueError(f"{sites} has a site twice")
    for name in sites:
        site = Site.parse(name)
        if site.component != "embed":
            check_component(site.component, model, parallel=parallel)
        if site.layer >= n_layers:
            raise ValueError(f"{name}: {model} has layers 0 to {n_layers - 1}")
