"""Two runs laid out as text: within the width, and nothing lost."""

import pandas as pd
import pytest

from pipeline.runs.records import Comparison, compare
from pipeline.views.two_runs import told


def comparison() -> Comparison:
    estimate = {"mean": 0.5, "low": 0.4, "high": 0.6}
    words = [f"a phrase of {n} words" for n in range(30)]
    configs = {"sweep": {"seed": 1}, "text": "x" * 120}, {"sweep": {"seed": 2}, "phrases": words}
    configs[1]["lines"] = "one\ntwo"
    summary = {"an_arm_with_a_name": {"of_a_metric_with_a_longer_name": estimate}, "loss": 1.25}
    records = [{"config": config, "summary": summary} for config in configs]
    result = compare(*records)
    return Comparison(result.config, result.summary.assign(paired=[True, False]))


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("width", [30, 80, 100, 400])
def test_lines_are_within_the_width_and_nothing_is_lost(width):
    compared = comparison()
    lines = list(told(compared, "study-1", "study-2", width=width))
    assert max(map(len, lines)) <= width
    text = squeezed("".join(lines))
    for row in compared.config.itertuples():
        for value in (row.key, row.a, row.b):
            value = "absent" if value is pd.NA else value
            assert squeezed(repr(value) if value == "one\ntwo" else str(value)) in text
    for key in compared.summary["key"]:
        assert key in text
    assert all(number in text for number in ("1.25", "0.141", "-0.141"))


def test_what_fits_is_a_table():
    compared = comparison()
    short = Comparison(compared.config[:1], compared.summary)
    lines = list(told(short, "x", "y", width=100))
    assert lines[lines.index("configuration keys that differ:") + 1].split() == ["key", "a", "b"]
    assert lines[lines.index("configuration keys that differ:") + 2].split() == [
        "sweep.seed",
        "1",
        "2",
    ]
    head = next(line for line in lines if "difference" in line and "high" in line)
    row = lines[lines.index(head) + 1]
    assert row.startswith("an_arm_with_a_name.of_a_metric_with_a_longer_name")
    assert row.split()[1:] == ["0.5", "0.5", "0", "-0.141", "0.141", "yes", "no"]
    # Columns are aligned at their right ends.
    assert head.index("low") + 3 == row.index("-0.141") + 6
    assert list(told(Comparison(compared.config[:0], compared.summary), "x", "y", width=99))[4] == (
        "  none"
    )
