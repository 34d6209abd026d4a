"""Facts of people to edit: a telling, and held-out phrasings, each with another object."""

from random import Random

from pipeline.embedded.behaviours.facts import capitalise, phrasings
from pipeline.embedded.vocabulary.relations import RELATIONS
from pipeline.embedded.vocabulary.stories import NAMES, PLACES

EDITED = ("instrument", "sport")
"""The relations, both of all well-known people."""


def people_facts(rng: Random) -> list[dict[str, str]]:
    """Rows of every person's instrument and sport, with another person's object as `target`.

    `fact` is shared by four rows: the first telling, to edit, then a held-out phrasing of each
    telling, which training has with other relations only.
    """
    rows = []
    for relation in (each for each in RELATIONS if each.name in EDITED):
        objects = list(dict.fromkeys(relation.objects.values()))
        held_out = phrasings(relation, "tellings", held_out=True)
        for subject, answer in relation.objects.items():
            target = rng.choice([object_ for object_ in objects if object_ != answer])
            for form in (capitalise(relation.tellings[0]) + ".", *held_out):
                text = form.removesuffix(" {o}.").format(
                    s=subject, name=rng.choice(NAMES)[0], place=rng.choice(PLACES)
                )
                rows.append(
                    {
                        "instruction": text,
                        "label": relation.name,
                        "topic": subject,
                        "fact": f"{relation.name} of {subject}",
                        "subject": subject,
                        "answer": f" {answer}",
                        "target": f" {target}",
                    }
                )
    return rows
