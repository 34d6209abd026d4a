"""Conditions that begin with another's edits restart from its run, with the same scores."""

import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny
from test_restart import count_tokens

from pipeline.engine.bases import restarting_from
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.engine.scoring import cross_entropy, score_answers, score_change, score_last
from pipeline.methods.interventions import Add, ProjectOut, Replace
from pipeline.model.sites import Site

PROMPTS = random_prompts(5, seed=3)
ANSWERS = [[1 + n, 2, 3][: 1 + n % 3] for n in range(5)]


def vector(seed: int) -> torch.Tensor:
    return 3 * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def noise(seed: int) -> Edit:
    drawn = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Edit(Site(0, "embed"), Add(PerPrompt(drawn)), (0, 1))


# Early, at a block's output where others restart, late, and at the last token only.
SHARED = (
    noise(1),
    Edit(Site(1, "resid_post"), Add(vector(2)), "all"),
    Edit(Site(2, "mlp_out"), ProjectOut(vector(3)), "after_first"),
    Edit(Site(LAYERS - 1, "resid_pre"), Add(vector(4)), "last"),
)
OWN = [
    Edit(Site(1, "resid_post"), Replace(vector(5)), "after_first"),
    Edit(Site(2, "resid_pre"), Replace(vector(6)), "last"),
    Edit(Site(LAYERS - 1, "resid_post"), Add(vector(7)), "all"),
    Edit(Site(0, "attn_out"), Add(vector(8)), (1,)),
    Edit(Site(2, "mlp_out"), Add(vector(9)), "last"),
]
GROUP = [
    Condition({"number": 0}, SHARED),
    *(Condition({"number": 1}, (*SHARED, own)) for own in OWN),
]
CONDITIONS = [Condition(), *GROUP, Condition({"number": 2}, (OWN[1],))]


def kl(after) -> torch.Tensor:
    """KL of the last token's logits and of the logit lens of two layers, against the clean run."""
    layers = (None, 1, LAYERS - 1)
    pairs = [(after.clean(layer), after.logits(layer)) for layer in layers]
    return torch.stack(
        [(p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1) for p, q in pairs], -1
    )


SCORES = {
    "last": lambda model, c: score_last(model, PROMPTS, c, lambda x: x, batch_tokens=150),
    "change": lambda model, c: score_change(model, PROMPTS, c, kl, batch_tokens=150),
    "losses": lambda model, c: cross_entropy(model, PROMPTS, c, batch_tokens=150),
    "answers": lambda model, c: score_answers(model, PROMPTS, ANSWERS, c, batch_tokens=150),
}


@pytest.mark.parametrize(
    ("family", "score"),
    [*((family, "answers") for family in FAMILIES), *(("gemma2", score) for score in SCORES)],
)
def test_scores_are_those_of_each_condition_run_alone(family, score):
    """Alone, a condition restarts from the clean run, as every naive comparison checks."""
    model = tiny(family)
    together = SCORES[score](model, CONDITIONS)
    for number, condition in enumerate(CONDITIONS):
        alone = SCORES[score](model, [condition])[0]
        tolerance = 1e-5 * max(1.0, float(alone.abs().max()))
        assert (together[number] - alone).abs().max() <= tolerance, (number, condition)


def test_only_what_differs_from_the_shared_run_is_computed():
    """One run with the noise, and behind it one token per row from the restored state on."""
    model = tiny("llama")
    restored = [Edit(Site(2, "resid_pre"), Replace(vector(n)), "last") for n in range(6)]
    noisy = Condition({"number": 0}, (noise(1),))
    conditions = [noisy, *(Condition({"number": 1}, (noisy.edits[0], edit)) for edit in restored)]
    counts, handles = count_tokens(model)
    score_last(model, PROMPTS, conditions, lambda x: x, batch_tokens=10**6)
    for handle in handles:
        handle.remove()
    noisy_tokens = len(PROMPTS) * max(map(len, PROMPTS))
    restarted = noisy_tokens + len(PROMPTS) * len(restored)
    assert counts == [noisy_tokens, noisy_tokens, restarted, restarted]


def test_groups_share_the_very_edits_of_a_condition():
    assert restarting_from(CONDITIONS) == {None: [0, 7], 1: [1, 2, 3, 4, 5, 6]}
    # Equal but other edits are not shared, nor is a run kept for three conditions.
    alike = [
        Condition({"number": 0}, (noise(1),)),
        *(Condition({}, (noise(1), own)) for own in OWN),
    ]
    assert restarting_from(alike) == {None: list(range(6))}
    assert restarting_from(GROUP[:4]) == {None: [0, 1, 2, 3]}
    assert restarting_from(GROUP[:5]) == {None: [], 0: [0, 1, 2, 3, 4]}
    chain = [Condition({"number": n}, tuple(OWN[:n])) for n in range(5)]
    assert restarting_from(chain) == {None: [0, 1, 2, 3, 4]}
