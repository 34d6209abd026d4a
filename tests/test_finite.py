"""Logits, losses and activations that are not finite stop a run, in one line that says why."""

import copy
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from families import LAYERS, random_prompts, tiny
from torch import Tensor

from pipeline import logit_lens, prompt_table
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import cross_entropy, score_answers, score_change, score_last
from pipeline.methods.attention import attention_summary
from pipeline.methods.interventions import Add
from pipeline.methods.next_token import next_tokens
from pipeline.model import hooks
from pipeline.model.finite import is_finite
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

PROMPTS = random_prompts(3)
SOURCE = Path(hooks.__file__).parent.parent
SITE = Site(1, "resid_pre")


@dataclass(frozen=True, eq=False)
class Spoil:
    """An intervention that writes a fraction everywhere: 0 / 0 is not a number, 1 / 0 infinite."""

    numerator: float
    denominator: float

    def edit(self, hidden: Tensor) -> Tensor:
        return (hidden * 0 + self.numerator) / self.denominator


FINE, NAN, INFINITE = Spoil(1.0, 1.0), Spoil(0.0, 0.0), Spoil(1.0, 0.0)


def spoiled(by: Spoil, positions="all") -> list[Condition]:
    edit = Edit(SITE, by, positions)
    return [Condition({"arm": "fine"}), Condition({"arm": "spoiled"}, edits=(edit,))]


RUNS = {
    "generate": lambda model, c: generate(model, PROMPTS, c, Decoding(max_new_tokens=3)),
    "sampled": lambda model, c: generate(
        model, PROMPTS, c, Decoding(max_new_tokens=3, temperature=1.0, top_k=5, top_p=0.9)
    ),
    "last": lambda model, c: score_last(model, PROMPTS, c, lambda x: x[:, 0], batch_tokens=200),
    "change": lambda model, c: score_change(
        model, PROMPTS, c, lambda x: x.logits()[:, 0], batch_tokens=200
    ),
    "texts": lambda model, c: cross_entropy(model, PROMPTS, c, batch_tokens=200),
    "answers": lambda model, c: score_answers(
        model, PROMPTS, [[5, 6]] * len(PROMPTS), c, batch_tokens=200
    ),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("by", [NAN, INFINITE], ids=["nan", "inf"])
def test_a_run_stops_and_names_the_condition(run, by):
    RUNS[run](tiny("llama"), spoiled(FINE))
    with pytest.raises(ValueError, match=r"rows are not finite, first under arm spoiled: "):
        RUNS[run](tiny("llama"), spoiled(by))


@pytest.mark.parametrize("top", [{}, {"top_k": 5}, {"top_p": 0.9}])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_edits_of_generated_tokens_are_checked_too(temperature, top):
    if top and not temperature:
        top = {}
    with pytest.raises(ValueError, match=r"logits of .* rows are not finite, first under arm spoi"):
        generate(
            tiny("llama"),
            PROMPTS,
            spoiled(NAN, "generated"),
            Decoding(max_new_tokens=4, temperature=temperature, **top),
        )


def overflowing() -> LanguageModel:
    """A float16 model whose last MLP writes more than 65504, though its weights are finite."""
    of = tiny("llama")
    hf = copy.deepcopy(of.hf).half()
    mlp = hf.model.layers[LAYERS - 1].mlp
    mlp.down_proj.weight.data.fill_(6e4)
    mlp.up_proj.weight.data *= 10
    assert all(bool(parameter.isfinite().all()) for parameter in hf.parameters())
    return LanguageModel(hf, of.tokenizer, name="overflowing")


@pytest.mark.parametrize("run", RUNS)
def test_float16_that_overflows_is_told_what_would_hold_it(run):
    model = overflowing()
    with pytest.raises(ValueError, match="float16 ends at 65504; set model"):
        RUNS[run](model, [Condition()])
    model.hf.float()
    RUNS[run](model, [Condition()])


PASSES = {
    "read": lambda model, ids, mask: hooks.read(model, [Site(LAYERS - 1, "resid_post")], ids, mask),
    "run_blocks": hooks.run_blocks,
    "run_to_logits": hooks.run_to_logits,
    "differentiate": lambda model, ids, mask: hooks.differentiate(
        model, [Site(0, "resid_post")], ids, mask, lambda logits: logits[:, 0]
    ),
}


@pytest.mark.parametrize("run", PASSES)
def test_every_pass_of_readings_and_fits_is_checked(run):
    model = overflowing()
    ids, mask = model.pad(PROMPTS)
    with pytest.raises(ValueError, match=r"of 3 of 3 rows are not finite: float16 ends at 65504"):
        PASSES[run](model, ids, mask)
    model.hf.float()
    PASSES[run](model, ids, mask)


@pytest.mark.parametrize("run", PASSES)
def test_values_at_padding_mean_nothing(run):
    """Some attention kernels give NaN where a row attends to nothing."""
    model = tiny("llama")
    ids, mask = model.pad(PROMPTS)
    assert not bool(mask.all())

    def spoil(hidden: Tensor) -> Tensor:
        return hidden.masked_fill((mask == 0)[..., None], torch.nan)

    with hooks.with_hooks(model, {Site(LAYERS - 1, "resid_post"): spoil}):
        PASSES[run](model, ids, mask)


def test_no_reading_runs_the_model_past_the_check():
    """`LanguageModel` is run by the hooks' passes, and by the engine's that reuse a KV cache."""
    calls = re.compile(r"\bmodel\.(hf|decoder)\(")
    running = {
        str(file.relative_to(SOURCE))
        for file in SOURCE.rglob("*.py")
        if calls.search(file.read_text())
    }
    cached = {"engine/batches.py", "engine/restart.py", "runs/doctor.py"}
    assert running == {"model/hooks.py"} | cached


def test_infinite_activations_are_not_collected():
    site = Site(LAYERS - 1, "mlp_out")
    with pytest.raises(ValueError, match=f"activations at {site} of .* are not finite: float16"):
        collect(overflowing(), PROMPTS, [site], "all")
    with pytest.raises(ValueError, match="a smaller strength may help; if the clean run is not"):
        generate(tiny("llama"), PROMPTS, spoiled(INFINITE))


@pytest.mark.parametrize(
    ("value", "message"),
    [(1e38, r"values up to 1e\+41, which overflow"), (torch.nan, "not a number")],
)
def test_edits_that_overflow_are_named_before_the_model_runs(value, message):
    huge = Add(torch.full((tiny("llama").d_model,), value), 1e3)
    with pytest.raises(ValueError, match=message):
        generate(tiny("llama"), PROMPTS, [Condition(edits=(Edit(SITE, huge),))])


@pytest.mark.parametrize("read", ["logit_lens", "next_tokens", "attention_summary"])
def test_readings_stop_too(read):
    """A rank among logits that are not numbers would be the best one."""
    model = overflowing()
    prompts = prompt_table(model, ["w7 w8 w9", "w10 w11"], raw=True)
    if read == "attention_summary":
        model.hf.model.layers[0].self_attn.q_proj.weight.data.fill_(torch.inf)
    calls = {
        "logit_lens": lambda: logit_lens(model, prompts),
        "next_tokens": lambda: next_tokens(model, prompts, top=3),
        "attention_summary": lambda: attention_summary(model, prompts, 0),
    }
    with pytest.raises(ValueError, match=r"of . of . rows are not finite: float16 ends at 65504"):
        calls[read]()


def test_a_row_is_finite_only_if_every_value_is():
    """Also where finite values add up to more than float32 holds, and infinities to no number."""
    rows = torch.zeros(5, 4)
    rows[0, 2], rows[1, 1], rows[2, 3] = torch.inf, torch.nan, -torch.inf
    rows[3, :2] = torch.tensor([torch.inf, -torch.inf])
    rows[4] = 3e38
    assert is_finite(rows).tolist() == [False, False, False, False, True]
    assert is_finite(rows[4:]).tolist() == [True]
    assert is_finite(torch.full((2, 3, 1000), 65504.0, dtype=torch.float16)).all()
