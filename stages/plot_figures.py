"""summary.parquet and scores.parquet -> figures/; a figure's file says what it was made from."""

from pathlib import Path

import pandas as pd

from pipeline.config.sections import Study
from pipeline.config.study import target
from pipeline.runs.scratch import scratch
from pipeline.runs.tracking import Run
from pipeline.views.panels import save
from stages import ROOT, made_from, main

INPUTS = ("summary.parquet", "scores.parquet")
OUTPUTS = ("figures",)
SECTIONS = ("figures",)


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Draw every figure of the study."""
    summary, scores = (pd.read_parquet(folder / name) for name in INPUTS)
    provenance = made_from(study, folder, INPUTS, SECTIONS)
    with scratch(folder / "figures", key, root=ROOT) as work:
        (work / "figures").mkdir(exist_ok=True)
        for name, node in study.figures.items():
            figure = target(node)(summary, scores)
            save(figure, work / "figures" / f"{name}.png", provenance)
    for name in study.figures:
        tracked.figure(folder / "figures" / f"{name}.png")


if __name__ == "__main__":
    main()
