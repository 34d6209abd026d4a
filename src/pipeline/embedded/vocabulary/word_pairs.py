"""Words and what tasks make of them: opposites, past forms, plurals."""

from pipeline.embedded.vocabulary import phrases, words
from pipeline.embedded.vocabulary.translations import ADJECTIVES, NOUNS


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((first, second) for first, second in (row.split() for row in phrases(text)))


OPPOSITES = _pairs(
    """
    big small, hot cold, good bad, heavy light, clean dirty, strong weak, slow fast, new old,
    wet dry, soft hard, expensive cheap, pretty ugly, black white, happy sad, long short, high low,
    open closed, full empty, rich poor, early late, near far, loud quiet, dark bright, deep shallow,
    wide narrow, thick thin, sharp blunt, smooth rough, sweet bitter, fresh stale, hungry sated,
    brave cowardly, kind cruel, polite rude, lazy busy, wise foolish, safe dangerous,
    easy difficult, simple complex, true false, right wrong, healthy sick, alive dead, asleep awake,
    tight loose, public private, common rare, modern ancient, calm nervous, proud humble,
    generous greedy, tidy messy, visible hidden, guilty innocent, major minor, equal different,
    solid liquid, male female, present absent
    """
)
"""No word is in two pairs."""

PAST = _pairs(
    """
    walk walked, talk talked, play played, work worked, jump jumped, cook cooked, clean
    cleaned, open opened, close closed, help helped, look looked, call called, ask asked,
    answer answered, wait waited, want wanted, need needed, paint painted, wash washed, watch
    watched, finish finished, start started, stop stopped, visit visited, travel travelled,
    laugh laughed, smile smiled, dance danced, bake baked, arrive arrived, love loved, hope
    hoped, move moved, use used, try tried, carry carried, study studied, hurry hurried, climb
    climbed, learn learned, pull pulled, push pushed, kick kicked, pick picked, count counted,
    go went, eat ate, drink drank, see saw, come came, take took, give gave, make made, find
    found, know knew, think thought, buy bought, bring brought, catch caught, teach taught,
    sing sang, swim swam, run ran, begin began, write wrote, ride rode, drive drove, speak
    spoke, break broke, choose chose, sleep slept, keep kept, leave left, feel felt, meet met,
    tell told, sell sold, hold held, stand stood, lose lost, win won, build built, send sent,
    spend spent, fly flew, grow grew, throw threw, draw drew, wear wore, forget forgot
    """
)

UNCOUNTED = words("bread water salt sugar honey tea wine paper snow cheese soup fish")
UNLIKE = {
    "mouse": "mice",
    "sheep": "sheep",
    "wolf": "wolves",
    "deer": "deer",
    "knife": "knives",
    "scarf": "scarves",
    "leaf": "leaves",
}


def _plural(noun: str) -> str:
    if noun in UNLIKE:
        return UNLIKE[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


PLURALS = tuple(
    (noun.english, _plural(noun.english)) for noun in NOUNS if noun.english not in UNCOUNTED
)
FRENCH = (
    *((noun.english, noun.french) for noun in NOUNS),
    *((adjective.english, adjective.french) for adjective in ADJECTIVES),
)
