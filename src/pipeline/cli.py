"""Command line of actsweep: run and show studies, compare runs, check the machine."""

import argparse
import hashlib
import importlib
import json
import logging
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.config.sections import Model, Study
from pipeline.runs.arguments import parse
from pipeline.runs.terminal import complain, prepared, silence, status

if TYPE_CHECKING:
    from pipeline.runs.cost import Cost


def main(arguments: list[str] | None = None) -> None:
    """Run the command; print an error in one line and exit with code 2."""
    options = parse(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        with prepared():
            _COMMANDS[options.command](options)
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has all that it wants.
        silence(sys.stdout)
        if options.command == "run" and not options.dry_run:
            _interrupted(arguments, KeyboardInterrupt())
    except (ValueError, OSError) as error:
        complain(f"error: {' '.join(str(error).split())}")
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        _interrupted(arguments, interrupt)


def _interrupted(arguments: list[str] | None, interrupt: KeyboardInterrupt) -> NoReturn:
    command = shlex.join(["actsweep", *(sys.argv[1:] if arguments is None else arguments)])
    complain(f"\ninterrupted; to go on: {command}")
    sys.exit(status(interrupt))


def _run(options: argparse.Namespace) -> None:
    from pipeline.runs.scratch import alone, check_idle, full_disk_named

    root = _project()
    name = options.study.removeprefix("study=")
    command = _hash_of(name, options.overrides, root)
    if not options.dry_run:
        # Before the imports and checks below, which take long.
        check_idle(root / "outputs", command)

    from pipeline.config.code import with_digests
    from pipeline.config.preflight import check
    from pipeline.config.study import compose_study, save_study
    from pipeline.runs.tracking_settings import check_tracking

    study = compose_study(name, options.overrides, root=root)
    check_tracking(study.tracking.mode, study.tracking.project, study.tracking.entity)
    planned = check(study)
    folder = root / "outputs" / study.id
    if options.dry_run:
        from pipeline.data.prompts import doubts
        from pipeline.runs.cost import cost

        for doubt in doubts(planned.prompts):
            print(f"warning: {doubt}")
        _say_cost(study, cost(study, planned), folder)
        return
    study = with_digests(study, root / "outputs" / "config")
    with alone(folder, command), full_disk_named(folder):
        save_study(study, folder / "config.yaml")
        print(study.id)
        _run_stages(study, folder)
    _print_study(folder, completions=3)


def _hash_of(study: str, overrides: list[str], root: Path) -> str:
    """Hash what is run: the study's name, its overrides, and the files of conf/."""
    command = hashlib.sha256(json.dumps([study, overrides]).encode())
    for file in sorted(root.glob("conf/**/*.yaml")):
        # Editors leave links to nowhere.
        if file.is_file():
            command.update(str(file.relative_to(root)).encode() + file.read_bytes())
    return command.hexdigest()


def _run_stages(study: Study, folder: Path) -> None:
    from pipeline.config.wiring import stages_of
    from pipeline.runs.records import take_record
    from pipeline.runs.reuse import is_kept, reused, stamp

    stages = importlib.import_module("stages")
    for stage in stages_of(study):
        words = str(stage).replace(" ", "-")
        name = f".{words}.key"
        key = stages.stage_key(study, stage, folder)
        if is_kept(folder, stage.outputs, name, key):
            print(f"{stage}: finished before, kept")
            continue
        (folder / name).unlink(missing_ok=True)
        # Quickly made; figures name their run, and W&B has each run's numbers.
        anew = stage.name in ("score_metrics", "plot_figures")
        other = None if anew else reused(folder, stage.outputs, name, key)
        if other is not None:
            print(f"{stage}: the same as in {other}, taken from there")
            for warning in take_record(stages.ROOT, study.name, other, study.id, words):
                complain(warning)
        else:
            print(f"{stage} ...", flush=True)
            stages.run_stage(study, stage, folder)
            # After the run: a model's weights may have been fetched by it.
            key = stages.stage_key(study, stage, folder)
        stamp(folder, stage.outputs, name, key)


def _say_cost(study: Study, cost: "Cost", folder: Path) -> None:
    free = shutil.disk_usage(_project()).free
    print(f"{study.id}: {study.question}")
    for part, count in cost.conditions.items():
        print(f"  {part}: {count} conditions")
    counted = {part.removesuffix("-validation") for part in cost.conditions}
    others = [name for name in (study.sweep.arms if study.sweep else ()) if name not in counted]
    if others:
        print(f"  not counted, as they need fits that are not there yet: {', '.join(others)}")
    print(f"completions: {cost.completions:,}")
    if cost.scored:
        print(f"forward passes: {cost.scored:,}, one per prompt and condition")
    print(f"tokens: {cost.tokens:,} at most, prompts and completions")
    untimed = [words for words in ("fits", "readings") if getattr(study, words)]
    more = f"; {' and '.join(untimed)} are not timed" if untimed else ""
    print(f"time: about {cost.seconds / 60:.1f} minutes to collect and to sweep{more}")
    print(f"disk: {cost.store_bytes / 1e6:.1f} MB of activations, {free / 1e9:.1f} GB free")
    print(f"output: {folder}")


def _list(options: argparse.Namespace) -> None:
    from pipeline.runs.outputs import outputs, uncomposed

    root = _project()
    listed = outputs(root)
    if not listed:
        print("no outputs yet: dvc repro, or actsweep run STUDY")
    for name in uncomposed(root):
        print(f"outputs/{name} has no config here, as after `dvc checkout`: dvc repro compose")
    for output in listed:
        unfinished = "" if output.finished else "  (unfinished)"
        print(
            f"{output.written:%Y-%m-%d %H:%M}  {output.name:<32} {output.study:<16} "
            f"{output.model}{unfinished}"
        )


def _show(options: argparse.Namespace) -> None:
    from pipeline.runs.outputs import find_output

    if options.completions < 0:
        raise ValueError(f"--completions {options.completions} is less than 0")
    root = _project()
    for folder in [find_output(root, name) for name in options.studies]:
        _print_study(folder, options.completions)


def _print_study(folder: Path, completions: int) -> None:
    from pipeline.config.inputs import Inputs
    from pipeline.config.study import config_file, load_study
    from pipeline.runs.outputs import command_of, is_finished
    from pipeline.views.numbers import main_numbers

    study = load_study(config_file(folder))
    print(f"\n{study.name}: {study.question}\n")
    if not is_finished(folder, study):
        print(f"unfinished; to go on: {command_of(folder, study)}\n")
    metrics = {}
    if (folder / "headline.json").is_file():
        metrics = json.loads((folder / "headline.json").read_text())
        print(main_numbers(metrics, study.sweep.arms if study.sweep else ()))
    for words in sorted(folder.glob("figures/**/*.md")):
        print(f"\n{words.read_text()}")
    for figure in sorted([*folder.glob("figures/*.png"), *folder.glob("figures/*/*.png")]):
        print(f"figure: {figure}")
    if completions:
        from pipeline.views.completions import completions_of_arms

        if study.sweep is None or study.sweep.decoding is None:
            print("\nno completions: the study decodes none")
            return
        inputs = Inputs(study, folder)
        tables = inputs.completions, inputs.conditions
        sizes = {"n": completions, "width": max(40, shutil.get_terminal_size().columns)}
        for shown in completions_of_arms(*tables, study.sweep.arms, metrics, **sizes):
            print(f"\n{shown}")


def _compare(options: argparse.Namespace) -> None:
    from pipeline.runs.comparison import compare_named
    from pipeline.views.two_runs import told

    comparison = compare_named(_project(), *options.runs)
    for line in told(comparison, *options.runs, width=shutil.get_terminal_size().columns):
        print(line)


def _trace(options: argparse.Namespace) -> None:
    from pipeline.runs.trace import trace

    root = _project()
    findings = list(trace(options.file, root))
    print(options.file)
    for subject, finding in findings:
        print(f"{subject:<12} {finding}")


def _select(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    import pandas as pd

    from pipeline.data.formats import read_json
    from pipeline.methods.selection import select_direction

    rows = read_json(options.table)
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
        raise ValueError(f"{options.table} is no list of objects")
    if options.layers < 1:
        raise ValueError(f"--layers {options.layers} is less than 1")
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


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "run": _run,
    "list": _list,
    "show": _show,
    "compare": _compare,
    "trace": _trace,
    "select": _select,
    "doctor": _doctor,
}

if __name__ == "__main__":
    main()
