"""Accuracy by number of completions against every subset, scored one forward pass at a time."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_prompts, tiny

from pipeline.methods.prompting.repeated_answers import accuracy_by_n

NUMBERS = ["5", "so 5.", "6", "none", "7 or 5", "6", "6"]


def answered(count=3, repeats=6) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Prompts, and completions of random tokens with numbers as their texts, some twice."""
    rng = np.random.default_rng(1)
    prompts = pd.DataFrame(
        {"sample": range(count), "topic": range(count), "tokens": random_prompts(count)}
    )
    rows = []
    for sample in range(count):
        tokens = [rng.integers(6, 150, int(n)).tolist() for n in rng.integers(1, 6, repeats)]
        tokens[1], tokens[4] = tokens[0], []
        texts = [NUMBERS[int(n)] for n in rng.integers(0, len(NUMBERS), repeats)]
        texts[1] = texts[0]
        for repeat, (ids, text) in enumerate(zip(tokens, texts, strict=True)):
            rows.append(
                {
                    "condition": "sampled",
                    "arm": "a",
                    "sample": sample,
                    "topic": sample,
                    "demand": "5",
                    "repeat": repeat,
                    "completion": text,
                    "tokens": ids,
                    "n_tokens": len(ids),
                    "stopped": "end",
                }
            )
    greedy = [row | {"condition": "greedy"} for row in rows if row["repeat"] == 0]
    return prompts, pd.DataFrame([*rows, *greedy])


def mean_log_probability(model, prompt, tokens) -> float:
    if not tokens:
        return -np.inf
    with torch.no_grad():
        logits = model.hf(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[0]
    logs = logits.double().log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(tokens) - 1)
    return float(np.mean([float(logs[p, t]) for p, t in zip(at, tokens, strict=True)]))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_accuracies_are_means_over_all_subsets_of_a_naive_choice(family):
    model = tiny(family)
    prompts, completions = answered()
    table = accuracy_by_n(model, prompts, completions, ns=[1, 3, 6])
    assert len(table) == 3 * (3 + 1) * 3
    scores = table.set_index(["condition", "sample", "n", "rule"])["score"]
    last = {"5": 5, "so 5.": 5, "6": 6, "none": None, "7 or 5": 5}
    for (condition, sample), rows in completions.groupby(["condition", "sample"]):
        right = np.array([last[text] == 5 for text in rows["completion"]])
        logs = np.array(
            [mean_log_probability(model, prompts["tokens"][sample], ids) for ids in rows["tokens"]]
        )
        for n in (n for n in (1, 3, 6) if n <= len(rows)):
            subsets = [list(drawn) for drawn in combinations(range(len(rows)), n)]
            anywhere = np.mean([right[drawn].any() for drawn in subsets])
            best = np.mean([right[d][logs[d] >= logs[d].max() - 1e-9].mean() for d in subsets])
            assert scores[condition, sample, n, "any"] == pytest.approx(anywhere)
            assert scores[condition, sample, n, "best"] == pytest.approx(best)
            if n == 1:
                assert scores[condition, sample, n, "vote"] == pytest.approx(right.mean())


def test_what_cannot_be_counted_is_named():
    prompts, completions = answered()
    with pytest.raises(ValueError, match="ns: 7 of 6 completions; valid: 1 to 6"):
        accuracy_by_n(tiny("llama"), prompts, completions, ns=[1, 7])
    with pytest.raises(ValueError, match="the demand of sample 1 has no number"):
        demand = completions["demand"].where(completions["sample"] != 1, "x")
        accuracy_by_n(tiny("llama"), prompts, completions.assign(demand=demand), ns=[1])
