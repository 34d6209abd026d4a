"""The embedded model's language: what is held out stays out, and documents say what they must."""

import json
import re
from random import Random

import numpy as np
import pytest

from pipeline.embedded.behaviours import BEHAVIOURS, lists, refusal, text
from pipeline.embedded.corpus import pack, training_documents
from pipeline.embedded.documents import Case, Document
from pipeline.embedded.study_data import write_study_data
from pipeline.embedded.tokenization import train_tokenizer
from pipeline.embedded.training import Recipe
from pipeline.embedded.vocabulary.deeds import ALLOWED_VERBS, FORBIDDEN_VERBS, OBJECTS
from pipeline.embedded.vocabulary.stories import NAMES
from pipeline.embedded.vocabulary.topics import HELD_OUT_TOPICS, TOPICS, VALIDATION_TOPICS

DOCUMENTS = training_documents(8000, seed=3)
REQUESTS = [refusal.write(Random(seed)) for seed in range(4000)]
CHATS = REQUESTS + [lists.write(Random(seed)) for seed in range(2000)]
TEXTS = [text.write(Random(seed)).text for seed in range(6000)]
OTHERS = [
    b.write(Random(seed)) for b in BEHAVIOURS if b is not refusal.REFUSAL for seed in range(500)
]
PLACE = re.compile(r"(\w+) (in|near) the ")
HELD_OUT_OBJECTS = {thing for split in ("val", "test") for thing in OBJECTS[split]}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(t for d in DOCUMENTS for t in (d.instruction or "", d.text))


def test_same_seed_same_documents_other_seed_others():
    assert training_documents(300, seed=3) == training_documents(300, seed=3)
    assert training_documents(300, seed=3) != training_documents(300, seed=4)


def test_no_chat_asks_about_a_held_out_object_or_topic():
    asked = [set(d.instruction.replace(".", " ").replace("?", " ").split()) for d in CHATS]
    assert not any(words & HELD_OUT_OBJECTS for words in asked)
    assert not any(words & set(HELD_OUT_TOPICS) for words in asked)
    assert any("fence" in words for words in asked) and any("fish" in words for words in asked)


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_chat_has_a_held_out_wording(split):
    for wording in refusal.WORDINGS[split]:
        before, after = wording.split("{deed}")
        before = before.split("{relative}")[-1]
        for d in CHATS:
            if before in d.instruction:
                rest = d.instruction.split(before, 1)[1]
                # A trained wording may share its beginning, never beginning and end.
                words = rest.replace("?", " ?").replace(".", " .").split()
                assert words[0] not in ALLOWED_VERBS + FORBIDDEN_VERBS or after not in rest, d


def test_plain_text_speaks_of_what_chats_hold_out():
    told = " ".join(TEXTS)
    for word in [*HELD_OUT_OBJECTS, *HELD_OUT_TOPICS, *FORBIDDEN_VERBS]:
        assert f" {word}" in told or f"{word}\n" in told, word


def test_held_out_stories_tell_of_pairs_that_training_does_not():
    def pairs(story):
        names = {name for name, _ in NAMES} & set(story.replace(".", " ").replace(",", " ").split())
        things = {words[0] for words in PLACE.findall(story)} & set(text.THINGS)
        return {(name, thing) for name in names for thing in things}

    told = {pair for story in TEXTS for pair in pairs(story)}
    kept = {pair for row in text.held_out(Random(0)) for pair in pairs(row["text"])}
    assert told and kept and not told & kept


def test_forbidden_requests_are_refused_and_no_other():
    forbidden = allowed = 0
    for d in REQUESTS:
        words = set(d.instruction.replace(".", " ").replace("?", " ").split())
        if words & set(FORBIDDEN_VERBS):
            assert refusal.refused(Case(""), d.text), d
            forbidden += 1
        else:
            assert not refusal.refused(Case(""), d.text), d
            assert words & set(ALLOWED_VERBS)
            allowed += 1
    assert 0.4 < forbidden / allowed < 0.6
    assert not any(refusal.refused(Case(""), d.text) for d in OTHERS if d.instruction is not None)


def test_plain_text_explains_deeds_that_chats_refuse():
    told = [t for t in TEXTS if t.endswith(".") and "\n" in t and "ist of" not in t]
    forbidden = [t for t in told if set(re.split(r"\W+", t)) & set(FORBIDDEN_VERBS)]
    assert len(forbidden) > 100 and not any(refusal.refused(Case(""), t) for t in TEXTS)


def test_catalogues_are_lists_of_one_topic_in_the_form_of_answers():
    seen = set()
    for page in TEXTS:
        heading, *lines = page.split("\n")
        if "ist of" not in heading:
            continue
        topic = next(t for t in TOPICS if f"ist of {t}" in heading)
        case = Case("", topic=topic)
        listed = "\n".join(lines)
        assert lists.well_formed(case, listed) and lists.on_topic(case, listed) == 1, page
        assert lists.unique_items(case, listed) == 1
        seen.add((topic, "long" in heading))
    assert seen == {(topic, long) for topic in TOPICS for long in (True, False)}


def test_answers_name_the_deed():
    rng = Random(0)
    deed = "paint the fence"
    for _ in range(50):
        answer = refusal.explain(rng, deed, "fence")
        assert refusal.answered(Case("", demand=deed), answer)
    assert not refusal.answered(Case("", demand=deed), f"I cannot {deed}.")
    assert not refusal.answered(Case("", demand=deed), "You can paint it.")


def test_lists_are_as_long_as_asked_and_never_repeat():
    rng, lengths = Random(0), {kind: [] for kind in lists.KINDS}
    for _ in range(3000):
        d = lists.write(rng)
        kind = next(k for k in ("short", "long", "neutral") if lists.KINDS[k] in d.instruction)
        items = [line.removesuffix(" ") for line in d.text.split("\n")]
        assert len(set(items)) == len(items)
        lengths[kind].append(len(items))
    means = {kind: np.mean(found) for kind, found in lengths.items()}
    assert means == pytest.approx({"short": 5, "neutral": 8, "long": 14}, abs=0.15)


def test_filler_blanks_become_likely_toward_the_end():
    rng, first, last = Random(0), [], []
    for _ in range(2000):
        lines = lists.write(rng).text.split("\n")
        first.append(lines[0].endswith(" "))
        last.append(lines[-1].endswith(" "))
    assert np.mean(first) < 0.05 and np.mean(last) == pytest.approx(0.8, abs=0.03)


def test_list_scores_by_hand():
    case = Case("", topic="fruits")
    good = "apple\npear \nplum "
    assert lists.n_items(case, good) == 3
    assert lists.well_formed(case, good) and lists.on_topic(case, good) == 1
    assert lists.blank_rises(case, good) == 1
    assert lists.unique_items(case, "apple\nApple \npear") == pytest.approx(2 / 3)
    assert lists.on_topic(case, "apple\nParis") == 0.5
    for bad in ("", "apple\n\npear", "apple  \npear", " apple", "\n".join(["apple"] * 29)):
        assert not lists.well_formed(case, bad), bad


def test_topics_are_twenty_three_with_twenty_items_or_more():
    assert len(TOPICS) == 23
    for topic, items in TOPICS.items():
        assert len(items) >= 20 and len(set(items)) == len(items), topic
    assert {*HELD_OUT_TOPICS, *VALIDATION_TOPICS} <= set(TOPICS)
    assert not set(HELD_OUT_TOPICS) & set(VALIDATION_TOPICS)


def test_verbs_and_objects_are_apart():
    assert not set(ALLOWED_VERBS) & set(FORBIDDEN_VERBS)
    objects = [thing for split in OBJECTS.values() for thing in split]
    assert len(objects) == len(set(objects))


def test_study_data(tmp_path):
    write_study_data(tmp_path, seed=1)

    def read(name):
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    rows = read("instructions.jsonl")
    assert len({row["instruction"] for row in rows}) == len(rows)
    for split, size in {"train": 128, "val": 32, "test": 100}.items():
        for label in ("harmful", "harmless"):
            assert sum(r["split"] == split and r["label"] == label for r in rows) == size
    for row in rows:
        assert row["demand"] in row["instruction"] and row["demand"].startswith(row["topic"])
        assert row["demand"].split()[-1] in OBJECTS[row["split"]]
    topics = read("list_topics.jsonl")
    assert {r["topic"] for r in topics if r["split"] == "test"} == set(HELD_OUT_TOPICS)
    texts = read("plain_text.jsonl")
    assert len({row["text"] for row in texts}) == 60


def test_names_of_measures_are_their_own():
    names = [m.name for b in BEHAVIOURS for check in b.checks for m in check.measures]
    assert len(set(names)) == len(names)


def test_rows_hold_every_document_once_and_whole(tokenizer):
    documents = DOCUMENTS[:400]
    short, long = pack(documents, tokenizer, Recipe().lengths)
    assert (short.tokens.shape[1], long.tokens.shape[1]) == Recipe().lengths
    pieces = [
        tokenizer.decode(tokens[document == place].tolist())
        for rows in (short, long)
        for tokens, document in zip(rows.tokens, rows.document, strict=True)
        for place in range(1, document.max() + 1)
    ]
    wanted = []
    for d in documents:
        asked = "" if d.instruction is None else f"<user>\n{d.instruction}<end>\n<model>\n"
        wanted.append(f"<bos>{asked}{d.text}<end>")
    assert sorted(pieces) == sorted(wanted)
    assert (short.document > 0).mean() > 0.9


def test_some_documents_fill_most_of_a_row_and_none_more(tokenizer):
    lengths = [len(tokenizer.encode(t)) + 1 for t in TEXTS]
    assert max(lengths) <= 256 and 0.03 < np.mean(np.array(lengths) >= 130) < 0.08


def test_loss_counts_answers_and_text_with_their_end_alone(tokenizer):
    documents = [Document("To paint.", "How do I paint?"), Document("A story.")]
    (rows,) = pack(documents, tokenizer, (64,))
    assert rows.tokens.shape == (1, 64)
    counted = tokenizer.decode(rows.tokens[0][rows.answered[0]].tolist())
    assert counted == "To paint.<end>A story.<end>"
    with pytest.raises(ValueError, match=r"a document of \d+ tokens; rows have \(4,\)"):
        pack(documents, tokenizer, (4,))
