"""Prepare a process that a terminal or a scheduler runs: its signals and its streams."""

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send, in place of Ctrl-C."""


@contextmanager
def prepared() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM, and write characters that a stream cannot encode as `?`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    before = signal.getsignal(signal.SIGTERM)
    # Python sets handlers in the main thread only; a handler of another program is left.
    ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, before)


def status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of an interrupt: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def _terminate(*_: Any) -> None:
    raise Terminated
