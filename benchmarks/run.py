"""Measure every work side by side and write benchmarks/results.json.

Sides take turns, every other round backwards, so that whatever else the machine does meets all of
them, and no side always runs after the same one. Each is run once before anything is measured, and
then its output must be that of the others. A ratio is the other side's seconds by ours, within each
round: its median and its range over the rounds are what counts.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from benchmarks import memory
from benchmarks.arithmetic import rates
from benchmarks.machine import commit, machine
from benchmarks.shapes import SIZES
from benchmarks.work import NotMeasurable, Work
from benchmarks.works import WORKS

SMALLER = ("half the samples", "two of five conditions")
"""Sizes at which only our memory is measured; the second where conditions are swept."""

RESULTS = Path(__file__).parent / "results.json"


def main(arguments: list[str] | None = None) -> None:
    """Measure the works that are named, or all, and keep the other results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("works", nargs="*", help=f"of: {', '.join(WORKS)}; all if none is named")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--no-memory", action="store_true", help="no further process for each side")
    asked = parser.parse_args(arguments)
    for name in asked.works:
        if name not in WORKS:
            parser.error(f"no work {name!r}; valid: {', '.join(WORKS)}")
    results = json.loads(asked.results.read_text()) if asked.results.exists() else {}
    told = {"size": asked.size, "rounds": asked.rounds, "commit": commit(), "machine": machine()}
    unlike = []
    for name in asked.works or WORKS:
        try:
            found = measured(name, asked.size, asked.rounds, with_memory=not asked.no_memory)
        except ValueError as error:
            # The other works are measured all the same; this one keeps no older figures.
            found = {"what": name, "not_measured": [str(error)]}
            unlike.append(f"{name}: {error}")
        results[name] = told | found
        asked.results.write_text(json.dumps(results, indent=1) + "\n")
        _show(name, found)
    if unlike:
        sys.exit("error: " + "; ".join(unlike))


def measured(name: str, size: str, rounds: int, *, with_memory: bool) -> dict[str, Any]:
    """A work's results, or why this machine has none."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            work = WORKS[name](SIZES[size], Path(folder))
        except NotMeasurable as reason:
            return {"what": name, "not_measured": [str(reason)]}
        found = measure(work, rounds)
    if with_memory:
        # After the folder is gone: each of these processes writes what it reads.
        asked = {side: (side, size) for side in found["seconds"]}
        ours = next(iter(asked))
        if size == "full":
            sizes = SMALLER if work.swept else SMALLER[:1]
            asked |= {f"{ours}, {smaller}": (ours, smaller) for smaller in sizes}
        found["resident_bytes"] = {}
        for label, (side, its_size) in asked.items():
            try:
                found["resident_bytes"][label] = memory.peak(name, side, its_size)
            except CalledProcessError as error:
                found["not_measured"].append(f"{label}: memory; the process ended: {error}")
    return found


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """Seconds of each side and their ratios to ours, as medians and ranges over the rounds.

    Raises:
        ValueError: a side's output is not ours.
    """
    (ours, run_ours), *others = work.sides.items()
    output = run_ours()
    scores = {ours: work.score(output)} if work.score else {}
    sides, missing = {ours: run_ours}, list(work.missing)
    for side, run in others:
        try:
            made = run()
        # A library that fails does not end the benchmark.
        except Exception as error:
            missing.append(f"{side}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        work.same(side, output, made)
        if work.score:
            scores[side] = work.score(made)
        sides[side] = run
        del made
    times: dict[str, list[float]] = {side: [] for side in sides}
    turns = list(sides.items())
    for _ in range(rounds):
        for side, run in turns:
            work.prepare()
            times[side].append(_timed(run) / work.done.get(side, 1.0))
        turns.reverse()
    ratios = {
        side: [theirs / own for theirs, own in zip(times[side], times[ours], strict=True)]
        for side in sides
        if side != ours
    }
    return {
        "what": work.what,
        "tokens": work.tokens,
        "done": work.done,
        "ceiling": _ceiling(work, output, statistics.median(times[ours])),
        "seconds": {side: _spread(seconds) for side, seconds in times.items()},
        "ratios": {side: _spread(values) for side, values in ratios.items()},
        "scores": scores,
        "not_measured": missing,
        "device": work.device,
    }


def _ceiling(work: Work, output: Any, seconds: float) -> dict[str, float]:
    need, most = work.need(output), rates(work.device, work.dtype)
    least = need.seconds(most)
    return {**vars(need), **vars(most), "seconds": least, "share_reached": least / seconds}


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _show(name: str, found: dict[str, Any]) -> None:
    print(f"{name}: {found['what']}")
    for side, seconds in found.get("seconds", {}).items():
        print(f"  {side:46} {seconds['median']:9.3f} s{_ratio(found['ratios'].get(side))}")
    if "ceiling" in found:
        print(f"  of the ceiling by arithmetic: {found['ceiling']['share_reached']:.0%}")
    for missing in found["not_measured"]:
        print(f"  {missing}", file=sys.stderr)


def _ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"  x {spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


if __name__ == "__main__":
    main()
