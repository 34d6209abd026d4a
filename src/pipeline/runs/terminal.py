"""Prepare a process that a terminal or a scheduler runs: its signals and its streams."""

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send, in place of Ctrl-C."""


class Once(logging.Filter):
    """Lets each distinct message through once: a model that is loaded again says nothing new."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        message = record.getMessage()
        is_new = message not in self._messages
        self._messages.add(message)
        return is_new


@contextmanager
def prepared() -> Iterator[None]:
    """Raise `Terminated` at SIGTERM; write a warning once, and `?` for what cannot be encoded."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    once = Once()
    # Others, such as those of a run's record or of tests, are subclasses with filters of their own.
    handlers = [h for h in logging.getLogger().handlers if type(h) is logging.StreamHandler]
    for handler in handlers:
        handler.addFilter(once)
    before = signal.getsignal(signal.SIGTERM)
    # Python sets handlers in the main thread only; a handler of another program is left.
    ours = before is signal.SIG_DFL and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(once)
        if ours:
            signal.signal(signal.SIGTERM, before)


def complain(line: str) -> None:
    """Print a line to standard error, unless its reader has gone, as after `2>&1 | head`."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Discard what is written to a stream whose reader has gone, up to the last flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def status(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status of an interrupt: 128 and the number of the signal."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def _terminate(*_: Any) -> None:
    raise Terminated
