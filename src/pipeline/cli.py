"""The command `actsweep`: run a study by hand, show it, compare runs, examine the machine."""

import argparse
import importlib
import json
import logging
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from pipeline.config.sections import Model, Study

if TYPE_CHECKING:
    from pipeline.runs.cost import Cost


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and do what it says; an error is one line and exit code 2."""
    given = parse(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        {
            "run": _run,
            "show": _show,
            "compare": _compare,
            "select": _select,
            "doctor": _doctor,
        }[given.command](given)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, with overrides on either side of an option: argparse takes those before it."""
    whole = parser()
    given, rest = whole.parse_known_args(arguments)
    if rest and (given.command != "run" or any(text.startswith("-") for text in rest)):
        whole.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        given.overrides += rest
    return given


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    whole = argparse.ArgumentParser(prog="actsweep", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a study's stages in one process, overrides applied")
    run.add_argument("study", help="a file of conf/study, as NAME or study=NAME")
    run.add_argument("overrides", nargs="*", help="such as sweep.layers=[1,2] or model.path=FOLDER")
    run.add_argument("--dry-run", action="store_true", help="say what it would cost, and stop")
    show = commands.add_parser("show", help="main numbers, figures and completions of a study")
    show.add_argument("studies", nargs="+", help="studies, or ids that `run` printed")
    show.add_argument("--completions", type=int, default=0, metavar="N", help="show N side by side")
    compare = commands.add_parser("compare", help="which settings and which numbers differ")
    compare.add_argument(
        "runs", nargs=2, metavar="RUN", help="a study's id, or a study's newest run"
    )
    select = commands.add_parser("select", help="choose among candidate directions in a JSON table")
    select.add_argument("table", type=Path)
    select.add_argument("--layers", type=int, required=True, help="number of layers of the model")
    select.add_argument("--max-kl", type=float, default=0.1)
    select.add_argument("--min-steering", type=float, default=0.0)
    select.add_argument("--layer-share", type=float, default=0.8)
    doctor = commands.add_parser("doctor", help="versions, devices, memory; whether a model runs")
    doctor.add_argument("model", nargs="?", help="a name of conf/model, a folder, or a hub id")
    return whole


def _run(given: argparse.Namespace) -> None:
    from pipeline.config.preflight import check
    from pipeline.config.study import compose_study, save_study

    root = _project()
    study = compose_study(given.study.removeprefix("study="), given.overrides, root=root)
    dataset, layers = check(study)
    folder = root / "outputs" / study.id
    if given.dry_run:
        from pipeline.runs.cost import cost

        _say_cost(study, cost(study, dataset, layers), folder)
        return
    stages = importlib.import_module("stages")
    study = stages.with_digests(study)
    save_study(study, folder / "config.yaml")
    for name in stages.order(study):
        module = importlib.import_module(f"stages.{name}")
        done = folder / f".{name}.key"
        # The first stage reads files that no key covers, and is quick.
        if name != stages.ORDER[0] and _finished(module, folder, done, stages, study):
            print(f"{name}: finished before, kept")
            continue
        print(f"{name} ...", flush=True)
        done.unlink(missing_ok=True)
        stages.run_stage(module, study, folder)
        done.write_text(stages.stage_key(module, study, folder))
    _print_study(folder, completions=3)


def _finished(
    module: ModuleType, folder: Path, done: Path, stages: ModuleType, study: Study
) -> bool:
    """Whether a stage's outputs are there and follow from just what it would read now."""
    there = all((folder / output).exists() for output in module.OUTPUTS)
    key = done.read_text() if done.is_file() else None
    return there and key == stages.stage_key(module, study, folder)


def _say_cost(study: Study, cost: "Cost", folder: Path) -> None:
    free = shutil.disk_usage(_project()).free
    print(f"{study.id}: {study.question}")
    for part, count in cost.conditions.items():
        print(f"  {part}: {count} conditions")
    print(f"completions: {cost.completions:,}")
    if cost.scored:
        print(f"forward passes: {cost.scored:,}, of a prompt under a condition")
    print(f"tokens: {cost.tokens:,} at most, prompts and completions")
    print(f"time: about {cost.seconds / 60:.1f} minutes at most for the sweep, by a timed sample")
    print(f"disk: {cost.store_bytes / 1e6:.1f} MB of activations, {free / 1e9:.1f} GB free")
    print(f"output: {folder}")


def _show(given: argparse.Namespace) -> None:
    root = _project()
    for name in given.studies:
        folder = root / "outputs" / name
        if not (folder / "metrics.json").is_file():
            made = sorted(path.parent.name for path in root.glob("outputs/*/metrics.json"))
            raise ValueError(f"study {name!r} has no results in outputs; there are: {made}")
        _print_study(folder, given.completions)


def _print_study(folder: Path, completions: int) -> None:
    from pipeline.config.study import load_study
    from pipeline.views.numbers import main_numbers, setting_in_words

    study = load_study(_config_file(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    print(f"\n{study.name}: {study.question}\n")
    print(main_numbers(metrics))
    if (folder / "report").is_dir():
        print(f"\n{(folder / 'report' / 'finding.md').read_text()}")
    for figure in sorted([*folder.glob("figures/*.png"), *folder.glob("report/*.png")]):
        print(f"figure: {figure}")
    if completions:
        import pandas as pd

        from pipeline.views.completions import side_by_side

        if study.sweep.decoding is None:
            print("\nno completions: sweep.decoding is null")
            return
        sweep = pd.read_parquet(folder / "sweep.parquet")
        width = shutil.get_terminal_size().columns
        for arm, numbers in metrics.items():
            if "conditions" in numbers:
                print(f"\n{arm}, {setting_in_words(numbers)}:")
                print(side_by_side(sweep, **numbers["conditions"], n=completions, width=width))


def _compare(given: argparse.Namespace) -> None:
    from pipeline.config.study import load_study
    from pipeline.runs.records import compare, read_runs

    root = _project()
    scored = [r for r in read_runs(root) if r["stage"] == "score_metrics"]
    records = [r for r in scored if r["status"] == "finished"]
    found = []
    for wanted in given.runs:
        config = _config_file(root / "outputs" / wanted)
        # A study's name means its outputs, not a run by hand that happens to be newer.
        known = load_study(config).id if config.is_file() else wanted
        matching = [r for r in records if known in (r["study_id"], r["experiment"])]
        if not matching:
            valid = sorted({r["study_id"] for r in records})
            raise ValueError(f"no run of {wanted!r}; there are: {', '.join(valid) or 'none'}")
        found.append(matching[-1])
    if found[0] is found[1]:
        raise ValueError(f"{given.runs[0]} and {given.runs[1]} are the same run")
    comparison = compare(*found)
    print(f"a: {found[0]['study_id']}  b: {found[1]['study_id']}")
    print("\nsettings that differ:")
    print(comparison.config.to_string(index=False) if len(comparison.config) else "  none")
    real = comparison.summary["excludes_zero"].map({True: "yes", False: "no"}).fillna("")
    table = comparison.summary.assign(real=real).drop(columns="excludes_zero")
    print("\nnumbers (difference b - a with its 95 % interval, runs taken as independent):")
    print(table.to_string(index=False, float_format="{:.3g}".format, na_rep=""))


def _select(given: argparse.Namespace) -> None:
    from dataclasses import asdict

    import pandas as pd

    from pipeline.methods.selection import select_direction

    rows = json.loads(given.table.read_text())
    chosen = select_direction(
        pd.DataFrame(rows),
        n_layers=given.layers,
        max_kl=given.max_kl,
        min_steering=given.min_steering,
        layer_share=given.layer_share,
    )
    print(json.dumps(asdict(chosen), indent=1))


def _doctor(given: argparse.Namespace) -> None:
    from pipeline.runs.doctor import examine

    for subject, finding in examine(_model(given.model) if given.model else None):
        print(f"{subject:<14} {finding}", flush=True)


def _model(name: str) -> Model:
    """A model of conf/model by its name, where there is a project, or any by its path."""
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


def _config_file(folder: Path) -> Path:
    """The composed config of outputs: of a run by hand beside them, of `dvc repro` in config/."""
    beside = folder / "config.yaml"
    return beside if beside.is_file() else folder.parent / "config" / f"{folder.name}.yaml"


def _project() -> Path:
    """The project that the command was called in; its stages can be imported from then on."""
    folder = _surrounding_project()
    if folder is None:
        raise ValueError(
            f"{Path.cwd()} is in no project: no conf/study and stages beside each other"
        )
    sys.path.insert(0, str(folder))
    return folder


def _surrounding_project() -> Path | None:
    """The nearest folder with conf/ and stages/."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "conf" / "study").is_dir() and (folder / "stages").is_dir():
            return folder
    return None


if __name__ == "__main__":
    main()
