"""Measure what the embedded model has learnt, with transformers' own generation."""

import math
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from pipeline.embedded.behaviours import BEHAVIOURS
from pipeline.embedded.documents import Case, Check, Measure
from pipeline.measures.statistics import summarise
from pipeline.model import chat

BATCH = 100
CASES = 300
SEED = 2


def measure(model: Any, tokenizer: Any, *, n: int = CASES, seed: int = SEED) -> pd.DataFrame:
    """Every behaviour on n cases a check.

    Returns:
        Columns behaviour, core, measure, at_least, at_most, n, mean, low, high, interval, passed.
    """
    rows = []
    for behaviour in tqdm(BEHAVIOURS, disable=None, desc="measure"):
        for check in behaviour.checks:
            cases = check.cases(Random(seed), n)
            texts = list(complete(model, tokenizer, cases, check, seed=seed))
            for aim in check.measures:
                found = _mean(aim, cases, texts, seed)
                rows.append(
                    {
                        "behaviour": behaviour.name,
                        "core": behaviour.core and not aim.target,
                        "measure": aim.name,
                        "at_least": aim.low,
                        "at_most": aim.high,
                        **found[["n", "mean", "low", "high", "interval"]],
                        "passed": aim.low <= found["mean"] <= aim.high,
                    }
                )
    return pd.DataFrame(rows)


def perplexity(model: Any, tokenizer: Any, texts: list[str], *, seed: int = SEED) -> pd.DataFrame:
    """exp of the mean loss per token of plain text after the token that begins it.

    Returns:
        One row with the columns of `measure`, its interval one over whole texts.
    """
    tables = []
    for number, text in enumerate(texts):
        ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        tables.append(pd.DataFrame({"metric": "loss", "text": number, "score": losses.numpy()}))
    found = summarise(pd.concat(tables), ["metric"], shares=[], cluster="text", seed=seed).iloc[0]
    row = {
        "behaviour": "text",
        "core": False,
        "measure": "perplexity of held-out plain text",
        "at_least": 0.0,
        "at_most": math.inf,
        "n": found["n"],
        **np.exp(found[["mean", "low", "high"]].astype(float)),
        "interval": found["interval"],
        "passed": True,
    }
    return pd.DataFrame([row])


def complete(
    model: Any, tokenizer: Any, cases: list[Case], check: Check, *, seed: int
) -> Iterator[str]:
    """What the model makes of each case."""
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
    decoding = sampling if check.sampled else {"do_sample": False}
    for start in range(0, len(cases), BATCH):
        prompts = [_prompt(tokenizer, case) for case in cases[start:][:BATCH]]
        given = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            tokens = model.generate(**given, **decoding, max_new_tokens=check.n_tokens)
        answers = tokens[:, given["input_ids"].shape[1] :]
        yield from tokenizer.batch_decode(answers, skip_special_tokens=True)


def _prompt(tokenizer: Any, case: Case) -> str:
    if case.chat:
        return chat.render(tokenizer, case.prompt)
    return tokenizer.bos_token + case.prompt


def _mean(aim: Measure, cases: list[Case], texts: list[str], seed: int) -> pd.Series:
    scores = [aim.score(case, text) for case, text in zip(cases, texts, strict=True)]
    share = all(isinstance(score, bool) or math.isnan(score) for score in scores)
    topics = [case.topic for case in cases]
    table = pd.DataFrame({"metric": aim.name, "topic": topics, "score": map(float, scores)})
    shares = [aim.name] if share else []
    return summarise(table, ["metric"], shares=shares, cluster="topic", seed=seed).iloc[0]
