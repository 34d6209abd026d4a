"""Arms that steer: their conditions, from directions set by hand."""

from itertools import product
from typing import Any

import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, tiny, tokenizer

from pipeline.data.roles import CANDIDATE, CONTROL, CURVE
from pipeline.engine.conditions import PromptPositions
from pipeline.engine.generation import generate
from pipeline.engine.phases import reported
from pipeline.engine.sweeps import arm_conditions
from pipeline.measures.settings import Setting
from pipeline.methods.directions import Directions, Key
from pipeline.methods.interventions import Add, ProjectOut, Subtract
from pipeline.methods.provenance import Provenance
from pipeline.methods.steering import add, project_out, subtract
from pipeline.model.loading import LanguageModel

PROMPTS = pd.DataFrame(
    {
        "sample": [4, 7],
        "prompt": ["w10 w11 w12 w13", "w20 w21 w22"],
        "tokens": [[10, 11, 12, 13], [20, 21, 22]],
        "subject": ["w11", "w20"],
        "answer": "",
        "raw": True,
    }
)
# As a file has them: controls in alphabetical order.
KEYS = [
    *(Key(source, draw, layer) for source, draw in (("covariance", 0), ("fitted", 0))
      for layer in (3, 1, 2)),
    *(Key("shuffled", draw, layer) for draw in (1, 0) for layer in (1, 2, 3)),
]  # fmt: skip
VECTORS = {key: torch.full((WIDTH,), float(number + 1)) for number, key in enumerate(KEYS)}


def directions(component: str = "resid_pre", **more: Any) -> dict[str, Directions]:
    made = {"provenance": Provenance("m"), "position": -1, **more}
    return {"direction": Directions(VECTORS, component, **made)}


OPTIONS: dict[str, Any] = {"fit": "direction", "components": ["resid_pre"]}


def conditions(arm: Any, fits: dict[str, Directions] | None = None, **more: Any) -> list[Any]:
    return list(arm(tiny("llama"), PROMPTS, fits or directions(), **OPTIONS | more))


@pytest.mark.parametrize(
    ("arm", "name", "kind"),
    [
        (add, "add", Add),
        (subtract, "subtract", Subtract),
        (project_out, "project_out", ProjectOut),
    ],
)
def test_a_condition_for_every_direction_rule_strength_and_layer(arm, name, kind):
    swept = conditions(arm, strengths=[2.0, 0.5], positions=["last", "all"])
    fitted, controls = swept[:12], swept[12:]
    assert [dict(condition.axes) for condition in fitted] == [
        {
            "intervention": name,
            "source": "fitted",
            "draw": 0,
            "layer": layer,
            "strength": strength,
            "positions": rule,
        }
        for rule, strength, layer in product(("last", "all"), (2.0, 0.5), (1, 2, 3))
    ]
    assert {condition.role for condition in fitted} == {CANDIDATE}
    assert {condition.role for condition in controls} == {CONTROL}
    order = [("shuffled", 0), ("shuffled", 1), ("covariance", 0)]
    assert [(c.axes["source"], c.axes["draw"]) for c in controls] == [
        which for which in order for _ in range(12)
    ]
    for condition in swept:
        (edit,) = condition.edits
        axes = condition.axes
        key = Key(axes["source"], axes["draw"], axes["layer"])
        assert (str(edit.site), edit.positions) == (
            f"blocks.{axes['layer']}.resid_pre",
            axes["positions"],
        )
        assert isinstance(edit.intervention, kind)
        assert edit.intervention.strength == axes["strength"]
        assert torch.equal(edit.intervention.direction, VECTORS[key])
    assert len({condition.id for condition in swept}) == len(swept)


def test_ids_do_not_depend_on_the_other_conditions():
    def ids(**more):
        return {str(c): c.id for c in arm_conditions("a", conditions(add, **more))}

    few = ids(strengths=[1.0], layers=[2])
    assert few.items() <= ids(strengths=[0.5, 1.0], positions=["last", "all"]).items()
    assert len(few) == 1 + 4


def test_the_report_is_the_slices_through_a_setting():
    options = {"strengths": [0.5, 1.0, 2.0, 4.0], "positions": ["all", "last", "generated"]}
    swept = arm_conditions("add", conditions(add, **options, layers=[1, 2]))
    grid = [condition for condition in swept if condition.role != CONTROL]
    assert len(grid) == 1 + 2 * 4 * 3
    (at,) = (c for c in grid if str(c).endswith("layer 1, strength 1.0, positions last"))
    setting = Setting(at.axes, at.id, "validation")
    shown = reported(swept, setting)
    # Strengths at `last`, two other rules, three controls, each at two layers.
    assert len(shown) == 1 + 2 * (4 + 2 + 3)
    compared = [c for c in shown if setting.holds(c.axes)]
    assert len(compared) == 2 * (1 + 3)
    assert {(c.axes["strength"], c.axes["positions"]) for c in compared} == {(1.0, "last")}


def test_a_direction_is_projected_out_of_every_layer_where_asked_for():
    everywhere = conditions(
        project_out, components=["resid_pre", "attn_out", "mlp_out"], everywhere=True, layers=[2]
    )
    fitted = everywhere[0]
    assert (fitted.axes["layer"], fitted.axes["strength"], fitted.axes["positions"]) == (
        2,
        1.0,
        "all",
    )
    assert {str(edit.site) for edit in fitted.edits} == {
        f"blocks.{layer}.{component}"
        for layer in range(LAYERS)
        for component in ("resid_pre", "attn_out", "mlp_out")
    }
    assert len(fitted.edits) == 3 * LAYERS
    expected = VECTORS[Key("fitted", 0, 2)]
    assert all(torch.equal(edit.intervention.direction, expected) for edit in fitted.edits)
    alone = conditions(project_out, components=["resid_pre", "mlp_out"], layers=[2])[0]
    assert [str(edit.site) for edit in alone.edits] == ["blocks.2.resid_pre", "blocks.2.mlp_out"]


def test_the_layers_that_a_selection_left_out_are_shown_in_a_curve():
    selected = directions(selected={"position": -1, "layer": 2})
    swept = conditions(add, selected, strengths=[1.0])
    roles = [(c.axes["layer"], c.role) for c in swept if c.axes["source"] == "fitted"]
    assert roles == [(1, CURVE), (2, CANDIDATE), (3, CURVE)]
    assert {c.role for c in swept if c.axes["source"] != "fitted"} == {CONTROL}
    # Where the selected layer is not swept, one of the others is chosen.
    swept = conditions(add, selected, strengths=[1.0], layers=[3, 1])
    roles = [(c.axes["layer"], c.role) for c in swept if c.axes["source"] == "fitted"]
    assert roles == [(3, CANDIDATE), (1, CANDIDATE)]


def test_rules_of_each_prompts_own_go_by_their_names():
    swept = conditions(add, strengths=[1.0], layers=[1], positions=["subject", [-2, -1]])
    fitted = [c for c in swept if c.axes["source"] == "fitted"]
    assert [c.axes["positions"] for c in fitted] == ["subject", "[-2, -1]"]
    places = [c.edits[0].positions for c in fitted]
    assert all(isinstance(place, PromptPositions) for place in places)
    assert [place.rule for place in places] == ["subject", "[-2, -1]"]
    assert [list(place.of) for place in places] == [[(1,), (0,)], [(2, 3), (1, 2)]]
    (same,) = {c.edits[0].positions for c in swept if c.axes["positions"] == "subject"}
    assert same is places[0]


def test_directions_of_the_stream_fit_where_it_is_as_wide():
    swept = conditions(add, strengths=[1.0], layers=[1], components=["mlp_out", "resid_post"])
    assert [str(edit.site) for edit in swept[0].edits] == [
        "blocks.1.mlp_out",
        "blocks.1.resid_post",
    ]
    with pytest.raises(
        ValueError, match="a direction of resid_pre does not fit z; valid: resid_pre"
    ):
        conditions(add, strengths=[1.0], components=["z"])
    with pytest.raises(ValueError, match="a direction of z does not fit resid_pre; valid: z"):
        conditions(add, directions("z"), strengths=[1.0])


def test_layers_without_a_direction_are_refused():
    with pytest.raises(ValueError, match=r"no direction at layer 0; valid: \[1, 2, 3\]"):
        conditions(add, strengths=[1.0], layers=[1, 0])
    with pytest.raises(ValueError, match="llama has no layer 9; valid: 0 to 3"):
        conditions(subtract, strengths=[1.0], layers=[9])
    with pytest.raises(ValueError, match="'first' is unknown; valid: all, after_first, last"):
        conditions(add, strengths=[1.0], positions=["first"])
    with pytest.raises(ValueError, match="of sample 7: there is no position -4 among 3 tokens"):
        conditions(add, strengths=[1.0], positions=[[-4]])


def test_directions_of_another_model_are_refused():
    other = LanguageModel(tiny("llama").hf, tokenizer(), name="other", weights="modelB")
    with pytest.raises(ValueError, match="directions were made on model m, this is modelB"):
        list(add(other, PROMPTS, directions(), **OPTIONS, strengths=[1.0]))
    list(
        add(other, PROMPTS, directions(provenance=Provenance("modelB")), **OPTIONS, strengths=[1.0])
    )


def test_adding_and_subtracting_the_opposite_is_the_same():
    """The conditions do what their axes say: x + s r = x - (-s) r, and 0 changes nothing."""
    model, tokens = tiny("llama"), PROMPTS["tokens"].tolist()
    plus, none = (conditions(add, strengths=[strength], layers=[2])[0] for strength in (0.3, 0.0))
    minus = conditions(subtract, strengths=[-0.3], layers=[2])[0]
    done = generate(model, tokens, [plus, minus, none, *arm_conditions("a", [])])
    texts = [[c.tokens for c in done if c.condition == number] for number in range(4)]
    assert texts[0] == texts[1] != texts[2] == texts[3]
