"""Measure every work side by side and write benchmarks/results.json.

Sides take turns, so that whatever else the machine does meets all of them; each is run once before
anything is measured, and then its output must be that of the others. A ratio is the other side's
seconds by ours, within each round: its median and its range over the rounds are what counts.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers

from benchmarks.shapes import SIZES
from benchmarks.works import WORKS, Work

RESULTS = Path(__file__).parent / "results.json"


def main() -> None:
    """Measure the works that are named, or all, and keep the other results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("works", nargs="*", help=f"of: {', '.join(WORKS)}; all if none is named")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in arguments.works:
        if name not in WORKS:
            parser.error(f"no work {name!r}; valid: {', '.join(WORKS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.works or WORKS:
        work = WORKS[name](SIZES[arguments.size])
        found = {"size": arguments.size, "machine": machine(), **measure(work, arguments.rounds)}
        results[name] = found
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {work.what}")
        for side, seconds in found["seconds"].items():
            print(f"  {side:32} {seconds['median']:9.3f} s{_ratio(found['ratios'].get(side))}")
        for missing in work.missing:
            print(f"  {missing}", file=sys.stderr)


def measure(work: Work, rounds: int) -> dict[str, Any]:
    """Seconds of each side and their ratios to ours, as medians and ranges over the rounds.

    Raises:
        ValueError: a side's output is not ours.
    """
    ours, *others = work.sides
    output = work.sides[ours]()
    for side in others:
        work.same(side, output, work.sides[side]())
    times: dict[str, list[float]] = {side: [] for side in work.sides}
    memory: dict[str, int] = {}
    for _ in range(rounds):
        for side, run in work.sides.items():
            work.prepare()
            times[side].append(_timed(run))
            memory[side] = max(memory.get(side, 0), psutil.Process().memory_info().rss)
    ratios = {
        side: [theirs / own for theirs, own in zip(times[side], times[ours], strict=True)]
        for side in others
    }
    return {
        "what": work.what,
        "tokens_needed": work.tokens,
        "seconds": {side: _spread(seconds) for side, seconds in times.items()},
        "ratios": {side: _spread(values) for side, values in ratios.items()},
        "resident_bytes_after": memory,
        "not_measured": work.missing,
    }


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(": ")[2] for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": psutil.getloadavg()[0],
        "system": platform.platform(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _ratio(spread: dict[str, float] | None) -> str:
    if spread is None:
        return ""
    return f"  x {spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


if __name__ == "__main__":
    main()
