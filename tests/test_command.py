"""The command as a user meets it: interrupted, piped, mistyped, and its help."""

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from project import ROOT, SMALL, command, copy_project, environment, run

from pipeline import cli
from pipeline.cli import main
from pipeline.runs.arguments import parser
from pipeline.runs.scratch import alone


def test_the_version_and_the_exit_statuses_are_said(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == f"actsweep {version('actsweep')}"
    for arguments in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit):
            main(arguments)
        said = " ".join(capsys.readouterr().out.split())
        assert (
            "exit status: 0 done, 2 an error" in said and "130 interrupted, 143 terminated" in said
        )


def test_every_option_has_a_help_text():
    (commands,) = (a for a in parser()._actions if hasattr(a, "choices") and a.choices)
    actions = [(n, a) for n, sub in commands.choices.items() for a in sub._actions]
    assert len(commands.choices) == 7 and len(actions) > 15
    assert [(name, action.dest) for name, action in actions if not action.help] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_says_how_to_go_on(monkeypatch, capsys, number, code):
    before = signal.getsignal(number)

    def interrupted(options):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setitem(cli._COMMANDS, "list", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["list"])
    assert caught.value.code == code
    assert capsys.readouterr().err.strip() == "interrupted; to go on: actsweep list"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("stage", [False, True])
def test_a_scheduler_that_ends_a_run_is_told_how_to_go_on(tmp_path, stage):
    """In a process, as the default of SIGTERM ends it without a word."""
    wait = "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(10)"
    code = (
        f"import sys, stages; sys.argv = ['stages/sweep_layers.py', 'small']\n"
        f"def load(path): exec({wait!r})\n"
        "stages.load_study = load; stages.main()"
        if stage
        else "from pipeline import cli\n"
        f"cli._COMMANDS['list'] = lambda options: exec({wait!r})\n"
        "cli.main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 143, done.stderr
    line = "`dvc repro` goes on with sweep_layers of small" if stage else "to go on: actsweep list"
    assert done.stderr.strip() == f"interrupted; {line}"


def test_what_a_terminal_cannot_encode_is_no_error():
    code = (
        "from pipeline import cli\n"
        "cli._COMMANDS['list'] = lambda options: print('a… 中')\n"
        "cli.main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, env=environment() | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "a? ?\n"), done.stderr


def test_a_warning_is_written_once():
    """As of a model that is loaded once more in another dtype, or of sixty conditions."""
    code = (
        "import logging\n"
        "from pipeline import cli\n"
        "def warn(options):\n"
        "    for word in ('a', 'b', 'a', 'a'):\n"
        "        logging.getLogger('x').warning('said: %s', word)\n"
        "cli._COMMANDS['list'] = warn\n"
        "cli.main(['list'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "said: a\nsaid: b\n")


def test_a_second_run_is_refused_before_anything_is_imported(tmp_path, monkeypatch, capsys):
    folder = copy_project(tmp_path)
    monkeypatch.chdir(folder)
    words = [*SMALL, "sweep.seed=1"]
    command = cli._hash_of("small", words[1:], folder)
    monkeypatch.setitem(sys.modules, "pipeline.config.preflight", None)
    with alone(folder / "outputs" / "small-1", command):
        with pytest.raises(SystemExit):
            main(["run", *words])
        assert "outputs/small-1 is being written by another run" in capsys.readouterr().err
        # Other overrides, or another YAML, are other runs.
        study = folder / "conf" / "study" / "small.yaml"
        study.write_text(study.read_text() + "# changed")
        for other in (words, SMALL):
            with pytest.raises(ImportError, match="preflight"):
                main(["run", *other])


def test_a_disk_that_is_full_anywhere_is_one_line(tmp_path, monkeypatch, capsys):
    folder = copy_project(tmp_path)
    monkeypatch.chdir(folder)

    def full(study, output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cli, "_run_stages", full)
    with pytest.raises(SystemExit) as caught:
        main(["run", *SMALL])
    assert caught.value.code == 2
    (output,) = (folder / "outputs").glob("small-*")
    said = "free some and run the same command again, which goes on"
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"error: no space left on {output}; {said}"


def test_a_mode_of_wandb_that_is_none_is_refused_before_anything_runs(
    tmp_path, monkeypatch, capsys
):
    folder = copy_project(tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    with pytest.raises(SystemExit) as caught:
        main(["run", *SMALL])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error == "error: WANDB_MODE: 'nonsense' is unknown; valid: online, offline, disabled\n"
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on(tmp_path):
    folder = copy_project(tmp_path)
    environ = environment()
    process = subprocess.Popen(
        command(folder, "run", *SMALL),
        cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        # Two heavy stages are still to come: the run cannot have ended when the signal arrives.
        if line.startswith("choose_settings"):
            process.send_signal(signal.SIGINT)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "interrupted; to go on: actsweep run small"
    assert "Traceback" not in errors
    again = run(folder, "run", *SMALL)
    assert again.returncode == 0, again.stderr
    assert "collect_activations: finished before, kept" in again.stdout


def head_of(folder, *arguments, streams=""):
    """Run a command whose reader stops after a line, with its status as that of both."""
    line = f"{shlex.join(command(folder, *arguments))} {streams} | head -1"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_error(tmp_path):
    folder = copy_project(tmp_path)
    done = head_of(folder, "doctor")
    assert done.stdout.startswith("python") and done.stderr == ""
    assert done.returncode == 0
    done = head_of(folder, "run", *SMALL, "--dry-run")
    assert "interrupted" not in done.stderr and done.returncode == 0


@pytest.mark.slow
def test_a_reader_of_both_streams_that_stops_early_interrupts_a_run(tmp_path):
    done = head_of(copy_project(tmp_path), "run", *SMALL, streams="2>&1")
    assert done.stdout.startswith("small-") and done.stderr == ""
    assert done.returncode == 130


@pytest.mark.slow
def test_a_dry_run_says_what_completions_do_not_follow(tmp_path):
    folder = copy_project(tmp_path)
    shutil.copytree(ROOT / "data" / "embedded_model", folder / "penalised")
    config = folder / "penalised" / "generation_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"repetition_penalty": 1.3}))
    done = run(folder, "run", *SMALL, "model.path=penalised", "--dry-run")
    assert done.returncode == 0 and "repetition_penalty 1.3" in done.stderr


def test_two_runs_of_one_study_do_not_write_over_each_other(tmp_path):
    folder = copy_project(tmp_path)
    first = subprocess.Popen(
        command(folder, "run", *SMALL),
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not first.stdout.readline().startswith("small-"):
        pass
    second = run(folder, "run", *SMALL)
    assert second.returncode == 2
    assert "is being written by another run; wait for it" in second.stderr
    assert second.stderr.strip().count("\n") == 0
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors


@pytest.mark.slow
def test_outputs_may_be_linked_to_another_disk(tmp_path):
    other = Path("/dev/shm")
    if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second disk to write to")
    folder = copy_project(tmp_path)
    target = other / f"actsweep-{os.getpid()}"
    target.mkdir()
    try:
        (folder / "outputs").symlink_to(target)
        for _ in range(2):
            done = run(folder, "run", *SMALL)
            assert done.returncode == 0, done.stderr
        assert done.stdout.count("finished before, kept") == 7
    finally:
        shutil.rmtree(target)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.seed=-1", "sweep.seed: -1 is no seed; valid: 0 to 2^63 - 1"),
        ("score.seed=9223372036854775808", "score.seed: 9223372036854775808 is no seed"),
        ("dataset.seed=-3", "dataset.seed: -3 is no seed"),
        ("score.metrics.refusal.phrases=[]", "score.metrics.refusal: phrases = []; valid"),
        (
            "score.metrics.m={_target_: pipeline.measures.metrics.matches, pattern: '('}",
            "score.metrics.m: pattern = '(' is no regular expression",
        ),
    ],
)
def test_what_would_fail_late_is_said_at_once(tmp_path, override, message, capsys, monkeypatch):
    folder = copy_project(tmp_path)
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as caught:
        main(["run", *SMALL, override])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize(
    ("table", "layers", "message"),
    [
        ('{"a": 1}', "4", "is no list of objects"),
        ("[]", "4", "is no list of objects"),
        ("x", "4", "is no json"),
        ('[{"position": -1, "layer": 1.5, "refusal_score": 1, "steering_score": 1, '
         '"kl_div_score": 0}]', "4", "candidate 0: layer 1.5; valid: 0 to 3"),
        ('[{"position": -1, "layer": "x", "refusal_score": "1", "steering_score": 1, '
         '"kl_div_score": 0}]', "4", "candidate 0: layer is 'x', not a number"),
        ('[{"position": -1, "layer": 0, "refusal_score": "1", "steering_score": 1, '
         '"kl_div_score": 0}]', "4", "candidate 0: refusal_score is '1', not a number"),
        ('[{"position": -1, "layer": 0, "refusal_score": 1, "steering_score": 1, '
         '"kl_div_score": 0}]', "0", "--layers 0 is less than 1"),
    ],
)  # fmt: skip
def test_a_table_of_candidates_that_is_none_is_one_line(tmp_path, capsys, table, layers, message):
    (tmp_path / "t.json").write_text(table)
    with pytest.raises(SystemExit) as caught:
        main(["select", str(tmp_path / "t.json"), "--layers", layers])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
