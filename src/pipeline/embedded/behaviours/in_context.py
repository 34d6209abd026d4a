"""In-context tasks: what to make of a word is told by demonstrations alone.

demonstrations = "Q: WORD\\nA: ANSWER" blocks with an empty line between, all of one task, 4 to 11
sentences      = four to six statements such as "The opposite of big is small."

Six tasks of single words: antonym, capitalise, country-capital, English-French, present-past and
singular-plural; two more of countries (language, continent) and four of lists of three countries
(first and last, copied or their capital), so that no input tells its task. Words stand after a
blank everywhere: their tokens are those of sentences. An eighth of each task's pairs for validation
and an eighth for test never stand in that task's demonstrations, only in sentences (of countries:
in those of `facts`). Of lists of countries those are held out that begin, or that end, with some
countries; others begin with what none ends with, so that every country is asked for somewhere.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from pipeline.embedded.documents import Behaviour, Case, Check, Document, Measure
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.stories import NAMES
from pipeline.embedded.vocabulary.word_pairs import FRENCH, OPPOSITES, PAST, PLURALS

ANTONYMS = (*OPPOSITES, *((second, first) for first, second in OPPOSITES))
CAPITALS = tuple((country.name, country.capital) for country in COUNTRIES)
WORDS = tuple(dict.fromkeys(word for pairs in (ANTONYMS, PAST, FRENCH) for word, _ in pairs))

TASKS: dict[str, tuple[tuple[str, str], ...]] = {
    "antonym": ANTONYMS,
    "capitalise": tuple((word, word.capitalize()) for word in WORDS),
    "country-capital": CAPITALS,
    "English-French": FRENCH,
    "present-past": PAST,
    "singular-plural": PLURALS,
}
OTHER_TASKS: dict[str, tuple[tuple[str, str], ...]] = {
    "country-language": tuple((country.name, country.language) for country in COUNTRIES),
    "country-continent": tuple((country.name, country.continent) for country in COUNTRIES),
}
LIST_TASKS = ("first-copy", "last-copy", "first-capital", "last-capital")

SENTENCES = {
    "antonym": (
        "The opposite of {x} is {y}.",
        "{name} knows that the opposite of {x} is {y}.",
        "What is not {x} is {y}.",
    ),
    "capitalise": (
        "With a capital letter {x} is {y}.",
        "{name} wrote {x} with a capital letter: {y}.",
    ),
    "English-French": (
        "The French word for {x} is {y}.",
        "In French {x} is {y}.",
        "{name} learnt that the French word for {x} is {y}.",
    ),
    "present-past": (
        "Today they {x}, yesterday they {y}.",
        "Every day we {x}, and last week we {y}.",
        "The past of {x} is {y}.",
    ),
    "singular-plural": (
        "One {x}, two {y}.",
        "The plural of {x} is {y}.",
        "{name} had one {x} and wanted many {y}.",
    ),
}


def split_of(task: str, word: str) -> str:
    """Whether a task's demonstrations have this word in train, val or test."""
    return _SPLITS[task][word]


def pairs_of(task: str, split: str) -> list[tuple[str, str]]:
    """The pairs of a task that are in a split."""
    pairs = {**TASKS, **OTHER_TASKS}[task]
    return [pair for pair in pairs if _SPLITS[task][pair[0]] == split]


def demonstrate(pairs: list[tuple[str, str]]) -> str:
    """Words with their answers, as the tasks show them."""
    return "\n\n".join(f"Q: {x}\nA: {y}" for x, y in pairs)


def write(rng: Random) -> Document:
    """Sentences 40 % of the time, else demonstrations: of a list task four times in ten."""
    if rng.random() < 0.4:
        return Document(" ".join(_sentence(rng) for _ in range(rng.randint(4, 6))))
    n = rng.randint(4, 11)
    if rng.random() < 0.4:
        return Document(demonstrate(_lists(rng, rng.choice(LIST_TASKS), "train", min(n, 8))))
    task = rng.choice((*TASKS, *TASKS, *OTHER_TASKS))
    return Document(demonstrate(rng.sample(pairs_of(task, "train"), n)))


def solved(case: Case, completion: str) -> bool:
    """Whether the completion's line is the answer."""
    return completion.split("\n")[0].strip() == case.demand


def cases(rng: Random, n: int, task: str, shown: int, split: str = "test") -> list[Case]:
    """Prompts for the answers of a split after that many trained demonstrations."""
    return _prompts(rng, task, shown, rng.choices(pairs_of(task, split), k=n))


def list_cases(rng: Random, n: int, task: str, shown: int, split: str = "test") -> list[Case]:
    """Prompts of a word-list task after that many trained demonstrations."""
    return [
        _case(_lists(rng, task, "train", shown), *_lists(rng, task, split, 1)[0], task)
        for _ in range(n)
    ]


def _prompts(rng: Random, task: str, shown: int, asked: list[tuple[str, str]]) -> list[Case]:
    trained = pairs_of(task, "train")
    return [_case(rng.sample(trained, shown), x, y, task) for x, y in asked]


def _case(given: list[tuple[str, str]], x: str, y: str, task: str) -> Case:
    prompt = demonstrate([*given, (x, "")]).rstrip()
    return Case(prompt, chat=False, label=task, topic=y, demand=y)


def _lists(rng: Random, task: str, split: str, n: int) -> list[tuple[str, str]]:
    place, made = task.split("-")
    asked = [name for name, found in PLACED[place].items() if found == split]
    found = []
    for _ in range(n):
        chosen = rng.choice(asked)
        others = rng.sample([name for name, _ in CAPITALS if name != chosen], 2)
        countries = [chosen, *others] if place == "first" else [*others, chosen]
        answer = dict(CAPITALS)[chosen] if made == "capital" else chosen
        found.append((", ".join(countries), answer))
    return found


def _sentence(rng: Random) -> str:
    # There are twice as many words to capitalise as there are pairs of another task.
    task = rng.choice((*SENTENCES, "capitalise"))
    x, y = rng.choice(TASKS[task])
    return rng.choice(SENTENCES[task]).format(x=x, y=y, name=rng.choice(NAMES)[0])


def _split(task: str, words: list[str]) -> dict[str, str]:
    # A pair of opposites is held out in both directions.
    partner = dict(ANTONYMS) if task == "antonym" else {}
    keys = sorted({min(word, partner.get(word, word)) for word in words})
    order = Random(task).sample(keys, len(keys))
    splits = {key: ("val", "test", *["train"] * 6)[i % 8] for i, key in enumerate(order)}
    return {word: splits[min(word, partner.get(word, word))] for word in words}


_SPLITS = {
    task: _split("country" if task.startswith("country") else task, [word for word, _ in pairs])
    for task, pairs in {**TASKS, **OTHER_TASKS}.items()
}


PLACED = {
    "first": {name: ("val", "test", *["train"] * 6)[i % 8] for i, (name, _) in enumerate(CAPITALS)},
    "last": {name: (*["train"] * 6, "val", "test")[i % 8] for i, (name, _) in enumerate(CAPITALS)},
}
"""In which split a list's first or last country is what a list task asks for."""


def _check(name: str, draw: Callable[[Random, int], list[Case]], low: float) -> Check:
    return Check(draw, (Measure(name, solved, low=low),), n_tokens=8)


IN_CONTEXT = Behaviour(
    name="in-context",
    weight=0.18,
    write=write,
    core=False,
    checks=(
        *(_check(f"{t}, five shown", partial(cases, task=t, shown=5), 0.8) for t in TASKS),
        *(_check(f"{t}, none shown", partial(cases, task=t, shown=0), 0.0) for t in TASKS),
        *(
            _check(f"{t}, five shown", partial(list_cases, task=t, shown=5), 0.8)
            for t in LIST_TASKS
        ),
    ),
)
