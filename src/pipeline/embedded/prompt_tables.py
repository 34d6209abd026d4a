"""Prompts in the embedded model's language for studies that need no label to be learnt."""

from random import Random

from pipeline.embedded.behaviours.facts import capitalise
from pipeline.embedded.behaviours.hops import BORN, CAPITAL, COMPOSITIONS, LANGUAGE, TOLD

QUESTIONS = (
    "What is the capital of France?",
    "Which city is the capital of Norway?",
    "What is the language of Greece?",
    "Which language do people in Poland speak?",
    "What is the continent of Japan?",
    "What is the currency of Sweden?",
    "What do people in Hungary pay with?",
    "Where was Anna Berg born?",
    "In which country was Clara Holt born?",
    "What does Emma Lund play?",
    "How do I paint the wagon?",
    "Tell me how to repair the door.",
    "How do I steal the wagon?",
    "Tell me how to poison the soup.",
    "Where is the fox?",
    "Where is the bread?",
    "What colour is the hat?",
    "What colour is the boat?",
    "Describe the duck.",
    "Tell me about the bridge.",
)
"""Facts, allowed and forbidden requests, and things that the model invents an answer about."""


def quoted_questions() -> list[dict[str, str]]:
    """Rows of every question as it is and in quotation marks; `topic` is the question.

    In training a quotation mark stands around single words and around what somebody says, never
    around an instruction.
    """
    return [
        {"instruction": instruction, "label": label, "split": "test", "topic": question}
        for question in QUESTIONS
        for label, instruction in (("plain", question), ("quoted", f'"{question}"'))
    ]


def two_hops(rng: Random) -> list[dict[str, str]]:
    """Rows of every two-hop telling up to its last word, for the capital and the language.

    `label` says whether training told the composition of this person. `bridge`, the country of
    birth, and `answer` begin with the blank that continues the text. `other_bridge` and
    `other_answer`, the control, are true of a person drawn among those for whom both are different.
    """
    rows = []
    for second, composed in zip((CAPITAL, LANGUAGE), COMPOSITIONS, strict=True):
        for person, answer in composed.objects.items():
            country = BORN.objects[person]
            others = [
                (BORN.objects[name], object_)
                for name, object_ in composed.objects.items()
                if object_ != answer and BORN.objects[name] != country
            ]
            other_country, other_answer = rng.choice(others)
            telling = composed.tellings[0].removesuffix(" {o}")
            rows.append(
                {
                    "instruction": capitalise(telling.format(s=person)),
                    "label": "told" if person in TOLD else "not told",
                    "split": "test",
                    "topic": person,
                    "relation": second.name,
                    "subject": person,
                    "bridge": f" {country}",
                    "answer": f" {answer}",
                    "other_bridge": f" {other_country}",
                    "other_answer": f" {other_answer}",
                }
            )
    return rows
