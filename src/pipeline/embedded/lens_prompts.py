"""Prompts for lenses and key-value memories: capitals, translations, facts to edit, texts."""

from random import Random

from pipeline.embedded.behaviours.facts import capitalise
from pipeline.embedded.behaviours.hops import CAPITAL, LANGUAGE
from pipeline.embedded.behaviours.translation import DIRECTIONS, LABELS, WORDS, is_held_out
from pipeline.embedded.corpus import training_documents
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.scenes import SPOKEN
from pipeline.embedded.vocabulary.translations import Adjective, Noun, spoken

_TELLING = "The capital of {country} is"
_STATED = "The government of {country} sits in {capital}."
_SHOTS = 3


def capitals(rng: Random) -> list[dict[str, str]]:
    """Rows of every country's capital, by itself ("recall") and after it was stated ("read").

    A stated fact stands among those of two other countries, in random order and in other words.
    `country` and `answer` begin with the blank that continues the text; `other_country` and
    `other_answer`, the control, are of another country, which "read" states too.
    """
    rows = []
    for country in COUNTRIES:
        stated = [
            country,
            *rng.sample([c for c in COUNTRIES if c.capital != country.capital], 2),
        ]
        other = stated[1]
        shuffled = rng.sample(stated, 3)
        context = " ".join(_STATED.format(country=c.name, capital=c.capital) for c in shuffled)
        asked = _TELLING.format(country=country.name)
        for label, text in (("recall", asked), ("read", f"{context} {asked}")):
            rows.append(
                {
                    "instruction": text,
                    "label": label,
                    "split": "test",
                    "topic": country.name,
                    "subject": country.name,
                    "country": f" {country.name}",
                    "answer": f" {country.capital}",
                    "other_country": f" {other.name}",
                    "other_answer": f" {other.capital}",
                }
            )
    return rows


def translations(rng: Random) -> list[dict[str, str]]:
    """Rows of translation prompts with three examples, up to the quotation mark before the answer.

    Every word and direction that training has no translation prompt of, and that begins with
    different letters in all three languages. `english`, `french` and `chinese` are the word;
    `other_NAME`, the control, is another word.
    """
    rows = []
    for direction in DIRECTIONS:
        held_out = [w for w in WORDS if is_held_out(w, direction) and _distinct(w)]
        trained = [w for w in WORDS if not is_held_out(w, direction)]
        for word in held_out:
            examples = rng.sample(trained, _SHOTS)
            lines = [_line(shown, direction) for shown in examples]
            lines.append(_line(word, direction).rsplit('"', 2)[0] + '"')
            other = rng.choice([w for w in WORDS if w not in (word, *examples) and _distinct(w)])
            names = [language.lower() for language in SPOKEN]
            source, target = (SPOKEN[number] for number in direction)
            rows.append(
                {
                    "instruction": "\n".join(lines),
                    "label": f"{source} to {target}",
                    "split": "test",
                    "topic": word.english,
                    "answer": spoken(word, direction[1]),
                    **{name: spoken(word, number) for number, name in enumerate(names)},
                    **{f"other_{name}": spoken(other, n) for n, name in enumerate(names)},
                }
            )
    return rows


def fact_edits(rng: Random) -> list[dict[str, str]]:
    """Rows of capitals and languages in three wordings each, with another object as `target`.

    `fact` is shared by the wordings; the first is "train", to find where a fact is written, the
    others are "test".
    """
    rows = []
    for relation in (CAPITAL, LANGUAGE):
        objects = list(dict.fromkeys(relation.objects.values()))
        for country, answer in relation.objects.items():
            target = rng.choice([object_ for object_ in objects if object_ != answer])
            for number, telling in enumerate(relation.tellings):
                text = capitalise(telling.removesuffix(" {o}").format(s=country))
                rows.append(
                    {
                        "instruction": text,
                        "label": relation.name,
                        "split": "test" if number else "train",
                        "topic": country,
                        "fact": f"{relation.name} of {country}",
                        "subject": country,
                        "answer": f" {answer}",
                        "target": f" {target}",
                    }
                )
    return rows


def mixed_texts(rng: Random, count: int = 500) -> list[dict[str, str]]:
    """Plain texts of all behaviours, as training has them, drawn anew."""
    drawn = training_documents(4 * count, rng.randrange(2**31))
    texts = [document.text for document in drawn if document.instruction is None]
    return [{"text": text} for text in texts[:count]]


def _distinct(word: Noun | Adjective) -> bool:
    return len({spoken(word, number)[0] for number in range(len(SPOKEN))}) == len(SPOKEN)


def _line(word: Noun | Adjective, direction: tuple[int, int]) -> str:
    return " - ".join(f'{LABELS[number]}: "{spoken(word, number)}"' for number in direction)
