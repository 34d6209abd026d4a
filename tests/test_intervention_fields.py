"""Fields of interventions that differ by row: vectors, numbers, matrices."""

from dataclasses import dataclass
from typing import ClassVar

import naive
import pytest
import torch
from families import FAMILIES, WIDTH, random_prompts, tiny

from pipeline.engine.conditions import Condition, Edit
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import score_last
from pipeline.methods.interventions import Add, ProjectOut, Subtract
from pipeline.model.sites import Site

PROMPTS = random_prompts(5)
STEPS = 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class Map:
    """An affine map of the activation: strength * x M + b."""

    matrix: torch.Tensor
    bias: torch.Tensor
    strength: float | torch.Tensor = 1.0

    def edit(self, hidden):
        mapped = torch.einsum("...d,...de->...e", hidden, self.matrix)
        return self.strength * mapped + self.bias


@dataclass(frozen=True, eq=False)
class Shapes:
    """Changes nothing and notes the shapes of its fields."""

    matrix: torch.Tensor
    vector: torch.Tensor
    number: float | torch.Tensor
    seen: ClassVar = set()

    def edit(self, hidden):
        self.seen.add(tuple(tuple(value.shape) for value in vars(self).values()))
        return hidden + 0 * self.number * self.vector


def assert_naive(model, conditions, batch_tokens=250) -> None:
    """Logits after each prompt and greedy tokens are those of one row at a time."""
    scores = score_last(model, PROMPTS, conditions, lambda x: x, batch_tokens=batch_tokens)
    done = generate(model, PROMPTS, conditions, Decoding(STEPS), batch_tokens=batch_tokens)
    rows = []
    for completion in done:
        c, p = completion.condition, completion.prompt
        expected, logits = naive.generate(model, PROMPTS[p], conditions[c], STEPS, p)
        rows.append(((c, p), completion.tokens, expected, logits))
        tolerance = 1e-5 * max(1.0, float(logits[0].abs().max()))
        assert (scores[c, p] - logits[0]).abs().max() <= tolerance, (c, p)
    naive.assert_same(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_for_each_condition_is_the_naive_loop(family):
    conditions = [Condition()] + [
        Condition(
            edits=(
                Edit(
                    Site(seed % 4, "resid_pre"),
                    Map(0.3 * normal(WIDTH, WIDTH, seed=seed), normal(WIDTH, seed=9), 1 + seed),
                    rule,
                ),
            )
        )
        for seed, rule in enumerate(("all", "last", (0, -2), "all", "all", "last"))
    ]
    assert_naive(tiny(family), conditions)


def test_fields_keep_their_shape_behind_the_rows():
    edits = [Shapes(torch.ones(2, 3), torch.ones(WIDTH), float(n)) for n in range(3)]
    conditions = [Condition(edits=(Edit(Site(1, "resid_pre"), edit),)) for edit in edits]
    score_last(tiny("llama"), PROMPTS[:2], conditions, lambda x: x, batch_tokens=10**6)
    assert Shapes.seen == {((6, 1, 2, 3), (6, 1, WIDTH), (6, 1, 1))}


def test_fields_of_other_shapes_stand_beside_each_other():
    number, vector = Add(normal(WIDTH), 2.0), Add(normal(WIDTH), torch.full((WIDTH,), 2.0))
    conditions = [Condition(edits=(Edit(Site(1, "resid_pre"), add),)) for add in (number, vector)]
    same = score_last(tiny("llama"), PROMPTS, conditions, lambda x: x, batch_tokens=10**6)
    assert torch.equal(same[0], same[1])


@pytest.mark.parametrize("kind", [Add, Subtract, ProjectOut])
def test_a_number_is_no_direction(kind):
    with pytest.raises(ValueError, match=r"direction 3 is a number; valid: a vector \[width\]"):
        kind(torch.tensor(3.0))
