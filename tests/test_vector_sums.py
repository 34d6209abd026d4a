"""The sum of two vectors, against vectors added by hand; on a Llama and a Gemma-2 shape."""

from typing import Any

import pytest
import torch
from families import WIDTH, tiny
from plain_hooks import hooked, output
from test_steering import PROMPTS

from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.scoring import score_last
from pipeline.methods.directions import Directions, Key
from pipeline.methods.provenance import Provenance
from pipeline.methods.vector_sums import add_sum


def directions(seed: int, layers: tuple[int, ...], draws: int = 2) -> Directions:
    draw = torch.Generator().manual_seed(seed)
    sources = [("fitted", 0), *(("shuffled", number) for number in range(draws))]
    keys = [Key(source, number, layer) for source, number in sources for layer in layers]
    vectors = {key: torch.randn(WIDTH, generator=draw) for key in keys}
    return Directions(vectors, "resid_post", -1, Provenance(""))


FITS = {"a": directions(0, (1, 2, 3)), "b": directions(1, (0, 1, 2))}
OPTIONS: dict[str, Any] = {"directions": ["a", "b"], "components": ["resid_post"], "draws": 1}


def swept(family: str = "llama", **options: Any) -> list[Any]:
    return list(add_sum(tiny(family), PROMPTS, FITS, **OPTIONS | options))


def test_each_vector_alone_both_and_each_with_a_control_of_the_other():
    conditions = swept(strengths=[0.5, 2.0])
    named = ["a", "b", "a + b", "a + shuffled b", "shuffled a + b"]
    sources = ["alone", "alone", "sum", "shuffled", "shuffled"]
    assert [c.axes["vectors"] for c in conditions] == named * 4
    assert [c.axes["source"] for c in conditions] == sources * 4
    assert {c.axes["layer"] for c in conditions} == {1, 2}  # where both have a direction
    assert [c.role for c in conditions] == ([CANDIDATE] * 3 + [CONTROL] * 2) * 4
    assert len({c.id for c in conditions}) == len(conditions)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_logits_are_those_of_the_vectors_added_by_hand(family):
    model = tiny(family)
    conditions = swept(family, layers=[2], strengths=[1.5])
    tokens = PROMPTS["tokens"].tolist()
    found = score_last(model, tokens, conditions, lambda logits: logits[:, 7], batch_tokens=50)
    a, b = (FITS[name].vectors for name in "ab")
    one, other = a[Key("fitted", 0, 2)], b[Key("fitted", 0, 2)]
    shuffled_a, shuffled_b = a[Key("shuffled", 0, 2)], b[Key("shuffled", 0, 2)]
    added = [one, other, one + other, one + shuffled_b, shuffled_a + other]
    for condition, vector in enumerate(added):
        for prompt, row in enumerate(tokens):

            def add(_module, _arguments, out, vector=vector):
                output(out)[0, -1] += 1.5 * vector

            with hooked(model.blocks[2], add), torch.no_grad():
                logits = model.hf(torch.tensor([row]), use_cache=False).logits[0, -1]
            assert float(found[condition, prompt]) == pytest.approx(float(logits[7]), abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ["a"]}, r"directions = \['a'\]; valid: two fits"),
        ({"directions": ["a", "a"]}, "valid: two fits"),
        ({"draws": 3}, "draws: 3; valid: 0 to 2, the controls of a"),
        ({"layers": [3]}, r"a and b have no directions at layer 3; valid: \[1, 2\]"),
    ],
)
def test_sums_that_cannot_be_made_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        swept(**options)
