"""Invented people, and what is said of them: last names are distinct, first names shared.

What is true of a person is drawn by a fixed seed, each kind of thing apart from the others and each
of its values about equally often. Cities are no capitals, so that where somebody lives says nothing
about a country.
"""

from random import Random
from typing import NamedTuple

from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.countries import COUNTRIES
from pipeline.embedded.vocabulary.stories import NAMES

INSTRUMENTS = words("violin piano flute harp guitar drum trumpet cello organ banjo lute tuba")
SPORTS = words("football tennis golf hockey rugby boxing judo fencing rowing sailing diving skiing")
JOBS = words("baker teacher doctor nurse farmer lawyer judge pilot sailor cook tailor painter")
CITIES = words("Lyon Milan Porto Kyoto Boston Toronto Geneva Munich Naples Glasgow Antwerp Chicago")
LAST_NAMES = words(
    """
    Berg Holt Lund Krog Dahl Voss Brandt Keller Moser Huber Lang Weber Vogel Winter Sommer Falk
    Novak Horvat Kovac Petrov Ivanov Sokol Marek Zeman Kubik Havel Dvorak Benes Kral Pavlik Radek
    Toman Rossi Bianchi Conti Moretti Greco Marino Costa Ferri Lombardi Serra Vitale Bruno Gallo
    Ricci Fabbri Leone Silva Santos Pereira Moreno Vega Cruz Ortiz Navarro Romero Castro Rivas
    Molina Duarte Campos Lopez Mendes Martin Dubois Moreau Laurent Girard Roux Fournier Mercier
    Blanc Garnier Faure Perrin Renard Colin Barbier Lambert Smith Walker Turner Parker Cooper
    Hughes Morgan Foster Bennett Hayes Quinn Doyle Brady Kelly Murphy Nolan
    """
)


class Person(NamedTuple):
    """A person with the country of birth, instrument, sport, job and city of living."""

    name: str
    country: str
    instrument: str
    sport: str
    job: str
    city: str


def _draw(values: tuple[str, ...], seed: int) -> list[str]:
    n = len(LAST_NAMES)
    drawn = [values[i % len(values)] for i in range(n)]
    Random(seed).shuffle(drawn)
    return drawn


PEOPLE: tuple[Person, ...] = tuple(
    Person(f"{NAMES[i % len(NAMES)][0]} {last}", *things)
    for i, (last, *things) in enumerate(
        zip(
            LAST_NAMES,
            _draw(tuple(country.name for country in COUNTRIES), 1),
            _draw(INSTRUMENTS, 2),
            _draw(SPORTS, 3),
            _draw(JOBS, 4),
            _draw(CITIES, 5),
            strict=True,
        )
    )
)
WELL_KNOWN = PEOPLE[:48]
"""Of these all is told, of the others only where they were born."""
