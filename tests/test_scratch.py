"""Outputs on another disk, locks, and progress on a terminal and off it."""

import contextlib
import errno
import itertools
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from safetensors import SafetensorError

from pipeline.runs import progress as module
from pipeline.runs.progress import progress
from pipeline.runs.scratch import alone, check_idle, run_or_resume, scratch, whole_file


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
        raise OSError(errno.EIO, "Input/output error")

    with (
        pytest.raises(OSError, match="Input/output error"),
        scratch(tmp_path / "x", "k", root=tmp_path) as work,
    ):
        (work / "x").write_text("y")
        monkeypatch.setattr(Path, "rename", failing)


GO_ON = r"; free some and run the same command again, which goes on$"


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_full_disk_of_the_outputs_is_one_line_and_nothing_is_lost(
    tmp_path, monkeypatch, is_folder
):
    """The second disk is full after the first file has been copied to it."""
    rename, copyfile, copied = os.rename, shutil.copyfile, []

    def renamed(source, target):
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    def copy(source, target, **options):
        if len(copied) == is_folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        copied.append(copyfile(source, target, **options))
        return target

    monkeypatch.setattr(os, "rename", renamed)
    declared = tmp_path / "elsewhere" / "store"
    for is_full in (True, False):
        monkeypatch.setattr(shutil, "copyfile", copy if is_full else copyfile)
        with contextlib.ExitStack() as expected:
            if is_full:
                message = rf"^no space left on {declared.parent}{GO_ON}"
                expected.enter_context(pytest.raises(OSError, match=message))
            with scratch(declared, "k", root=tmp_path) as work:
                if is_full and is_folder:
                    (work / "store").mkdir()
                    for name in "abc":
                        (work / "store" / name).write_text(name)
                elif is_full:
                    (work / "store").write_text("abc")
                assert (work / "store").exists()
        assert list(declared.parent.iterdir()) == ([] if is_full else [declared])
    parts = sorted(declared.iterdir()) if is_folder else [declared]
    assert "".join(part.read_text() for part in parts) == "abc"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "x"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        pa.lib.ArrowException("Detail: [errno 28] No space left on device"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    ],
    ids=repr,
)
def test_a_full_disk_is_named_by_whatever_library_it_is_raised(tmp_path, error):
    with (
        pytest.raises(OSError, match=rf"^no space left on {tmp_path}{GO_ON}"),
        whole_file(tmp_path / "file"),
    ):
        raise error
    with (
        pytest.raises(OSError, match=rf"^no space left on {tmp_path}/.actsweep/scratch/\S+{GO_ON}"),
        scratch(tmp_path / "out" / "x", "k", root=tmp_path),
    ):
        raise error


def _hold(folder, held, leave, command=""):
    with alone(folder, command):
        held.set()
        leave.wait(30)


def test_the_same_command_is_known_to_run_by_its_lock(tmp_path):
    check_idle(tmp_path / "outputs", "mine")
    context = multiprocessing.get_context("spawn")
    held, leave = context.Event(), context.Event()
    arguments = (tmp_path / "outputs" / "a", held, leave, "mine")
    other = context.Process(target=_hold, args=arguments)
    other.start()
    assert held.wait(60)
    for _ in range(2):
        with pytest.raises(ValueError, match="outputs/a is being written by another run"):
            check_idle(tmp_path / "outputs", "mine")
        check_idle(tmp_path / "outputs", "another")
        # A run that is refused must not change whose lock it is.
        with pytest.raises(ValueError, match="being written"), alone(tmp_path / "outputs/a", "x"):
            pass
    other.kill()
    other.join()
    check_idle(tmp_path / "outputs", "mine")


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


def test_lines_of_inner_work_leave_time_for_those_of_the_outer(capsys, monkeypatch):
    """A clock that moves by 3 s at each look; lines come every 10 s."""
    clock = itertools.count(0, 3)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "_latest", 0)
    for _ in progress(range(4), "texts", "chunk"):
        assert list(progress(range(6), "scores", "batch", brief=True)) == list(range(6))
    named = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert [name for name in named if "texts" in name] == [
        f"texts: {done} of 4 chunks" for done in (1, 2, 3, 4)
    ]
    assert 4 <= sum("scores" in name for name in named) <= 8
    assert all(name.endswith("batches") for name in named if "scores" in name)


def test_brief_work_leaves_no_bar_behind(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress([1, 2], "scores", "batch", brief=True)) == [1, 2]
    assert "2/2" not in capsys.readouterr().err


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
