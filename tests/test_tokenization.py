"""Tokens of texts: their bytes put together are the text, whatever the tokenizer."""

import pandas as pd
import pytest
import tokenizers
import transformers
from families import byte_tokenizer, tiny
from tokenizers.pre_tokenizers import ByteLevel

from pipeline.methods.representations import tokenization
from pipeline.methods.representations.tokenization import token_bytes, token_table
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenizer import load_tokenizer

TEXTS = [
    "The capital of France is Paris.",
    " naïve café\n\tœuf",
    "饥饿的狐狸 🦊",
    "x = 12345\r\n",
    "\x00\x7f\xad",
]


def sentencepiece() -> transformers.PreTrainedTokenizerFast:
    """Blanks as ▁, characters without a token as bytes, as Llama 2 and Gemma have them."""
    vocab = {"<unk>": 0, "<bos>": 1, **{f"<0x{n:02X}>": 2 + n for n in range(256)}}
    for character in "▁ abcdefghijklmnopqrstuvwxyzTFP.":
        vocab.setdefault(character, len(vocab))
    vocab |= {"▁c": len(vocab), "▁ca": len(vocab) + 1}
    merges = [("▁", "c"), ("▁c", "a")]
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
        ]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<bos>"
    )


TOKENIZERS = {
    "byte level": lambda: byte_tokenizer(None, adds_bos=True),
    "embedded": lambda: load_tokenizer("data/embedded_model", None),
    "sentencepiece": sentencepiece,
}


def dataset(texts) -> pd.DataFrame:
    named = {"label": "l", "split": "test", "topic": "t", "answer": ""}
    return pd.DataFrame({"instruction": texts}).assign(sample=range(len(texts)), **named)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_bytes_of_the_tokens_put_together_are_the_text(kind):
    model = LanguageModel(tiny("llama").hf, TOKENIZERS[kind](), name=kind)
    table = token_table(model, dataset(TEXTS))
    for (_, text), rows in table.groupby(["sample", "text"]):
        assert b"".join(map(bytes.fromhex, rows["bytes"])) == text.encode()
        assert rows["token"].tolist() == model.tokenizer.encode(text, add_special_tokens=False)
        assert rows["index"].tolist() == list(range(len(rows)))
        assert rows["tokens"].eq(len(rows)).all()
        assert rows["words"].eq(len(text.split())).all()
        assert rows["text_bytes"].eq(len(text.encode())).all()
    assert set(table["text"]) == set(TEXTS)


def test_pieces_are_the_texts_of_tokens_and_parts_of_a_character_are_marked():
    model = LanguageModel(tiny("llama").hf, sentencepiece(), name="pieces")
    table = token_table(model, dataset([" cat œ"]))
    part = "\N{REPLACEMENT CHARACTER}"
    assert table["piece"].tolist() == [" ca", "t", " ", part, part]
    assert table["bytes"].tolist() == ["20 63 61", "74", "20", "c5", "93"]


def test_the_alphabet_of_bytes_is_that_of_the_tokenizers_library():
    assert set(tokenization._BYTES) == set(ByteLevel.alphabet())
    level = ByteLevel(add_prefix_space=False, use_regex=False)
    for byte in range(128):
        ((character, _),) = level.pre_tokenize_str(chr(byte))
        assert tokenization._BYTES[character] == byte


def test_a_special_token_stands_for_its_name():
    made = byte_tokenizer(None, adds_bos=False)
    assert token_bytes(made, made.bos_token_id) == b"<bos>"


def test_columns_are_read_in_turn_and_empty_texts_are_skipped():
    model = LanguageModel(tiny("llama").hf, byte_tokenizer(None, adds_bos=False), name="bytes")
    prompts = dataset(["Paris is", "France"])
    prompts.loc[1, "answer"] = " in France"
    table = token_table(model, prompts, columns=["instruction", "answer"])
    texts = table.drop_duplicates(["sample", "column"])
    assert texts[["sample", "column", "text"]].to_numpy().tolist() == [
        [0, "instruction", "Paris is"],
        [1, "instruction", "France"],
        [1, "answer", " in France"],
    ]
    with pytest.raises(ValueError, match="no column 'words' in the dataset; it has: instruction"):
        token_table(model, prompts, columns=["words"])
    with pytest.raises(ValueError, match="no text in columns answer; valid: one or more"):
        token_table(model, prompts[:1], columns=["answer"])
