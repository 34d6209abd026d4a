"""Fields of interventions: vectors, numbers and matrices that differ by condition or by prompt."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import ClassVar

import naive
import pytest
import torch
from families import FAMILIES, LAYERS, WIDTH, random_prompts, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition, Edit, PerPrompt, PromptPositions
from pipeline.engine.decoding import Decoding
from pipeline.engine.generation import generate
from pipeline.engine.scoring import cross_entropy, score_change, score_last
from pipeline.engine.stacking import Stack
from pipeline.methods.interventions import Add, ProjectOut, Replace, Subtract
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


def of_prompt(condition: Condition, prompt: int) -> Condition:
    """The condition with what its interventions are in one prompt, as the naive loop takes it."""

    def edit(edit: Edit) -> Edit:
        differing = {n: v for n, v in vars(edit.intervention).items() if isinstance(v, PerPrompt)}
        values = {name: value.of[prompt] for name, value in differing.items()}
        return replace(edit, intervention=replace(edit.intervention, **values))

    return replace(condition, edits=tuple(map(edit, condition.edits)))


def edited(layer: int, intervention, rule="all", component="resid_pre") -> Condition:
    return Condition(edits=(Edit(Site(layer, component), intervention, rule),))


def assert_naive(model, conditions, batch_tokens=250) -> None:
    """Logits after each prompt and greedy tokens are those of one row at a time."""
    scores = score_last(model, PROMPTS, conditions, lambda x: x, batch_tokens=batch_tokens)
    done = generate(model, PROMPTS, conditions, Decoding(STEPS), batch_tokens=batch_tokens)
    rows = []
    for completion in done:
        c, p = completion.condition, completion.prompt
        expected, logits = naive.generate(model, PROMPTS[p], of_prompt(conditions[c], p), STEPS, p)
        rows.append(((c, p), completion.tokens, expected, logits))
        tolerance = 1e-5 * max(1.0, float(logits[0].abs().max()))
        assert (scores[c, p] - logits[0]).abs().max() <= tolerance, (c, p)
    naive.assert_same(rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_for_each_condition_is_the_naive_loop(family):
    conditions = [Condition()] + [
        edited(
            seed % LAYERS,
            Map(0.3 * normal(WIDTH, WIDTH, seed=seed), normal(WIDTH, seed=9), 1 + seed),
            rule,
        )
        for seed, rule in enumerate(("all", "last", (0, -2), "all", "all", "last"))
    ]
    assert_naive(tiny(family), conditions)


def test_fields_keep_their_shape_behind_the_rows():
    edits = [Shapes(torch.ones(2, 3), torch.ones(WIDTH), float(n)) for n in range(3)]
    conditions = [edited(1, edit) for edit in edits]
    score_last(tiny("llama"), PROMPTS[:2], conditions, lambda x: x, batch_tokens=10**6)
    assert Shapes.seen == {((6, 1, 2, 3), (6, 1, WIDTH), (6, 1, 1))}


def test_fields_of_other_shapes_stand_beside_each_other():
    number, vector = Add(normal(WIDTH), 2.0), Add(normal(WIDTH), torch.full((WIDTH,), 2.0))
    conditions = [edited(1, add) for add in (number, vector)]
    same = score_last(tiny("llama"), PROMPTS, conditions, lambda x: x, batch_tokens=10**6)
    assert torch.equal(same[0], same[1])


@dataclass(frozen=True, eq=False)
class Returns:
    """Returns what is no edited activation."""

    what: ClassVar = None

    def edit(self, hidden):
        return self.what(hidden)


@pytest.mark.parametrize(
    ("what", "named"),
    [
        (lambda hidden: hidden.mean(-1, keepdim=True), r"\[2, 5, 1\]"),
        (lambda hidden: hidden[:, -1:], r"\[2, 1, 32\]"),
        (lambda hidden: None, "NoneType"),
    ],
)
def test_an_edit_of_another_shape_is_not_broadcast(what, named, monkeypatch):
    monkeypatch.setattr(Returns, "what", staticmethod(what))
    message = rf"Returns at blocks.1.resid_pre returns {named}; valid: the edited activation"
    with pytest.raises(ValueError, match=message):
        score_last(
            tiny("llama"),
            [[5, 6, 7, 8, 9], [5, 7, 6, 9, 8]],
            [edited(1, Returns())],
            lambda x: x,
            batch_tokens=10**6,
        )


@pytest.mark.parametrize("kind", [Add, Subtract, ProjectOut])
def test_a_number_is_no_direction(kind):
    with pytest.raises(ValueError, match=r"direction is a number; valid: a vector \[width\]"):
        kind(torch.tensor(3.0))
    with pytest.raises(ValueError, match="direction is a number"):
        kind(PerPrompt(torch.zeros(len(PROMPTS))))


AT = PromptPositions("one place in each", [(n % 3,) for n in range(len(PROMPTS))])


@pytest.mark.parametrize("family", FAMILIES)
def test_states_patched_into_earlier_layers_are_the_naive_loop(family):
    """Every source layer into every target layer at the same token of the same prompt, packed."""
    model = tiny(family)
    sites = [Site(layer, "resid_post") for layer in range(LAYERS)]
    states, _ = collect(model, PROMPTS, sites, AT)
    patched = [
        edited(target, Replace(PerPrompt(states[source])), AT)
        for source, target in product(sites, range(LAYERS))
    ]
    assert_naive(model, [Condition(), *patched])


def different(seed: int, *field: int) -> PerPrompt:
    return PerPrompt(normal(len(PROMPTS), *field, seed=seed))


MIXED = [
    Condition(),
    edited(1, Add(different(1, WIDTH), 2.0)),
    edited(1, Add(different(1, WIDTH), different(2)), "last"),
    edited(1, Add(normal(WIDTH), different(3)), AT),
    edited(1, Add(normal(WIDTH), 2.0)),
    edited(2, Map(different(4, WIDTH, WIDTH), normal(WIDTH), 0.3), (0, -2)),
    edited(2, Replace(PerPrompt(normal(len(PROMPTS), WIDTH).bfloat16()))),
    edited(2, ProjectOut(different(5, WIDTH)), "all", "resid_post"),
]
GENERATED = edited(1, Add(different(6, WIDTH), 3.0), "generated")


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("batch_tokens", [20, 10**6])
def test_fields_that_differ_by_prompt_stand_beside_others(family, batch_tokens):
    assert_naive(tiny(family), MIXED, batch_tokens)


def test_fields_that_differ_by_prompt_are_those_of_the_prompt_where_few_run():
    only = [4, 1]
    run = partial(score_change, tiny("llama"), PROMPTS, MIXED, batch_tokens=40)
    measure = lambda read: torch.stack([read.logits(), read.clean(), read.logits(3)], 1)  # noqa: E731
    torch.testing.assert_close(run(measure, only=only), run(measure)[:, only], atol=1e-5, rtol=1e-5)


def test_completions_and_texts_meet_the_fields_of_their_prompt():
    model, conditions = tiny("gemma2"), [*MIXED, GENERATED]
    for done in generate(model, PROMPTS, conditions, Decoding(STEPS), batch_tokens=60):
        own = of_prompt(conditions[done.condition], done.prompt)
        expected, logits = naive.generate(model, PROMPTS[done.prompt], own, STEPS, done.prompt)
        naive.assert_same([(str(own), done.tokens, expected, logits)])
    losses = cross_entropy(model, PROMPTS, conditions, batch_tokens=60)
    for (c, condition), (p, text) in product(enumerate(conditions), enumerate(PROMPTS)):
        logits = naive.logits(model, text, of_prompt(condition, p), 1, p)[:-1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]))
        assert losses[c, p] == pytest.approx(float(expected), abs=1e-5), (c, p)


class Sizes(TorchDispatchMode):
    """Notes the number of elements of what every operation returns."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.largest = max(self.largest, out.numel())
        return out


@pytest.mark.parametrize("shared", [True, False])
def test_only_the_rows_of_a_batch_are_copied_out_of_the_prompts_fields(shared):
    noise = [normal(1000, WIDTH, seed=0 if shared else seed) for seed in range(20)]
    if shared:
        noise = noise[:1] * 20
    adds = [Add(PerPrompt(of), float(n)) for n, of in enumerate(noise)]
    with Sizes() as sizes:
        stack = Stack(adds, torch.device("cpu"), torch.float32)
        taken = stack.take(torch.tensor([3, 3, 19, 0]), torch.tensor([7, 0, 999, 500]))
    assert sizes.largest == 4 * WIDTH
    expected = [noise[3][7], noise[3][0], noise[19][999], noise[0][500]]
    assert torch.equal(taken.direction, torch.stack(expected)[:, None])
    assert taken.strength.flatten().tolist() == [3, 3, 19, 0]


def test_fields_of_too_few_prompts_are_refused_before_the_model_runs(monkeypatch):
    model, short = tiny("llama"), Add(PerPrompt(torch.zeros(3, WIDTH)))
    monkeypatch.setattr(model.hf, "forward", None)
    refused = pytest.raises(
        ValueError,
        match=r"the edit at blocks\.1\.resid_pre has direction of 3 prompts; the run has 5$",
    )
    runs = [
        partial(generate, decoding=Decoding(2)),
        partial(score_last, measure=lambda x: x, batch_tokens=100),
        partial(score_change, measure=lambda x: x, batch_tokens=100, only=[0]),
        partial(cross_entropy, batch_tokens=100),
    ]
    for run in runs:
        with refused:
            run(model, PROMPTS, [Condition(), edited(1, short)])
        with pytest.raises(ValueError, match="has positions of 2 prompts; the run has 5"):
            run(
                model,
                PROMPTS,
                [edited(1, Add(normal(WIDTH)), PromptPositions("own", [(0,), (1,)]))],
            )


@pytest.mark.parametrize(
    "wrong",
    [Add(PerPrompt(torch.zeros(5, 31))), ProjectOut(normal(31)), Subtract(normal(31))],
)
def test_fields_of_another_width_are_refused_before_the_model_runs(wrong, monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.hf, "forward", None)
    with pytest.raises(
        ValueError, match=r"direction is 31 wide, at blocks\.1\.resid_pre it must be 32"
    ):
        generate(model, PROMPTS, [Condition(), edited(1, wrong)], batch_tokens=10**6)
    with pytest.raises(ValueError, match=r"value is 2 wide, at blocks\.1\.z\[3\] it must be 8"):
        edits = (Edit(Site(1, "z", 3), Replace(PerPrompt(torch.zeros(5, 2)))),)
        score_last(model, PROMPTS, [Condition(edits=edits)], lambda x: x, batch_tokens=100)


def test_a_number_replaces_every_dimension():
    zero, zeros = (edited(1, Replace(value)) for value in (torch.tensor(0.0), torch.zeros(WIDTH)))
    scores = score_last(tiny("llama"), PROMPTS, [zero, zeros], lambda x: x, batch_tokens=10**6)
    assert torch.equal(scores[0], scores[1])
