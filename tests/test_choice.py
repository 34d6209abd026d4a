"""What is reported is chosen by the stated rule, on tables where each step of it decides."""

import numpy as np
import pandas as pd
import pytest

from pipeline.config.sections import Arm
from pipeline.measures.choice import Setting, choose_setting

ARM = Arm(prompts="harmless", positions=["last", "all"], metric="refusal", goal="raise")


def means(*rows: tuple[int, float, str, float], width: float = 0.1) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["layer", "strength", "positions", "mean"])
    return table.assign(low=table["mean"] - width, high=table["mean"] + width)


def test_the_weakest_of_those_as_good_as_the_best():
    table = means((1, 0.5, "all", 0.85), (1, 1.0, "all", 0.95), (1, 2.0, "all", 0.97))
    assert choose_setting(ARM, table) == Setting(1, 1.0, "all", "validation")
    sharp = means((1, 0.5, "all", 0.85), (1, 1.0, "all", 0.95), (1, 2.0, "all", 0.97), width=0.01)
    assert choose_setting(ARM, sharp).strength == 2.0


def test_then_the_first_rule_then_the_best_mean_then_the_lowest_layer():
    table = means((1, 1.0, "all", 0.97), (2, 1.0, "last", 0.9), (3, 1.0, "last", 0.92))
    assert choose_setting(ARM, table) == Setting(3, 1.0, "last", "validation")
    level = means((5, 1.0, "last", 0.9), (4, 1.0, "last", 0.9))
    assert choose_setting(ARM, level).layer == 4


def test_lowering_and_strengths_below_zero():
    lower = Arm(prompts="harmful", positions=["all"], metric="refusal", goal="lower")
    table = means((1, 2.0, "all", 0.05), (1, -1.0, "all", 0.1), (1, 0.5, "all", 0.6))
    assert choose_setting(lower, table).strength == -1.0


def test_only_the_selected_layer_is_looked_at_where_it_was_swept():
    table = means((1, 1.0, "all", 0.2), (2, 1.0, "all", 0.9))
    assert choose_setting(ARM, table, layer=1) == Setting(1, 1.0, "all", "selection")
    assert choose_setting(ARM, table, layer=7) == Setting(2, 1.0, "all", "validation")


def test_unscored_conditions_are_passed_over():
    table = means((1, 1.0, "all", np.nan), (2, 2.0, "all", 0.3))
    assert choose_setting(ARM, table).layer == 2
    with pytest.raises(ValueError, match="refusal scores nothing on validation"):
        choose_setting(ARM, table.assign(mean=np.nan))


def test_a_mean_without_an_interval_is_as_good_as_itself_alone():
    table = means((1, 1.0, "all", 0.2), (1, 2.0, "all", 0.4), width=np.nan)
    assert choose_setting(ARM, table).strength == 2.0
