"""Tables of texts as figures: a column for each text, a row for each value of an axis."""

from collections.abc import Mapping
from typing import Annotated, Any

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config.declared import Range
from pipeline.views.glyphs import drawable, families
from pipeline.views.heat_maps import in_words
from pipeline.views.panels import caption, panels
from pipeline.views.readings import table_of

_MARKED = "#d9efe6"


def text_table(
    readings: Mapping[str, pd.DataFrame],
    *,
    reading: str,
    row: str,
    column: str,
    text: str = "completion",
    marked: str | None = None,
    note: str = "",
    most: Annotated[int, Range(2)] = 24,
) -> Figure:
    """Draw the texts of a reading in a grid, shaded where they contain the column's answer.

    Args:
        readings: tables by name.
        reading: a table with one text per row and column of the grid.
        row: its column with the values of the vertical axis; -1: without intervention.
        column: its column with the heading of each column.
        text: its column with the texts; the part before the first line break is shown.
        marked: its column with an answer, written under the heading; texts that begin with it are
            shaded.
        note: a sentence for the caption.
        most: characters of a text.

    Raises:
        ValueError: no such reading or column, or several texts in a cell.
    """
    table = table_of(readings, reading)
    named = [row, column, text, *([marked] if marked else [])]
    for name in named:
        if name not in table:
            raise ValueError(f"no column {name!r} in reading {reading}; it has: {', '.join(table)}")
    if table.duplicated([row, column]).any():
        raise ValueError(f"reading {reading} has several texts of one {row} and {column}")
    heads = table.drop_duplicates(column)
    values = sorted(table[row].unique())
    style: dict[str, Any] = {"va": "center", "ha": "center", "fontfamily": families()}
    width = 2.4 * len(heads) + 1.6
    with panels(1, width, 0.36 * (len(values) + 2)) as (figure, (axis,)):
        axis.grid(False)
        for number, head in enumerate(heads.to_dict("records")):
            title = _in_words(str(head[column]), most)
            axis.text(number, -1.25, title, fontsize=11, fontweight="bold", **style)
            if marked:
                answer = _in_words(str(head[marked]), most)
                axis.text(number, -0.72, answer, fontsize=10, color="#00694b", **style)
            cells = table[table[column] == head[column]].set_index(row)[text]
            for place, value in enumerate(values):
                shown = _first_line(str(cells[value]))
                hit = marked and shown.startswith(str(head[marked]).strip())
                if hit:
                    axis.axhspan(
                        place - 0.46,
                        place + 0.46,
                        (number + 0.03) / len(heads),
                        (number + 0.97) / len(heads),
                        color=_MARKED,
                        lw=0,
                    )
                axis.text(number, place, _in_words(shown, most), fontsize=10, **style)
        axis.set_xlim(-0.5, len(heads) - 0.5)
        axis.set_ylim(len(values) - 0.4, -1.7)
        names = ["none" if value == -1 else str(value) for value in values]
        axis.set_yticks(range(len(values)), names)
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        axis.set_ylabel(in_words(row))
        splits = ", ".join(table["split"].unique()) if "split" in table else "no"
        caption(
            figure,
            [
                f"n = {len(heads)} prompts, {splits} split. Cells: the {in_words(text)} up to its",
                "first line break; none: without intervention, the control.",
                "Shaded: begins with the answer, in green under the heading." if marked else "",
                note,
            ],
        )
    return figure


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""


def _in_words(text: str, most: int) -> str:
    """Format a text with blanks as blanks, truncated with an ellipsis."""
    shown = text.strip() if len(text.strip()) <= most else text.strip()[: most - 1] + "…"
    return " ".join(map(drawable, shown.split()))
