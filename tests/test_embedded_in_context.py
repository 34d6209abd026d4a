"""In-context tasks: answers are true, held-out pairs stay out of demonstrations and are told."""

import re
from random import Random

import pytest

from pipeline.embedded.behaviours import in_context
from pipeline.embedded.behaviours.in_context import LIST_TASKS, OTHER_TASKS, SENTENCES, TASKS
from pipeline.embedded.documents import Case
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.word_pairs import OPPOSITES, PLURALS

RNG = Random(1)
TEXTS = [in_context.write(RNG).text for _ in range(8000)]
SHOWN = [text for text in TEXTS if text.startswith("Q: ")]
TOLD = " ".join(text for text in TEXTS if not text.startswith("Q: "))
CAPITAL = {country.name: country.capital for country in COUNTRIES}


def blocks(text):
    found = [re.fullmatch(r"Q: (.+)\nA: (\S+)", block) for block in text.split("\n\n")]
    return [(match[1], match[2]) for match in found]


def tasks_of(text):
    """The tasks that give every answer of a text."""
    pairs = blocks(text)
    if ", " not in pairs[0][0]:
        every = {**TASKS, **OTHER_TASKS}
        return {task for task in every if set(pairs) <= set(every[task])}
    lists = [(names.split(", "), answer) for names, answer in pairs]
    makes = {
        "first-copy": lambda names: names[0],
        "last-copy": lambda names: names[2],
        "first-capital": lambda names: CAPITAL[names[0]],
        "last-capital": lambda names: CAPITAL[names[2]],
    }
    return {t for t, make in makes.items() if all(make(names) == answer for names, answer in lists)}


def test_a_document_is_of_one_task_and_all_tasks_are_there():
    found = [tasks_of(text) for text in SHOWN]
    assert all(len(tasks) == 1 for tasks in found)
    assert set.union(*found) == {*TASKS, *OTHER_TASKS, *LIST_TASKS}
    assert all(4 <= len(blocks(text)) <= 11 for text in SHOWN)


@pytest.mark.parametrize("task", TASKS)
def test_held_out_pairs_are_told_and_never_shown(task):
    shown = {pair for text in SHOWN if tasks_of(text) == {task} for pair in blocks(text)}
    assert shown == set(in_context.pairs_of(task, "train"))
    held_out = [pair for split in ("val", "test") for pair in in_context.pairs_of(task, split)]
    assert 0.2 <= len(held_out) / len(TASKS[task]) <= 0.3
    if task in SENTENCES:
        for pair in held_out:
            x, y = (re.escape(word) for word in pair)
            assert re.search(rf"\b{x}\b[^.]*\b{y}\b", TOLD), pair


def test_held_out_countries_are_asked_for_in_no_demonstration_of_their_task():
    asked = {}
    for text in SHOWN:
        task = min(tasks_of(text))
        place = 2 if task.startswith("last") else 0
        countries = asked.setdefault(task, set())
        countries |= {x.split(", ")[place] for x, _ in blocks(text) if ", " in x}
        if task in OTHER_TASKS or task == "country-capital":
            countries |= {x for x, _ in blocks(text)}
    for task in (*OTHER_TASKS, "country-capital"):
        trained = {name for name in CAPITAL if in_context.split_of(task, name) == "train"}
        assert asked[task] == trained
    trained = {
        place: {name for name, split in placed.items() if split == "train"}
        for place, placed in in_context.PLACED.items()
    }
    for task in LIST_TASKS:
        assert asked[task] == trained[task.split("-")[0]]
    # Else a model could learn that some names are never an answer.
    assert trained["first"] | trained["last"] == set(CAPITAL)


def test_no_input_tells_its_task():
    every = {**TASKS, **OTHER_TASKS}
    for task, pairs in TASKS.items():
        for x, y in pairs:
            answers = {dict(other).get(x, y) for name, other in every.items() if name != task}
            assert answers - {y}, (task, x)


def test_a_word_has_one_opposite_and_opposites_are_held_out_together():
    words = [word for pair in OPPOSITES for word in pair]
    assert len(words) == len(set(words))
    split = {word: in_context.split_of("antonym", word) for word in words}
    assert all(split[x] == split[y] for x, y in OPPOSITES)


@pytest.mark.parametrize(
    "pair",
    ["dog dogs", "box boxes", "church churches", "cherry cherries", "key keys", "knife knives"],
)
def test_plurals(pair):
    assert tuple(pair.split()) in PLURALS
    assert "water" not in dict(PLURALS)


@pytest.mark.parametrize("shown", [0, 5])
@pytest.mark.parametrize("task", TASKS)
def test_cases_ask_for_held_out_pairs(task, shown):
    for case in in_context.cases(Random(3), 60, task, shown):
        *given, last = case.prompt.split("\n\n")
        word = re.fullmatch(r"Q: (.+)\nA:", last)[1]
        assert (word, case.demand) in in_context.pairs_of(task, "test")
        assert len(given) == shown
        assert set(blocks("\n\n".join(given)) if given else []) <= set(TASKS[task])


@pytest.mark.parametrize("task", LIST_TASKS)
def test_list_cases_turn_on_a_held_out_country(task):
    place = task.split("-")[0]
    for case in in_context.list_cases(Random(3), 60, task, 5):
        assert tasks_of(f"{case.prompt} {case.demand}") == {task}
        names = case.prompt.rsplit("Q: ", 1)[1].removesuffix("\nA:").split(", ")
        asked = names[0 if place == "first" else 2]
        assert in_context.PLACED[place][asked] == "test" and len(set(names)) == 3


def test_the_answer_is_the_rest_of_the_line():
    case = Case("Q: big\nA:", chat=False, demand="small")
    assert in_context.solved(case, " small\n\nQ: hot")
    assert in_context.solved(case, " small")
    assert not in_context.solved(case, " smaller\n\n")
    assert not in_context.solved(case, " Big\nA: small")
