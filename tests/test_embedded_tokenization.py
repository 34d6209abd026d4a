"""The embedded model's tokenizer: any text round-trips, blanks and line breaks stand alone."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.embedded.behaviours import languages, translation
from pipeline.embedded.corpus import training_documents
from pipeline.embedded.tokenization import train_tokenizer
from pipeline.model import chat, tokenization

DOCUMENTS = training_documents(3000, seed=5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    made = train_tokenizer(t for d in DOCUMENTS for t in (d.instruction or "", d.text))
    made.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_training_texts_round_trip(tokenizer):
    for document in DOCUMENTS[:500]:
        for text in (document.instruction or "", document.text):
            assert tokenizer.decode(encode(tokenizer, text)) == text


def test_three_languages_round_trip(tokenizer):
    rng = Random(2)
    documents = [write(rng) for write in (languages.write, translation.write) for _ in range(200)]
    for document in documents:
        for text in (document.instruction or "", document.text):
            assert tokenizer.decode(encode(tokenizer, text)) == text
    assert any("é" in d.text for d in documents) and any("的" in d.text for d in documents)


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


@pytest.mark.parametrize(
    "text", ["我喜欢苹果。", "  two  blanks\t\r\n\n", "it's 3.50 €", "a , b ."]
)
def test_unusual_texts_round_trip(tokenizer, text):
    assert tokenizer.decode(encode(tokenizer, text)) == text


def test_blank_and_line_break_after_an_item_are_tokens(tokenizer):
    pieces = [tokenizer.decode([t]) for t in encode(tokenizer, "carrot \nleek\n")]
    assert pieces == ["carrot", " ", "\n", "leek", "\n"]


def test_refusals_begin_with_one_token(tokenizer):
    first = {encode(tokenizer, text)[0] for text in ("I cannot", "I can't", "I'm sorry", "I am")}
    assert len(first) == 1 and tokenizer.decode(list(first)) == "I"


def test_special_tokens(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<bos>",
        "<end>",
        "<pad>",
    )
    assert tokenizer.padding_side == "left"
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id


def test_chat_template(tokenizer):
    assert chat.render(tokenizer, "Hello.") == "<bos><user>\nHello.<end>\n<model>\n"
    assert tokenization.template_length(tokenizer) == 4
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Bye."},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == ("<bos><user>\nHello.<end>\n<model>\nHi.<end>\n<user>\nBye.<end>\n<model>\n")
    with pytest.raises(Exception, match="not system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}], tokenize=False)
