"""Build few-shot prompts of several tasks: with true shots, corrupted shots, or none."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pipeline.data.datasets import SPLITS, checked, filled_at
from pipeline.data.tables import read_table, text_column

KINDS = ("shown", "shuffled", "zero", "mixed")
"""Labels: `shown`, true shots; `shuffled`, the same shots, each with the next one's answer in a
random cycle; `zero`, no shots; `mixed`, the same shots, each with an answer of another task.

A model that knows a task by its answers solves it with shuffled ones too, but not with mixed ones;
a single task has none of these. Source: Min et al. 2022, "Rethinking the role of demonstrations".
"""
_COLUMNS = ("task", "input", "output", "split")
Pair = tuple[str, str]


def in_context(
    *,
    path: str,
    tasks: list[str] | None = None,
    shots: int = 10,
    template: str = "Q: {input}\nA: {output}",
    separator: str = "\n\n",
    train: int = 25,
    asked: int = 24,
    seed: int = 0,
) -> pd.DataFrame:
    """Load pairs of words by task, and write the prompts of `KINDS` for each pair that is asked.

    A prompt is `shots` filled templates, then the template up to the blank before the output; the
    blank and the output are the answer. Shots are pairs of the train split, drawn anew for each
    prompt: different ones, and none of the input that is asked. All kinds of a pair share them.

    Args:
        path: a file with the columns `task`, `input`, `output` and `split`.
        tasks: the tasks to use, in order; None: all of the file.
        shots: answered questions before the one that is asked.
        template: of a question with its answer; ends in `{output}`.
        separator: between questions.
        train: most pairs of a task that are asked in the train split.
        asked: most pairs of a task that are asked in val, and in test.
        seed: of the choice of pairs and shots.

    Returns:
        Rows with the kind as `label`, the task as `topic` and the input as `subject`.

    Raises:
        ValueError: as `load_table`; an unknown task, a template without its placeholders, or a task
            with too few pairs in train for a prompt.

    Source: Todd et al. 2024, whose format and number of shots are the defaults.
    """
    question, answer = _parts(template)
    for name, value, least in (("shots", shots, 2), ("train", train, 1), ("asked", asked, 1)):
        if value < least:
            raise ValueError(f"dataset.{name}: {value} is less than {least}")
    by_task = _pairs(path, tasks)
    for task, by_split in by_task.items():
        _check_shots(task, by_split, shots)
    rows = []
    for task, by_split in by_task.items():
        foreign = [
            pair[1] for other, pairs in by_task.items() if other != task for pair in pairs["train"]
        ]
        pool = list(dict.fromkeys(by_split["train"]))
        for split, pairs in by_split.items():
            rng = np.random.default_rng([seed, *map(ord, task), *map(ord, split)])
            most = min(train if split == "train" else asked, len(pairs))
            for place in sorted(rng.permutation(len(pairs))[:most]):
                asked_pair = pairs[place]
                others = [pair for pair in pool if pair[0] != asked_pair[0]]
                shown = [others[n] for n in rng.permutation(len(others))[:shots]]
                for kind, given in _kinds(shown, foreign, rng).items():
                    before = "".join(_fill(template, *pair) + separator for pair in given)
                    rows.append(
                        {
                            "instruction": before + _fill(question, *asked_pair),
                            "label": kind,
                            "split": split,
                            "topic": task,
                            "demand": "",
                            "subject": asked_pair[0],
                            "subject_start": len(before)
                            + filled_at(question, "{input}", asked_pair[0]),
                            "answer": _fill(answer, *asked_pair),
                            "raw": True,
                        }
                    )
    return checked(pd.DataFrame(rows), path)


def _parts(template: str) -> tuple[str, str]:
    """Split a template into the question and, with the blank before it, the answer."""
    question = template.removesuffix("{output}").rstrip()
    if not template.endswith("{output}") or "{input}" not in question or "{output}" in question:
        raise ValueError(
            f"dataset.template {template!r}; valid: a text with {{input}} that ends in {{output}}"
        )
    return question, template[len(question) :]


def _pairs(path: str, tasks: Sequence[str] | None) -> dict[str, dict[str, list[Pair]]]:
    """Read the pairs of each task and split."""
    table = read_table(path)
    frame = pd.DataFrame({column: text_column(table, column, path) for column in _COLUMNS})
    present = list(dict.fromkeys(frame["task"]))
    for split in frame["split"].unique():
        if split not in SPLITS:
            raise ValueError(f"{path}: split {split!r} is unknown; valid: {', '.join(SPLITS)}")
    for task in tasks or ():
        if task not in present:
            raise ValueError(f"dataset.tasks: no task {task!r}; valid: {', '.join(present)}")
    return {
        task: {
            split: list(rows[["input", "output"]].itertuples(index=False, name=None))
            for split, rows in frame[frame["task"] == task].groupby("split", sort=False)
        }
        for task in tasks or present
    }


def _check_shots(task: str, by_split: Mapping[str, Sequence[Pair]], shots: int) -> None:
    """Fail if some prompt of a task has fewer pairs to show than `shots`."""
    pool = set(by_split.get("train", ()))
    of_input = Counter(word for word, _ in pool)
    asked = {word for pairs in by_split.values() for word, _ in pairs}
    word = max(sorted(asked), key=lambda word: of_input[word])
    most = len(pool) - of_input[word]
    if most < shots:
        valid = f"2 to {most}" if most >= 2 else "none"
        raise ValueError(
            f"dataset.shots: {shots}; task {task!r} has {most} pairs in train besides those of "
            f"{word!r}; valid: {valid}"
        )


def _kinds(
    shown: list[Pair], foreign: Sequence[str], rng: np.random.Generator
) -> dict[str, list[Pair]]:
    """Return the shots of each kind, given the true ones and the answers of other tasks."""
    cycle = rng.permutation(len(shown))
    answers = dict(zip(cycle, np.roll(cycle, 1), strict=True))
    shuffled = [(shown[n][0], shown[answers[n]][1]) for n in range(len(shown))]
    # A generator of its own: which pairs are shown does not depend on the other tasks.
    drawn = np.random.default_rng(rng.integers(2**32)).permutation(len(foreign))
    mixed = [(word, foreign[n]) for (word, _), n in zip(shown, drawn, strict=False)]
    kinds = dict(zip(KINDS, (shown, shuffled, [], mixed), strict=True))
    return kinds if foreign else {kind: kinds[kind] for kind in KINDS[:-1]}


def _fill(template: str, source: str, output: str) -> str:
    # One pass: an input may contain the text of a placeholder.
    parts = template.split("{input}")
    return source.join(part.replace("{output}", output) for part in parts)
