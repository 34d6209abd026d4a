"""What the hub answers, from a server that answers as it does, is said in one line and quickly."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRY = """
import json, sys
from pipeline.model.hub import check_dataset, check_path
for kind, *given in json.loads(sys.argv[1]):
    try:
        {"model": check_path, "dataset": check_dataset}[kind](*given)
        print("there")
    except ValueError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        code, reason = {
            "gated": (401, "GatedRepo"),
            "open": (404, "RevisionNotFound") if "/resolve/v9/" in self.path else (200, ""),
        }.get(self.path.split("/")[-4], (404, "RepoNotFound"))
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("ETag", '"1"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", "2")
        self.end_headers()

    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def answers(tmp_path, *asked: list[str], **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRY, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HOME": str(tmp_path)} | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(asked)
    return lines


def test_each_answer_has_its_line(hub, tmp_path):
    there, gated, revision, unknown, dataset = answers(
        tmp_path,
        ["model", "me/open"],
        ["model", "me/gated"],
        ["model", "me/open", "v9"],
        ["model", "me/nothing"],
        ["dataset", "me/nothing"],
        HF_ENDPOINT=hub,
        HF_HUB_OFFLINE="0",
    )
    assert there == "there"
    assert gated == (
        f"model me/gated is gated: accept its conditions at {hub}/me/gated, then run "
        "`hf auth login` or set HF_TOKEN"
    )
    assert revision == f"model me/open has no revision 'v9'; see {hub}/me/open"
    assert unknown.startswith(
        f"model.path 'me/nothing' is neither a local folder nor at {hub}/me/nothing;"
    )
    assert dataset.startswith(
        f"dataset.path 'me/nothing' is neither a local folder nor at {hub}/datasets/me"
    )


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}, "Connection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_not_waited_for(tmp_path, environment, reason):
    (line,) = answers(tmp_path, ["model", "me/open"], **environment)
    assert line.startswith("model.path 'me/open' is not a local folder, and http")
    assert reason in line
    assert "`hf download me/open --repo-type model`" in line
