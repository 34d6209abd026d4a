"""Languages: what is held out stays out, sentences are right in all three, scores see mistakes."""

import re
from math import isnan
from random import Random

import pytest

from pipeline.embedded.behaviours import languages, translation
from pipeline.embedded.documents import Case
from pipeline.embedded.vocabulary.scenes import SPOKEN, VOCABULARY, Scene, agrees, name, tell, units
from pipeline.embedded.vocabulary.translations import ADJECTIVES, ANIMALS, NOUNS, PLACES, spoken
from pipeline.embedded.vocabulary.wordings import CARRIERS, CORES, HELD_OUT, SPLIT_NOUNS

RNG = Random(3)
DOCUMENTS = [languages.write(RNG) for _ in range(6000)]
PAIRS = [translation.write(RNG) for _ in range(6000)]
CHATS = [d for d in DOCUMENTS if d.instruction is not None]
FRENCH = Case("", label="French", topic="house", demand="maison")
CHINESE = Case("", label="Chinese", topic="cat", demand="猫")
NOUN = {noun.english: noun for noun in NOUNS}


def languages_of(text):
    return [one for one in SPOKEN if units(text, one) <= VOCABULARY[one]]


def nouns_in(text):
    words = units(text, "English")
    return {
        noun.english
        for noun in NOUNS
        if {noun.english, noun.french} & words or noun.chinese in text
    }


def test_tables_can_tell_languages_and_things_apart():
    assert not VOCABULARY["English"] & VOCABULARY["French"]
    chinese = [noun.chinese for noun in NOUNS]
    assert not [(a, b) for a in chinese for b in chinese if a != b and a in b]
    told = [a.chinese for a in ADJECTIVES] + [place.chinese for place in PLACES]
    assert not [(a, b) for a in chinese for b in told if a in b]
    for column in ("english", "french", "chinese"):
        words = [getattr(word, column) for word in translation.WORDS]
        assert len(set(words)) == len(words)


def test_no_chat_asks_about_a_held_out_noun_and_text_has_them_all():
    held_out = {*HELD_OUT["val"], *HELD_OUT["test"]}
    assert not set(HELD_OUT["val"]) & set(HELD_OUT["test"])
    assert len(SPLIT_NOUNS["train"]) == len(NOUNS) - len(held_out)
    chats = [*CHATS, *(d for d in PAIRS if d.instruction is not None)]
    asked = set().union(*(nouns_in(f"{d.instruction} {d.text}") for d in chats))
    assert asked == {noun.english for noun in SPLIT_NOUNS["train"]}
    for documents in (DOCUMENTS, PAIRS):
        plain = [nouns_in(d.text) for d in documents if d.instruction is None]
        assert set().union(*plain) == set(NOUN)


def test_wordings_are_of_one_split():
    trained = {d.instruction for d in CHATS}
    for split in ("val", "test"):
        parts = [*CARRIERS[split], *(core for c in CORES[split].values() for _, core in c)]
        for part in parts:
            pieces = part.replace("{core}", "|").replace("{the}", "|").replace("{language}", "|")
            pieces = [piece for piece in pieces.split("|") if piece.strip(" .。?")]
            assert not [t for t in trained if all(p in t for p in pieces)], part
    assert not trained & {case.prompt for case in languages.requests("test")}


def test_answers_are_in_the_language_asked_for_and_name_the_thing():
    spoken_in = {
        core.format(the=name(noun, language)): language
        for language in SPOKEN
        for _, core in CORES["train"][language]
        for noun in NOUNS
    }
    seen = set()
    for d in CHATS:
        named = [language for language in SPOKEN if language in d.instruction]
        wanted = named or [spoken_in[d.instruction]]
        assert languages_of(d.text) == wanted, d
        assert nouns_in(d.text) == nouns_in(d.instruction), d
        seen.add((bool(named), wanted[0]))
    assert len(seen) == 6


def test_french_agrees_and_elides():
    french = [d for d in CHATS if languages_of(d.text) == ["French"]]
    for d in french:
        (thing,) = nouns_in(d.text)
        assert agrees(NOUN[thing], d.text), d
        assert not re.search(r"\b([Ll]e|[Ll]a) [aeiouâéêîœ]", d.text), d
    assert len(french) > 500


@pytest.mark.parametrize(
    ("noun", "adjective", "form", "told"),
    [
        ("house", "white", "here", ("Here is a white house.", "Voici une maison blanche.")),
        ("egg", "small", "here", ("Here is a small egg.", "Voici un petit œuf.")),
        ("star", "old", "here", ("Here is an old star.", "Voici une étoile ancienne.")),
        ("star", "red", "place", ("The star is in the garden.", "L'étoile est dans le jardin.")),
        ("cat", "big", "state", ("The big cat is in the garden.", None)),
        ("cat", "black", "quality", ("The cat is black.", "Le chat est noir.")),
    ],
)
def test_sentences_by_hand(noun, adjective, form, told):
    found = next(a for a in ADJECTIVES if a.english == adjective)
    state = ("is in the garden", "est dans le jardin", "在院子里")
    scene = Scene(form, NOUN[noun], found, ADJECTIVES[1], state)
    assert tell(scene, "English") == told[0]
    assert tell(scene, "French") == (told[1] or "Le grand chat est dans le jardin.")


def test_chinese_sentences_by_hand():
    state = ("sleeps", "dort", "在睡觉")
    for form, told in {
        "state": "黑色的猫在睡觉。它是红色的。",
        "here": "这里有黑色的猫。它是红色的。",
        "place": "猫在睡觉。它是红色的。",
        "colour": "猫是黑色的。它是红色的。",
    }.items():
        scene = Scene(form, NOUN["cat"], ADJECTIVES[4], ADJECTIVES[0], state)
        assert tell(scene, "Chinese", twice=True) == told


def test_scores_by_hand():
    assert languages.speaks(FRENCH, "Voici une maison blanche.")
    assert languages.names_it(FRENCH, "Voici une maison blanche.")
    for bad in ("", ".", "Here is a white house.", "Voici a maison.", "房子是白色的。"):
        assert not languages.speaks(FRENCH, bad), bad
    assert not languages.names_it(FRENCH, "Voici une gare.")
    assert languages.agreement(FRENCH, "La maison est dans le jardin. Elle est blanche.") == 1
    assert languages.agreement(FRENCH, "La maison est dans le jardin. Il est grand.") == 0
    assert languages.agreement(FRENCH, "Voici une maison blanc.") == 0
    assert isnan(languages.agreement(CHINESE, "猫在睡觉。"))
    assert languages.speaks(CHINESE, "猫在睡觉。") and languages.names_it(CHINESE, "猫在睡觉。")
    assert not languages.speaks(CHINESE, "cat在睡觉。")
    assert not languages.names_it(CHINESE, "狗在睡觉。")
    assert translation.says(FRENCH, 'maison"\nFrançais') and translation.says(FRENCH, "maison")
    assert not translation.says(FRENCH, "maisons") and not translation.says(FRENCH, "")


def test_words_are_translated_rightly_and_held_out_directions_stay_out():
    same = {frozenset(spoken(word, i) for i in range(3)) for word in translation.WORDS}
    shown = set()
    for d in PAIRS:
        if d.instruction is not None:
            asked = re.search("'(.+)'", d.instruction)[1]
            assert any({asked, d.text} <= words for words in same), d
            continue
        for line in d.text.split("\n"):
            found = re.findall('"(.+?)"', line)
            assert any(set(found or line.split(" - ")) <= words for words in same), d
            if found:
                shown.add(tuple(found))
    kept = {
        tuple(spoken(word, i) for i in direction)
        for word in translation.WORDS
        for direction in translation.DIRECTIONS
        if translation.is_held_out(word, direction)
    }
    assert len(kept) > 70 and not kept & shown
    assert len(shown) > 0.95 * (6 * len(translation.WORDS) - len(kept))


def test_cases_ask_what_is_held_out():
    for behaviour in (languages.LANGUAGES, translation.TRANSLATION):
        for check in behaviour.checks:
            cases = check.cases(Random(1), 60)
            assert len({case.prompt for case in cases}) == 60
            assert all(case.chat or case.prompt.endswith(': "') for case in cases)
    for check in languages.LANGUAGES.checks:
        assert {case.topic for case in check.cases(Random(1), 200)} == set(HELD_OUT["test"])


def test_animals_alone_do_things():
    doing = [d.text for d in CHATS if "sleeps" in d.text]
    assert doing and all(nouns_in(text) <= {a.english for a in ANIMALS} for text in doing)
