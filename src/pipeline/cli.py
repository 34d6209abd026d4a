"""Command line of actsweep: run and show studies, compare runs, check the machine."""

import argparse
import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.sections import Model, Study

if TYPE_CHECKING:
    from pipeline.runs.cost import Cost


def main(arguments: list[str] | None = None) -> None:
    """Run the command; print an error in one line and exit with code 2."""
    options = parse(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        {
            "run": _run,
            "show": _show,
            "compare": _compare,
            "select": _select,
            "doctor": _doctor,
        }[options.command](options)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line; overrides may follow an option, which argparse alone rejects."""
    argument_parser = parser()
    options, unparsed = argument_parser.parse_known_args(arguments)
    if unparsed and (options.command != "run" or any(text.startswith("-") for text in unparsed)):
        argument_parser.error(f"unrecognized arguments: {' '.join(unparsed)}")
    if unparsed:
        options.overrides += unparsed
    return options


def parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    root = argparse.ArgumentParser(prog="actsweep", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run all stages of a study in one process")
    run.add_argument("study", help="a file of conf/study, as NAME or study=NAME")
    run.add_argument("overrides", nargs="*", help="such as sweep.layers=[1,2] or model.path=FOLDER")
    run.add_argument("--dry-run", action="store_true", help="estimate the cost and exit")
    show = commands.add_parser("show", help="main numbers, figures and completions of a study")
    show.add_argument("studies", nargs="+", help="studies, or ids that `run` printed")
    show.add_argument("--completions", type=int, default=0, metavar="N", help="show N side by side")
    compare = commands.add_parser(
        "compare", help="show how settings and numbers of two runs differ"
    )
    compare.add_argument(
        "runs", nargs=2, metavar="RUN", help="a study, or the name of a folder in outputs/"
    )
    select = commands.add_parser("select", help="choose among candidate directions in a JSON table")
    select.add_argument("table", type=Path)
    select.add_argument("--layers", type=int, required=True, help="number of layers of the model")
    select.add_argument("--max-kl", type=float, default=0.1)
    select.add_argument("--min-steering", type=float, default=0.0)
    select.add_argument("--layer-share", type=float, default=0.8)
    doctor = commands.add_parser("doctor", help="versions, devices, memory; whether a model runs")
    doctor.add_argument("model", nargs="?", help="a name of conf/model, a folder, or a hub id")
    return root


def _run(options: argparse.Namespace) -> None:
    from pipeline.config.code import with_digests
    from pipeline.config.preflight import check
    from pipeline.config.study import compose_study, save_study
    from pipeline.config.wiring import stages_of

    root = _project()
    study = compose_study(options.study.removeprefix("study="), options.overrides, root=root)
    planned = check(study)
    folder = root / "outputs" / study.id
    if options.dry_run:
        from pipeline.runs.cost import cost

        _say_cost(study, cost(study, planned), folder)
        return
    study = with_digests(study, root / "outputs" / "config")
    save_study(study, folder / "config.yaml")
    stages = importlib.import_module("stages")
    print(study.id)
    for stage in stages_of(study):
        key_file = folder / f".{str(stage).replace(' ', '-')}.key"
        complete = all((folder / output).exists() for output in stage.outputs)
        key = key_file.read_text() if key_file.is_file() else None
        if complete and key == stages.stage_key(study, stage, folder):
            print(f"{stage}: finished before, kept")
            continue
        print(f"{stage} ...", flush=True)
        key_file.unlink(missing_ok=True)
        stages.run_stage(study, stage, folder)
        key_file.write_text(stages.stage_key(study, stage, folder))
    _print_study(folder, completions=3)


def _say_cost(study: Study, cost: "Cost", folder: Path) -> None:
    free = shutil.disk_usage(_project()).free
    print(f"{study.id}: {study.question}")
    for part, count in cost.conditions.items():
        print(f"  {part}: {count} conditions")
    print(f"completions: {cost.completions:,}")
    if cost.scored:
        print(f"forward passes: {cost.scored:,}, one per prompt and condition")
    print(f"tokens: {cost.tokens:,} at most, prompts and completions")
    print(f"time: about {cost.seconds / 60:.1f} minutes at most for the sweep, from a timed sample")
    print(f"disk: {cost.store_bytes / 1e6:.1f} MB of activations, {free / 1e9:.1f} GB free")
    print(f"output: {folder}")


def _show(options: argparse.Namespace) -> None:
    from pipeline.config.study import config_file

    root = _project()
    for name in options.studies:
        folder = root / "outputs" / name
        if not config_file(folder).is_file() or not folder.is_dir():
            names = {path.parent.name for path in root.glob("outputs/*/dataset.parquet")}
            raise ValueError(
                f"study {name!r} has no results in outputs; there are: {', '.join(sorted(names))}"
            )
        _print_study(folder, options.completions)


def _print_study(folder: Path, completions: int) -> None:
    from pipeline.config.inputs import Inputs
    from pipeline.config.study import config_file, load_study
    from pipeline.views.numbers import main_numbers, setting_in_words

    study = load_study(config_file(folder))
    print(f"\n{study.name}: {study.question}\n")
    metrics = {}
    if (folder / "metrics.json").is_file():
        metrics = json.loads((folder / "metrics.json").read_text())
        print(main_numbers(metrics))
    for words in sorted(folder.glob("figures/**/*.md")):
        print(f"\n{words.read_text()}")
    for figure in sorted([*folder.glob("figures/*.png"), *folder.glob("figures/*/*.png")]):
        print(f"figure: {figure}")
    if completions:
        from pipeline.views.completions import side_by_side

        if study.sweep is None or study.sweep.decoding is None:
            print("\nno completions: the study decodes none")
            return
        table = Inputs(study, folder).completions
        width = shutil.get_terminal_size().columns
        for arm, numbers in metrics.items():
            if "conditions" in numbers:
                print(f"\n{arm}, {setting_in_words(numbers)}:")
                print(side_by_side(table, **numbers["conditions"], n=completions, width=width))


def _compare(options: argparse.Namespace) -> None:
    from pipeline.config.study import config_file, load_study
    from pipeline.runs.records import compare, read_runs, scored

    root = _project()
    finished = [r for r in read_runs(root) if r["status"] == "finished"]
    records = [r for r in finished if r["stage"] == "score_metrics"]
    compared = []
    for name in options.runs:
        config = config_file(root / "outputs" / name)
        if config.is_file():
            # A study's name means its outputs, not a newer run with overrides.
            wanted = scored(load_study(config).config)
            matching = [r for r in records if scored(r["config"]) == wanted]
        else:
            matching = [r for r in records if name in (r["study_id"], r["experiment"])]
        if not matching:
            valid = sorted({r["study_id"] for r in records})
            raise ValueError(f"no run of {name!r}; there are: {', '.join(valid) or 'none'}")
        compared.append(matching[-1])
    if compared[0] is compared[1]:
        raise ValueError(f"{options.runs[0]} and {options.runs[1]} are the same run")
    comparison = compare(*compared)
    print(f"a: {compared[0]['study_id']}  b: {compared[1]['study_id']}")
    print("\nconfiguration keys that differ:")
    print(comparison.config.to_string(index=False) if len(comparison.config) else "  none")
    real = comparison.summary["excludes_zero"].map({True: "yes", False: "no"}).fillna("")
    table = comparison.summary.assign(real=real).drop(columns="excludes_zero")
    print("\nnumbers (difference b - a with its 95 % interval, runs taken as independent):")
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def _select(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    import pandas as pd

    from pipeline.methods.selection import select_direction

    rows = json.loads(options.table.read_text())
    selected = select_direction(
        pd.DataFrame(rows),
        n_layers=options.layers,
        max_kl=options.max_kl,
        min_steering=options.min_steering,
        layer_share=options.layer_share,
    )
    print(json.dumps(asdict(selected), indent=1))


def _doctor(options: argparse.Namespace) -> None:
    from pipeline.runs.doctor import examine

    for subject, finding in examine(_model(options.model) if options.model else None):
        print(f"{subject:<14} {finding}", flush=True)


def _model(name: str) -> Model:
    """Find a model by its name in the project's conf/model, or by its path."""
    from pipeline.config.study import load_model_section
    from pipeline.model.hub import check_path

    root = _surrounding_project()
    files = sorted(root.glob("conf/model/*.yaml")) if root else []
    for file in files:
        if file.stem == name:
            return load_model_section(file)
    try:
        check_path(name)
    except ValueError as error:
        known = ", ".join(file.stem for file in files) or "nothing, as there is no project"
        raise ValueError(f"{error}; conf/model here has: {known}") from error
    return Model(path=name)


def _project() -> Path:
    """Return the project around the working directory, and put it on the import path."""
    folder = _surrounding_project()
    if folder is None:
        raise ValueError(
            f"{Path.cwd()} is not in a project: no parent folder has both conf/study and stages"
        )
    sys.path.insert(0, str(folder))
    return folder


def _surrounding_project() -> Path | None:
    """Return the nearest parent folder with conf/study and stages, or None."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "conf" / "study").is_dir() and (folder / "stages").is_dir():
            return folder
    return None


if __name__ == "__main__":
    main()
