"""Figure and report nodes of the list-endings study, drawn from its readings."""

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import ReadingName, Selection
from pipeline.data.prompts import select_prompts
from pipeline.views.ablations import AXES, ablation_effects, list_anatomy
from pipeline.views.autoencoders import Readings, clustered_matrices
from pipeline.views.readings import table_of
from pipeline.views.results import (
    absent_words,
    community_words,
    error_words,
    finding,
    results_table,
    results_text,
)


def list_ablations(
    readings: Readings, *, changes: ReadingName, references: ReadingName
) -> dict[str, Figure]:
    """Draw the effect of ablations on lists, one figure for each of `ablations.AXES`.

    Args:
        readings: tables by name.
        changes: of `list_endings.list_changes`.
        references: of `list_endings.list_references`.
    """
    tables = table_of(readings, changes), table_of(readings, references)
    return {f"{column}.png": ablation_effects(*tables, column) for column in AXES}


def filler_blanks(readings: Readings, *, reading: str) -> Figure:
    """Draw where filler blanks occur in lists, from `list_endings.filler_blanks_from_end`."""
    return list_anatomy(table_of(readings, reading))


def endings_report(
    prompts: pd.DataFrame,
    readings: Readings,
    *,
    changes: ReadingName,
    references: ReadingName,
    errors: ReadingName,
    expressed: ReadingName,
    communities: ReadingName,
    select: Selection = None,
) -> dict[str, str]:
    """Write the report: a table of results, and the finding in a few sentences.

    Args:
        prompts: the dataset.
        readings: tables by name.
        changes: of `list_endings.list_changes`.
        references: of `list_endings.list_references`.
        errors: of `sae.attributed.error_shares`.
        expressed: of `sae.expressed.expressed_features`.
        communities: of `sae.expressed.expression_communities`.
        select: the prompts in which features were attributed, as an arm's `prompts`.
    """
    tables = table_of(readings, changes), table_of(readings, references)
    shares = table_of(readings, errors)
    samples = select_prompts(prompts, select)["sample"].tolist()
    matrices = clustered_matrices(table_of(readings, expressed), samples)
    sentences = [
        finding(*tables, len(samples)).strip(),
        error_words(shares),
        community_words(table_of(readings, communities)),
        *absent_words([site for site in shares["site"] if matrices.get(site) is None]),
        "",
    ]
    return {
        "results.md": results_text(results_table(*tables)),
        "finding.md": "\n".join(sentences),
    }
