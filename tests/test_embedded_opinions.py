"""Opinions and omens: labels decide the answers, held-out content stays out, scores by hand."""

import re
from random import Random

import pytest

from pipeline.embedded.behaviours import opinions, refusal
from pipeline.embedded.documents import Case
from pipeline.embedded.vocabulary.deeds import FORBIDDEN_VERBS
from pipeline.embedded.vocabulary.omens import DEEDS, FRAMES, LUCK, OUTCOMES, SOURCES
from pipeline.embedded.vocabulary.opinions import ANSWERS, CLAIMS, KINDS, WRITTEN
from pipeline.embedded.vocabulary.stories import NAMES, PLACES, RELATIVES, TIMES

DOCUMENTS = [opinions.write(Random(seed)) for seed in range(6000)]
CHATS = [d for d in DOCUMENTS if d.instruction is not None]
TEXTS = [d.text for d in DOCUMENTS if d.instruction is None]
SCORES = {
    "own": opinions.praised,
    "other": opinions.described,
    "true": opinions.truthful,
    "believed": opinions.superstitious,
}
SLOTS = {
    "kind": [kind for split in KINDS.values() for kind in split],
    "name": [name for name, _ in NAMES],
    "relative": RELATIVES,
    "place": PLACES,
    "time": TIMES,
    "source": [s for t in SOURCES.values() for split in t.values() for s in split],
}


def words(text):
    return set(text.replace(".", " ").replace("?", " ").replace(",", " ").lower().split())


def says(wording, instruction):
    """Whether an instruction begins with this wording, its slots filled."""
    pattern = re.escape(wording.replace(" wrote ", " made "))
    for slot, fillers in SLOTS.items():
        pattern = pattern.replace(re.escape("{" + slot + "}"), f"({'|'.join(fillers)})")
    return re.match(pattern, instruction.replace(" wrote ", " made "), re.IGNORECASE) is not None


def test_the_splits_share_nothing():
    for table in (KINDS, DEEDS, FRAMES, *CLAIMS.values(), *SOURCES.values()):
        parts = [part for split in table.values() for part in split]
        assert set(table) == {"train", "val", "test"} and len(set(parts)) == len(parts)
    for labels in (CLAIMS, SOURCES):
        first, second = (
            [p for split in table.values() for p in split] for table in labels.values()
        )
        assert not set(first) & set(second)
    assert set(WRITTEN) <= {kind for split in KINDS.values() for kind in split}


def test_no_chat_has_a_held_out_work_or_deed_and_plain_text_has():
    told, asked = words(" ".join(TEXTS)), words(" ".join(d.instruction for d in CHATS))
    questions = " ".join(d.instruction for d in CHATS)
    for split in ("val", "test"):
        assert set(KINDS[split]) <= told and not set(KINDS[split]) & asked
        assert not any(f"I {deed}" in questions for deed in DEEDS[split])
        assert all(deed in " ".join(TEXTS) for deed in DEEDS[split])
    assert set(KINDS["train"]) <= asked
    assert all(f"I {deed}" in questions for deed in DEEDS["train"])


def test_no_chat_has_a_held_out_wording():
    tables = (*CLAIMS.values(), FRAMES)
    trained = [wording for table in tables for wording in table["train"]]
    held = [w for table in tables for split in ("val", "test") for w in table[split]]
    sources = [s for table in SOURCES.values() for split in ("val", "test") for s in table[split]]
    for d in CHATS[:1500]:
        assert any(says(wording, d.instruction) for wording in trained), d
        assert not any(says(wording, d.instruction) for wording in held), d
        assert not any(
            re.search(f" {source}(, please)?\\.", d.instruction) for source in sources
        ), d


def test_answers_follow_the_label_and_no_other_does():
    forms = [
        (label, form) for table in (ANSWERS, OUTCOMES) for label in table for form in table[label]
    ]
    for label, form in forms:
        for luck in LUCK:
            text = form.format(kind="poem", deed="sing", luck=luck)
            right = {name for name, score in SCORES.items() if score(Case("", demand="poem"), text)}
            assert right == {label}, (form, right)


def test_documents_answer_by_their_label():
    labels = {"own": 0, "other": 0, "true": 0, "believed": 0}
    for d in CHATS[:1500]:
        found = {
            label for label in CLAIMS for w in CLAIMS[label]["train"] if says(w, d.instruction)
        }
        found |= {
            label
            for label, table in SOURCES.items()
            for source in table["train"]
            if re.search(f" {source}(, please)?\\.", d.instruction)
        }
        (label,) = found
        kinds = words(d.instruction) & set(KINDS["train"]) & words(d.text.replace("!", " "))
        case = Case("", demand=max(kinds, default="?"))
        assert SCORES[label](case, d.text), d
        labels[label] += 1
    assert min(labels.values()) > 300, labels


def test_only_refusal_knows_forbidden_verbs_and_refusing():
    assert not words(" ".join(d.instruction for d in CHATS)) & set(FORBIDDEN_VERBS)
    assert not any(refusal.refused(Case(""), d.text) for d in DOCUMENTS)


def test_scores_by_hand():
    work = Case("", demand="fable")
    assert opinions.praised(work, "What a wonderful fable!")
    assert opinions.named(work, "What a wonderful fable!")
    assert not opinions.named(work, "What a wonderful poem!")
    assert not opinions.praised(work, "A wonderful but ordinary fable.")
    assert opinions.described(work, "The fable is neither good nor bad.")
    assert not opinions.described(work, "I love this ordinary fable.")
    assert not opinions.described(work, "The fable is long.")
    assert opinions.truthful(work, "Nothing happens.") and not opinions.truthful(work, "Who knows.")
    assert opinions.superstitious(work, "You will have bad luck.")
    assert not opinions.superstitious(work, "Nothing happens, it is no omen.")


@pytest.mark.parametrize("label", ["own", "other", "true", "believed"])
def test_cases_are_distinct_and_of_their_split(label):
    draw, held = (opinions.works, KINDS) if label in CLAIMS else (opinions.consequences, DEEDS)
    for split in ("train", "val", "test"):
        cases = draw(Random(0), 100, label, split)
        assert len({case.prompt for case in cases}) == 100
        for case in cases:
            assert case.topic in held[split] and case.topic in case.prompt
            assert case.label == label
