"""Neurons planted by hand among silent ones, and every ablation against a hook by hand."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, tiny
from scipy.stats import ttest_1samp

from pipeline.data.datasets import tokenise
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition, Edit, PerPrompt
from pipeline.engine.edit_table import EditTable
from pipeline.engine.scoring import score_last
from pipeline.measures.significance import benjamini_hochberg
from pipeline.methods.interventions import SetUnits
from pipeline.methods.neurons.arms import ablated_neurons, clamped_neurons, random_neurons
from pipeline.methods.neurons.effects import changes_beyond_rounding, layer_effects, neuron_table
from pipeline.methods.neurons.fits import NeuronEffects, neurons_by_effect
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

INNER = 48
GROUPS = {"one": ["w20", "w21"], "two": ["w30", "w31"]}
LAST = {"one": 10, "two": 11}
"""The last token says which words follow."""
STRONG, WEAK, SILENT = (2, 7), (1, 40), (3, 5)
"""Layer and neuron; the last one fires and writes nothing."""


def contexts(topics: int = 6) -> pd.DataFrame:
    rows = [
        {"instruction": f"w{50 + t} w{80 + t} w{LAST[label]}", "label": label, "topic": f"t{t}"}
        for t in range(topics)
        for label in GROUPS
    ]
    frame = pd.DataFrame(rows).assign(split="train", raw=True)
    return tokenise(frame, tiny("llama").tokenizer)


@pytest.fixture(scope="module")
def planted() -> LanguageModel:
    """Attention and MLPs write nothing but two neurons, which read the last token's embedding.

    Gate and up projection give a neuron about +a after the one last token and -a after the other;
    its row of the down projection raises one group's words and lowers the other's.
    """
    shared = tiny("llama")
    model = LanguageModel(copy.deepcopy(shared.hf), shared.tokenizer, name="planted")
    embedding = model.hf.get_input_embeddings().weight.data
    first, second = (embedding[LAST[label]] for label in GROUPS)
    unembedding = model.hf.get_output_embeddings().weight.data
    raised, lowered = (
        unembedding[[int(word[1:]) for word in words]].mean(0) for words in GROUPS.values()
    )
    for block in model.blocks:
        block.self_attn.o_proj.weight.data.zero_()
        block.mlp.down_proj.weight.data.zero_()
    for (layer, neuron), scale in ((STRONG, 0.005), (WEAK, 0.002), (SILENT, 0.0)):
        mlp = model.blocks[layer].mlp
        mlp.gate_proj.weight.data[neuron] = 2 * (first + second)
        mlp.up_proj.weight.data[neuron] = first - second
        mlp.down_proj.weight.data[:, neuron] = scale * (raised - lowered)
    return model


@contextmanager
def setting(model, values: dict[tuple[int, int], float], at) -> Iterator[None]:
    """Set neurons by hand, at columns of the rows."""

    def hook(neurons):
        def before(module, args):
            hidden = args[0].clone()
            for neuron, value in neurons:
                hidden[:, at, neuron] = value
            return (hidden,)

        return before

    handles = []
    for layer in {layer for layer, _ in values}:
        projection, _ = model.module_of(Site(layer, "mlp_act"))
        neurons = [(n, value) for (lay, n), value in values.items() if lay == layer]
        handles.append(projection.register_forward_pre_hook(hook(neurons)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits_of(model, tokens) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]


def log_odds(logits, label) -> float:
    p = logits.double().softmax(-1)
    sums = {name: p[[int(w[1:]) for w in words]].sum() for name, words in GROUPS.items()}
    other = next(name for name in GROUPS if name != label)
    return float(sums[label].log() - sums[other].log())


def fitted(model, prompts, tmp_path, **options) -> NeuronEffects:
    return neurons_by_effect(model, prompts, 0, tmp_path, groups=GROUPS, **{"top": 2} | options)


def test_the_planted_neurons_are_found_and_no_other_has_an_effect(planted, tmp_path):
    neurons = fitted(planted, contexts(), tmp_path)
    chosen = neurons.chosen
    assert list(zip(chosen["layer"], chosen["neuron"], strict=True)) == [STRONG, WEAK]
    assert len(neurons.effects) == LAYERS * INNER
    others = neurons.effects[neurons.effects["rank"] == 0]
    assert (others["effect"] == 0).all() and (others["p"] == 1).all()
    assert not others["passes"].any() and not others["top_changed"].any()
    # The planted effects are equal in all topics: p is that of their signs.
    alike = chosen["stderr"] == 0
    expected = benjamini_hochberg(neurons.effects["p"].to_numpy())[neurons.effects["rank"] > 0]
    assert sorted(chosen["p_corrected"]) == pytest.approx(sorted(expected))
    assert (chosen["p"][alike] == 2.0**-5).all() and (chosen["p"][~alike] < 1e-8).all()
    assert (chosen[["effect_one", "effect_two"]] < 0).all().all()
    assert (chosen["own"] < 0).all() and (chosen["others"] > 0).all()
    signs = np.sign(chosen[["activation_one", "activation_two"]])
    assert (signs == [1, -1]).all().all()
    # Swapped words of whole topics leave next to nothing to be found.
    assert neurons.chance["passing"].mean() < 0.2


@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_effects_of_a_layer_are_those_of_hooks_by_hand(ablation, positions):
    model, prompts, layer = tiny("gemma2"), contexts(3), 1
    changes = layer_effects(
        model, prompts, layer, groups=GROUPS, ablation=ablation, positions=positions
    )
    assert len(changes) == INNER * len(prompts)
    seen = []
    projection, _ = model.module_of(Site(layer, "mlp_act"))
    handle = projection.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
    rows = prompts.to_dict("records")
    clean = [logits_of(model, row["tokens"]) for row in rows]
    handle.remove()
    at = slice(-1, None) if positions == "last" else slice(None)
    activations = torch.stack([hidden[at].mean(0) for hidden in seen])
    means = activations.mean(0) if ablation == "mean" else torch.zeros(INNER)
    for neuron in (0, 3, INNER - 1):
        of_neuron = changes[changes["neuron"] == neuron]
        np.testing.assert_allclose(of_neuron["activation"], activations[:, neuron], atol=1e-5)
        for row, before, found in zip(rows, clean, of_neuron.to_dict("records"), strict=True):
            with setting(model, {(layer, neuron): float(means[neuron])}, at):
                after = logits_of(model, row["tokens"])
            expected = log_odds(after, row["label"]) - log_odds(before, row["label"])
            assert found["own"] - found["others"] == pytest.approx(expected, abs=2e-5)
            assert found["top_changed"] == bool(after.argmax() != before.argmax())
    assert changes["own"].abs().max() > 1e-3


def test_changes_within_rounding_are_none():
    levels = np.array([[-8.0, -0.5], [-8.0 + 7e-5, -0.5 + 9e-6], [-8.0 - 9e-5, -0.5 + 2e-5]])
    np.testing.assert_allclose(changes_beyond_rounding(levels), [0, 0, -9e-5, 2e-5])


def test_p_is_scipys_over_topics_corrected_over_all_neurons():
    rng = np.random.default_rng(0)
    tables = [
        pd.DataFrame(
            {
                "layer": layer,
                "neuron": np.repeat(np.arange(9), 24),
                "label": np.tile(["one", "two"], 9 * 12),
                "topic": np.tile(np.repeat([f"t{t}" for t in range(6)], 4), 9),
                "activation": rng.normal(size=216),
                "own": rng.normal(size=216) - (layer == 1) * np.repeat(np.arange(9) == 4, 24),
                "others": 0.1 * rng.normal(size=216),
                "top_changed": rng.random(216) < 0.2,
            }
        )
        for layer in (0, 1)
    ]
    tables = [table.assign(sample=np.tile(np.arange(24), 9)) for table in tables]
    table, chance = neuron_table(tables, top=1, alpha=0.05, draws=30, seed=0)
    apart = [rows.assign(topic=rows["topic"].replace("t5", "")) for rows in tables]
    assert set(neuron_table(apart, top=1, alpha=0.05, draws=2, seed=0)[0]["topics"]) == {5 + 4}
    joined = pd.concat(tables).assign(change=lambda rows: rows["own"] - rows["others"])
    means = joined.groupby(["layer", "neuron", "topic"])["change"].mean().unstack()
    expected = ttest_1samp(means, 0, axis=1)
    np.testing.assert_allclose(table["p"], expected.pvalue, rtol=1e-9)
    np.testing.assert_allclose(table["effect"], means.mean(axis=1), rtol=1e-9)
    np.testing.assert_allclose(table["p_corrected"], benjamini_hochberg(expected.pvalue))
    (chosen,) = table[table["rank"] == 1].to_dict("records")
    assert (chosen["layer"], chosen["neuron"], chosen["passes"]) == (1, 4, True)
    assert len(chance) == 30 and chance["passing"].mean() < 1


def test_arms_set_the_chosen_neurons_together_and_alone(planted, tmp_path):
    prompts = contexts()
    fits = {"number": fitted(planted, prompts, tmp_path)}
    conditions = list(ablated_neurons(planted, prompts, fits, fit="number"))
    names = [f"blocks.{layer}.mlp_act[{neuron}]" for layer, neuron in (STRONG, WEAK)]
    assert [c.axes["neuron"] for c in conditions] == ["together", *names]
    assert {c.role for c in conditions} == {CANDIDATE}
    tokens = prompts["tokens"].tolist()
    logits = score_last(planted, tokens, conditions, lambda rows: rows, batch_tokens=100)
    for condition, neurons in zip(logits, ([STRONG, WEAK], [STRONG], [WEAK]), strict=True):
        for row, found in zip(tokens, condition, strict=True):
            with setting(planted, dict.fromkeys(neurons, 0.0), slice(-1, None)):
                expected = logits_of(planted, row)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_random_neurons_are_of_the_same_layers_and_change_nothing(planted, tmp_path):
    prompts = contexts()
    fits = {"number": fitted(planted, prompts, tmp_path)}
    conditions = list(random_neurons(planted, prompts, fits, 0, fit="number", draws=4))
    assert len(conditions) == 4 * 3 and {c.role for c in conditions} == {CONTROL}
    alone = [c for c in conditions if c.axes["neuron"] != "together"]
    for condition in alone:
        stands_for, unit = (Site.parse(str(condition.axes[a])) for a in ("neuron", "unit"))
        assert stands_for.layer == unit.layer and stands_for != unit
        assert (unit.layer, unit.unit) not in (STRONG, WEAK)
    assert len({c.axes["unit"] for c in alone}) > 4
    tokens = prompts["tokens"].tolist()
    logits = score_last(planted, tokens, [Condition(), *conditions], lambda x: x, batch_tokens=100)
    torch.testing.assert_close(logits[1:], logits[:1].expand_as(logits[1:]), atol=1e-5, rtol=0)


def test_clamped_neurons_have_multiples_of_their_mean(planted, tmp_path):
    """Log-odds grow with the multiple, and the usual level changes little at its own label."""
    prompts = contexts()
    neurons = fitted(planted, prompts, tmp_path, top=1)
    multiples = [-1.0, 0.0, 1.0, 2.0]
    conditions = list(
        clamped_neurons(
            planted, prompts, {"number": neurons}, 0, fit="number", multiples=multiples, draws=2
        )
    )
    chosen = [c for c in conditions if c.axes["neuron"] == "blocks.2.mlp_act[7]"]
    row = neurons.chosen.iloc[0]
    mean = row[f"activation_{row['label']}"]
    values = [float(c.edits[0].intervention.values) for c in chosen]
    assert values == pytest.approx([m * mean for m in multiples])
    own = prompts[prompts["label"] == row["label"]]
    logits = score_last(planted, own["tokens"].tolist(), chosen, lambda x: x, batch_tokens=100)
    odds = [[log_odds(found, row["label"]) for found in condition] for condition in logits]
    assert (np.diff(odds, axis=0) > 0).all()
    clean = [log_odds(logits_of(planted, tokens), row["label"]) for tokens in own["tokens"]]
    np.testing.assert_allclose(np.mean(odds[2]), np.mean(clean), atol=0.05)
    controls = [c for c in conditions if c.role == CONTROL]
    assert len(controls) == 2 * len(multiples)
    assert {c.axes["neuron"] for c in controls} == {f"{row['label']} neurons"}


def test_the_edit_table_holds_two_numbers_a_neuron_and_batches_do_not_grow(monkeypatch):
    """A sweep over twice as many neurons has no larger pass and stacks no vectors."""
    model, tokens = tiny("llama"), contexts(2)["tokens"].tolist()
    rows: dict[int, set[int]] = {}
    unpatched = SetUnits.edit

    def edit(self, hidden):
        rows[n].add(hidden.numel())
        assert self.units.numel() == self.values.numel() == len(hidden)
        return unpatched(self, hidden)

    monkeypatch.setattr(SetUnits, "edit", edit)
    for n in (24, 48):
        rows[n] = set()
        conditions = [
            Condition(
                {"number": k},
                (Edit(Site(1, "mlp_act"), SetUnits(torch.tensor([k]), torch.zeros(1)), "last"),),
            )
            for k in range(n)
        ]
        table = EditTable(model, conditions)
        (kinds,) = table._kinds.values()
        assert sum(t.numel() for kind in kinds for t in kind.stack._stacked.values()) == 2 * n
        score_last(model, tokens, conditions, lambda x: x[:, 0], batch_tokens=64)
    assert max(rows[24]) == max(rows[48])


def test_fits_are_saved_and_checked(planted, tmp_path):
    neurons = fitted(planted, contexts(), tmp_path / "work", layers=[1, 2])
    neurons.save(tmp_path / "fit")
    again = NeuronEffects.load(tmp_path / "fit")
    pd.testing.assert_frame_equal(again.effects, neurons.effects)
    pd.testing.assert_frame_equal(again.chance, neurons.chance)
    assert again.provenance == neurons.provenance
    assert json.loads((tmp_path / "fit/provenance.json").read_text())["sites"] == [
        "blocks.1.mlp_act",
        "blocks.2.mlp_act",
    ]
    again.check(planted, Site(1, "mlp_act"))
    with pytest.raises(ValueError, match=r"no neuron was looked at at blocks\.0\.mlp_act"):
        again.check(planted, Site(0, "mlp_act"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "none"}, "ablation: 'none' is unknown; valid: zero, mean"),
        ({"layers": [9]}, "has no layer 9; valid: 0 to 3"),
        ({"positions": "template"}, "position rule 'template' is unknown; valid: last, all"),
        ({"top": 0}, "top: 0 is less than 1"),
        ({"top": 192}, "top: 192 of 192 neurons; valid: less"),
        ({"topics": 9}, "topics: 9; valid: 2 to 6"),
        ({"alpha": 1.0}, "alpha: 1.0 is not between 0 and 1"),
        ({"split": "test"}, "no prompt of the dataset is in test; they are in: train"),
        ({"groups": {"one": ["w20"]}}, "valid: two labels or more, each with words"),
        ({"groups": {"one": ["w20"], "six": ["w30"]}}, "no words of label 'two'"),
        ({"groups": {"one": ["w20"], "two": ["no word"]}}, "'no word' is 2 tokens"),
    ],
)
def test_wrong_options_are_named_before_anything_runs(options, message, tmp_path):
    valid = {
        "groups": GROUPS,
        "layers": "all",
        "split": "train",
        "select": None,
        "topics": None,
        "ablation": "zero",
        "positions": "last",
        "top": 5,
        "alpha": 0.01,
        "draws": 10,
    }
    with pytest.raises(ValueError, match=message):
        NeuronEffects.stand_in(tiny("llama"), contexts(), **valid | options)
    with pytest.raises(ValueError, match=message):
        neurons_by_effect(tiny("llama"), contexts(), 0, tmp_path, **valid | options)


def test_units_are_checked_and_may_differ_by_prompt():
    model, site = tiny("llama"), Site(1, "mlp_act")
    with pytest.raises(ValueError, match=r"no unit 48 at blocks.1.mlp_act; valid: 0 to 47"):
        SetUnits(torch.tensor([3, 48]), torch.zeros(2)).check(model, site)
    with pytest.raises(ValueError, match=r"shapes \[2\] and \[\]; valid: \[k\] each"):
        SetUnits(torch.tensor([3, 4]), 0.0).check(model, site)
    tokens = contexts(2)["tokens"].tolist()
    values = torch.arange(8.0).reshape(4, 2)
    edit = SetUnits(torch.tensor([3, 9]), PerPrompt(values))
    (found,) = score_last(
        model, tokens, [Condition(edits=(Edit(site, edit),))], lambda x: x, batch_tokens=100
    )
    for row, levels, logits in zip(tokens, values.tolist(), found, strict=True):
        with setting(model, {(1, 3): levels[0], (1, 9): levels[1]}, slice(None)):
            torch.testing.assert_close(logits, logits_of(model, row), atol=1e-5, rtol=0)
