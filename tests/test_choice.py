"""What is reported is chosen by the stated rule, on tables where each step of it decides."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.data.roles import BASELINE, CANDIDATE, CONTROL, CURVE
from pipeline.engine.conditions import Condition
from pipeline.engine.phases import reported, validated
from pipeline.measures.settings import Setting, choose_setting

AXES = ["layer", "strength", "positions"]


def named(rows: list[dict[str, Any]], width: float = 0.1) -> pd.DataFrame:
    """Means of conditions in an arm's order, with the intervals that all have."""
    table = pd.DataFrame(rows)
    table["role"] = table["role"].fillna(CANDIDATE) if "role" in table else CANDIDATE
    table["condition"] = [f"c{number}" for number in range(len(table))]
    return table.assign(low=table["mean"] - width, high=table["mean"] + width)


def means(*rows: tuple[int, float, str, float], width: float = 0.1) -> pd.DataFrame:
    """The arm names position rule `last` first: its rows stand before the others."""
    ordered = sorted(rows, key=lambda row: row[2] != "last")
    return named([dict(zip([*AXES, "mean"], row, strict=True)) for row in ordered], width)


def chosen(table: pd.DataFrame, goal: str = "raise") -> tuple[int, float, str]:
    setting = choose_setting(table, AXES, goal)
    assert list(setting.axes) == AXES
    row = table.set_index("condition").loc[setting.condition]
    assert setting.axes == {axis: row[axis] for axis in AXES}
    return tuple(setting.axes.values())


def test_the_weakest_of_those_as_good_as_the_best():
    table = means((1, 0.5, "all", 0.85), (1, 1.0, "all", 0.95), (1, 2.0, "all", 0.97))
    assert chosen(table) == (1, 1.0, "all")
    assert choose_setting(table, AXES, "raise").chosen_by == "validation"
    sharp = means((1, 0.5, "all", 0.85), (1, 1.0, "all", 0.95), (1, 2.0, "all", 0.97), width=0.01)
    assert chosen(sharp) == (1, 2.0, "all")


def test_then_the_first_rule_then_the_best_mean_then_the_lowest_layer():
    table = means((1, 1.0, "all", 0.97), (2, 1.0, "last", 0.9), (3, 1.0, "last", 0.92))
    assert chosen(table) == (3, 1.0, "last")
    level = means((5, 1.0, "last", 0.9), (4, 1.0, "last", 0.9))
    assert chosen(level)[0] == 4


def test_conditions_may_lack_an_axis_of_numbers():
    """NaN is then one of the axis's values, after those of conditions that are listed before."""
    table = named([{"layer": 1, "scale": scale, "mean": 0.9} for scale in (0.5, np.nan, 0.25)], 0.1)
    assert choose_setting(table, ["layer", "scale"], "raise").axes == {"layer": 1, "scale": 0.5}
    table = named([{"layer": 1, "scale": scale, "mean": 0.9} for scale in (np.nan, 0.5)], 0.1)
    assert choose_setting(table, ["layer", "scale"], "raise").axes == {"layer": 1}


def test_lowering_and_strengths_below_zero():
    table = means((1, 2.0, "all", 0.05), (1, -1.0, "all", 0.1), (1, 0.5, "all", 0.6))
    assert chosen(table, "lower") == (1, -1.0, "all")


def test_candidates_alone_are_looked_at():
    """A selection has left one layer to choose; the curve shows the others, controls do better."""
    table = means((1, 1.0, "all", 0.2), (2, 1.0, "all", 0.9), (3, 1.0, "all", 1.0))
    table["role"] = [CANDIDATE, CURVE, CONTROL]
    setting = choose_setting(table, AXES, "raise")
    assert (setting.axes["layer"], setting.chosen_by) == (1, "selection")
    table["role"] = [BASELINE, CANDIDATE, CONTROL]
    setting = choose_setting(table, AXES, "raise")
    assert (setting.axes["layer"], setting.chosen_by) == (2, "validation")


def test_unscored_conditions_are_passed_over():
    table = means((1, 1.0, "all", np.nan), (2, 2.0, "all", 0.3))
    assert chosen(table)[0] == 2
    with pytest.raises(ValueError, match="no setting can be chosen: nothing is scored on validati"):
        choose_setting(table.assign(mean=np.nan), AXES, "raise")
    with pytest.raises(ValueError, match="no setting can be chosen"):
        choose_setting(table.assign(role=CONTROL), AXES, "raise")


def test_a_mean_without_an_interval_is_as_good_as_itself_alone():
    table = means((1, 1.0, "all", 0.2), (1, 2.0, "all", 0.4), width=np.nan)
    assert chosen(table)[1] == 2.0


def test_axes_of_any_name_are_chosen_over():
    """Without a strength the value that an arm names first decides, axis by axis."""
    rows = [
        {"source_layer": source, "target_layer": target, "rank": rank, "mean": value}
        for source, target, rank, value in [
            (5, 2, 4, 0.5),
            (5, 1, 4, 0.9),
            (5, 1, 2, 0.95),
            (3, 1, 2, 0.92),
        ]
    ]
    axes = ["source_layer", "target_layer", "rank"]
    setting = choose_setting(named(rows), axes, "raise")
    assert setting.axes == {"source_layer": 5, "target_layer": 1, "rank": 4}
    assert setting.condition == "c1"
    # Named the other way round, the smaller rank and the earlier source come first.
    setting = choose_setting(named(rows[::-1]), axes, "raise")
    assert setting.axes == {"source_layer": 3, "target_layer": 1, "rank": 2}


def test_equal_conditions_are_told_apart_by_the_arms_order():
    rows = [{"unit": unit, "mean": 0.5} for unit in ("z[3]", "z[1]", "z[2]")]
    setting = choose_setting(named(rows), ["unit"], "raise")
    assert (setting.axes, setting.condition) == ({"unit": "z[3]"}, "c0")


def test_a_setting_has_plain_values_and_only_axes_that_it_has():
    table = means((1, 1.0, "all", 0.9)).astype({"layer": "Int64"}).assign(rank=pd.NA)
    setting = choose_setting(table, [*AXES, "rank"], "raise")
    assert setting.axes == {"layer": 1, "strength": 1.0, "positions": "all"}
    assert [type(value) for value in setting.axes.values()] == [int, float, str]


def condition(role: str = CANDIDATE, **axes: Any) -> Condition:
    return Condition({"arm": "a", **axes}, role=role)


SETTING = Setting(
    {"arm": "a", "source": "fitted", "draw": 0, "layer": 1, "strength": 1.0, "positions": "last"},
    "id",
    "validation",
)


def grid() -> list[Condition]:
    """Two layers, strengths and rules; a fitted direction and two draws of a control."""
    sources = [("fitted", 0, CANDIDATE), ("shuffled", 0, CONTROL), ("shuffled", 1, CONTROL)]
    return [
        condition(BASELINE),
        *(
            condition(
                role, source=source, draw=draw, layer=layer, strength=strength, positions=rule
            )
            for source, draw, role in sources
            for rule in ("last", "all")
            for strength in (0.5, 1.0)
            for layer in (1, 2)
        ),
    ]


def test_reported_are_the_baseline_the_slices_and_the_controls():
    conditions = reported(grid(), SETTING)
    assert conditions[0].role == BASELINE
    fitted = [c.axes for c in conditions if c.role == CANDIDATE]
    places = {(a["strength"], a["positions"]) for a in fitted}
    assert places == {(1.0, "last"), (0.5, "last"), (1.0, "all")}
    assert len(fitted) == 3 * 2
    controls = [c.axes for c in conditions if c.role == CONTROL]
    assert {(a["strength"], a["positions"]) for a in controls} == {(1.0, "last")}
    assert sorted((a["layer"], a["draw"]) for a in controls) == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert len(conditions) == 1 + 6 + 4
    assert list(conditions) == [c for c in grid() if c in conditions]


def test_a_setting_is_chosen_from_all_but_controls():
    conditions = validated(grid())
    assert [c.role for c in conditions] == [BASELINE] + [CANDIDATE] * 8
    assert list(conditions) == [c for c in grid() if c.role != CONTROL]


def test_a_curve_is_reported_like_candidates():
    curve = [
        condition(CURVE, **{**SETTING.axes, "layer": layer, "strength": strength})
        for layer in (0, 2)
        for strength in (1.0, 2.0)
    ]
    assert list(reported(curve, SETTING)) == curve


def test_the_comparison_holds_layers_and_controls_and_nothing_else():
    held = [c for c in grid() if SETTING.holds(c.axes)]
    assert [(c.axes["source"], c.axes["draw"], c.axes["layer"]) for c in held] == [
        (source, draw, layer)
        for source, draw in (("fitted", 0), ("shuffled", 0), ("shuffled", 1))
        for layer in (1, 2)
    ]
    assert SETTING.differing({**SETTING.axes, "strength": 2.0, "layer": 7}) == ["strength"]
    assert SETTING.differing({**SETTING.axes, "rank": 3}) == ["rank"]
    missing = {name: value for name, value in SETTING.axes.items() if name != "positions"}
    assert SETTING.differing(missing) == ["positions"]


def test_what_validation_cannot_separate_is_counted():
    table = means(*((layer, 1.0, "last", 0.5) for layer in range(5)), (9, 1.0, "last", 0.1))
    setting = choose_setting(table, AXES, "raise")
    assert (setting.axes["layer"], setting.tied, setting.candidates) == (0, 5, 6)
    apart = means((1, 1.0, "all", 0.1), (2, 1.0, "all", 0.9))
    assert (choose_setting(apart, AXES, "raise").tied, len(apart)) == (1, 2)
