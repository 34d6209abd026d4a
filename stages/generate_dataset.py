"""The dataset -> dataset.parquet (prompts) and texts.parquet (unrelated text), tokenised."""

from pathlib import Path

from pipeline.config.sections import Study
from pipeline.data.prompts import build_dataset, build_texts
from pipeline.runs.scratch import whole_file
from pipeline.runs.tracking import Run
from stages import main

INPUTS = ()
OUTPUTS = ("dataset.parquet", "texts.parquet")
SECTIONS = ("dataset", "model", "text")


def run(study: Study, folder: Path, tracked: Run, key: str) -> None:
    """Load, render and tokenise the prompts."""
    dataset = build_dataset(study)
    with whole_file(folder / "dataset.parquet") as path:
        dataset.to_parquet(path)
    with whole_file(folder / "texts.parquet") as path:
        build_texts(study).to_parquet(path)
    counts = dataset.groupby(["label", "split"]).size()
    tracked.summary({f"prompts/{label}/{split}": int(n) for (label, split), n in counts.items()})
    tracked.table("dataset", dataset.drop(columns="tokens"))


if __name__ == "__main__":
    main()
