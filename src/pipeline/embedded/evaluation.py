"""Measure what the embedded model has learnt, with transformers' own generation."""

from collections.abc import Iterator
from random import Random
from typing import Any

import pandas as pd
import torch

from pipeline.embedded.behaviours import BEHAVIOURS
from pipeline.embedded.documents import Case, Check, Measure
from pipeline.measures.statistics import summarise
from pipeline.model import chat

BATCH = 100


def measure(model: Any, tokenizer: Any, *, n: int, seed: int) -> pd.DataFrame:
    """Every behaviour on n cases a check.

    Returns:
        Columns behaviour, measure, at_least, at_most, n, mean, low, high, interval, passed.
    """
    rows = []
    for behaviour in BEHAVIOURS:
        for check in behaviour.checks:
            cases = check.cases(Random(seed), n)
            texts = list(complete(model, tokenizer, cases, check, seed=seed))
            for aim in check.measures:
                found = _mean(aim, cases, texts, seed)
                rows.append(
                    {
                        "behaviour": behaviour.name,
                        "measure": aim.name,
                        "at_least": aim.low,
                        "at_most": aim.high,
                        **found[["n", "mean", "low", "high", "interval"]],
                        "passed": aim.low <= found["mean"] <= aim.high,
                    }
                )
    return pd.DataFrame(rows)


def perplexity(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """exp of the mean loss per token, of plain text after the token that begins it."""
    losses = []
    for text in texts:
        ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_token_id]])
        with torch.inference_mode():
            logits = model(ids).logits[0, :-1].float()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return float(torch.cat(losses).mean().exp())


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
    scores = [float(aim.score(case, text)) for case, text in zip(cases, texts, strict=True)]
    topics = [case.topic for case in cases]
    table = pd.DataFrame({"metric": aim.name, "topic": topics, "score": scores})
    return summarise(table, ["metric"], cluster="topic", seed=seed).iloc[0]
