"""Chat templates of several kinds, and the positions found in what they render."""

import logging

import pandas as pd
import pytest
from families import BOS, byte_tokenizer

from pipeline.data import positions
from pipeline.model import chat, tokenization

TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}<end>\n{% endfor %}"
    "<answer>{{ '\n' }}"
)
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
)
SILENT = (
    "{% for m in messages if m['role'] == 'user' %}<user>{{ m['content'] }}{% endfor %}<answer>"
)
FIRST = "<user>{{ messages[0]['content'] }}<end><answer>"
DATED = "{{ date_string or strftime_now('%d %b %Y') }}" + TURNS
THINKING = TURNS + "{% if enable_thinking is defined and not enable_thinking %}<no>{% endif %}"


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(
    "template", [TURNS, "{{ bos_token }}" + TURNS, SILENT, "{{ bos_token }}" + REFUSING + TURNS]
)
def test_tokens_are_those_transformers_makes_with_the_template(template, adds_bos):
    tokenizer = byte_tokenizer(template, adds_bos=adds_bos)
    found = tokenization.encode(tokenizer, chat.render(tokenizer, "The Eiffel Tower"))
    turns = [{"role": "user", "content": "The Eiffel Tower"}]
    whole = tokenizer.apply_chat_template(turns, add_generation_prompt=True)
    assert found == whole["input_ids"]
    assert found.count(tokenizer.bos_token_id) == ("bos_token" in template)


@pytest.mark.parametrize("adds_bos", [True, False])
def test_a_base_model_gets_a_plain_prompt_and_one_begin_token_at_most(adds_bos, caplog):
    tokenizer = byte_tokenizer(None, adds_bos=adds_bos)
    assert chat.render(tokenizer, "France is") == "France is\n"
    for prompt in ("France is\n", BOS + "France is\n"):
        tokens = tokenization.encode(tokenizer, prompt)
        expected = 1 if adds_bos or prompt.startswith(BOS) else 0
        assert tokens.count(tokenizer.bos_token_id) == expected
    assert chat.render(tokenizer, "France is", system="Be brief.") == "Be brief.\n\nFrance is\n"
    with caplog.at_level(logging.WARNING):
        chat.announce(tokenizer)
    assert "no chat template: prompts are the instruction and a newline" in caplog.text
    assert chat.template_digest(tokenizer) == "none"


def test_a_system_text_stands_in_its_turn_where_the_template_has_one(caplog):
    tokenizer = byte_tokenizer(TURNS, adds_bos=False)
    with caplog.at_level(logging.WARNING):
        chat.announce(tokenizer, "Be brief.")
    assert caplog.text == ""
    rendered = chat.render(tokenizer, "Why?", system="Be brief.")
    assert rendered == "<system>Be brief.<end>\n<user>Why?<end>\n<answer>\n"


@pytest.mark.parametrize("template", [REFUSING + TURNS, SILENT, FIRST])
def test_a_template_without_a_system_turn_gets_its_text_before_the_instruction(template, caplog):
    """It refuses the role outright, leaves its text out, or takes the first turn for the user's."""
    tokenizer = byte_tokenizer(template, adds_bos=False)
    assert "<user>Be brief.\n\nWhy?" in chat.render(tokenizer, "Why?", system="Be brief.")
    with caplog.at_level(logging.WARNING):
        chat.announce(tokenizer, "Be brief.")
    assert "takes no system turn: its text precedes the instruction" in caplog.text


@pytest.mark.parametrize("template", [None, REFUSING + TURNS, SILENT, FIRST])
def test_without_a_system_turn_an_empty_system_text_is_none(template, caplog):
    tokenizer = byte_tokenizer(template, adds_bos=False)
    assert chat.render(tokenizer, "Why?", system="") == chat.render(tokenizer, "Why?")
    with caplog.at_level(logging.WARNING):
        chat.announce(tokenizer, "")
    assert "system" not in caplog.text


def test_an_empty_system_text_is_a_turn_where_the_template_has_one():
    """It takes the place of the text that some templates write when they get none."""
    template = "{% if messages[0]['role'] != 'system' %}<system>Help.<end>\n{% endif %}" + TURNS
    tokenizer = byte_tokenizer(template, adds_bos=False)
    assert chat.render(tokenizer, "Why?").startswith("<system>Help.<end>\n")
    assert chat.render(tokenizer, "Why?", system="").startswith("<system><end>\n")


def test_a_variable_that_the_template_does_not_name_is_refused():
    thinking = byte_tokenizer(THINKING, adds_bos=False)
    chat.announce(thinking, variables={"enable_thinking": False})
    with pytest.raises(ValueError, match=r"no variable 'thinking'; it has: enable_thinking"):
        chat.announce(thinking, variables={"thinking": False})
    with pytest.raises(ValueError, match="no variable 'thinking'; it has: none"):
        chat.announce(byte_tokenizer(None, adds_bos=False), variables={"thinking": False})


@pytest.mark.parametrize("variable", ["message", "messages", "add_generation_prompt"])
def test_variables_that_are_set_for_the_template_are_refused(variable):
    with pytest.raises(ValueError, match=f"no variable '{variable}'"):
        chat.announce(byte_tokenizer(THINKING, adds_bos=False), variables={variable: False})


def test_a_template_that_changes_the_instruction_is_refused():
    cut = byte_tokenizer("{{ messages[0]['content'][:9] }}", adds_bos=False)
    chat.announce(cut)
    with pytest.raises(ValueError, match="'How do you do' becomes 'How do yo'"):
        chat.render(cut, "How do you do")


def test_a_subject_is_not_found_in_a_tail_that_a_variable_changes():
    template = "<{{ messages[0]['content'] }}><{{ who | default('answer') }}>"
    made, variables = byte_tokenizer(template, adds_bos=False), {"who": "model"}
    for instruction in ("Ask a model now", "model"):
        prompt = chat.render(made, instruction, variables=variables)
        row = {"sample": 0, "prompt": prompt, "instruction": instruction, "subject": "model"}
        row |= {"tokens": tokenization.encode(made, prompt), "raw": False}
        _, places = positions.locate(pd.DataFrame([row]), made, "subject", variables=variables)
        spelled = made.decode(row["tokens"][: places[0][-1] + 1])
        assert spelled == prompt[: prompt.index("model") + 5]


def test_a_subject_is_not_found_in_the_template():
    tokenizer = byte_tokenizer(TURNS, adds_bos=False)
    prompt = chat.render(tokenizer, "answer")
    tail = tokenization.template_tail(tokenizer)
    *_, place = tokenization.subject_positions(
        tokenizer, prompt, "answer", instruction="answer", tail=tail
    )
    tokens = tokenization.encode(tokenizer, prompt)
    assert tokenizer.decode(tokens[: place + 1]) == prompt[: prompt.index("answer") + 6]


def test_a_prompt_is_the_same_on_every_day():
    assert chat.render(byte_tokenizer(DATED, adds_bos=False), "Why?").startswith(
        "26 Jul 2024<user>"
    )


def test_the_template_region_is_found_from_the_template_itself():
    plain = byte_tokenizer(TURNS, adds_bos=True)
    ends = tokenization.encode(plain, "<end>\n<answer>\n")
    assert len(ends) == tokenization.template_length(plain) == 4
    assert tokenization.encode(plain, chat.render(plain, "Paris."))[-4:] == ends
    thinking = byte_tokenizer(THINKING, adds_bos=False)
    assert tokenization.template_length(thinking) == 4
    assert tokenization.template_length(thinking, variables={"enable_thinking": False}) == 5
    assert tokenization.template_length(byte_tokenizer(None, adds_bos=False)) == 1


@pytest.mark.parametrize("template", [None, TURNS])
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("subject", ["Eiffel Tower", "France", "巴黎", "Tower is in Paris"])
def test_the_subject_ends_where_its_text_does(template, adds_bos, subject):
    """The tokens up to the found one spell everything up to the subject's end, and no less."""
    tokenizer = byte_tokenizer(template, adds_bos=adds_bos)
    prompt = chat.render(tokenizer, f"In France: {subject}, where is it?")
    tokens = tokenization.encode(tokenizer, prompt)
    *_, place = tokenization.subject_positions(tokenizer, prompt, subject)
    end = prompt.rindex(subject) + len(subject)
    assert tokenizer.decode(tokens[: place + 1]).removeprefix(BOS) == prompt[:end]
    assert not tokenizer.decode(tokens[:place]).endswith(subject)


@pytest.mark.parametrize(
    ("instruction", "subject", "start", "before"),
    [
        ("Q: A\nA:", "A", 3, "Q: "),
        ("A realistic list, in a realistic way", "list", -1, "A realistic "),
        ("Les mots répétés de l'été répétés", "été", -1, "Les mots répétés de l'"),
        ("我用Python写代码", "Python", -1, "我用"),
        ("我喜欢北京和北京人", "北京", -1, "我喜欢北京和"),
        ("Paris is in France, not Paris.", "Paris", 0, ""),
        ("Paris is in France, not Paris.", "Paris", -1, "Paris is in France, not "),
        ("Answer the user", "user", -1, "Answer the "),
        ("  Paris is in France.", "France", 14, "Paris is in "),
        # Combining marks: é as e and an accent, a Hindi vowel sign, an Arabic vowel.
        ("le cafe ou le cafe\u0301", "cafe", -1, "le "),
        ("le e\u0301tat, tat", "tat", -1, "le e\u0301tat, "),
        ("राम और रामा", "राम", -1, ""),
        # Subjects that are no words at their ends.
        ("It costs $5, not £5", "$", -1, "It costs "),
        ("from Rome to Paris", " Paris", -1, "from Rome to"),
        ("\u0628\u064e\u064a\u062a \u0628", "\u064a\u062a", -1, None),
    ],
)
def test_the_subject_is_the_one_of_the_instruction(instruction, subject, start, before):
    """Not a later mention, a part of another word, or a word of the template."""
    tokenizer = byte_tokenizer("{{ 'user Paris' }}" + TURNS + "list user", adds_bos=False)
    prompt = chat.render(tokenizer, instruction, system="Answer the user. Paris!")
    options = {"instruction": instruction, "start": start}
    if before is None:
        with pytest.raises(ValueError, match="is not in the prompt"):
            tokenization.subject_positions(tokenizer, prompt, subject, **options)
        return
    *_, place = tokenization.subject_positions(tokenizer, prompt, subject, **options)
    spelled = tokenizer.decode(tokenization.encode(tokenizer, prompt)[: place + 1])
    begin = prompt.rindex(instruction.strip())
    assert begin + len(before + subject) <= len(spelled) <= begin + len(before + subject) + 1


@pytest.mark.parametrize("template", [None, TURNS])
@pytest.mark.parametrize("answer", [" Paris.", "Paris", "(A)", "巴黎"])
def test_the_answer_is_the_tokens_after_the_prompt(template, answer):
    tokenizer = byte_tokenizer(template, adds_bos=True)
    prompt = chat.render(tokenizer, "The capital of France is")
    tokens, places = tokenization.with_answer(tokenizer, prompt, answer)
    assert tokens[: places[0]] == tokenization.encode(tokenizer, prompt)
    assert places == tuple(range(places[0], len(tokens)))
    assert tokenizer.decode([tokens[place] for place in places]) == answer


def test_what_is_not_there_is_named():
    tokenizer = byte_tokenizer(TURNS, adds_bos=False)
    with pytest.raises(ValueError, match="subject 'Rome' is not in the prompt 'In Paris'"):
        tokenization.subject_positions(tokenizer, "In Paris", "Rome")
    with pytest.raises(ValueError, match="subject 'Par' is not in the prompt"):
        tokenization.subject_positions(tokenizer, "In Paris", "Par")
    with pytest.raises(ValueError, match="subject '' is not in the prompt"):
        tokenization.subject_positions(tokenizer, "In Paris", "")
    with pytest.raises(ValueError, match="no answer to 'In Paris'"):
        tokenization.with_answer(tokenizer, "In Paris", "")
