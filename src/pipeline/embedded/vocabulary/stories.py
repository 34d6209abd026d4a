"""Who and where of the stories in plain text."""

from pipeline.embedded.vocabulary import words

NAMES: tuple[tuple[str, str], ...] = tuple(
    (name, pronoun)
    for pronoun, names in (
        ("she", "Anna Clara Emma Greta Ida Julia Lena Maria Nora Olga Paula Rosa Sofia Vera Zoe"),
        ("he", "Adam Boris Carl David Emil Felix Hugo Ivan Jonas Karl Leo Max Oscar Peter Simon"),
    )
    for name in words(names)
)
PLACES = words(
    """
    house school church harbour station forest lake hill village beach museum library bakery
    theatre hospital
    """
)
TIMES = (
    "one morning",
    "last night",
    "on Monday",
    "in the summer",
    "after the storm",
    "before dinner",
    "in the winter",
    "at noon",
)
MOODS = words("happy tired proud sad calm nervous quiet cheerful")
RELATIVES = words(
    """
    sister brother uncle aunt cousin mother father friend neighbour teacher
    """
)
