"""Draw the benchmark's figure and write its table into benchmarks/README.md, from the results."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.aims import AIMS, missed
from benchmarks.figure import figure
from benchmarks.run import RESULTS
from benchmarks.works import WORKS
from pipeline.runs.scratch import sha256
from pipeline.views.panels import save

ROOT = Path(__file__).parents[1]
FIGURE = ROOT / "docs" / "figures" / "benchmark.png"
README = ROOT / "benchmarks" / "README.md"
BEGIN, END = "<!-- results: written by benchmarks.report -->\n", "<!-- end of results -->\n"
HEAD = (
    "| work | side | seconds | times ours | aim | anonymous GB | file GB | of the ceiling |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def main(arguments: list[str] | None = None) -> None:
    """Write both, from the results that there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--readme", type=Path, default=README)
    asked = parser.parse_args(arguments)
    results = json.loads(asked.results.read_text())
    commits = sorted({found["commit"] for found in results.values()})
    provenance = {"commit": ", ".join(commits), "results": sha256(asked.results)}
    save(figure(results), asked.figure, provenance)
    asked.readme.write_text(with_table(asked.readme.read_text(), table(results)))


def with_table(text: str, rows: str) -> str:
    """The text with these rows between its two marks.

    Raises:
        ValueError: a mark is missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"marks of the table are missing: {BEGIN!r}, {END!r}")
    return before + begin + rows + end + after


def table(results: dict[str, Any]) -> str:
    """A row of Markdown for each side; aims that are missed; what was not measured, and why."""
    rows = [row for name, found in results.items() for row in _rows(name, found)]
    missing = [
        f"- {name}: {reason}\n"
        for name, found in results.items()
        for reason in found["not_measured"]
    ]
    missing += [f"- {name}: not run\n" for name in WORKS if name not in results]
    unmeasured = "\nNot measured:\n\n" + "".join(missing) if missing else ""
    return HEAD + "".join(rows) + below(results) + unmeasured + _provenance(results)


def below(results: dict[str, Any]) -> str:
    """Of each aim that is missed, by how much, and where our seconds go."""
    lines = []
    for name, found in results.items():
        for side, (ratio, aim) in missed(name, found).items():
            least, ours = found["ceiling"]["seconds"], next(iter(found["seconds"].values()))
            parts = [f"{share:.0%} {part}" for part, share in found.get("profile", {}).items()]
            lines.append(
                f"- {name}, {side}: {ratio:.2f} of {aim:g}. Ours takes {ours['median']:.3g} s, at "
                f"the ceiling {least:.3g} s{'; ' if parts else ''}{', '.join(parts)}.\n"
            )
    return "\nBelow their aims:\n\n" + "".join(lines) if lines else ""


def _provenance(results: dict[str, Any]) -> str:
    """Which works were measured at which commit, and in how many rounds."""
    works: dict[tuple[str, int], list[str]] = {}
    for name, found in results.items():
        works.setdefault((found["commit"], found["rounds"]), []).append(name)
    told = [
        f"{', '.join(names)} at commit {commit[:12]}{commit[40:]}, "
        f"{rounds} round{'s' if rounds > 1 else ''}"
        for (commit, rounds), names in works.items()
    ]
    return f"\nMeasured: {'; '.join(told)}.\n"


def _rows(name: str, found: dict[str, Any]) -> Iterator[str]:
    for side, seconds in found.get("seconds", {}).items():
        ratio = found["ratios"].get(side)
        memory = found.get("resident_bytes", {}).get(side)
        cells = [
            name,
            side,
            f"{seconds['median']:.3g}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "",
            f"{AIMS[name][side]:g}" if side in AIMS.get(name, {}) else "",
            *(_gigabytes(memory, kind) for kind in ("anonymous", "file")),
            "" if ratio else f"{found['ceiling']['share_reached']:.0%}",
        ]
        yield f"| {' | '.join(cells)} |\n"
    for label, memory in found.get("resident_bytes", {}).items():
        if label not in found["seconds"]:
            peaks = " | ".join(_gigabytes(memory, kind) for kind in ("anonymous", "file"))
            yield f"| {name} | {label} | | | | {peaks} | |\n"


def _gigabytes(memory: dict[str, dict[str, int]] | None, kind: str) -> str:
    return "" if memory is None else f"{memory[kind]['peak'] / 2**30:.2f}"


if __name__ == "__main__":
    main()
