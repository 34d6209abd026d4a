"""Outputs on another disk, locks, and progress on a terminal and off it."""

import errno
import multiprocessing
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.runs import progress as module
from pipeline.runs.progress import progress
from pipeline.runs.scratch import alone, run_or_resume, scratch


@pytest.mark.parametrize("is_folder", [True, False])
def test_an_output_on_another_disk_is_copied_there(tmp_path, monkeypatch, is_folder):
    rename = Path.rename

    def renamed(self, target):
        if self.parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", renamed)
    declared = tmp_path / "elsewhere" / "store"
    for content in ("first", "second"):
        with scratch(declared, content, root=tmp_path) as work:
            if is_folder:
                (work / "store").mkdir()
                (work / "store" / "shard").write_text(content)
            else:
                (work / "store").write_text(content)
        file = declared / "shard" if is_folder else declared
        assert file.read_text() == content
        assert [path.name for path in declared.parent.iterdir()] == ["store"]
        assert not any((tmp_path / ".actsweep/scratch").iterdir())


def test_another_error_of_the_disk_is_passed_on(tmp_path, monkeypatch):
    def failing(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OSError, match="No space left"),
        scratch(tmp_path / "x", "k", root=tmp_path) as work,
    ):
        (work / "x").write_text("y")
        monkeypatch.setattr(Path, "rename", failing)


def _hold(folder, held, leave):
    with alone(folder):
        held.set()
        leave.wait(30)


def test_a_folder_is_written_by_one_run_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out", held, leave))
    other.start()
    assert held.wait(60)
    with (
        pytest.raises(ValueError, match="out is being written by another run"),
        alone(tmp_path / "out"),
    ):
        pass
    # A killed process gives the lock up.
    other.kill()
    other.join()
    with alone(tmp_path / "out"):
        pass


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(capsys, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert list(progress([1, 2, 3], "completions", "chunk", kept=1)) == [1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "completions: 1 of 4 chunks kept from before"
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"completions: {done} of 4 chunks" for done in (2, 3, 4)
    ]
    assert all("per second" in line and "left" in line for line in lines[1:])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([1, 2], "completions", "chunk")) == [1, 2]
    assert "2/2" in capsys.readouterr().err


def test_quick_work_says_nothing_off_a_terminal(capsys):
    assert list(progress(range(5), "completions", "chunk")) == list(range(5))
    assert capsys.readouterr().err == ""


def test_what_is_kept_of_a_killed_run_is_told(tmp_path, capsys):
    made = []

    def make(name):
        made.append(name)
        return pd.DataFrame({"x": [name]})

    jobs = {name: (lambda name=name: make(name)) for name in "abc"}
    run_or_resume("completions", {name: jobs[name] for name in "ab"}, tmp_path)
    tables = run_or_resume("completions", jobs, tmp_path)
    assert made == ["a", "b", "c"]
    assert [table["x"].item() for table in tables] == ["a", "b", "c"]
    assert "completions: 2 of 3 chunks kept from before" in capsys.readouterr().err
