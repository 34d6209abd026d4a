"""Scores of edits and effects of tracing, from tables whose scores are known."""

import numpy as np
import pandas as pd
import pytest

from pipeline.measures.edited_facts import best_on_val, estimates_of_edits, scores_of_edits
from pipeline.measures.tracing import clean_and_corrupted, indirect_effects
from pipeline.views.edited_facts import edits_by_layer, edits_compared, side_effects_by_layer
from pipeline.views.tracing import traced_curves, traced_maps

PARTS = ("first subject token", "last subject token", "last token")


def edited_rows() -> pd.DataFrame:
    """Ten facts, the last one unknown; edits work at layer 1 for all but fact 0, elsewhere not."""
    rows = []
    conditions = [("rome", "baseline", np.nan), ("shown", "baseline", np.nan)]
    conditions += [(arm, role, n) for arm, role in ARMS.items() for n in (0, 1, 2)]
    for arm, role, layer in conditions:
        for fact in range(20):
            known, split = fact % 10 < 9, "val" if fact < 10 else "test"
            works = (arm == "shown" or (arm == "rome" and layer == 1)) and fact % 10 > 0
            for kind, number in (
                ("edit", 0),
                ("paraphrase", 0),
                ("neighbour", 0),
                ("neighbour", 1),
            ):
                near = kind == "neighbour"
                right = known if not near else number == 0
                # Of the known neighbours, those of fact 1 change with the edit.
                changes = works and (not near or (fact % 10 == 1 and number == 0))
                common = {
                    "condition": f"{arm}{layer}",
                    "arm": arm,
                    "role": role,
                    "layer": layer,
                    "split": split,
                    "sample": fact * 4 + ("edit", "paraphrase", "neighbour").index(kind) + number,
                    "fact": fact,
                    "topic": fact,
                    "kind": kind,
                    "probe": f"{kind} {number} of {fact}",
                }
                values = {
                    "target": float(changes and not near),
                    "answer": float(right and not changes),
                    "preferred": float(changes),
                }
                rows += [{**common, "metric": name, "score": v} for name, v in values.items()]
    return pd.DataFrame(rows)


ARMS = {"rome": "candidate", "random": "control"}


def test_scores_count_what_the_unedited_model_knows():
    counted = scores_of_edits(edited_rows(), reference="rome")
    assert set(counted["fact"] % 10) == set(range(9))
    assert counted[counted["kind"] == "neighbour"]["probe"].str.startswith("neighbour 0").all()
    test = counted[counted["split"] == "test"]
    table = estimates_of_edits(test, ["condition"], "topic", 0).set_index(["condition", "quantity"])
    means = table["mean"].unstack()
    expected = {
        "reliability": 8 / 9,
        "generalization": 8 / 9,
        "locality": 8 / 9,
        "efficacy": 8 / 9,
        "paraphrase": 8 / 9,
        "neighbourhood": 8 / 9,
        "score": 8 / 9,
    }
    for condition in ("rome1", "shownnan"):
        assert means.loc[condition].to_dict() == pytest.approx(expected)
    untouched = {**dict.fromkeys(expected, 0.0), "locality": 1.0, "neighbourhood": 1.0}
    for condition in ("romenan", "rome0", "random1"):
        assert means.loc[condition].to_dict() == pytest.approx(untouched)
    assert (table["n"].unstack()["reliability"] == 9).all()
    assert best_on_val(counted, ["rome", "shown"]) == {"rome": "rome1", "shown": "shownnan"}


def test_the_score_is_the_harmonic_mean_with_an_interval_around_it():
    rows = pd.DataFrame(
        [
            {"condition": "a", "quantity": name, "topic": n, "score": float(n < share)}
            for name, share in (("efficacy", 40), ("paraphrase", 20), ("neighbourhood", 30))
            for n in range(40)
        ]
    )
    table = estimates_of_edits(rows, ["condition"], "topic", 0).set_index("quantity")
    assert table.loc["score", "mean"] == pytest.approx(3 / (1 / 1 + 1 / 0.5 + 1 / 0.75))
    low, high = table.loc["score", ["low", "high"]]
    assert 0.5 < low < table.loc["score", "mean"] < high < 0.85


def test_tables_without_known_facts_or_val_prompts_are_named():
    rows = edited_rows()
    with pytest.raises(ValueError, match="no column 'probe'; valid are scores of"):
        scores_of_edits(rows.drop(columns="probe"), reference="rome")
    with pytest.raises(ValueError, match="no fact is answered without edit in arm 'values'"):
        scores_of_edits(rows, reference="values")
    counted = scores_of_edits(rows[rows["split"] == "test"], reference="rome")
    with pytest.raises(ValueError, match="arm 'rome' has no val prompts; valid: splits:"):
        best_on_val(counted, ["rome"])


def test_edits_are_drawn_with_their_controls():
    figure = edits_by_layer(edited_rows(), "topic", 0, arm="rome", control="random")
    left, right = figure.axes
    assert left.get_title(loc="left") == "Token accuracies (EasyEdit)"
    drawn = [line for line in left.lines if line.get_linestyle() == "-" and len(line.get_xdata())]
    assert drawn[1].get_ydata() == pytest.approx([0, 8 / 9, 0])
    dotted = [line for line in left.lines if line.get_linestyle() == ":"]
    assert dotted[0].get_ydata() == pytest.approx([0, 0, 0])
    text = " ".join(figure.get_supxlabel().split())
    assert "n = 9 facts" in text and "layer 1, the largest harmonic mean on the val" in text
    assert len(right.get_legend().get_texts()) == 4
    bars = edits_compared(
        edited_rows(), "topic", 0, reference="rome", arms={"rome": "ROME", "shown": "IKE"}
    )
    widths = [bar.get_width() for bar in bars.axes[0].patches]
    assert widths == pytest.approx([0, 0, 100] + [800 / 9] * 6)
    assert "ROME layer 1." in " ".join(bars.get_supxlabel().split())


def test_side_effects_are_drawn_by_layer():
    rows = [
        {
            "fact": fact,
            "topic": fact,
            "split": "test",
            "text": fact,
            "layer": layer,
            "edit": edit,
            "change": (edit == "fitted") * layer,
            "clean_loss": 2.0,
        }
        for fact in range(12)
        for layer in (0, 1, 2)
        for edit in ("fitted", "random")
    ]
    figure = side_effects_by_layer({"effects": pd.DataFrame(rows)}, "topic", 0, reading="effects")
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["edit of a fact"].get_ydata().tolist() == [0, 1, 2]
    assert lines["random edit, same key and norm"].get_ydata().tolist() == [0, 0, 0]


def traced_rows() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Clean 0.9, corrupted 0.1 + 0.1 draw; the last subject token of layer 1 restores 0.5.

    Sample 11 is wrong without noise. Only samples from 6 on have a first subject token.
    """
    rows, parts = [], []
    for sample in range(12):
        common = {"sample": sample, "topic": sample, "split": "test", "arm": "states"}
        parts += [{"sample": sample, "part": part} for part in PARTS[sample < 6 :]]
        runs = [("baseline", np.nan, np.nan, np.nan, 0.9)]
        for draw in (0, 1):
            before = 0.1 + 0.1 * draw
            runs.append(("control", "nothing", draw, np.nan, before))
            for part in PARTS:
                for layer in (0, 1):
                    gain = 0.0 if sample < 6 and part == PARTS[0] else 0.2
                    gain = 0.4 + 0.2 * draw if (part, layer) == (PARTS[1], 1) else gain
                    runs.append(("candidate", part, draw, layer, before + gain))
        for role, restored, draw, layer, p in runs:
            axes = {"role": role, "restored": restored, "draw": draw, "layer": layer}
            named = {**common, **axes, "condition": f"{restored} {draw} {layer}"}
            rows.append({**named, "metric": "probability", "score": p})
            rows.append({**named, "metric": "correct", "score": float(sample != 11)})
    return pd.DataFrame(rows), pd.DataFrame(parts)


def test_effects_are_paired_by_draw_and_of_prompts_that_have_the_part():
    scores, parts = traced_rows()
    effects = indirect_effects(scores, parts, "probability")
    means = effects.groupby(["restored", "layer"])["score"].agg(["mean", "size"])
    assert means.loc[(PARTS[1], 1), "mean"] == pytest.approx(0.5)
    # Six prompts that lack the part would halve the mean.
    assert means.loc[(PARTS[0], 0)].tolist() == pytest.approx([0.2, 6])
    assert means.loc[(PARTS[2], 0), "size"] == 12
    ends = clean_and_corrupted(scores, "probability")
    assert ends["score"].mean() == pytest.approx(0.9) and len(ends) == 12
    assert ends["corrupted"].mean() == pytest.approx(0.15)
    with pytest.raises(ValueError, match="no corrupted run with the metric 'rank'"):
        indirect_effects(scores, parts, "rank")


def test_traced_effects_are_drawn_and_the_largest_is_named():
    scores, parts = traced_rows()
    summary = pd.DataFrame({"metric": ["probability"], "metric_label": ["p"], "percent": True})
    options = {"arms": {"states": "Outputs"}, "metric": "probability", "parts": "parts"}
    figure = traced_maps(scores, summary, {"parts": parts}, "topic", 0, right="correct", **options)
    text = " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())
    assert "n = 11 prompts that are correct without noise" in text
    assert (
        "Largest at the last subject token, of all layers: 50 (50 to 50) in layer 1 (outputs)."
        in text
    )
    assert "Without noise 90 (90 to 90) %; corrupted 15 (15 to 15) %." in text
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == list(PARTS)
    curves = traced_curves(
        scores, summary, {"parts": parts}, "topic", 0, shown=[PARTS[1], PARTS[2]], **options
    )
    lines = {line.get_label(): line for line in curves.axes[0].lines}
    assert lines[PARTS[1]].get_ydata() == pytest.approx([20, 50])
    with pytest.raises(ValueError, match="no rows with restored = middle"):
        traced_curves(scores, summary, {"parts": parts}, "topic", 0, shown=["middle"], **options)


def test_effects_on_a_metric_in_nats_are_in_nats():
    scores, parts = traced_rows()
    label = "log p (nats)"
    summary = pd.DataFrame({"metric": ["probability"], "metric_label": label, "percent": False})
    options = {"arms": {"states": "Outputs"}, "metric": "probability", "parts": "parts"}
    figure = traced_maps(scores, summary, {"parts": parts}, "topic", 0, **options)
    text = " ".join(figure.get_supxlabel().replace("\N{NO-BREAK SPACE}", " ").split())
    assert "Without noise 0.9 (0.9 to 0.9); corrupted 0.15 (0.15 to 0.15)." in text
    assert "0.5 (0.5 to 0.5) in layer 1" in text and "Cells: log p (nats) with" in text
    assert "%" not in text and "point" not in text
    assert {cell.get_text() for cell in figure.axes[0].texts} == {"0.2", "0.5"}
    assert figure.axes[1].get_ylabel() == "indirect effect on log p (nats)"
    options["shown"] = [PARTS[1]]
    curves = traced_curves(scores, summary, {"parts": parts}, "topic", 0, **options)
    (line,) = (line for line in curves.axes[0].lines if line.get_label() == PARTS[1])
    assert line.get_ydata() == pytest.approx([0.2, 0.5])
    assert curves.axes[0].get_ylabel() == "indirect effect on log p (nats)"


def test_more_edits_than_colours_have_a_bar_of_their_own_each():
    rows = edited_rows()
    copies = [
        rows[rows["arm"] == "rome"].assign(arm=f"rome {n}", condition=lambda t: t.arm + t.condition)
        for n in range(8)
    ]
    arms = {f"rome {n}": f"{n}" for n in range(8)}
    table = pd.concat([rows, *copies])
    figure = edits_compared(table, "topic", 0, reference="rome", arms=arms)
    keys = figure.legends[0].get_patches()
    assert len({(key.get_facecolor(), key.get_hatch()) for key in keys}) == 9


def test_edits_of_one_layer_are_told_apart():
    rows = edited_rows()
    again = rows[(rows["arm"] == "rome") & (rows["layer"] == 1)]
    table = pd.concat([rows, again.assign(condition="again")])
    with pytest.raises(ValueError, match="agree in arm, layer; valid: one each"):
        edits_by_layer(table, "topic", 0, arm="rome", control="random")
