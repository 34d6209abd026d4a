"""Where our seconds go in works that miss their aim; adds profiles to benchmarks/results.json."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from benchmarks.aims import missed
from benchmarks.run import RESULTS
from benchmarks.shapes import SIZES
from benchmarks.works import WORKS

SHOWN = 6


def main(arguments: list[str] | None = None) -> None:
    """Run our side of each such work once more, watched."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    asked = parser.parse_args(arguments)
    results = json.loads(asked.results.read_text())
    for name, found in results.items():
        found.pop("profile", None)
        if missed(name, found):
            with tempfile.TemporaryDirectory() as folder:
                work = WORKS[name](SIZES[found["size"]], Path(folder))
                found["profile"] = shares(next(iter(work.sides.values())), work.prepare)
        asked.results.write_text(json.dumps(results, indent=1) + "\n")


def shares(run: Callable[[], Any], prepare: Callable[[], None]) -> dict[str, float]:
    """Shares of the seconds that `run` takes: torch's longest operations, and what none of them is.

    Of its second turn, each made ready by `prepare`. Of an operation, without those that it calls.
    Watching takes time as well.
    """
    run()
    prepare()
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    found = {event.key: event.self_cpu_time_total / 1e6 / seconds for event in _operations(watched)}
    longest = sorted(found, key=lambda name: -found[name])[:SHOWN]
    rest = 1 - sum(found.values())
    return {name: found[name] for name in longest} | {"outside of torch's operations": rest}


def _operations(watched: profile) -> list[Any]:
    return [event for event in watched.key_averages() if "::" in event.key]


if __name__ == "__main__":
    main()
