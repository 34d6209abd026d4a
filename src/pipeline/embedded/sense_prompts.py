"""Words in contexts that tell one of two senses, up to the word itself."""

from pipeline.embedded.behaviours.senses import HELD_OUT_FRAMES
from pipeline.embedded.vocabulary.senses import SENSES
from pipeline.embedded.vocabulary.stories import NAMES, RELATIVES


def senses() -> list[dict[str, str]]:
    """Rows of every word in every context of its two senses; the text ends with the word.

    A causal model's state at the word depends on what comes before it only. Cue number n of both
    senses is in the same frame with the same names: contexts of different senses are not worded
    less alike than contexts of the same sense, so that wording works against a difference. Training
    had no such frame. `topic` is the word, `label` the sense.
    """
    rows = []
    for word, both in SENSES.items():
        for sense in both:
            for number, cue in enumerate(sense.cues):
                frame = HELD_OUT_FRAMES[number % len(HELD_OUT_FRAMES)]
                name, relative = NAMES[number][0], RELATIVES[number]
                context = frame.format(name=name, relative=relative, cue=cue)
                rows.append(
                    {
                        "instruction": f"{context} The {word}",
                        "label": sense.name,
                        "split": "test",
                        "topic": word,
                        "subject": word,
                        "cue": cue,
                    }
                )
    return rows
