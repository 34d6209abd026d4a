"""Assistants: language models that answer a question in words, at an endpoint or here."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.model.loading import LanguageModel

Assistant = Callable[[str], str]
"""A question as one user message -> the answer."""
_TRIES, _PAUSE = 3, 1.0


def assistant(
    name: str,
    *,
    url: str | None = None,
    key: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
    max_tokens: int = 512,
) -> Assistant:
    """Return an assistant at an OpenAI-compatible endpoint, or, without a `url`, loaded here.

    Args:
        name: of the model at the endpoint; else a folder, GGUF file or Hub id.
        url: base of the endpoint, such as `http://localhost:8000/v1`.
        key: environment variable with the endpoint's key; sent if it is set.
        timeout: seconds to wait for an answer.
        max_tokens: of an answer.

    Raises:
        ValueError: `url` is no http address, or as `LanguageModel.load`.
    """
    if url is None:
        return partial(_locally, LanguageModel.load(name), max_tokens)
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url: {url!r} does not begin with http:// or https://")
    return partial(_remotely, url.rstrip("/"), name, key, timeout, max_tokens)


def _locally(model: LanguageModel, max_tokens: int, question: str) -> str:
    decoding = Decoding(max_new_tokens=max_tokens)
    (completion,) = generate(model, model.prompts([question]), [Condition()], decoding)
    return completion.text


def _remotely(url: str, name: str, key: str, timeout: float, max_tokens: int, question: str) -> str:
    """Ask once, and again after a pause while the endpoint is busy."""
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": max_tokens,
    }
    headers = {"Content-Type": "application/json"}
    if os.environ.get(key):
        headers["Authorization"] = f"Bearer {os.environ[key]}"
    request = urllib.request.Request(
        f"{url}/chat/completions", json.dumps(body).encode(), headers, method="POST"
    )
    for attempt in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return _content(url, response.read())
        except urllib.error.HTTPError as error:
            with error:
                told = " ".join(error.read(200).decode(errors="replace").split())
            busy = error.code == 429 or error.code >= 500
            if not busy or attempt == _TRIES - 1:
                raise ValueError(f"{url} answered {error.code} {error.reason}: {told}") from error
        except TimeoutError as error:
            raise ValueError(f"{url} did not answer in {timeout:g} seconds") from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise ValueError(f"{url} did not answer in {timeout:g} seconds") from error
            raise ValueError(f"{url} cannot be reached: {reason}") from error
        time.sleep(_PAUSE * 2**attempt)
    raise AssertionError("unreachable")


def _content(url: str, body: bytes) -> str:
    try:
        answer: Any = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        shown = " ".join(body[:120].decode(errors="replace").split())
        raise ValueError(
            f"{url} gave no choices[0].message.content of a chat completion: {shown}"
        ) from error
    if not isinstance(answer, str):
        raise ValueError(f"{url} gave {answer!r} as an answer; valid: text")
    return answer
