"""Render a study's figures, texts and headline numbers as one self-contained page."""

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def report_page(
    folder: Path,
    *,
    name: str,
    question: str,
    model: str,
    numbers: str,
    made_from: Mapping[str, str],
) -> str:
    """Render the HTML page of a folder of figures: images embedded, other pages linked.

    Args:
        folder: contains `*.png`, `*.md` and `*.html`, also in subfolders.
        name: of the study.
        question: of the study.
        model: the model's path.
        numbers: headline numbers as lines of text, or empty.
        made_from: hashes of inputs and configuration.
    """
    images = sorted(folder.rglob("*.png"))
    words = sorted(folder.rglob("*.md"))
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    return _PAGES.get_template("report.html").render(
        name=name,
        question=question,
        model=model,
        numbers=numbers,
        words=[(_title(path, folder), path.read_text()) for path in words],
        figures=[(_title(p, folder), b64encode(p.read_bytes()).decode()) for p in images],
        pages=pages,
        made_from=sorted(made_from.items()),
    )


def _title(path: Path, folder: Path) -> str:
    relative = path.relative_to(folder).with_suffix("")
    return ": ".join(part.replace("_", " ") for part in relative.parts)


_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
)
