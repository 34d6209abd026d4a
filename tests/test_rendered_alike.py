"""Prompts that methods make of a study's prompts are rendered as those are."""

from pathlib import Path

import pandas as pd
import pytest
from families import byte_tokenizer, tiny, write_model

from pipeline import LanguageModel, prompt_table
from pipeline.config.sections import Model
from pipeline.data.datasets import tokenise
from pipeline.methods.circuits.components import corrupted_tokens
from pipeline.methods.editing.rome import contexts_of
from pipeline.methods.patchscopes import source_prompts
from pipeline.methods.relations.edits import target_facts
from pipeline.model import chat
from pipeline.model.loading import load_model, without_weights
from pipeline.model.tokenization import encode

TURNS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>\n{% endfor %}<answer>"
    "{% if enable_thinking is defined and not enable_thinking %}<no>{% endif %}"
)
USER_ONLY = "<user>{{ messages[0]['content'] }}<end>{{ enable_thinking }}<answer>"
SYSTEM, VARIABLES = "Be brief.", {"enable_thinking": False}
ASKED, OTHER = "The capital of Italy is", "The capital of Spain is"
PLACES = {
    "counterpart": lambda m, p: corrupted_tokens(m, p)[0],
    "target fact": lambda m, p: target_facts(m, p)["tokens"][0],
    "source": lambda m, p: source_prompts(m, p)["tokens"][0],
    "essence": lambda m, p: contexts_of(m, p, [], "The capital of {subject} is").tokens[1],
}


def prompts(model: LanguageModel, system: str | None, raw: bool = False) -> pd.DataFrame:
    """One prompt, of which all `PLACES` make `OTHER`, but the essence, which is the same again."""
    columns = {
        **{"instruction": ASKED, "subject": "Italy", "subject_start": -1, "raw": raw},
        **{"corrupted": OTHER, "target_subject": "Spain"},
        **{"source": OTHER, "source_subject": "Spain", "source_subject_start": -1},
    }
    frame = pd.DataFrame([columns])
    return tokenise(frame, model.tokenizer, system=system, variables=model.template)


@pytest.fixture(params=[TURNS, USER_ONLY, None], ids=["turns", "user only", "no template"])
def model(request):
    loaded = LanguageModel(
        tiny("llama").hf, byte_tokenizer(request.param, adds_bos=True), name="bytes"
    )
    loaded.template = VARIABLES
    return loaded


@pytest.mark.parametrize("system", [None, "", SYSTEM])
@pytest.mark.parametrize("place", PLACES)
def test_another_prompt_has_the_same_system_text_and_variables(place, system, model):
    model.system = system
    made = ASKED if place == "essence" else OTHER
    rendered = chat.render(model.tokenizer, made, system=system, variables=VARIABLES)
    tokens = PLACES[place](model, prompts(model, system))
    assert list(tokens) == encode(model.tokenizer, rendered)
    raw = PLACES[place](model, prompts(model, system, raw=True))
    assert list(raw) == encode(model.tokenizer, made, raw=True)


@pytest.mark.parametrize("place", PLACES)
def test_prompts_with_another_system_text_than_the_models_are_refused(place, model):
    with pytest.raises(ValueError, match=r"is not rendered with model.system None and model.t"):
        PLACES[place](model, prompts(model, SYSTEM))


def test_a_models_system_text_is_that_of_its_section(tmp_path: Path):
    write_model("llama", tmp_path, TURNS)
    section = Model(path=str(tmp_path), system=SYSTEM, device="cpu")
    model = load_model(section)
    assert model.system == without_weights(section, model.tokenizer).system == SYSTEM
    rendered = chat.render(model.tokenizer, ASKED, system=SYSTEM)
    assert model.prompts([ASKED]) == [encode(model.tokenizer, rendered)]
    assert prompt_table(model, [ASKED])["prompt"].tolist() == [rendered]
    table = prompt_table(model, [ASKED], system="Be long.")
    assert table["prompt"].tolist() == [chat.render(model.tokenizer, ASKED, system="Be long.")]
