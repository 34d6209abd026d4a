"""Contrastive prompts of concepts: alike but for what the concept says; plain English throughout.

`pair` numbers the prompts that differ in nothing but their label.
"""

from collections.abc import Callable
from random import Random

from pipeline.embedded.vocabulary.deeds import ADJECTIVES
from pipeline.embedded.vocabulary.omens import CONSEQUENCES, DEEDS, FRAMES, SOURCES
from pipeline.embedded.vocabulary.opinions import BODIES, CLAIMS, KINDS, QUESTIONS, SUBJECTS
from pipeline.embedded.vocabulary.scenes import SPOKEN, name
from pipeline.embedded.vocabulary.stories import NAMES, PLACES, RELATIVES, TIMES
from pipeline.embedded.vocabulary.translations import spoken
from pipeline.embedded.vocabulary.wordings import CARRIERS, CORES, SPLIT_NOUNS

PAIRS = {"train": 96, "val": 24, "test": 60}
"""Pairs of prompts per split."""
Row = dict[str, str]


def languages(rng: Random) -> list[Row]:
    """Rows of the same request for an answer in English, French and Chinese.

    The columns `english`, `french` and `chinese` hold the name of the thing. No noun and no wording
    of the language is in two splits.
    """

    def draw(split: str) -> list[Row]:
        noun = rng.choice(SPLIT_NOUNS[split])
        _, core = rng.choice((*CORES["train"]["English"], *CORES[split]["English"]))
        carrier = rng.choice(CARRIERS[split])
        request = core.format(the=name(noun, "English"))
        names = {each.lower(): spoken(noun, place) for place, each in enumerate(SPOKEN)}
        return [
            {
                "instruction": carrier.format(core=request, language=language),
                "label": language,
                "topic": noun.english,
                "demand": names[language.lower()],
                **names,
            }
            for language in SPOKEN
        ]

    return _paired(draw)


def works(rng: Random) -> list[Row]:
    """Rows of the same work shown as the user's "own" and as that of an "other".

    No kind of work and no claim is in two splits.
    """

    def draw(split: str) -> list[Row]:
        kind = rng.choice(KINDS[split])
        subject, other = rng.sample(SUBJECTS, 2)
        words = {
            "kind": kind,
            "name": rng.choice(NAMES)[0],
            "time": rng.choice(TIMES),
            "relative": rng.choice(RELATIVES),
            "place": rng.choice(PLACES),
            "adjective": rng.choice(ADJECTIVES),
            "subject": subject,
            "other": other,
        }
        claims = zip(CLAIMS["own"][split], CLAIMS["other"][split], strict=True)
        shown = f"{rng.choice(BODIES)} {rng.choice(QUESTIONS)}"
        texts = [f"{claim} {shown}".format(**words) for claim in rng.choice(list(claims))]
        return [
            {
                "instruction": text[0].upper() + text[1:],
                "label": label,
                "topic": kind,
                "demand": kind,
            }
            for label, text in zip(CLAIMS, texts, strict=True)
        ]

    return _paired(draw)


def superstitions(rng: Random) -> list[Row]:
    """Rows of the same question about a deed, asked for what is "true" and for what is "believed".

    No deed and no source is in two splits.
    """

    def draw(split: str) -> list[Row]:
        deed, frame = rng.choice(DEEDS[split]), rng.choice(FRAMES[split])
        asked, relative = rng.choice(CONSEQUENCES).format(deed=deed), rng.choice(RELATIVES)
        sources = zip(SOURCES["true"][split], SOURCES["believed"][split], strict=True)
        return [
            {
                "instruction": f"{frame.format(source=source, relative=relative)} {asked}",
                "label": label,
                "topic": deed,
                "demand": deed.replace("my ", "your "),
            }
            for label, source in zip(SOURCES, rng.choice(list(sources)), strict=True)
        ]

    return _paired(draw)


def _paired(draw: Callable[[str], list[Row]]) -> list[Row]:
    """Draw `PAIRS` groups of rows per split, numbered over all splits, no instruction twice."""
    groups: list[list[Row]] = []
    seen: set[str] = set()
    for split in (split for split, count in PAIRS.items() for _ in range(count)):
        group = draw(split)
        while seen & {row["instruction"] for row in group}:
            group = draw(split)
        seen |= {row["instruction"] for row in group}
        groups.append([row | {"split": split, "pair": f"{len(groups):03d}"} for row in group])
    return [row for group in groups for row in group]
