"""Runs of several studies on one model -> a page with commands, numbers and figures.

    python -m stages.write_findings docs/smollm2.md smollm2_135m_instruct STUDY ...

Takes the newest run by hand of each study on the model, beside it what `dvc repro` has made, and a
sentence or two on each study from the YAML file of the page's name.
"""

import argparse
import json
import shutil
from pathlib import Path

import yaml
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.config.study import config_file, load_model_section, load_study
from pipeline.runs.outputs import outputs
from pipeline.runs.records import shortest_overrides
from pipeline.views.findings import Finding, findings_page
from stages import ROOT

OUTPUTS = ROOT / "outputs"
WIDTH, COLOURS = 1100, 128
"""Pixels and colours of a copied figure."""


def main() -> None:
    """Write the page and copy its figures beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path, help="the Markdown file; figures go to its figures/")
    parser.add_argument("model", help="a name of conf/model")
    parser.add_argument("studies", nargs="+", help="studies that were run on it")
    arguments = parser.parse_args()
    path = load_model_section(ROOT / "conf" / "model" / f"{arguments.model}.yaml").path
    figures = arguments.page.parent / "figures" / arguments.page.stem
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True)
    sentences = arguments.page.with_suffix(".yaml")
    words = yaml.safe_load(sentences.read_text()) if sentences.is_file() else {}
    findings = [
        _finding(name, arguments.model, path, figures, words.get(name, ""))
        for name in arguments.studies
    ]
    arguments.page.write_text(findings_page(arguments.page.stem, arguments.model, findings))


def _finding(name: str, model: str, path: str, figures: Path, words: str) -> Finding:
    runs = [o for o in outputs(ROOT) if o.study == name and o.model == path and o.name != name]
    if not runs:
        raise SystemExit(f"error: no run of {name} on {model}: actsweep run {name} model={model}")
    folder = OUTPUTS / runs[0].name
    study = load_study(config_file(folder))
    shown = sorted((folder / "figures").glob("*.png"))
    for figure in shown:
        _copy_smaller(figure, figures / f"{name}-{figure.name}")
    return Finding(
        study=name,
        question=study.question,
        words=" ".join(words.split()),
        overrides=shortest_overrides(study, ROOT, model),
        numbers=_numbers(folder),
        by_dvc=_numbers(OUTPUTS / name),
        figures=[f"figures/{figures.name}/{name}-{figure.name}" for figure in shown],
    )


def _copy_smaller(figure: Path, copy: Path) -> None:
    """Copy a figure in fewer pixels and colours, a sixth of the size, with what `trace` reads."""
    with Image.open(figure) as image:
        texts = PngInfo()
        for key, text in getattr(image, "text", {}).items():
            texts.add_text(key, text)
        image.thumbnail((WIDTH, image.height))
        # The default method keeps shades of grey, and mixes the colours of small points.
        fewer = image.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
        fewer.save(copy, optimize=True, pnginfo=texts)


def _numbers(folder: Path) -> dict:
    file = folder / "headline.json"
    return json.loads(file.read_text()) if file.is_file() else {}


if __name__ == "__main__":
    main()
