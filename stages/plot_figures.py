"""Tables -> figures/: NAME.png, or a folder NAME/ for several, and report.html with all."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.config.errors import at_key
from pipeline.runs.trace import with_record
from pipeline.views.numbers import main_numbers
from pipeline.views.panels import save
from pipeline.views.report import report_page
from stages import Job, main


def run(job: Job) -> None:
    """Draw every figure of the study, and combine them in one page."""
    with job.scratch("figures") as work:
        folder = work / "figures"
        folder.mkdir(exist_ok=True)
        for name, node in job.study.figures.items():
            with at_key(f"figures.{name}"):
                result = job.call(node)
            pages = result if isinstance(result, dict) else {f"{name}.png": result}
            for file, page in pages.items():
                if not isinstance(page, Figure | str):
                    raise ValueError(
                        f"figures.{name} returns a {type(page).__name__}; valid: a Figure, or a "
                        "dict of figures and pages by file name"
                    )
                target = folder / file if pages is not result else folder / name / file
                _write(page, target, job.made_from())
        page = report_page(
            folder,
            name=job.study.name,
            question=job.study.question,
            model=job.study.model.path,
            numbers=_numbers(job),
            made_from=job.made_from(),
        )
        _write(page, folder / "report.html", job.made_from())
    for path in sorted((job.folder / "figures").rglob("*.png")):
        job.tracked.figure(path)


def _numbers(job: Job) -> str:
    path = job.folder / "headline.json"
    return main_numbers(json.loads(path.read_text())) if path.name in job.stage.inputs else ""


def _write(page: Any, path: Path, provenance: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(page, str):
        path.write_text(with_record(page, provenance) if path.suffix == ".html" else page)
    else:
        save(page, path, provenance)


if __name__ == "__main__":
    main()
