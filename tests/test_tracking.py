import hashlib
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.runs import tracking
from pipeline.runs.records import read_runs
from pipeline.runs.tracking import tracked_run
from pipeline.runs.tracking_settings import check_tracking

CONFIG = {"sweep": {"seed": 1, "layers": [1, 2]}, "model": "tiny"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_DATA_DIR", "WANDB_API_KEY", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no_netrc"))


def start(root, mode="disabled", stage="sweep", study_id="abc", inputs=None):
    return tracked_run(
        stage,
        "refusal",
        study_id,
        CONFIG,
        inputs=inputs or {},
        root=root,
        mode=mode,
        project="actsweep",
        entity=None,
    )


def logged(root):
    """The records of the only W&B run under `root`, by W&B's own reader."""
    (file,) = root.glob("wandb/offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).parent / "wandb"
    command = [wandb, "leet", "inspect", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_offline_run_is_in_wandb_and_in_its_record(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "exp-1")
    (tmp_path / "in.bin").write_bytes(b"input")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "x.safetensors").write_bytes(b"0")
    Image.new("RGB", (4, 3)).save(tmp_path / "figure.png")
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6, "stderr": 0.05, "n": 100}
    with start(tmp_path, "offline", inputs={"dataset": tmp_path / "in.bin"}) as run:
        started = run._run
        run.curve(pd.DataFrame({"layer": [3, 5], "refusal": [0.25, 0.75]}))
        run.summary({"best_layer": np.int64(5), "refusal": estimate, "unscored": float("nan")})
        run.table("conditions", pd.DataFrame({"condition": ["a", None], "score": [1.0, 2.0]}))
        run.figure(tmp_path / "figure.png")
        run.reference("activations", tmp_path / "store", {"sha256": "f00"})
    assert (started.name, started.group, started.job_type) == ("refusal/sweep", "exp-1", "sweep")
    assert started.offline
    config = dict(started.config)
    assert config["sweep.layers"] == [1, 2] and config["study_id"] == "abc"
    assert config["inputs.dataset"] == hashlib.md5(b"input").hexdigest()

    (record,) = read_runs(tmp_path)
    assert record["summary"] == {"best_layer": 5, "refusal": estimate, "unscored": None}
    assert record["config"] == CONFIG
    assert record["inputs"] == {"dataset": hashlib.md5(b"input").hexdigest()}
    assert (record["status"], record["error"], record["experiment"]) == ("finished", None, "exp-1")
    assert record["ended"] >= record["started"] and record["seconds"] >= 0
    assert record["versions"]["python"].startswith("3.")
    assert (tmp_path / ".actsweep/runs/refusal/abc/sweep.json").is_file()

    # The summary of a curve would be its last layer's value, by which runs would be sorted.
    assert not [key for key in dict(started.summary) if key.startswith("layer/")]
    records = logged(tmp_path)
    metrics = [record["metric"] for record in records if record["type"] == "metric"]
    assert {"layer/*": "layer"} in [{m.get("glob_name"): m.get("step_metric")} for m in metrics]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    curve = [(row["layer"], row["layer/refusal"]) for row in rows if "layer" in row]
    assert curve == [(3, 0.25), (5, 0.75)]
    assert {"conditions._type", "figure._type"} <= set().union(*rows)
    artifacts = [record["artifact"] for record in records if record["type"] == "artifact"]
    references = [a["manifest"]["contents"] for a in artifacts if a["name"] == "activations"]
    assert [[Path(item["ref"]).name for item in held] for held in references] == [["x.safetensors"]]


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_what_cannot_be_shown_is_refused_in_every_mode(tmp_path, mode):
    with start(tmp_path, mode) as run:
        with pytest.raises(ValueError, match=r"figure f\.pdf: expected a PNG"):
            run.figure(Path("f.pdf"))
        for rows in ({"step": [1]}, {"layer": [1, None]}):
            with pytest.raises(ValueError, match="needs a layer"):
                run.curve(pd.DataFrame(rows))


def test_disabled_imports_no_wandb_and_still_records(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracking import *
with start(Path(sys.argv[1])) as run:
    run.summary({{"x": 1}})
    run.curve(pd.DataFrame({{"layer": [1], "y": [2.0]}}))
    run.table("t", pd.DataFrame({{"a": [1]}}))
    run.figure(Path("f.png"))
    run.reference("r", Path("r"), {{}})
print("wandb" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert [record["summary"] for record in read_runs(tmp_path)] == [{"x": 1}]
    assert not (tmp_path / "wandb").exists()


def test_the_environment_goes_before_the_config(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with start(tmp_path, "online"):
        pass
    assert not (tmp_path / "wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "of")
    with (
        pytest.raises(ValueError, match=r"^WANDB_MODE: 'of' is unknown; valid: online"),
        start(tmp_path, "offline"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("WANDB_MODE", "nonsense", "is unknown; valid: online, offline, disabled"),
        ("WANDB_MODE", "", "is unknown; valid: online, offline, disabled"),
        ("WANDB_MODE", "shared", "is unknown; valid: online, offline, disabled"),
        ("WANDB_BASE_URL", "nourl", "is refused by W&B: Input should be a valid URL"),
        ("WANDB_CONSOLE", "xx", "is refused by W&B: Input should be 'auto', 'off'"),
        ("WANDB_SILENT", "maybe", "is refused by W&B: Input should be a valid boolean"),
        ("WANDB_RESUME", "perhaps", "is refused by W&B: Input should be 'allow', 'must'"),
        ("WANDB_INIT_TIMEOUT", "abc", "is refused by W&B: Input should be a valid number"),
        ("WANDB_RUN_ID", "a/b", "is refused by W&B: Run ID cannot contain"),
    ],
)
def test_what_wandb_refuses_of_the_environment_is_one_line(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as caught:
        check_tracking("offline", "actsweep", None)
    assert str(caught.value).startswith(f"{name}: {value!r} {message}")
    assert "\n" not in str(caught.value)
    if name != "WANDB_MODE":
        assert check_tracking("disabled", "actsweep", None) == "disabled"


def test_a_project_that_wandb_refuses_is_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"^tracking\.project: 'a/b' is refused by W&B: Inv"):
        check_tracking("offline", "a/b", None)
    with pytest.raises(ValueError, match=r"^tracking\.mode: 'on' is unknown; valid: online"):
        check_tracking("on", "actsweep", None)
    modes = {"online": "online", "run": "online", "dryrun": "offline"}
    for variable, mode in modes.items():
        monkeypatch.setenv("WANDB_MODE", variable)
        assert check_tracking("offline", "actsweep", "team") == mode


def test_wandbs_own_variables_are_heeded(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with start(tmp_path / "project", "online"):
        pass
    assert not (tmp_path / "project" / "wandb").exists()
    assert len(list((tmp_path / "elsewhere").glob("wandb/offline-run-*"))) == 1


def test_a_home_folder_that_cannot_be_written_does_no_harm(tmp_path):
    script = ONLINE.replace('"online"', '"offline"').replace(
        'run.summary({"x": 1})', 'run.reference("a", Path(__file__), {})'
    )
    home = tmp_path / "home"
    home.write_text("no folder")
    done = subprocess.run(
        [sys.executable, "-c", script.replace("__file__", repr(__file__)), str(tmp_path)],
        env=os.environ | {"HOME": str(home)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_a_summary_that_json_does_not_have_hides_no_failure(tmp_path):
    with pytest.raises(RuntimeError, match="planted"), start(tmp_path) as run:
        run.summary({"kinds": {1, 2}, "when": pd.Timestamp("2024-07-26")})
        raise RuntimeError("planted")
    (record,) = read_runs(tmp_path)
    assert record["summary"] == {"kinds": "{1, 2}", "when": "2024-07-26 00:00:00"}


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_failure_is_recorded_and_passed_on(tmp_path, mode):
    with pytest.raises(RuntimeError, match="planted"), start(tmp_path, mode) as run:
        run.summary({"done": 3})
        raise RuntimeError("planted")
    (record,) = read_runs(tmp_path)
    assert (record["status"], record["error"]) == ("failed", "RuntimeError('planted')")
    assert record["summary"] == {"done": 3}


def test_what_is_warned_of_is_in_the_summary_and_what_was_before_is_not(tmp_path):
    logger = logging.getLogger("pipeline.engine.memory")
    logger.warning("before")
    with pytest.raises(RuntimeError), start(tmp_path) as run:
        run.summary({"done": 3})
        logger.info("nothing")
        for _ in range(3):
            logger.warning("batches have a %s", "half")
        raise RuntimeError
    logger.warning("after")
    (record,) = read_runs(tmp_path)
    assert record["summary"] == {"done": 3, "warnings": ["batches have a half"]}


ONLINE = f"""
import logging, sys
logging.basicConfig(format="%(message)s")
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracking import *
from pipeline.runs import wandb_run
wandb_run.CONNECT_SECONDS = 2
with start(Path(sys.argv[1]), "online") as run:
    run.summary({{"x": 1}})
"""


def test_online_without_a_key_does_not_prompt_on_a_terminal(tmp_path):
    terminal, other_end = pty.openpty()
    command = [sys.executable, "-c", ONLINE, str(tmp_path)]
    done = subprocess.run(
        command, stdin=other_end, stdout=other_end, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(other_end)
    os.close(terminal)
    assert "no API key is configured. This run goes on offline" in done.stderr
    assert [record["status"] for record in read_runs(tmp_path)] == ["finished"]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_online_without_a_network_goes_on_offline(tmp_path):
    # Port 9 of this machine answers nobody.
    environment = os.environ | {"WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", ONLINE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr.count("goes on offline") == 1
    assert [record["status"] for record in read_runs(tmp_path)] == ["finished"]
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def git(root, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def test_the_commit_is_dirty_by_changes_but_not_by_outputs(tmp_path):
    def recorded():
        with start(tmp_path):
            pass
        (record,) = read_runs(tmp_path)
        return record["commit"], record["dirty"]

    assert recorded() == (None, None)
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("/.actsweep/\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert recorded() == (commit, False)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "made").touch()
    (tmp_path / "dvc.lock").touch()
    assert recorded() == (commit, False)
    (tmp_path / "new.py").touch()
    assert recorded() == (commit, True)


def test_the_md5_of_a_folder_is_of_its_names_and_contents(tmp_path):
    def folder(name, files):
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tracking.md5(tmp_path / name)

    first = folder("a", {"x": "1", "deep/y": "2"})
    # As `dvc add a` writes it into a.dvc.
    assert first == "d10153553a2a35263b22876220342452.dir"
    assert first == folder("b", {"deep/y": "2", "x": "1"})
    assert first != folder("c", {"x": "1", "deep/y": "3"})
    assert first != folder("d", {"x": "1", "y": "2"})


def test_runs_are_read_in_the_order_in_which_they_started(tmp_path):
    for stage, study_id in (("sweep", "b"), ("collect", "a"), ("sweep", "a")):
        with start(tmp_path, stage=stage, study_id=study_id):
            pass
        path = tmp_path / f".actsweep/runs/refusal/{study_id}/{stage}.json"
        record = json.loads(path.read_text())
        minute = {"bsweep": 3, "acollect": 1, "asweep": 2}[study_id + stage]
        path.write_text(json.dumps(record | {"started": f"2025-01-01T00:0{minute}:00+00:00"}))
    found = [(record["study_id"], record["stage"]) for record in read_runs(tmp_path)]
    assert found == [("a", "collect"), ("a", "sweep"), ("b", "sweep")]
