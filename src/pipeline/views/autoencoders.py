"""Figure nodes of studies with autoencoders, drawn from their readings."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import Selection
from pipeline.data.prompts import select_prompts
from pipeline.measures.expression import MOST_FEATURES, Clusters, clustered
from pipeline.views.ablations import attribution_check
from pipeline.views.dashboard import features_index
from pipeline.views.expression import feature_expression
from pipeline.views.features import HALVES, coverage_by_size, feature_by_layer
from pipeline.views.readings import table_of

Readings = Mapping[str, pd.DataFrame]
SHOWN = f"at most {MOST_FEATURES}, the most attributed of those active in 5 to 95 % of samples"


def checked_attributions(readings: Readings, *, reading: str, formula: str) -> Figure:
    """Draw attributions against ablation effects.

    Args:
        readings: tables by name.
        reading: of `sae.attributed.checked_attributions`.
        formula: of the metric, for the caption.
    """
    checked = table_of(readings, reading)
    ranks = dict(zip(checked["site"], checked["rank"], strict=True))
    return attribution_check(checked, ranks, formula)


def expression(
    prompts: pd.DataFrame, readings: Readings, *, reading: str, select: Selection = None
) -> dict[str, Figure]:
    """Draw the clustered matrix of each site that has one, from `sae.expressed`.

    Args:
        prompts: the dataset.
        readings: tables by name.
        reading: of `sae.expressed.expressed_features`.
        select: the prompts that are rows of the matrix, as an arm's `prompts`.
    """
    samples = select_prompts(prompts, select).set_index("sample")["topic"]
    matrices = clustered_matrices(table_of(readings, reading), samples.index.tolist())
    return {
        f"{site}.png": feature_expression(
            clusters, samples.to_dict(), value="activation", site=site, which=SHOWN
        )
        for site, clusters in matrices.items()
        if clusters is not None
    }


def coverage(readings: Readings, *, reading: str, halves: str = HALVES) -> Figure:
    """Draw concept coverage against dictionary size.

    Args:
        readings: tables by name.
        reading: of `sae.coverage.coverage_by_size`.
        halves: the rows on which features are chosen and reported, for the caption.
    """
    return coverage_by_size(table_of(readings, reading), halves)


def feature_pages(readings: Readings, *, reading: str) -> dict[str, str]:
    """Return the page of each feature, from `sae.pages.feature_pages`, and an index of them."""
    table = table_of(readings, reading)
    files = table["site"] + "-" + table["feature"].astype(str) + ".html"
    pages = dict(zip(files, table["page"], strict=True))
    return pages | {"index.html": features_index(table.assign(file=files))}


def features_by_layer(readings: Readings, *, reading: str) -> dict[str, Figure]:
    """Draw each feature over the layers of a prompt, from `sae.pages.features_by_layer`."""
    figures = {}
    for (site, feature), rows in table_of(readings, reading).groupby(["site", "feature"]):
        matrix = rows.pivot(index="layer", columns="position", values="activation")
        tokens = rows[rows["layer"] == rows["layer"].min()].sort_values("position")
        figures[f"{site}-{feature}.png"] = feature_by_layer(
            matrix.to_numpy(),
            tokens["piece"].tolist(),
            feature=int(feature),
            site=str(site),
            left_out=tokens.loc[tokens["special"], "position"].tolist(),
        )
    return figures


def clustered_matrices(table: pd.DataFrame, samples: list[int]) -> dict[str, Clusters | None]:
    """Return each site's clustered matrix, or None."""
    return {str(site): clustered(rows, samples) for site, rows in table.groupby("site", sort=False)}
