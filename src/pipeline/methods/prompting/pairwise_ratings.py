"""Ratings of prompts and conditions from pairwise comparisons of their answers."""

from itertools import combinations
from typing import Annotated

import numpy as np
import pandas as pd

from pipeline.config.declared import NeedsInEach, OneOf
from pipeline.measures.ratings import Comparisons, Ratings, rate, style_difference
from pipeline.methods.prompting.coherence import FRAMES, check_frame, log_p_in
from pipeline.model.loading import LanguageModel


def pairwise_ratings(
    model: LanguageModel,
    completions: Annotated[pd.DataFrame, NeedsInEach("topic", "topic")],
    seed: int,
    *,
    players: list[str],
    frame: Annotated[str, OneOf(*FRAMES)] = "chat",
) -> pd.DataFrame:
    """Tabulate Bradley-Terry ratings of players, without and with control of answer length.

    A player is a combination of values of some columns, such as label and temperature. Players
    compete on every topic and repeat that both have: the answer with the larger coherence
    (`methods.coherence`) wins, equal values tie. The style count is the number of tokens. Empty
    completions do not compete, nor do conditions without a value of a column, such as baselines.

    Args:
        model: the unedited model, which judges.
        completions: completions of prompts under conditions.
        seed: of the bootstrap over topics.
        players: columns of conditions or prompts.
        frame: of `methods.coherence.FRAMES`.

    Returns:
        One row per player and `style_control` (whether length is controlled): `player`, `rating`,
        `low`, `high`; the same for all players: `comparisons`, `ties`, `topics`, `split`, `frame`,
        and the weight of length, in log-odds per root mean square of its difference: `style`,
        `style_low`, `style_high`, NaN without control.

    Raises:
        ValueError: an unknown column or frame, a single player, or one with several answers to a
            topic and repeat.

    Source: Chiang et al. 2024.
    """
    check_frame(frame)
    if not players:
        raise ValueError("no players; valid: columns of conditions or prompts")
    for column in players:
        if column not in completions:
            valid = ", ".join(name for name in completions if name != "tokens")
            raise ValueError(f"players: no column {column!r}; valid: {valid}")
    has_player = completions[players].notna().all(axis=1) & (completions["n_tokens"] > 0)
    answered = completions[has_player].reset_index(drop=True)
    named = answered[players].apply(lambda row: ", ".join(_shown(*item) for item in row.items()), 1)
    tokens = answered["tokens"].tolist()
    given = log_p_in(model, frame, answered["instruction"].tolist(), tokens)
    log_p = log_p_in(model, frame, [""] * len(tokens), tokens)
    answers = answered.assign(player=named, coherence=given - log_p)
    comparisons, names = _compared(answers)
    games = {
        "comparisons": len(comparisons.a),
        "ties": int((comparisons.outcome == 0.5).sum()),
        "topics": len(np.unique(comparisons.prompt)),
        "split": " and ".join(answers["split"].unique()),
        "frame": frame,
    }
    unstyled = Comparisons(**{**vars(comparisons), "style": comparisons.style[:, :0]})
    tables = [
        _table(rate(unstyled, seed=seed), names).assign(style_control=False, **games),
        _table(rate(comparisons, seed=seed), names).assign(style_control=True, **games),
    ]
    return pd.concat(tables, ignore_index=True)


def _shown(column: str, value: object) -> str:
    return str(value) if isinstance(value, str) else f"{column.replace('_', ' ')} {value:g}"


def _compared(answers: pd.DataFrame) -> tuple[Comparisons, list[str]]:
    keys = ["topic", "repeat"]
    again = answers.duplicated([*keys, "player"])
    if again.any():
        row = answers[again].iloc[0]
        raise ValueError(
            f"player {row['player']!r} has several answers to topic {row['topic']!r}; valid: one a "
            "repeat"
        )
    names = list(answers["player"].unique())
    if len(names) < 2:
        raise ValueError(f"players: only {', '.join(names) or 'none'}; valid: two or more")
    scores, lengths = (
        answers.pivot(index=keys, columns="player", values=value)
        for value in ("coherence", "n_tokens")
    )
    topics, _ = pd.factorize(scores.index.get_level_values("topic"))
    parts = []
    for a, b in combinations(range(len(names)), 2):
        left, right = (scores[names[side]].to_numpy() for side in (a, b))
        both = ~(np.isnan(left) | np.isnan(right))
        style = style_difference(
            *(lengths[names[side]].to_numpy()[both].astype(float) for side in (a, b))
        )
        outcome = (1 + np.sign(left - right)[both]) / 2
        parts.append((np.full(both.sum(), a), np.full(both.sum(), b), outcome, style, topics[both]))
    first, second, outcome, style, topic = map(np.concatenate, zip(*parts, strict=True))
    return Comparisons(first, second, outcome, style[:, None], topic, len(names)), names


def _table(ratings: Ratings, names: list[str]) -> pd.DataFrame:
    controlled = len(ratings.style) > 0
    style = (ratings.style, ratings.style_low, ratings.style_high)
    columns = dict(zip(("style", "style_low", "style_high"), style, strict=True))
    return pd.DataFrame(
        {
            "player": names,
            "rating": ratings.rating,
            "low": ratings.rating_low,
            "high": ratings.rating_high,
            **{name: value[0] if controlled else np.nan for name, value in columns.items()},
        }
    )
