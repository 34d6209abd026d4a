"""Position rules: what a study collects, against tokens counted by hand."""

import pandas as pd
import pytest
import torch
from families import tiny, tokenizer

from pipeline.data.positions import locate, resolve
from pipeline.engine.collection import collect
from pipeline.engine.conditions import PromptPositions
from pipeline.model.sites import Site

CHATTY = tokenizer().__class__(tokenizer_object=tokenizer().backend_tokenizer, bos_token="<bos>")
CHATTY.chat_template = (
    "{{ bos_token }} w10 {% for m in messages %}{{ m['content'] }}{% endfor %} w7 w8"
)
# <bos> w10 | the instruction | w7 w8
DATASET = pd.DataFrame(
    {
        "sample": [3, 8],
        "prompt": ["<bos> w10 w20 w21 w22 w7 w8", "<bos> w10 w30 w31 w7 w8"],
        "tokens": [[1, 10, 20, 21, 22, 7, 8], [1, 10, 30, 31, 7, 8]],
        "subject": ["w20 w21", "w31"],
        "answer": [" w40", " w41 w42"],
        "raw": False,
    }
)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", {3: (6,), 8: (5,)}),
        ("template", {3: (5, 6), 8: (4, 5)}),
        ("all", {3: tuple(range(7)), 8: tuple(range(6))}),
        ("subject", {3: (3,), 8: (3,)}),
        ([0, -3], {3: (0, 4), 8: (0, 3)}),
    ],
)
def test_rules_name_the_tokens_they_say(rule, expected):
    tokens, places = locate(DATASET, CHATTY, rule, variables=None)
    assert places == expected
    assert tokens == {3: DATASET.at[0, "tokens"], 8: DATASET.at[1, "tokens"]}


def test_an_answer_follows_its_prompt():
    tokens, places = locate(DATASET, CHATTY, "answer", variables=None)
    assert tokens == {3: [1, 10, 20, 21, 22, 7, 8, 40], 8: [1, 10, 30, 31, 7, 8, 41, 42]}
    assert places == {3: (7,), 8: (6, 7)}


def test_a_completion_follows_its_prompt_and_the_token_before_it_is_taken():
    """The first completion of a prompt brings the prompt's own tokens, but for the first one."""
    drawn = pd.concat([DATASET, DATASET.iloc[:1].assign(sample=9)], ignore_index=True)
    completions = [[50, 51], [60], [52]]
    tokens, places = locate(
        drawn.assign(completion_tokens=completions), CHATTY, "completion", variables=None
    )
    first, second = DATASET["tokens"]
    assert tokens == {3: [*first, 50, 51], 8: [*second, 60], 9: [*first, 52]}
    assert places == {3: tuple(range(1, 9)), 8: tuple(range(1, 7)), 9: (6, 7)}
    with pytest.raises(ValueError, match="of sample 3: the dataset has no recorded completions"):
        locate(drawn, CHATTY, "completion", variables=None)
    with pytest.raises(ValueError, match="'completion' is unknown; valid: all, after_first, last"):
        resolve(drawn, CHATTY, "completion", variables=None)


@pytest.mark.parametrize(
    ("rule", "column", "message"),
    [
        ("first", {}, "'first' is unknown; valid: last, template, all, subject, subject_tokens,"),
        ([], {}, r"\[\] is unknown"),
        ("template", {"raw": True}, "of sample 3: a raw text has no template"),
        ([-9], {}, "of sample 3: there is no position -9 among 7 tokens"),
        ("subject", {"subject": ["w20", "w99"]}, "of sample 8: subject 'w99' is not in the prompt"),
        ("answer", {"answer": [" w5", ""]}, "of sample 8: there is no answer"),
        ("answer", {"answer": [" w5", "w5"]}, "of sample 8: answer 'w5' begins inside of the last"),
    ],
)
def test_what_cannot_be_placed_is_named(rule, column, message):
    with pytest.raises(ValueError, match=message):
        locate(DATASET.assign(**column), CHATTY, rule, variables=None)


def test_a_sweep_gets_the_places_of_its_prompts_in_their_order():
    assert resolve(DATASET, CHATTY, "generated", variables=None) == "generated"
    for rule in ("template", "subject", "answer", [0, -3]):
        found = resolve(DATASET.iloc[::-1], CHATTY, rule, variables=None)
        _, places = locate(DATASET, CHATTY, rule, variables=None)
        assert isinstance(found, PromptPositions)
        assert (found.rule, found.of) == (str(rule), [places[8], places[3]])
    with pytest.raises(ValueError, match="'first' is unknown; valid: all, after_first, last"):
        resolve(DATASET, CHATTY, "first", variables=None)


@pytest.mark.parametrize("rule", ["subject", "answer"])
def test_collection_takes_each_prompts_own_positions(rule):
    model = tiny("llama")
    tokens, places = locate(DATASET, CHATTY, rule, variables=None)
    site = Site(1, "resid_post")
    values, rows = collect(
        model, list(tokens.values()), [site], PromptPositions(rule, list(places.values()))
    )
    assert list(zip(rows["prompt"], rows["position"], strict=True)) == [
        (number, position) for number, own in enumerate(places.values()) for position in own
    ]
    for number, ids in enumerate(tokens.values()):
        states = model.hf(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
        at = rows.index[rows["prompt"] == number]
        expected = states[list(places[[3, 8][number]])]
        torch.testing.assert_close(values[site][at], expected, atol=1e-5, rtol=1e-5)
