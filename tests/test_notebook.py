"""What a notebook needs daily, against the engine and transformers, and what goes wrong there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
import transformers
from families import LAYERS, random_prompts, tiny
from safetensors.torch import save_file

import pipeline
from pipeline import (
    Add,
    Condition,
    Decoding,
    Edit,
    LanguageModel,
    Site,
    activation_table,
    collect,
    completion_table,
    generate,
    load_direction,
    log_probabilities,
    logit_lens,
    logits,
    positions_of,
    prompt_table,
    save_direction,
)

PROMPTS = random_prompts(3)
SITE = Site(1, "resid_pre")


def steered(strength: float = 2.0) -> list[Condition]:
    direction = torch.ones(tiny("llama").d_model)
    edit = Edit(SITE, Add(direction, strength), "last")
    return [Condition(), Condition({"strength": strength}, (edit,))]


def test_logits_and_log_probabilities_are_transformers():
    model = tiny("llama")
    found = log_probabilities(model, PROMPTS, steered())
    assert found.shape == (2, 3, 200)
    for number, prompt in enumerate(PROMPTS):
        expected = model.hf(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(found[0, number], expected)
    assert not torch.allclose(found[0], found[1])
    torch.testing.assert_close(found, logits(model, PROMPTS, steered()).log_softmax(-1))


def test_activations_as_a_table():
    model = tiny("llama")
    sites = [SITE, Site(2, "mlp_out")]
    table = activation_table(model, PROMPTS, sites, [-2, -1])
    values, rows = collect(model, PROMPTS, sites, (-2, -1))
    assert len(table) == 2 * len(rows) == 12
    own = table[table["site"] == str(sites[1])]
    torch.testing.assert_close(torch.tensor(np.stack(own["activation"])), values[sites[1]])
    assert own["piece"].tolist() == [model.piece(token) for token in rows["token"]]


def test_completions_as_a_table():
    model = tiny("llama")
    table = completion_table(model, PROMPTS, steered(), Decoding(max_new_tokens=4))
    found = generate(model, PROMPTS, steered(), Decoding(max_new_tokens=4))
    assert table["completion"].tolist() == [completion.text for completion in found]
    assert table["strength"].isna().tolist() == [True] * 3 + [False] * 3
    assert list(table)[:2] == ["condition", "prompt"]


def test_all_rules_of_the_studies_and_the_lens():
    model = tiny("llama")
    table = prompt_table(
        model, ["w20 w21 w6", "w31 w7"], subject=["w21", "w31"], answer=" w9", raw=True
    )
    assert [list(place) for place in positions_of(model, table, "subject").of] == [[1], [0]]
    assert [list(place) for place in positions_of(model, table, "answer").of] == [[3], [2]]
    assert positions_of(model, table, "all") == "all"
    lens = logit_lens(model, table, columns=["answer"])
    assert len(lens) == 2 * (LAYERS + 1)
    last = logits(model, table["tokens"].tolist())[0].argmax(-1)
    assert lens[lens["layer"] == LAYERS]["top_token"].tolist() == last.tolist()


def test_a_direction_is_saved_and_loaded_for_its_model_and_site(tmp_path, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model, "weights", "abc")
    direction = torch.arange(model.d_model) / 3
    file = tmp_path / "of today" / "d.safetensors"
    save_direction(file, direction, model=model, site=SITE)
    assert torch.equal(load_direction(file, model=model, site=SITE), direction)
    with pytest.raises(ValueError, match=r"is of blocks\.1\.resid_pre, this is blocks\.2"):
        load_direction(file, model=model, site=Site(2, "resid_pre"))
    monkeypatch.setattr(model, "weights", "def")
    with pytest.raises(ValueError, match="model abc, this is def"):
        load_direction(file, model=model, site=SITE)


@pytest.mark.parametrize("provenance", ["[]", "{", "3", '{"model": "x"}', '{"sites": 5}'])
def test_a_file_with_another_record_is_no_direction(tmp_path, provenance):
    file = tmp_path / "d.safetensors"
    save_file({"direction": torch.ones(32)}, file, metadata={"provenance": provenance})
    with pytest.raises(ValueError, match=r"d.safetensors is no file of `save_direction`: "):
        load_direction(file, model=tiny("llama"), site=SITE)


def test_a_tokenizer_needs_no_letter_a_to_show_its_tokens():
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"X": 0, "Y": 1, "Z": 2}))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    of = tiny("llama")
    model = LanguageModel(of.hf, tokenizer, name="three words")
    assert activation_table(model, [[0, 2]], [SITE])["piece"].str.strip().tolist() == ["Z"]
    with pytest.raises(ValueError, match="the tokenizer has no tokens for 'Hello"):
        model.prompts(["Hello"])


def test_a_number_is_a_subject():
    model = tiny("llama")
    table = prompt_table(model, ["w6 7 w8"], subject=7, raw=True)
    assert table["subject"].tolist() == ["7"]
    positions_of(model, table, "subject")


def test_columns_may_be_iterators():
    words = (word for word in ("w6", "w7"))
    table = prompt_table(tiny("llama"), ["w6 w8", "w7 w8"], subject=words)
    assert table["subject"].tolist() == ["w6", "w7"]


WRONG = {
    'model.prompts("one text")': "instructions is one text, 'one text'; valid: a list of texts",
    'prompt_table(model, "one text")': "instructions is one text, 'one text'; valid: a list",
    'generate(model, ["a text"], [Condition()])': "prompt 0 is 'a text'; valid: its tokens, as",
    "logits(model, [5, 6])": "prompt 0 is 5; valid: its tokens",
    "logits(model, [[5], []])": "prompt 1 has no tokens",
    'collect(model, ["a text"], [SITE], "last")': "prompt 0 is 'a text'; valid: its tokens",
    "generate(model, [[5]], Condition())": "conditions is one Condition; valid: a list, such as",
    'model.prompts(["a", None])': "instruction 1 is None; valid: a text",
    "Condition(Edit(SITE, Add(torch.ones(32))))": "axes is Edit; valid: a dict, and edits=(...)",
    "Condition(edits=(Add(torch.ones(32)),))": "an edit is Add; valid: Edit(site, ...)",
    "Edit(SITE, torch.ones(32))": "the intervention is a Tensor; valid: such as Add(direction)",
    "generate(model, [[5]], [Edit(SITE, Add(torch.ones(32)))])": "a condition is a Edit; valid: Co",
    'logits(model, prompt_table(model, ["w6"]))': "prompts is a table; valid: its tokens, as table",
    "Add([1.0, 2.0])": "direction is a list; valid: a tensor [width]",
    "logits(model, [[5]], [Condition(edits=(Edit(SITE, Add(torch.ones(1, 32))),))])": (
        "direction has the shape [1, 32], at blocks.1.resid_pre it must be [32]"
    ),
    "Add(2.0)": "direction is a number; valid: a vector",
    "logits(model, [[5]], [Condition(edits=(Edit(SITE, Add(torch.ones(7))),))])": (
        "direction is 7 wide, at blocks.1.resid_pre it must be 32"
    ),
    'logits("gpt2", [[5]])': "model is 'gpt2'; valid: a model, as `LanguageModel.load(path)` makes",
    'generate("gpt2", [[5]], [Condition()])': "model is 'gpt2'; valid: a model",
    'load_direction("x.safetensors", model="gpt2", site=SITE)': "model is 'gpt2'; valid: a model",
    'positions_of(model, [[5]], "subject")': "prompts are a list; valid: a table, as `prompt_tab",
    "generate(model, [[5]], [Condition(edits=(Edit(SITE, Add(torch.ones(32), 1e20)),))])": (
        "edits at blocks.1.resid_pre: the edit at blocks.1.resid_pre has values up to 1e+20, which"
    ),
    "activation_table(model, [[5]], SITE)": "sites is one, blocks.1.resid_pre; valid: a list, such",
    'activation_table(model, [[5]], "blocks.1.resid_pre")': "sites is one, blocks.1.resid_pre; va",
    "activation_table(model, [[5]], None)": "sites is a NoneType; valid: a list, such as [Site(2,",
    "activation_table(model, [[5]], [1])": "site 1; valid: Site(2, 'resid_pre'), or its text",
    'logit_lens(model, TABLE, columns="answer")': "columns is one text, 'answer'; valid: ['ans",
    'logit_lens(model, TABLE, columns=["answr"])': "no column 'answr' in the dataset; it has: in",
    'token_table(model, TABLE, columns="answer")': "columns is one text, 'answer'; valid: ['an",
    'token_table(model, TABLE, columns=["number"])': "column 'number' has 3, which is no text; quo",
    'token_table(model, TABLE, columns=["none"])': "no text in columns none; valid: one or more",
    "token_table(model, TABLE.tokens)": "prompts are a Series; valid: a table, as `prompt_table(m",
    'analogies(model, TABLE, 0, columns="xy")': "columns is one text, 'xy'; valid: ['xy']",
    'analogies(model, TABLE, 0, columns=["number", "answer"])': "column 'number' has 3, which is n",
    'answer_contributions(model, TABLE, columns="answer")': "columns is one text, 'answer'; valid",
    'answer_contributions(model, TABLE, columns=["number"])': "column 'number' has 3, which is no",
    "Edit(SITE, Add(torch.ones(32)), torch.arange(2).numpy())": "position rule array([0, 1]) is",
    'prompt_table(model, ["w6", "w7"], subject=["w6"])': "subject: 1 values for 2 prompts",
    'prompt_table(model, ["w6"], split="dev")': "split 'dev' is unknown; valid: train, val, test",
    "logits(model, [[True, False]])": "prompt 0 has token True; valid: 0 to ",
    "activation_table(model, [], [SITE])": "there is no prompt to collect activations of",
    "activation_table(model, [[5]], [])": "sites: there is none; valid: such as",
    "model.prompts(None)": "instructions is None; valid: a list of texts",
    "logits(model, torch.tensor([[5]]))": "prompts is a Tensor; valid: a list of lists of tokens",
    'logits(model, prompt_table(model, ["w6"])["tokens"])': "prompts is a Series; valid: a list",
    "logits(model, [[5, -1]])": "prompt 0 has token -1; valid: 0 to ",
    "logits(model, [[5]], None)": "conditions is a NoneType; valid: a list",
    "Condition(edits=Edit(SITE, Add(torch.ones(32))))": "edits is one Edit; valid: a tuple",
    'Condition({"layers": [1, 2]})': "axis 'layers' is a list; valid: text or a number",
    'Condition({"prompt": "x"})': "axis 'prompt' would be taken for the tables' own column",
    'Condition(role="control ")': "role 'control ' is unknown; valid: baseline, candidate",
    "Condition(decoding=5)": "decoding is 5; valid: Decoding(...)",
    "Edit(2, Add(torch.ones(32)))": "site 2; valid: Site(2, 'resid_pre'), or its text",
    "Edit(SITE, Add)": "the intervention is the class Add; valid: such as Add(direction)",
    'Site("2", "resid_pre")': "layer '2'; valid: a whole number",
    'Add(torch.ones(32), "1")': "strength is '1'; valid: a number or a tensor",
    "logits(model, [[5]], [Condition(edits=(Edit(SITE, Add(torch.ones(32), torch.ones(3))),))])": (
        "strength is 3 wide, at blocks.1.resid_pre it must be 32"
    ),
    'Replace("mean")': "value is 'mean'; valid: a number or a tensor",
    "ProjectOut(torch.zeros(32))": "the direction to project out is zero",
    "PerPrompt(torch.ones(2, 32).numpy())": "PerPrompt of a ndarray; valid: a tensor",
    'collect(model, [[5]], SITE, "last")': "sites is one, blocks.1.resid_pre; valid: a list",
    'collect(model, [[5]], [SITE], positions_of(model, prompt_table(model, ["w6", "w7"]), [-1]))': (
        "positions '[-1]' are of 2 prompts; the run has 1"
    ),
    "positions_of(model, pandas.DataFrame({'subject': ['w6']}), 'subject')": (
        "the table has no column 'sample', which `prompt_table` makes"
    ),
    'logit_lens(model, model.prompts(["w6"]))': "prompts are a list; valid: a table, as `prompt_t",
    'logit_lens(model, prompt_table(model, ["w6"]).drop(columns="label"))': (
        "the table has no column 'label', which `prompt_table` makes"
    ),
    'prompt_table(model, ["w6"], raw=["yes"])': "raw: 'yes' is no boolean; valid: True, False, or",
    'prompt_table(model, ["w6"], subject=[["w6"]])': "subject of prompt 0 holds a list, not text",
    "model.prompts(pandas.DataFrame({'instruction': ['a']}))": "instructions is a DataFrame; val",
    "model.prompts({'instruction': ['a']})": "instructions is a dict; valid: a list of texts",
    "Add(torch.ones(32, dtype=torch.bool))": "direction is of torch.bool; valid: a tensor of real",
    "Add(1j * torch.ones(32))": "direction is of torch.complex64; valid: a tensor of real numbers",
    "logits(model, [[5]], [Condition(edits=(Edit(SITE, SetUnits(torch.tensor([3.7]), torch.ones(1"
    "))),))])": "units are of torch.float32; valid: whole numbers",
    'prompt_table(model, ["a"], subject=[float("nan")])': "subject of prompt 0 holds nothing, not",
    "Decoding(max_new_tokens=2.5)": "max_new_tokens 2.5 must be a whole number",
    'Decoding(temperature="1")': "temperature '1' must be a number",
    "Decoding(forbidden=(-1,))": "forbidden (-1,) must be tokens",
    "difference_of_means(torch.ones(32), torch.ones(32))": "the positive class is [32]; valid: a",
    "difference_of_means(torch.ones(2, 1), torch.ones(2, 32))": "difference of means: the classes",
    'load_direction("nope.safetensors", model=model, site=SITE)': "there is no file nope.safeten",
    'Edit(SITE, Add(torch.ones(32)), "lst")': "position rule 'lst' is unknown; valid: all, after_",
}
SCRIPT = """
import pandas, torch
from families import tiny
from pipeline import *
from pipeline.methods.interventions import SetUnits
from pipeline.methods.key_values import answer_contributions
from pipeline.methods.representations.analogies import analogies
from pipeline.methods.representations.tokenization import token_table
model, SITE = tiny("llama"), Site(1, "resid_pre")
TABLE = prompt_table(model, ["w6"], answer=" w7").assign(number=3, none=None)
for wrong in {wrong}:
    try:
        eval(wrong)
    except ValueError as error:
        print(error)
    else:
        print("no error:", wrong)
"""


def test_what_is_wrong_is_one_line():
    """As a user has it: in another process, since types are checked under pytest only."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(wrong=list(WRONG))],
        cwd=Path(__file__).parent, capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(WRONG), done.stderr
    for line, message in zip(lines, WRONG.values(), strict=True):
        assert line.startswith(message)


def test_a_condition_has_no_strength_of_its_own():
    with pytest.raises(TypeError, match="unexpected keyword argument 'strength'"):
        Condition(strength=2)


def test_positions_may_be_a_list():
    direction = torch.ones(tiny("llama").d_model)
    edits = [Edit(SITE, Add(direction), rule) for rule in ([-1], (-1,), "last")]
    found = [logits(tiny("llama"), PROMPTS, [Condition(edits=(edit,))]) for edit in edits]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_columns_are_taken_row_by_row_and_instructions_from_any_iterable():
    frame = pd.DataFrame({"text": ["w6 w7", "w7 w6"], "word": ["w6", "w7"]}, index=[5, 3])
    table = prompt_table(tiny("llama"), frame["text"], subject=frame["word"])
    assert table["subject"].tolist() == ["w6", "w7"]
    assert tiny("llama").prompts(text for text in frame["text"]) == table["tokens"].tolist()


def test_sites_may_be_text():
    found = [collect(tiny("llama"), PROMPTS, [site], "last")[0][SITE] for site in (SITE, str(SITE))]
    assert torch.equal(*found)
    assert str(Condition(edits=(Edit(SITE, Add(torch.ones(32))),))) == f"edits at {SITE}"


def test_every_name_at_the_top_is_there():
    assert dir(pipeline) == sorted(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__doc__


@pytest.mark.parametrize(("given", "kept"), [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_wait_shortly_for_each_other_unless_the_user_says(given, kept):
    code = "import pipeline, os; print(os.environ['GOMP_SPINCOUNT'])"
    others = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=others | given, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == kept
