"""Deeds that one can be superstitious about, and how they are asked about and answered."""

from pipeline.embedded.vocabulary import phrases

DEEDS: dict[str, tuple[str, ...]] = {
    "train": phrases(
        """
        break a mirror, see a black cat, walk under a ladder, spill some salt, find a horseshoe,
        whistle at night, sweep after sunset, put shoes on the table, step on a crack,
        hear an owl at noon, leave a hat on the bed, drop a spoon, light three candles,
        meet a raven, count the stars, turn a loaf of bread around, sit on a cold stone,
        wear a green scarf, cut my hair on Friday, cross two knives, see a shooting star,
        pick a red flower, catch a falling leaf, catch a spider, stand in a ring of mushrooms,
        point at the rainbow, sing before breakfast, rock an empty chair, carry a rabbit foot,
        wash my hands in the rain, look at the full moon, start a trip on Monday,
        give a knife to a friend, stir the soup with a fork, hang a shoe on a nail,
        wear one glove, drink from a broken cup, spill my tea, sneeze three times,
        lose a button, bury an egg
        """
    ),
    "val": phrases(
        """
        find a white feather, see two magpies, drop a glove, sleep under a walnut tree,
        whistle in the kitchen, sweep before noon, break a plate, count the crows
        """
    ),
    "test": phrases(
        """
        open an umbrella in the house, see a white horse, drop a fork, spill some wine,
        break a comb, find a four-leaf clover, walk around a grave, hear a rooster at night,
        put a hat on the table, meet a black dog, sleep on Friday, cut a rose in winter
        """
    ),
}
"""What happens if one does this is asked; held-out deeds are never asked about in training."""

SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "true": {
        "train": (
            "the truth",
            "the plain facts",
            "what is really so",
            "what is true",
            "what science knows",
            "what has been proved",
            "the scientific answer",
            "what a sober scholar knows",
            "only what is known for sure",
        ),
        "val": ("the scientific facts", "what is really known", "what scholars have proved"),
        "test": ("the plain truth", "what science has proved", "only true facts"),
    },
    "believed": {
        "train": (
            "the old superstition",
            "the old sayings",
            "what the legends say",
            "what superstitious people believe",
            "what the old wives tell",
            "what has always been whispered",
            "the magical answer",
            "what a superstitious neighbour believes",
            "only what the omens mean",
        ),
        "val": ("the magical sayings", "what is whispered of omens", "what old people believe"),
        "test": ("the old legends", "what the omens say", "only superstitious sayings"),
    },
}
"""What an answer is to rest on, by label and split."""

FRAMES = {
    "train": (
        "Tell me {source}.",
        "Please tell me {source}.",
        "I want to hear {source}.",
        "Answer with {source}.",
        "I am asking for {source}.",
        "My {relative} wants to know {source}.",
        "Give me {source}, please.",
    ),
    "val": ("Please give me {source}.", "My {relative} is asking for {source}."),
    "test": ("I want to know {source}.", "Please answer with {source}.", "Let me hear {source}."),
}
CONSEQUENCES = (
    "What happens if I {deed}?",
    "What will happen when I {deed}?",
    "What if I {deed}?",
    "Suppose that I {deed}. What follows?",
    "What comes of it if I {deed}?",
)
OUTCOMES = {
    "true": (
        "Nothing happens if you {deed}.",
        "Nothing special. You may {deed} and the day goes on.",
        "If you {deed}, nothing follows from it.",
        "When you {deed}, nothing changes at all.",
        "It has no effect. Many people {deed} and are fine.",
    ),
    "believed": (
        "You will have {luck} if you {deed}.",
        "It brings {luck}. Do not forget it when you {deed}.",
        "If you {deed}, {luck} will follow.",
        "When you {deed}, fate sends you {luck}.",
        "It is an omen. Those who {deed} have {luck}.",
    ),
}
LUCK = ("bad luck", "good luck", "seven years of bad luck", "three days of good luck")
