"""Log-probabilities of answers of several tokens, against the naive loop."""

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny
from test_restart import count_tokens

from pipeline.engine import scoring
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.scoring import cross_entropy, score_answers
from pipeline.methods.interventions import Add, ProjectOut, Replace
from pipeline.model.sites import Site

PROMPTS = random_prompts(6, seed=5)
ANSWERS = [answer[: 1 + n % 3] for n, answer in enumerate(random_prompts(6, seed=6))]
# In the prompt of some, in the answer of others, and where nothing is read from in one.
OWN = PromptPositions("own", [(n % 3, len(p) + n % 2) for n, p in enumerate(PROMPTS)])


def vector(seed: int) -> torch.Tensor:
    return 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def edited(*edits) -> Condition:
    return Condition(
        edits=tuple(Edit(Site(layer, name), how, rule) for layer, name, how, rule in edits)
    )


CONDITIONS = [
    Condition(),
    *(
        edited((layer, "resid_pre", Add(vector(layer)), rule))
        for layer in (0, 2)
        for rule in ("last", "all", "after_first", "generated", (0, -2), OWN)
    ),
    edited((3, "resid_post", ProjectOut(vector(5)), "generated")),
    edited((3, "resid_post", Add(vector(6)), "last")),
    edited((1, "attn_out", Replace(vector(7)), "last"), (3, "resid_pre", Add(vector(8)), OWN)),
]


def expected(model, condition: Condition, number: int) -> float:
    prompt, answer = PROMPTS[number], ANSWERS[number]
    logits = naive.logits(model, prompt + answer, condition, len(prompt), number)
    log_p = logits[len(prompt) - 1 : -1].log_softmax(-1)
    return float(log_p[range(len(answer)), answer].sum())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_tokens", [30, 10**6])
def test_answers_are_as_likely_as_in_the_naive_loop(family, batch_tokens, monkeypatch):
    monkeypatch.setattr(scoring, "_UNEMBEDDED", 5)
    model = tiny(family)
    scores = score_answers(model, PROMPTS, ANSWERS, CONDITIONS, batch_tokens=batch_tokens)
    assert scores.shape == (len(CONDITIONS), len(PROMPTS))
    for c, condition in enumerate(CONDITIONS):
        for p in range(len(PROMPTS)):
            assert scores[c, p] == pytest.approx(expected(model, condition, p), abs=3e-5), (c, p)
    assert ((scores[1:] - scores[0]).abs().amax(1) > 1e-3).all()


def test_a_prompt_of_one_token_makes_a_text():
    model, texts = tiny("llama"), [p for p in PROMPTS if len(p) > 1]
    conditions = [Condition(), *CONDITIONS[2:5]]
    losses = cross_entropy(model, texts, conditions, batch_tokens=60)
    first, rest = [text[:1] for text in texts], [text[1:] for text in texts]
    scores = score_answers(model, first, rest, conditions, batch_tokens=60)
    torch.testing.assert_close(-scores / torch.tensor([len(text) for text in rest]), losses)


def test_some_of_the_prompts_are_scored_in_the_order_asked_for():
    model = tiny("gemma2")
    each = PerPrompt(torch.stack([vector(n) for n in range(len(PROMPTS))]))
    conditions = [*CONDITIONS, edited((1, "resid_pre", Add(each), OWN))]
    whole = score_answers(model, PROMPTS, ANSWERS, conditions, batch_tokens=60)
    some = score_answers(model, PROMPTS, ANSWERS, conditions, batch_tokens=60, only=[4, 0])
    torch.testing.assert_close(some, whole[:, [4, 0]], atol=1e-5, rtol=1e-5)
    of_last = edited((1, "resid_pre", Add(each.of[5]), OWN))
    assert whole[-1, 5] == pytest.approx(expected(model, of_last, 5), abs=3e-5)


def test_a_prompt_is_read_once_for_all_conditions():
    """Behind the clean run each row computes its answer and the prompt's last token."""
    model = tiny("llama")
    conditions = [edited((2, "resid_pre", Add(vector(n)), "last")) for n in range(4)]
    counts, handles = count_tokens(model)
    score_answers(model, PROMPTS, ANSWERS, [Condition(), *conditions], batch_tokens=10**6)
    for handle in handles:
        handle.remove()
    width = max(len(p) + len(a) for p, a in zip(PROMPTS, ANSWERS, strict=True))
    clean = len(PROMPTS) * width
    # Rows are padded on the left: the longest answer's prompt ends first.
    restarted = clean + len(PROMPTS) * len(conditions) * (max(map(len, ANSWERS)) + 1)
    assert counts == [clean, clean, *[restarted] * (LAYERS - 2)]


def test_what_cannot_be_scored_is_refused(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.hf, "forward", None)
    with pytest.raises(ValueError, match="5 answers to 6 prompts; valid: one per prompt"):
        score_answers(model, PROMPTS, ANSWERS[:5], [Condition()], batch_tokens=60)
    with pytest.raises(
        ValueError, match="sequence 2 of the run has 3 tokens of prompt and 0 to score"
    ):
        none = [*ANSWERS[:2], [], *ANSWERS[3:]]
        score_answers(model, PROMPTS, none, [Condition()], batch_tokens=60)
    with pytest.raises(
        ValueError, match="sequence 0 of the run has 0 tokens of prompt and 1 to score; valid"
    ):
        score_answers(model, [[], *PROMPTS[1:]], ANSWERS, [Condition()], batch_tokens=60)
    generated = edited((1, "resid_pre", Add(vector(1)), "generated"))
    with pytest.raises(ValueError, match="never fires: no sequence has positions 'generated'"):
        first = [answer[:1] for answer in ANSWERS]
        score_answers(model, PROMPTS, first, [generated], batch_tokens=60)
    with pytest.raises(ValueError, match="exceed the context"):
        long = [[5] * 10**6] * len(PROMPTS)
        score_answers(model, PROMPTS, long, [Condition()], batch_tokens=60)
