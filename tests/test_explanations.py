"""Explanations of neurons: a planted one scores 1, over real HTTP, and failures lose nothing."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny

from pipeline.methods import assistants
from pipeline.methods.assistants import assistant
from pipeline.methods.neurons import explanations
from pipeline.methods.neurons.explanations import correlation, neuron_explanations, predicted
from pipeline.methods.neurons.fits import NeuronEffects
from pipeline.methods.provenance import Provenance

FIRST, SECOND = "blocks.0.mlp_act[3]", "blocks.1.mlp_act[4]"


class Endpoint(ThreadingHTTPServer):
    """Answers chat completions; an explanation is the token with the largest activation."""

    daemon_threads = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.broken = [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        """Say nothing where the client did not wait for the answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, question: str) -> str:
        if "what does the neuron respond to" in question:
            levels = re.findall(r"^'(.*)'\t(\d+)$", question, re.M)
            return max(levels, key=lambda pair: int(pair[1]))[0]
        word = re.search(r"responds to this: (.*)\n", question)[1]
        lines = re.findall(r"^(\d+)\t'(.*)'$", question, re.M)
        return "\n".join(f"{n}\t{10 if piece.strip() == word else 0}" for n, piece in lines)


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers.get("Authorization"), question))
        status, body = 200, None
        if self.server.broken is not None:
            status, body = self.server.broken(len(self.server.asked))
        if body is None:
            content = self.server.reply(question["messages"][0]["content"])
            body = json.dumps({"choices": [{"message": {"content": content}}]})
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr(assistants, "_PAUSE", 0.0)
    server = Endpoint()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def planted(monkeypatch):
    """Two neurons, active at one word each; texts in which these words are rare."""
    model = tiny("llama")
    rng = np.random.default_rng(0)
    tokens = [rng.integers(20, 60, 12).tolist() for _ in range(40)]
    for number, row in enumerate(tokens):
        row[number % 12] = 100 if number % 2 else 101
    active = {FIRST: 100, SECOND: 101}

    def activations(model, neurons, names, texts):
        return {name: [3.0 * (np.array(row) == active[name]) for row in texts] for name in names}

    monkeypatch.setattr(explanations, "_activations", activations)
    effects = pd.DataFrame(
        {"layer": [0, 1], "neuron": [3, 4], "rank": [1, 2], "label": ["a", "b"], "activation": 1.0}
    )
    fit = NeuronEffects(effects, pd.DataFrame(), Provenance(""))
    return model, pd.DataFrame({"tokens": tokens}), {"n": fit}


def test_a_planted_neuron_is_explained_and_the_next_ones_explanation_fails(
    planted, endpoint, tmp_path, monkeypatch
):
    model, texts, fits = planted
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    table = neuron_explanations(
        model, texts, fits, 0, tmp_path, fit="n", name="m", url=endpoint.url
    )
    assert table["neuron"].tolist() == [FIRST, SECOND] and table["label"].tolist() == ["a", "b"]
    assert table["explanation"].tolist() == ["w100", "w101"]
    np.testing.assert_allclose(table["score"], 1.0)
    assert (table["control"] < 0.2).all()
    assert (table["tokens"] == 6 * 12).all()
    path, key, body = endpoint.asked[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("m", 0)
    # The explainer sees texts of the first half only.
    shown = re.findall(r"^'(.*)'\t\d+$", body["messages"][0]["content"], re.M)
    halves = [
        {tuple(model.piece(token) for token in row) for row in rows}
        for rows in (texts["tokens"][:20], texts["tokens"][20:])
    ]
    of_texts = {tuple(shown[start : start + 12]) for start in range(0, len(shown), 12)}
    assert len(of_texts) == 5 and of_texts <= halves[0] - halves[1]


def test_what_was_answered_before_a_failure_is_not_asked_again(planted, endpoint, tmp_path):
    model, texts, fits = planted

    def failing(number):
        return (500, "no memory") if number > 4 else (200, None)

    endpoint.broken = failing
    options = {"fit": "n", "name": "m", "url": endpoint.url}
    with pytest.raises(ValueError, match="answered 500 Internal Server Error: no memory"):
        neuron_explanations(model, texts, fits, 0, tmp_path, **options)
    endpoint.asked.clear()
    endpoint.broken = None
    table = neuron_explanations(model, texts, fits, 0, tmp_path, **options)
    questions = [body["messages"][0]["content"] for _, _, body in endpoint.asked]
    assert not any("what does the neuron respond to" in question for question in questions)
    np.testing.assert_allclose(table["score"], 1.0)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda _: (401, "bad key"), "answered 401 Unauthorized: bad key"),
        (
            lambda _: (200, "<html>"),
            r"gave no choices\[0\].message.content of a chat comp.*: <html>",
        ),
        (lambda _: (200, '{"choices": []}'), r"gave no choices\[0\]"),
        (lambda _: (200, '{"choices": [{"message": {"content": null}}]}'), "gave None as an answ"),
        (lambda _: time.sleep(0.6) or (200, None), r"did not answer in 0\.2 seconds"),
    ],
)
def test_failures_of_an_endpoint_are_one_line(endpoint, broken, message):
    endpoint.broken = broken
    with pytest.raises(ValueError, match=message) as caught:
        assistant("m", url=endpoint.url, timeout=0.2)("hello")
    assert "\n" not in str(caught.value)


def test_a_busy_endpoint_is_asked_again(endpoint):
    endpoint.broken = lambda number: (429, "slow down") if number < 3 else (200, None)
    endpoint.reply = lambda question: "hi"
    assert assistant("m", url=endpoint.url)("hello") == "hi" and len(endpoint.asked) == 3


def test_no_endpoint_and_no_address_are_one_line():
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/v1 cannot be reached: .*refused"):
        assistant("m", url="http://127.0.0.1:9/v1")("hello")
    with pytest.raises(ValueError, match="url: 'localhost' does not begin with http"):
        assistant("m", url="localhost")


def test_a_local_model_answers_in_its_template(monkeypatch):
    model = assistants.LanguageModel.load("data/embedded_model")
    answer = assistant("data/embedded_model", max_tokens=20)("What is the capital of France?")
    ids = torch.tensor([model.prompts(["What is the capital of France?"])[0]])
    expected = model.hf.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert answer == model.decode([t for t in expected.tolist() if t not in model.end_tokens])


def test_answers_are_read_line_by_line():
    values = predicted("Sure:\n1\t0\n 2. 'dog' 12\n4: 3\n9\t1\nthe end", 5)
    np.testing.assert_array_equal(values, [0, 10, np.nan, 3, np.nan])
    x, y = np.array([0, 10, np.nan, 3]), np.array([0.0, 2.0, 5.0, 1.0])
    assert correlation(x, y) == pytest.approx(np.corrcoef([0, 10, 3], [0, 2, 1])[0, 1])
    assert np.isnan(correlation(np.array([1, np.nan, np.nan]), y[:3]))
    assert np.isnan(correlation(np.zeros(4), y))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1\t7.0", 7),
        ("1\t0.5", 0.5),
        ("1\t10.0", 10),
        ("1: .5", 0.5),
        ("1:3", 3),
        ("1) 7.", 7),
        ("1. 'a 5' +4", 4),
        ("1 | activation=2.25  ", 2.25),
        # Out of range: the nearest end of it.
        ("1\t-3", 0),
        ("1\t\N{MINUS SIGN}0.5", 0),
        ("1\t12.5", 10),
        # No number.
        ("1\t7/10", np.nan),
        ("1\t0,5", np.nan),
        ("1\t1e1", np.nan),
        ("1\t1.0.5", np.nan),
        ("1\tlow", np.nan),
        ("1\t'2019'", np.nan),
        ("1.5", np.nan),
        ("1", np.nan),
    ],
)
def test_an_activation_is_read_as_the_number_that_it_is(line, expected):
    np.testing.assert_array_equal(predicted(line, 1), [expected])
