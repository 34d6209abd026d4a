"""ablations.parquet, attributions/, completions.parquet -> report/: tables, figures, finding."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.lists import all_lists, types
from pipeline.measures.expression import cluster, communities, expression_matrix
from pipeline.measures.lists import ablation_table
from pipeline.methods.attribution import rank_correlation
from pipeline.model.loading import load_tokenizer
from pipeline.scratch import scratch, sha256
from pipeline.sections import Study
from pipeline.tracking import Run
from pipeline.views.ablations import (
    AXES,
    ablation_effects,
    attribution_check,
    finding,
    list_anatomy,
)
from pipeline.views.expression import feature_expression
from pipeline.views.panels import save
from stages import ROOT, main

INPUTS = (
    "dataset.parquet",
    "completions.parquet",
    "attributions/features.parquet",
    "attributions/checked.parquet",
    "ablations.parquet",
)
OUTPUTS = ("report",)
SECTIONS = ("autoencoders", "model", "score", "sweep")
CLUSTERS = (8, 12)
"""Of samples and of features, at most."""
EXPRESSED = 80
"""Features of the expression matrix: those attributed most in all, of those that tell lists apart:
active in 5 to 95 % of them.
"""


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Draw, count and say what the study found."""
    assert study.autoencoders is not None
    features, checked, ablated = (pd.read_parquet(folder / name) for name in INPUTS[2:])
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
    found = []
    own = lists[lists["label"] == study.autoencoders.label].reset_index(drop=True)
    for site in study.autoencoders.all_sites:
        topics = dict(own["topic"].items())
        readings = _expressed(features[features["site"] == site])
        matrix = expression_matrix(readings, value="activation")
        clusters = cluster(
            matrix,
            **{
                name: min(most, count)
                for name, most, count in zip(
                    ("samples", "features"), CLUSTERS, matrix.shape, strict=True
                )
            },
        )
        figures[f"expression_{site}"] = feature_expression(
            clusters,
            topics,
            value="activation",
            site=site,
            which=f"at most {EXPRESSED}, the most attributed of those in 5 to 95 % of lists",
        )
        found.append(
            communities(clusters, topics, readings, seed=study.score.seed).assign(site=site)
        )
    text = finding(table, references, len(own))
    with scratch(folder / "report", key, root=ROOT) as work:
        made = work / "report"
        made.mkdir(exist_ok=True)
        provenance = {name: sha256(folder / name) for name in INPUTS} | {"key": key}
        for name, figure in figures.items():
            save(figure, made / f"{name}.png", provenance)
        table.to_csv(made / "ablations.csv", index=False)
        references.to_csv(made / "references.csv", index=False)
        pd.concat(found, ignore_index=True).to_csv(made / "communities.csv", index=False)
        pd.Series(ranks, name="rank_correlation").to_csv(made / "attribution_check.csv")
        (made / "finding.md").write_text(text)
    for name in figures:
        tracked.figure(folder / "report" / f"{name}.png")
    tracked.table("ablations", table)


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


def _expressed(features: pd.DataFrame) -> pd.DataFrame:
    samples = features.groupby("feature")["prompt"].nunique() / features["prompt"].nunique()
    telling = features["feature"].map(samples).between(0.05, 0.95)
    features = features[telling]
    size = features["attribution"].abs().groupby(features["feature"]).sum()
    most = size.sort_values(ascending=False, kind="stable").index[:EXPRESSED]
    return features[features["feature"].isin(most)].rename(columns={"prompt": "sample"})


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
