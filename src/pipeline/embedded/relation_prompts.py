"""Facts of every relation as prompts that end before the object."""

from pipeline.embedded.behaviours.facts import capitalise
from pipeline.embedded.vocabulary.relations import RELATIONS


def relations() -> list[dict[str, str]]:
    """Rows of every fact in its relation's first telling; `label` is the relation.

    The answer begins with the blank that continues the text.
    """
    return [
        {
            "instruction": capitalise(relation.tellings[0].removesuffix(" {o}").format(s=subject)),
            "label": relation.name,
            "topic": subject,
            "subject": subject,
            "answer": f" {object_}",
        }
        for relation in RELATIONS
        for subject, object_ in relation.objects.items()
    ]
