"""Explain neurons in words by a language model, and score explanations by simulation."""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from pipeline.config.declared import NeedsText, OneOrMore, Range
from pipeline.engine.collection import collect
from pipeline.methods.assistants import Assistant, assistant
from pipeline.methods.neurons.arms import names_of
from pipeline.methods.neurons.fits import NeuronEffects
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.runs.scratch import run_or_resume

log = logging.getLogger(__name__)

LEVELS = 10
"""Activations are told and asked for as whole numbers from 0 to this."""
_LINE = re.compile(r"\s*(\d+)(?:[.:),]?\s|[:)=|])(.*)")
"""A token's number and the rest of its line."""
_LAST_NUMBER = re.compile(r"(?<![\w.,/'\"+\-\u2212])[+\-\u2212]?(?:\d+\.?\d*|\.\d+)\s*$")
"""A decimal number at the end, but not a part of anything else, such as of 7/10, 1e5 or '5'."""


def neuron_explanations(
    model: LanguageModel,
    texts: Annotated[pd.DataFrame, NeedsText()],
    fits: Mapping[str, Any],
    seed: int,
    work: Path,
    *,
    fit: str,
    name: str,
    url: str | None = None,
    key: str = "OPENAI_API_KEY",
    timeout: Annotated[float, Range(above=0)] = 60.0,
    shown: OneOrMore = 5,
    simulated: OneOrMore = 3,
    longest: OneOrMore = 40,
) -> pd.DataFrame:
    """Ask a language model what each chosen neuron responds to, and test the answer by simulation.

    The explainer sees the `shown` texts of the first half with the largest activations. From its
    explanation alone it then predicts the activation at each token of held-out texts: the
    `simulated` ones of the second half with the largest activations, and as many random ones. The
    score is the correlation of predicted and true activations over all their tokens. The control is
    that of the next neuron's explanation on the same texts.

    Answers are kept as they come: a run that stops asks only for what is missing.

    Args:
        model: the model of the neurons.
        texts: of the study; half of them explain, half test.
        fits: contains the fit.
        seed: of the random held-out texts.
        work: keeps answers.
        fit: the name of a `NeuronEffects`.
        name: the explainer: see `assistants.assistant`, as for the next three.
        url: see there.
        key: see there.
        timeout: see there.
        shown: texts with the largest activations that the explainer sees.
        simulated: held-out texts with the largest activations, and as many random ones.
        longest: tokens of a text.

    Returns:
        `neuron` (its site), `label`, `explanation`, `score`, `control`, and of how many `tokens`
        the score is; NaN where fewer than half of the tokens were predicted, or all alike.

    Raises:
        ValueError: too few texts; as `assistants.assistant`, or an endpoint that fails.

    Source: Bills et al. 2023, "Language models can explain neurons in language models".
    """
    half = len(texts) // 2
    if half < max(shown, 2 * simulated):
        raise ValueError(
            f"the study has {len(texts)} texts; valid: {2 * max(shown, 2 * simulated)} or more, "
            "half to explain and half to test"
        )
    neurons: NeuronEffects = fits[fit]
    ask = assistant(name, url=url, key=key, timeout=timeout)
    names = names_of(neurons.chosen)
    tokens = [list(map(int, row))[:longest] for row in texts["tokens"]]
    activations = _activations(model, neurons, names, tokens)
    pieces = [[model.piece(token) for token in row] for row in tokens]
    rng = np.random.default_rng(seed)
    tests = {site: _held_out(rows, half, simulated, rng) for site, rows in activations.items()}
    asked = run_or_resume(
        "explanations",
        {
            f"explained-{site}": partial(
                _explained, ask, site, pieces[:half], activations[site][:half], shown
            )
            for site in names
        },
        work,
    )
    explanations = {str(table["neuron"][0]): str(table["explanation"][0]) for table in asked}
    order = dict(zip(names, [*names[1:], names[0]], strict=True))
    jobs = {
        f"simulated-{site}": partial(
            _simulated,
            ask,
            site,
            {"score": explanations[site], "control": explanations[order[site]]},
            [pieces[number] for number in tests[site]],
            [activations[site][number] for number in tests[site]],
        )
        for site in names
    }
    scores = pd.concat(run_or_resume("simulations", jobs, work), ignore_index=True)
    labels = pd.DataFrame({"neuron": names, "label": list(neurons.chosen["label"])})
    table = labels.assign(explanation=[explanations[site] for site in names])
    unscored = int(scores["score"].isna().sum())
    if unscored:
        log.warning("%d of %d explanations have no score: see `tokens`", unscored, len(scores))
    return table.merge(scores, on="neuron", validate="one_to_one")


def explanation_prompt(pieces: Sequence[Sequence[str]], levels: Sequence[Sequence[int]]) -> str:
    """Write the question for what a neuron responds to, with activations after each token."""
    shown = "\n\n".join(
        "\n".join(f"{piece!r}\t{level}" for piece, level in zip(*text, strict=True))
        for text in zip(pieces, levels, strict=True)
    )
    return (
        "A neuron of a language model was active in the following texts. Each line has a token and "
        f"the neuron's activation there, from 0 to {LEVELS}.\n\n{shown}\n\n"
        "In one short sentence: what does the neuron respond to? Answer with the sentence only."
    )


def simulation_prompt(explanation: str, pieces: Sequence[str]) -> str:
    """Write the question for the activations of an explained neuron on a text."""
    lines = "\n".join(f"{number}\t{piece!r}" for number, piece in enumerate(pieces, 1))
    return (
        f"A neuron of a language model responds to this: {explanation}\n\n"
        f"How active is it at each token of the following text, from 0 to {LEVELS}? Most are 0.\n\n"
        f"{lines}\n\n"
        "Answer with one line for each token: its number, a tab, and the activation."
    )


def predicted(answer: str, tokens: int) -> Float[np.ndarray, " pos"]:
    """Read predicted activations from an answer's lines; NaN where a token has no number.

    Decimals are as they stand; beyond 0 and `LEVELS`, the nearer of these is read.
    """
    values = np.full(tokens, np.nan)
    for line in answer.splitlines():
        match = _LINE.match(line)
        number = match and _LAST_NUMBER.search(match[2])
        if match and number and 1 <= int(match[1]) <= tokens:
            level = float(number[0].replace("\N{MINUS SIGN}", "-"))
            values[int(match[1]) - 1] = min(max(level, 0.0), LEVELS)
    return values


def correlation(
    predictions: Float[np.ndarray, " tokens"], activations: Float[np.ndarray, " tokens"]
) -> float:
    """Compute Pearson's correlation over the predicted tokens; NaN if these are under half."""
    known = np.isfinite(predictions)
    if known.mean() < 0.5:
        return float("nan")
    x, y = predictions[known], activations[known]
    return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) > 0 and np.ptp(y) > 0 else float("nan")


def _activations(
    model: LanguageModel, neurons: NeuronEffects, names: list[str], tokens: list[list[int]]
) -> dict[str, list[np.ndarray]]:
    """Collect each neuron's activation at every token of every text, 0 where it is negative."""
    sites = [Site.parse(name) for name in names]
    for site in sites:
        neurons.check(model, Site(site.layer, site.component))
    collected, table = collect(model, tokens, sites, "all", batch_tokens=model.batch_tokens)
    ends = np.cumsum(np.bincount(table["prompt"], minlength=len(tokens)))[:-1]
    return {
        name: np.split(np.maximum(collected[site][:, 0].float().numpy(), 0), ends)
        for name, site in zip(names, sites, strict=True)
    }


def _held_out(
    activations: list[np.ndarray], half: int, simulated: int, rng: np.random.Generator
) -> list[int]:
    """Choose texts of the second half: those with the largest activations, and random others."""
    peaks = np.array([row.max() for row in activations[half:]])
    order = half + np.argsort(-peaks, kind="stable")
    others = rng.choice(order[simulated:], size=simulated, replace=False)
    return [int(number) for number in (*order[:simulated], *others)]


def _explained(
    ask: Assistant,
    site: str,
    pieces: list[list[str]],
    activations: list[np.ndarray],
    shown: int,
) -> pd.DataFrame:
    order = np.argsort([-row.max() for row in activations], kind="stable")[:shown]
    largest = max(float(activations[order[0]].max()), 1e-9)
    levels = [np.rint(LEVELS * activations[n] / largest).astype(int).tolist() for n in order]
    answer = ask(explanation_prompt([pieces[n] for n in order], levels))
    return pd.DataFrame({"neuron": [site], "explanation": [" ".join(answer.split())]})


def _simulated(
    ask: Assistant,
    site: str,
    explanations: Mapping[str, str],
    pieces: list[list[str]],
    activations: list[np.ndarray],
) -> pd.DataFrame:
    row: dict[str, Any] = {"neuron": site}
    for column, explanation in explanations.items():
        values = [
            predicted(ask(simulation_prompt(explanation, text)), len(text)) for text in pieces
        ]
        predictions = np.concatenate(values)
        row[column] = correlation(predictions, np.concatenate(activations))
        if column == "score":
            row["tokens"] = int(np.isfinite(predictions).sum())
    return pd.DataFrame([row])
