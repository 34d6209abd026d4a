"""Fields of interventions that differ by token, against one edit for each token by hand."""

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny

from pipeline.engine.conditions import Condition, Edit, PerToken, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import cross_entropy, score_last
from pipeline.methods.interventions import Add, Replace
from pipeline.model.sites import Site

PROMPTS = random_prompts(5)
LONGEST = max(map(len, PROMPTS))
OF_PROMPT = PromptPositions("prompt", [tuple(range(len(prompt))) for prompt in PROMPTS])
RULES = ("all", "after_first", "last", (0, -2), OF_PROMPT)


def values(seed: int, *field: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(PROMPTS), LONGEST, *field, generator=generator)


def conditions_and_fields(model):
    """Replaced and added vectors, and strengths, at several sites and rules."""
    width = model.width(Site(0, "z", 1))
    kinds = []
    for n, rule in enumerate(RULES):
        layer = n % LAYERS
        kinds += [
            (Site(layer, "resid_pre"), Replace, {"value": values(n, WIDTH)}, rule),
            (Site(layer, "mlp_out"), Replace, {"value": values(10 + n, WIDTH)}, rule),
            (Site(layer, "z", 1), Replace, {"value": values(20 + n, width)}, rule),
            (
                Site(layer, "resid_post"),
                Add,
                {"direction": values(30 + n, WIDTH), "strength": values(40 + n)},
                rule,
            ),
        ]
    return [
        (Condition({"number": n}, (Edit(site, kind(**fields_of(fields)), rule),)), kind, fields)
        for n, (site, kind, fields, rule) in enumerate(kinds)
    ]


def fields_of(fields):
    return {name: PerToken(of) for name, of in fields.items()}


def by_hand(condition, kind, fields, prompt: int) -> Condition:
    """One edit for each token of a prompt, with that token's values."""
    (edit,) = condition.edits
    length = len(PROMPTS[prompt])
    places = {
        "all": range(length),
        "after_first": range(1, length),
        "last": [length - 1],
        (0, -2): [0, length - 2],
    }
    at = range(length) if edit.positions is OF_PROMPT else places[edit.positions]
    return Condition(
        edits=tuple(
            Edit(edit.site, kind(**{name: of[prompt, p] for name, of in fields.items()}), (p,))
            for p in at
        )
    )


def hooked(model, condition, prompt):
    """Heads of z are no site of the naive loop: edit them with the engine, one row and token."""
    if condition.edits[0].site.unit is None:
        return naive.logits(model, PROMPTS[prompt], condition, len(PROMPTS[prompt]))[-1]
    return score_last(model, [PROMPTS[prompt]], [condition], lambda x: x, batch_tokens=10**6)[0, 0]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_token_gets_its_own_values(family):
    model = tiny(family)
    conditions = conditions_and_fields(model)
    listed = [Condition(), *(condition for condition, *_ in conditions)]
    scores = score_last(model, PROMPTS, listed, lambda x: x, batch_tokens=250)
    changed = 0
    for p in range(len(PROMPTS)):
        for c, (condition, kind, fields) in enumerate(conditions):
            expected = hooked(model, by_hand(condition, kind, fields, p), p)
            tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
            assert (scores[c + 1, p] - expected).abs().max() <= tolerance, (c, p)
            changed += bool((scores[0, p] - expected).abs().max() > 10 * tolerance)
    # In the last layer, only the last token's values matter.
    assert changed > 0.8 * len(PROMPTS) * len(conditions)


def test_completions_follow_a_patched_prompt():
    model = tiny("llama")
    value = values(3, WIDTH)
    patched = Condition(edits=(Edit(Site(1, "resid_pre"), Replace(PerToken(value)), OF_PROMPT),))
    rows = []
    for done in generate(model, PROMPTS, [patched], Decoding(4), batch_tokens=200):
        expected = by_hand(patched, Replace, {"value": value}, done.prompt)
        tokens, logits = naive.generate(model, PROMPTS[done.prompt], expected, 4)
        rows.append((done.prompt, done.tokens, tokens, logits))
    naive.assert_same(rows)


def test_a_token_without_a_value_is_named():
    field = PerToken(values(0, WIDTH)[:, : LONGEST - 1])
    condition = Condition(edits=(Edit(Site(1, "resid_pre"), Replace(field)),))
    message = f"'all' at blocks.1.resid_pre name token {LONGEST - 1}; the edit has values of a"
    with pytest.raises(ValueError, match=message):
        score_last(tiny("llama"), PROMPTS, [condition], lambda x: x, batch_tokens=500)
    shorter = PerToken(values(0, WIDTH)[:, :2])
    added = Condition(edits=(Edit(Site(1, "resid_pre"), Add(shorter), "generated"),))
    with pytest.raises(ValueError, match=r"'generated' at blocks.1.resid_pre name token"):
        cross_entropy(tiny("llama"), PROMPTS, [added], batch_tokens=500)


def test_fields_are_of_all_prompts():
    condition = Condition(edits=(Edit(Site(1, "resid_pre"), Add(PerToken(values(0, WIDTH)[:3]))),))
    with pytest.raises(ValueError, match="has direction of 3 prompts; the run has 5"):
        score_last(tiny("llama"), PROMPTS, [condition], lambda x: x, batch_tokens=500)
