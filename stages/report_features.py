"""attributions/, recorded/, ablations.parquet, ... -> report/: tables, figures, finding."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.sections import Study
from pipeline.expressing import WHICH, clustered, expressed, list_places
from pipeline.lists import all_lists, list_ends, types
from pipeline.measures.expression import communities
from pipeline.measures.lists import ablation_table
from pipeline.methods.attribution import rank_correlation
from pipeline.methods.sae import load_sae
from pipeline.model.loading import load_tokenizer
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.store.store import ActivationStore
from pipeline.views.ablations import (
    AXES,
    ablation_effects,
    attribution_check,
    list_anatomy,
)
from pipeline.views.expression import feature_expression
from pipeline.views.panels import save
from pipeline.views.results import (
    community_words,
    error_shares,
    error_words,
    finding,
    results_table,
    results_text,
)
from stages import ROOT, made_from, main

INPUTS = (
    "dataset.parquet",
    "completions.parquet",
    "attributions/features.parquet",
    "attributions/checked.parquet",
    "ablations.parquet",
    "recorded/index.json",
    "autoencoders/quality.csv",
    "attributions/errors.parquet",
    "attributions/totals.parquet",
)
OUTPUTS = ("report",)
SECTIONS = ("autoencoders", "model", "score", "sweep")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Draw, count and say what the study found."""
    assert study.autoencoders is not None
    features, checked, ablated = (pd.read_parquet(folder / name) for name in INPUTS[2:5])
    lists = all_lists(study, folder)
    # The study's own label first.
    lists = lists.sort_values("label", key=lambda x: x != study.autoencoders.label, kind="stable")
    table, references = _tables(study, lists, ablated)
    tokenizer = load_tokenizer(study.model.path, study.model.revision)
    ranks = {site: rank_correlation(own) for site, own in checked.groupby("site", sort=False)}
    figures = {
        f"ablations_{column}": ablation_effects(table, references, column) for column in AXES
    }
    figures |= {
        "attribution_check": attribution_check(checked, ranks),
        "anatomy": list_anatomy(_blanks(tokenizer, lists)),
    }
    own = lists[lists["label"] == study.autoencoders.label].reset_index(drop=True)
    ends = list_ends(tokenizer, own)
    matrices, groups, unclustered = _expression(study, folder, own, ends, features)
    figures |= matrices
    results = results_table(table, references)
    shares = error_shares(*(pd.read_parquet(folder / name) for name in INPUTS[-2:]))
    text = "\n".join(
        [
            finding(table, references, len(ends)).strip(),
            error_words(shares),
            community_words(groups),
            *absent(unclustered),
            "",
        ]
    )
    with scratch(folder / "report", key, root=ROOT) as work:
        made = work / "report"
        made.mkdir(exist_ok=True)
        provenance = made_from(study, folder, INPUTS, SECTIONS)
        for name, figure in figures.items():
            save(figure, made / f"{name}.png", provenance)
        table.to_csv(made / "ablations.csv", index=False)
        references.to_csv(made / "references.csv", index=False)
        groups.to_csv(made / "communities.csv", index=False)
        results.to_csv(made / "results.csv", index=False)
        (made / "results.md").write_text(results_text(results))
        shares.to_csv(made / "error_nodes.csv", index=False)
        pd.Series(ranks, name="rank_correlation").to_csv(made / "attribution_check.csv")
        (made / "finding.md").write_text(text)
    for name in figures:
        tracked.figure(folder / "report" / f"{name}.png")
    tracked.table("ablations", table)


def _expression(
    study: Study, folder: Path, lists: pd.DataFrame, ends: pd.Series, features: pd.DataFrame
) -> tuple[dict[str, Figure], pd.DataFrame, list[str]]:
    """Each site's matrix as a figure, the communities of all, and sites that have no matrix."""
    assert study.autoencoders is not None
    topics = dict(lists["topic"].items())
    store = ActivationStore(folder / "recorded")
    places = list_places(store, lists, ends)
    figures, found, without = {}, [], []
    for site in study.autoencoders.all_sites:
        sae = load_sae(folder / "autoencoders" / f"{site}.safetensors")
        readings = expressed(sae, store, places, features[features["site"] == site], len(ends))
        clusters = clustered(readings, list(ends.index))
        if clusters is None:
            without.append(site)
            continue
        figures[f"expression_{site}"] = feature_expression(
            clusters, topics, value="activation", site=site, which=WHICH
        )
        groups = communities(clusters, topics, readings, seed=study.score.seed)
        found.append(groups.assign(site=site))
    joined = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    return figures, joined, without


def absent(sites: list[str]) -> list[str]:
    """A sentence that names the sites without a matrix, if there are any."""
    if not sites:
        return []
    return [
        f"No expression matrix of {', '.join(sites)}: fewer than two features or unlike lists are "
        "left there."
    ]


def _tables(
    study: Study, lists: pd.DataFrame, ablated: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Changes under every ablation, and what other prompts, vectors and sampling do instead."""
    assert study.autoencoders is not None
    seed, names = study.score.seed, ("condition", "arm", "intervention", "source", "draw")
    base = ablated.loc[ablated["arm"] == "", "condition"].iloc[0]
    changes = ablation_table(ablated, baseline=base, seed=seed)
    known = ablated.drop_duplicates("condition")[[*names, "layer", "positions"]]
    changes = changes.merge(known, on="condition", validate="many_to_one")
    of_sites = changes["arm"].isin(study.autoencoders.all_sites)
    # A topic all of whose own lists were cut off is in no ablation.
    others = lists[
        (lists["label"] != study.autoencoders.label) & lists["topic"].isin(ablated["topic"])
    ]
    written = pd.concat(
        [
            ablated[ablated["condition"] == base].assign(name="base"),
            others.assign(name="template: " + others["label"], repeat=0),
        ]
    )
    templates = ablation_table(written, baseline="base", by="name", seed=seed)
    beside = changes[~of_sites]
    beside = beside.assign(
        name=beside["arm"].where(beside["layer"].isna(), "vector: " + beside["arm"])
    )
    columns = ["name", "column", "base", "ablated", "mean", "low", "high", "n"]
    return (
        changes[of_sites].rename(columns={"arm": "site"}),
        pd.concat([templates[columns], beside[columns]], ignore_index=True),
    )


def _blanks(tokenizer: object, lists: pd.DataFrame) -> pd.DataFrame:
    """Whether a filler blank follows each item of each list, counted from the last."""
    rows = zip(types(tokenizer, lists), lists["label"], lists["sample"], strict=True)
    return pd.DataFrame(
        [
            {"label": label, "sample": sample, "from_end": -back, "blank": blank}
            for own, label, sample in rows
            for back, blank in enumerate(reversed(list(_followed(own))))
        ]
    )


def _followed(types_: list[str]) -> Iterator[bool]:
    for here, after in zip(types_, [*types_[1:], "end"], strict=True):
        if here == "item" and after != "item":
            yield after == "filler_blank"


if __name__ == "__main__":
    main()
