"""Peak resident memory of one side of a work, in a process of its own.

Prints JSON: bytes of anonymous and of file-backed pages, before the side runs and at their peaks.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
KINDS = {"RssAnon": "anonymous", "RssFile": "file"}
SECONDS = 0.005
"""Between two samples."""


def peak(work: str, side: str, size: str) -> dict[str, Any]:
    """What this module prints for a side."""
    command = [sys.executable, "-m", "benchmarks.memory", work, side, "--size", size]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Build the work, run the side once and print what it took."""
    from benchmarks.shapes import SIZES
    from benchmarks.works import WORKS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("side")
    parser.add_argument("--size", choices=SIZES, default="full")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = WORKS[arguments.work](SIZES[arguments.size], Path(folder))
        work.prepare()
        print(json.dumps(watched(work.sides[arguments.side])))


def watched(run: Callable[[], Any]) -> dict[str, dict[str, int]]:
    """Resident bytes before `run`, and the most there were of each kind while it ran."""
    before = _resident()
    with _sampling() as most:
        run()
    return {kind: {"before": before[kind], "peak": most[kind]} for kind in before}


@contextmanager
def _sampling() -> Iterator[dict[str, int]]:
    most = _resident()
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SECONDS):
            for kind, now in _resident().items():
                most[kind] = max(most[kind], now)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def _resident() -> dict[str, int]:
    text = STATUS.read_text()
    found = {kind: re.search(rf"{name}:\s+(\d+) kB", text) for name, kind in KINDS.items()}
    return {kind: int(match[1]) * 1024 for kind, match in found.items() if match}


if __name__ == "__main__":
    main()
