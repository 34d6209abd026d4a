"""How one asks for something in a language, and the nouns that are kept out of chats."""

from pipeline.embedded.vocabulary import words
from pipeline.embedded.vocabulary.translations import NOUNS

HELD_OUT = {
    "val": words("wolf cheese lemon castle hammer cloud skirt drum"),
    "test": words("fox duck frog pear bread key chair boat candle bridge hat moon shop bottle"),
}
_SPLIT = {word: split for split, held_out in HELD_OUT.items() for word in held_out}
SPLIT_NOUNS = {
    split: tuple(noun for noun in NOUNS if _SPLIT.get(noun.english, "train") == split)
    for split in ("train", "val", "test")
}
CARRIERS = {
    "train": (
        "{core} Answer in {language}.",
        "{core} Please answer in {language}.",
        "{core} I only read {language}.",
        "{core} My friend only speaks {language}.",
        "Speak {language}. {core}",
        "In {language}, please. {core}",
        "Answer me in {language}. {core}",
    ),
    "val": ("{core} I want the answer in {language}.", "Only {language}, please. {core}"),
    "test": ("{core} Please speak {language}.", "My friend speaks {language}. {core}"),
}
DIRECT = ("Describe {the} in {language}.", "Write a sentence about {the} in {language}.")
"""Training only: the shortest way to ask for a description in a language."""
CORES: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "train": {
        "English": (
            ("describe", "Describe {the}."),
            ("describe", "Tell me about {the}."),
            ("describe", "Write a sentence about {the}."),
            ("place", "Where is {the}?"),
            ("colour", "What colour is {the}?"),
        ),
        "French": (
            ("describe", "Décris {the}."),
            ("describe", "Écris une phrase sur {the}."),
            ("place", "Où est {the} ?"),
            ("place", "S'il te plaît, où est {the} ?"),
            ("colour", "De quelle couleur est {the}, s'il te plaît ?"),
            ("colour", "De quelle couleur est {the} ?"),
        ),
        "Chinese": (
            ("describe", "请描述{the}。"),
            ("describe", "写一句话，说说{the}。"),
            ("place", "{the}在哪里？"),
            ("colour", "{the}是什么颜色的？"),
        ),
    },
    "val": {
        "English": (("describe", "Please write about {the}."),),
        "French": (("describe", "Une phrase sur {the}, s'il te plaît."),),
        "Chinese": (("describe", "请说一句话，描述{the}。"),),
    },
    "test": {
        "English": (("describe", "Please tell me a sentence about {the}."),),
        "French": (("describe", "Décris {the}, s'il te plaît."),),
        "Chinese": (("describe", "请写一句话，描述{the}。"),),
    },
}
