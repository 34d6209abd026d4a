"""The model, activations/, fits/ and completions -> readings/: one table per reading."""

import sys

import pandas as pd

from pipeline.config.errors import at_key
from stages import Job, main


def run(job: Job) -> None:
    """Compute every reading of the study."""
    with job.scratch("readings") as work:
        folder = work / "readings"
        folder.mkdir(exist_ok=True)
        for number, (name, node) in enumerate(job.study.readings.items(), 1):
            print(
                f"readings: {name}, {number} of {len(job.study.readings)}",
                file=sys.stderr,
                flush=True,
            )
            with at_key(f"readings.{name}"):
                table = job.call(node, work=work)
                if not isinstance(table, pd.DataFrame):
                    raise ValueError(f"returns a {type(table).__name__}; valid: a DataFrame")
            table.to_parquet(folder / f"{name}.parquet")
            job.tracked.summary({f"rows/{name}": len(table)})


if __name__ == "__main__":
    main()
