"""Prompts that tell what an edit of a fact does: itself, paraphrases, neighbours."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.datasets import checked, draw_splits, load_table
from pipeline.data.prompts import select_prompts
from pipeline.data.tables import text_column

KINDS = ("edit", "paraphrase", "neighbour")
CONTEXTS = ("none", "demonstrations", "other subject")
"""What stands before a prompt. `none`: nothing. `demonstrations`: new facts with their use, then
the new fact of the prompt. `other subject`, a control: the same, but the new object is stated of
another subject of the relation, which is no neighbour.
"""
_PLACES = ("{fact}", "{prompt}", "{answer}")
_DEMONSTRATED = ("edit", "paraphrase", "paraphrase", "paraphrase", *("neighbour",) * 4)
"""Kinds of demonstrations in turn: 1 copies, 3 update, 4 retain, as in the paper."""
_NEEDED = ("fact", "subject", "answer", "target")


def edited_facts(
    *,
    path: str,
    prompts: Any = None,
    shares: list[float] | None = None,
    neighbours: int = 2,
    demonstrations: int = 8,
    demonstration: str = "New fact: {fact}.\nPrompt: {prompt}{answer}.\n\n",
    seed: int = 0,
) -> pd.DataFrame:
    """Write for each fact of a file the prompts of `KINDS`, in each of `CONTEXTS`.

    A fact's first prompt in the file is the one to edit, its others are paraphrases. Neighbours
    are the first prompts of other facts of the relation (label) and split, whose object is not the
    new one: if possible with the fact's own object, as in COUNTERFACT, else with another. Their
    `answer` is their own, their `fact`, `topic` and `target` are those of the edited fact.

    Facts of the train split are only used in demonstrations, those of the prompt's relation.

    Args:
        path: a file of `datasets.load_table` with the columns `fact`, `subject`, `answer` and
            `target`, the new object, and several prompts a fact.
        prompts: of the file: a label, or column -> value or values; None: all.
        shares: of the facts of train, val and test, drawn within each label.
        neighbours: prompts of other facts, for each fact.
        demonstrations: before a prompt.
        demonstration: its text, with `{fact}`, then `{prompt}{answer}`. That of the prompt ends
            before the answer.
        seed: of splits, neighbours and demonstrations.

    Returns:
        Rows with `kind`, `context`, and `probe`, which a prompt shares with the same one in other
        contexts.

    Raises:
        ValueError: as `datasets.load_table`; no such column, a fact without a paraphrase, with
            several answers, targets or subjects, or too few facts of a relation.

    Source: Meng et al. 2022 (COUNTERFACT); Zheng et al. 2023, "Can we edit factual knowledge by
    in-context learning?" (IKE).
    """
    _check_options(demonstration, neighbours, demonstrations)
    file = select_prompts(load_table(path=path, raw=True), prompts)
    for column in _NEEDED:
        if column not in file:
            raise ValueError(f"{path} has no column {column!r}; it has: {', '.join(file)}")
    file = file.assign(**{column: text_column(file, column, path) for column in _NEEDED})
    file = file.assign(number=file.groupby("fact").cumcount())
    facts = file[file["number"] == 0].set_index("fact")
    _check_facts(file, path)
    facts = facts.assign(split=draw_splits(facts["label"], shares or [0.3, 0.2, 0.5], seed))
    split_of = facts["split"].to_dict()
    rng = np.random.default_rng(seed)
    # One more, whose subject is that of the control.
    others = {name: _neighbours(facts, name, neighbours + 1, path, rng) for name in facts.index}
    probes = {
        name: list(_probes(file[file["fact"] == name], facts.loc[others[name][:-1]]))
        for name in facts.index
    }
    rows = []
    for name, fact in facts.iterrows():
        if split_of[name] == "train":
            continue
        shown = [
            other
            for other in facts.index[facts["label"] == fact["label"]]
            if split_of[other] == "train"
        ]
        if demonstrations and len(shown) <= demonstrations:
            raise ValueError(
                f"relation {fact['label']}: {len(shown)} train facts for {demonstrations} "
                f"demonstrations; valid: more facts in train, or fewer demonstrations"
            )
        stated = {
            "demonstrations": fact["instruction"],
            "other subject": facts.loc[others[name][-1], "instruction"],
        }
        for probe in probes[name]:
            before = _demonstrations(shown, probes, demonstrations, demonstration, rng)
            for context in CONTEXTS if demonstrations else CONTEXTS[:1]:
                text = probe["instruction"]
                if context != "none":
                    new = f"{stated[context]}{fact['target']}"
                    asked = demonstration.split("{answer}")[0]
                    text = before + _filled(asked, new, text, "")
                rows.append(
                    probe | {"instruction": text, "split": split_of[name], "context": context}
                )
    return checked(pd.DataFrame(rows).drop(columns="number"), path)


def _probes(own: pd.DataFrame, others: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the prompts of a fact in the order of `KINDS`."""
    (first, *_), listed = own.to_dict("records"), own.to_dict("records")
    for number, row in enumerate(listed):
        kind = "paraphrase" if number else "edit"
        yield row | {"kind": kind, "probe": f"{kind} {number} of {row['fact']}"}
    for number, row in enumerate(others.to_dict("records")):
        yield row | {
            "kind": "neighbour",
            "probe": f"neighbour {number} of {first['fact']}",
            **{column: first[column] for column in ("fact", "topic", "target")},
        }


def _neighbours(
    facts: pd.DataFrame, name: str, count: int, path: str, rng: np.random.Generator
) -> list[str]:
    """Draw other facts of the relation and split, those with the same object first."""
    fact = facts.loc[name]
    same = facts[
        (facts["label"] == fact["label"])
        & (facts["split"] == fact["split"])
        & (facts["subject"] != fact["subject"])
        & (facts["answer"] != fact["target"])
    ]
    drawn = same.iloc[rng.permutation(len(same))]
    ordered = drawn.iloc[np.argsort(drawn["answer"] != fact["answer"], kind="stable")]
    if len(ordered) < count:
        raise ValueError(
            f"{path}: {len(ordered)} other facts can be neighbours of {name!r}; valid: {count} or "
            "more"
        )
    return ordered.index[:count].tolist()


def _demonstrations(
    shown: list[str],
    probes: dict[str, list[dict[str, Any]]],
    count: int,
    template: str,
    rng: np.random.Generator,
) -> str:
    """Draw new facts, and show that their prompts get the target and those of others do not."""
    order = [shown[n] for n in rng.permutation(len(shown))]
    # Others of which nothing new is stated: the text would contradict itself.
    stated, others = order[:count], order[count:]
    text = ""
    for number, name in enumerate(stated):
        of_fact = probes[name]
        kind = _DEMONSTRATED[number % len(_DEMONSTRATED)]
        if kind == "neighbour":
            firsts = [probes[other][0] for other in others]
            unlike = [probe for probe in firsts if probe["answer"] != of_fact[0]["target"]]
            probe = (unlike or firsts)[number % len(unlike or firsts)]
        else:
            usable = [probe for probe in of_fact if probe["kind"] == kind]
            probe = usable[int(rng.integers(len(usable)))]
        answer = probe["answer" if kind == "neighbour" else "target"]
        new = f"{of_fact[0]['instruction']}{of_fact[0]['target']}"
        text += _filled(template, new, probe["instruction"], answer)
    return text


def _filled(template: str, fact: str, prompt: str, answer: str) -> str:
    for place, value in zip(_PLACES, (fact, prompt, answer), strict=True):
        template = template.replace(place, value)
    return template


def _check_options(demonstration: str, neighbours: int, demonstrations: int) -> None:
    if [demonstration.count(place) for place in _PLACES] != [1, 1, 1] or (
        "{prompt}{answer}" not in demonstration.split("{fact}")[-1]
    ):
        raise ValueError(
            f"dataset.demonstration {demonstration!r}; valid: {{fact}}, then {{prompt}}{{answer}}"
        )
    for name, value, least in (
        ("neighbours", neighbours, 1),
        ("demonstrations", demonstrations, 0),
    ):
        if value < least:
            raise ValueError(f"dataset.{name} = {value}; valid: {least} or more")


def _check_facts(file: pd.DataFrame, path: str) -> None:
    for name, rows in file.groupby("fact", sort=False):
        if len(rows) < 2:
            raise ValueError(f"{path}: the fact {name!r} has no paraphrase")
        for column in ("label", "subject", "answer", "target"):
            if rows[column].nunique() > 1:
                values = ", ".join(map(repr, rows[column].unique()))
                raise ValueError(f"{path}: the fact {name!r} has {column}s {values}; valid: one")
