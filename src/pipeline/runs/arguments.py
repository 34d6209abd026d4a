"""Arguments and help texts of the command line."""

import argparse
from importlib.metadata import version
from pathlib import Path

DESCRIPTION = "Run and show studies, compare runs, trace figures, check the machine."
EXIT = """exit status: 0 done, 2 an error that one line on stderr names, 130 interrupted,
143 terminated (the same command goes on where it stopped)"""


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
    root = argparse.ArgumentParser(prog="actsweep", description=DESCRIPTION, epilog=EXIT)
    root.add_argument("--version", action="version", version=f"actsweep {version('actsweep')}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, epilog=EXIT)

    run = command("run", "run all stages of a study in one process")
    run.add_argument("study", help="a file of conf/study, as NAME or study=NAME")
    run.add_argument("overrides", nargs="*", help="such as sweep.layers=[1,2] or model.path=FOLDER")
    run.add_argument("--dry-run", action="store_true", help="estimate the cost and exit")
    command("list", "studies and runs that have outputs, newest first")
    show = command("show", "main numbers, figures and completions of a study")
    show.add_argument("studies", nargs="+", help="studies, or ids that `run` printed")
    show.add_argument("--completions", type=int, default=0, metavar="N", help="show N side by side")
    compare = command("compare", "show how settings and numbers of two runs differ")
    compare.add_argument(
        "runs", nargs=2, metavar="RUN", help="a study, an id that `run` printed, or an experiment"
    )
    trace = command("trace", "say which study, config, data and code a figure or page is made from")
    trace.add_argument("file", type=Path, help="a PNG or an HTML page")
    select = command("select", "choose among candidate directions in a JSON table")
    select.add_argument("table", type=Path, help="a list of objects: layer, position and scores")
    select.add_argument("--layers", type=int, required=True, help="number of layers of the model")
    select.add_argument(
        "--max-kl", type=float, default=0.1, help="most KL divergence on harmless prompts, nats"
    )
    select.add_argument(
        "--min-steering", type=float, default=0.0, help="least steering score of a candidate"
    )
    select.add_argument(
        "--layer-share", type=float, default=0.8, help="share of the layers, from the first, to use"
    )
    doctor = command("doctor", "versions, devices, memory; whether a model runs")
    doctor.add_argument("model", nargs="?", help="a name of conf/model, a folder, or a hub id")
    return root
