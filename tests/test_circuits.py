"""Circuits: a model whose circuit is known by its weights, and hooks by hand."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from families import tiny, tokenizer
from plain_hooks import output

from pipeline.data.datasets import tokenise
from pipeline.data.roles import CONTROL
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_last
from pipeline.methods.circuits.ablation import ablated_components
from pipeline.methods.circuits.arms import kept_components, without_components
from pipeline.methods.circuits.components import (
    ablations,
    axes_of,
    components,
    logit_differences,
    name_of,
)
from pipeline.methods.circuits.fits import Circuit, circuit_components, pruned_circuit
from pipeline.methods.circuits.gradients import (
    ROLES,
    attributions_by_role,
    component_attributions,
    token_roles,
)
from pipeline.methods.circuits.pruning import prune
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

NAMES = range(10, 18)
"""Tokens with an embedding of their own in the model with a planted circuit."""
CIRCUIT = [Site(0, "z", 1), Site(1, "z", 2)]


def planted() -> LanguageModel:
    """Two layers of four heads with uniform attention, of which two, in sequence, give the answer.

    The stream has four parts of 8 dimensions. Names stand in part 0; head 1 of layer 0 copies part
    0 to part 1, head 2 of layer 1 part 1 to part 2, from which names are unembedded: a name is
    likelier the more often it was mentioned. All other heads and MLPs map part 3 to itself.
    """
    config = transformers.LlamaConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        eos_token_id=3,
        bos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    hf = transformers.LlamaForCausalLM(config)
    for parameter in hf.parameters():
        if parameter.dim() > 1:
            parameter.data.zero_()
    parts = torch.arange(32).view(4, 8)
    embeddings = hf.model.embed_tokens.weight.data
    embeddings[:, parts[3]] = torch.randn(200, 8)
    for n, token in enumerate(NAMES):
        embeddings[token] = 0
        embeddings[token, parts[0][n]] = 3.0
        hf.lm_head.weight.data[token, parts[2][n]] = 1.0
    copies = {site: (parts[n], parts[n + 1]) for n, site in enumerate(CIRCUIT)}
    for layer, block in enumerate(hf.model.layers):
        for head in range(4):
            source, target = copies.get(Site(layer, "z", head), (parts[3], parts[3]))
            width = slice(8 * head, 8 * head + 8)
            strength = 4.0 if (layer, head) == (0, 1) else 0.5
            block.self_attn.v_proj.weight.data[width, source] = torch.eye(8)
            block.self_attn.o_proj.weight.data[target, width] = strength * torch.eye(8)
        block.mlp.gate_proj.weight.data[:, parts[3]] = torch.eye(8)
        block.mlp.up_proj.weight.data[:, parts[3]] = torch.eye(8)
        block.mlp.down_proj.weight.data[parts[3]] = 0.3 * torch.eye(8)
    return LanguageModel(hf, tokenizer(), name="planted")


def planted_prompts(model) -> pd.DataFrame:
    """The answer is mentioned twice, the foil once; the counterpart has three other names."""
    rows = []
    for n, (answer, foil) in enumerate(
        [(10, 11), (11, 10), (12, 13), (13, 12), (16, 17), (17, 16)]
    ):
        split = "train" if n < 4 else "test"
        others = [name for name in NAMES if name not in (answer, foil)][n % 2 : n % 2 + 3]
        places = [(0, 1, 3), (1, 0, 2)][n % 2]
        words = [["w50", "w51", "w52", "w53", "w54"] for _ in range(2)]
        for row, names in zip(words, ([answer, foil, answer], others), strict=True):
            for place, name in zip(places, names, strict=True):
                row[place] = f"w{name}"
        rows.append(
            {
                "instruction": " ".join(words[0]),
                "corrupted": " ".join(words[1]),
                "answer": f" w{answer}",
                "foil": f" w{foil}",
                "template": f"form {n % 2}",
                "split": split,
                "topic": f"{min(answer, foil)}",
                "label": f"form {n % 2}",
                "raw": True,
            }
        )
    return tokenise(pd.DataFrame(rows), model.tokenizer)


def random_rows(model, count=4) -> pd.DataFrame:
    """Prompts of two lengths in two groups, and counterparts with other words at some places."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(count):
        length = 6 + n % 2
        words = [f"w{token}" for token in rng.integers(20, 199, length)]
        other = list(words)
        other[1], other[3] = (f"w{token}" for token in rng.integers(20, 199, 2))
        words[4] = words[1]
        rows.append(
            {
                "instruction": " ".join(words),
                "corrupted": " ".join(other),
                "answer": f" {words[3]}",
                "foil": f" {words[1]}",
                "template": f"{length} words",
                "split": "train" if n < count // 2 else "test",
                "topic": str(n),
                "label": "one",
                "raw": True,
            }
        )
    return tokenise(pd.DataFrame(rows), model.tokenizer)


def difference(model, row, logits) -> float:
    answer, foil = (int(row[name].strip(" w")) for name in ("answer", "foil"))
    return float(logits[answer] - logits[foil])


def tokens_of(model, row, column="instruction"):
    return torch.tensor([[int(word.strip("w")) for word in row[column].split()]])


def outputs_of(model, ids, site):
    """What a hook by hand reads at a whole site, one prompt without padding."""
    seen = []
    module, side = model.module_of(Site(site.layer, site.component))
    if side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].clone()))
    else:
        handle = module.register_forward_hook(
            lambda _, __, out: seen.append(output(out)[0].clone())
        )
    with handle, torch.no_grad():
        model.hf(ids, use_cache=False)
    return seen[0]


def run_with(model, ids, replaced):
    """Last logits with outputs of components changed: site -> function of the whole activation."""
    handles = []
    for site, change in replaced.items():
        module, side = model.module_of(Site(site.layer, site.component))
        if side == "input":
            handles.append(
                module.register_forward_pre_hook(lambda _, args, f=change: (f(args[0]), *args[1:]))
            )
        else:

            def after(_, __, out, f=change):
                return (f(out[0]), *out[1:]) if isinstance(out, tuple) else f(out)

            handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            return model.hf(ids, use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()


def slot(model, site) -> slice:
    width = model.width(site)
    return slice(None) if site.unit is None else slice(site.unit * width, (site.unit + 1) * width)


def put(model, site, values):
    def change(hidden):
        hidden = hidden.clone()
        hidden[..., slot(model, site)] = values
        return hidden

    return change


@pytest.mark.parametrize("rank_by", ["ablation", "attribution"])
def test_the_planted_heads_and_nothing_else_are_found(rank_by):
    model = planted()
    prompts = planted_prompts(model)
    circuit = pruned_circuit(model, prompts, rank_by=rank_by)
    assert circuit.kept == CIRCUIT
    effects = dict(zip(circuit.sites, circuit.table["effect"], strict=True))
    intact = float(logit_differences(model, prompts[:4], [Condition()]).mean())
    assert intact > 0.1
    for site, effect in effects.items():
        if rank_by == "ablation":
            expected = -intact if site in CIRCUIT else 0.0
            assert effect == pytest.approx(expected, abs=0.02 * intact), site
        assert (abs(effect) > 0.3 * intact) == (site in CIRCUIT)
    assert circuit.ranked[0] in CIRCUIT and circuit.ranked[1] in CIRCUIT
    assert circuit_components({"circuit": circuit}, fit="circuit")["is_kept"].sum() == 2


def test_all_components_recover_everything_and_none_nothing():
    """On every prompt: with all kept, the model itself; with none, its corrupted counterpart."""
    model = tiny("llama")
    prompts = random_rows(model)
    circuit = pruned_circuit(model, flipped(model, prompts), recover=0.5)
    n = len(components(model))
    conditions = list(
        kept_components(
            model, prompts, {"c": circuit}, 0, fit="c", sets="ranked", sizes=[0, n, n + 1]
        )
    )
    by_size = {condition.axes["n_kept"]: condition for condition in conditions}
    assert set(by_size) == {0, n, len(circuit.kept)} and by_size[n].edits == ()
    listed = [Condition(), by_size[n], by_size[0]]
    intact, whole, none = logit_differences(model, prompts, listed)
    corrupted = prompts.assign(
        tokens=[
            tokens_of(model, row, "corrupted")[0].tolist() for row in prompts.to_dict("records")
        ]
    )
    (expected,) = logit_differences(model, corrupted, [Condition()])
    assert torch.equal(whole, intact)
    assert torch.allclose(none, expected, atol=1e-5)
    assert (expected - intact).abs().max() > 0.01


def flipped(model, prompts) -> pd.DataFrame:
    """Answer and foil exchanged where needed, so that a random model prefers the answer.

    Patching then lowers the difference, which is what a circuit is looked for in.
    """
    (intact,) = logit_differences(model, prompts, [Condition()])
    corrupted = prompts.assign(
        tokens=[
            tokens_of(model, row, "corrupted")[0].tolist() for row in prompts.to_dict("records")
        ]
    )
    (without,) = logit_differences(model, corrupted, [Condition()])
    lower = (intact < without).numpy()
    answer, foil = prompts["answer"], prompts["foil"]
    return prompts.assign(answer=foil.where(lower, answer), foil=answer.where(lower, foil))


@pytest.mark.parametrize("ablation", ["zero", "mean", "mean_by_position", "patched"])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_every_ablation_is_what_a_hook_by_hand_gives(family, ablation):
    model = tiny(family)
    prompts = random_rows(model)
    conditions = list(ablated_components(model, prompts, ablation=ablation))
    sites = components(model)
    assert [dict(condition.axes) for condition in conditions] == [
        {**axes_of(site), "ablation": ablation, "positions": "all"} for site in sites
    ]
    scores = logit_differences(model, prompts, conditions)
    rows = prompts.to_dict("records")
    changed = 0
    for s in range(0, len(sites), 3):
        site = sites[s]
        read = [outputs_of(model, tokens_of(model, row, "corrupted"), site) for row in rows]
        for p, row in enumerate(rows):
            of = slot(model, site)
            group = [
                r
                for r, other in zip(read, rows, strict=True)
                if other["template"] == row["template"]
            ]
            values = {
                "zero": torch.zeros(()),
                "mean": torch.cat(read)[:, of].mean(0),
                "mean_by_position": torch.stack(group)[..., of].mean(0),
                "patched": read[p][:, of],
            }[ablation]
            ids = tokens_of(model, row)
            logits = run_with(model, ids, {site: put(model, site, values)})
            expected = difference(model, row, logits)
            assert float(scores[s, p]) == pytest.approx(expected, abs=2e-5), (site, p)
            clean = difference(model, row, run_with(model, ids, {}))
            changed += abs(expected - clean) > 1e-4
    assert changed > 0.8 * len(rows) * len(range(0, len(sites), 3))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_attributions_are_finite_differences(family):
    """(a' - a) dm/da, by moving each output a little towards the corrupted one, in float64."""
    model = tiny(family)
    prompts = random_rows(model)
    estimates = component_attributions(model, prompts, steps=3)
    exact = copy.deepcopy(model)
    exact.hf.double()
    # Not smaller: norms compute in float32 in a float64 model too.
    step = 3e-3
    for site in components(model)[::4]:
        for p, row in enumerate(prompts.to_dict("records")):
            clean, other = (tokens_of(model, row, name) for name in ("instruction", "corrupted"))
            towards = outputs_of(exact, other, site) - outputs_of(exact, clean, site)
            inputs = [outputs_of(exact, ids, Site(0, "embed")) for ids in (other, clean)]

            def slope(share, site=site, row=row, towards=towards, inputs=inputs, clean=clean):
                def at(amount):
                    def moved(hidden):
                        hidden = hidden.clone()
                        of = slot(exact, site)
                        hidden[..., of] += amount * towards[:, of]
                        return hidden

                    mixed = torch.lerp(*inputs, share)[None]
                    changes = {Site(0, "embed"): lambda _: mixed, site: moved}
                    return difference(exact, row, run_with(exact, clean, changes))

                return (at(step) - at(-step)) / (2 * step)

            slopes = [slope(k / 3) for k in (1, 2, 3)]
            assert float(estimates.gradient[site][p].sum()) == pytest.approx(
                slopes[-1], abs=5e-4, rel=1e-3
            )
            integrated = float(estimates.integrated[site][p].sum())
            assert integrated == pytest.approx(np.mean(slopes), abs=5e-4, rel=1e-3)


def test_attributions_are_tabulated_by_the_role_of_the_token():
    model = tiny("llama")
    prompts = random_rows(model)
    roles = token_roles(model, prompts)
    # w1 x w2 answer again last: the foil at 1 and 4, the answer at 3.
    assert [ROLES[n] for n in roles[0].tolist()[:6]] == [
        "other", "foil", "other", "answer", "foil again", "last",
    ]  # fmt: skip
    assert roles[0].tolist()[6:] == [-1]
    table = attributions_by_role(model, prompts, split="test", steps=2)
    rows = prompts[prompts["split"] == "test"]
    estimates = component_attributions(model, rows, steps=2)
    for site in components(model)[::5]:
        axes = axes_of(site)
        of_site = table[
            (table["layer"] == axes["layer"]) & (table["component"] == axes["component"])
        ]
        for name in ("gradient", "integrated"):
            sums = of_site.groupby("sample")[name].sum().to_numpy()
            assert np.allclose(sums, getattr(estimates, name)[site].sum(1).numpy(), atol=1e-6)
        last = of_site[of_site["role"] == "last"].set_index("sample")["gradient"]
        lengths = rows["tokens"].map(len)
        ends = [float(estimates.gradient[site][n, k - 1]) for n, k in enumerate(lengths)]
        assert np.allclose(last.to_numpy(), ends, atol=1e-6)


def test_pruning_keeps_what_is_needed():
    shares = {"a": 0.0, "b": 0.02, "c": 0.05, "d": 0.03, "e": 0.4, "f": 0.5}

    def recovered(sets):
        return [sum(shares[name] for name in kept) for kept in sets]

    kept, steps = prune(list("abcdef"), recovered, 0.9)
    assert kept == ["e", "f"]
    assert [step.n_kept for step in steps if step.accepted][-1] == 2
    kept, _ = prune(list("abcdef"), recovered, 0.94)
    assert set(kept) >= {"e", "f"} and recovered([kept])[0] >= 0.94
    for name in kept:
        assert recovered([[other for other in kept if other != name]])[0] < 0.94
    assert prune(list("abcdef"), lambda sets: [1.0] * len(sets), 0.9)[0] == []


def test_what_costs_least_is_removed_first():
    """b comes first in the order, but would use up nearly all of the share that may be lost."""
    costs = {"b": 0.09} | dict.fromkeys("cdefgh", 0.03) | dict.fromkeys("ijklmno", 0.0)

    def recovered(sets):
        return [1 - sum(cost for name, cost in costs.items() if name not in kept) for kept in sets]

    kept, _ = prune(list("bcdefghijklmno"), recovered, 0.9)
    assert len(kept) == 4 and "b" in kept and set(kept) < set("bcdefgh")


def test_what_is_removed_later_may_free_what_was_kept():
    """Without a, b spoils everything: a can go once b is gone."""

    def recovered(sets):
        return [float("c" in kept and ("a" in kept or "b" not in kept)) for kept in sets]

    assert prune(list("abc"), recovered, 0.9)[0] == ["c"]


def test_sets_are_those_that_the_axes_say():
    model = planted()
    prompts = planted_prompts(model)
    circuit = pruned_circuit(model, prompts)
    fits = {"c": circuit}
    everything = set(components(model))

    def kept(condition):
        return everything - {edit.site for edit in condition.edits}

    drawn = list(
        kept_components(model, prompts, fits, 0, fit="c", sets="random", sizes=[4], draws=3)
    )
    assert [(c.axes["n_kept"], c.axes["draw"]) for c in drawn] == [
        (n, draw) for n in (2, 4) for draw in range(3)
    ]
    assert all(len(kept(c)) == c.axes["n_kept"] and c.role == CONTROL for c in drawn)
    assert len({frozenset(kept(c)) for c in drawn}) > 3
    assert all(site.component == "z" for c in drawn[:3] for site in kept(c))
    again = kept_components(model, prompts, fits, 0, fit="c", sets="random", sizes=[4], draws=3)
    assert [kept(c) for c in again] == [kept(c) for c in drawn]
    none, whole = kept_components(model, prompts, fits, 0, fit="c", sets="circuit")
    assert (kept(none), kept(whole)) == (set(), set(CIRCUIT))
    parts = list(without_components(model, prompts, fits, 0, fit="c", draws=2))
    names = [name_of(site) for site in CIRCUIT] + ["subset 1", "subset 2"]
    assert [c.axes["removed"] for c in parts[::2]] == names
    for of_circuit, of_model in zip(parts[::2], parts[1::2], strict=True):
        assert kept(of_circuit) < set(CIRCUIT) or of_circuit.axes["n_removed"] == 0
        assert everything - kept(of_model) == set(CIRCUIT) - kept(of_circuit)
    scores = logit_differences(model, prompts, [Condition(), none, whole, *parts[:4]]).mean(1)
    share = (scores - scores[1]) / (scores[0] - scores[1])
    # The others matter a little to the size of the stream, which norms divide by.
    assert share[2] == pytest.approx(1, abs=0.06)
    # Without either of its heads, the circuit recovers nothing, and the model neither.
    assert share[3:].abs().max() < 0.02


def test_a_circuit_is_read_back_and_belongs_to_its_model(tmp_path):
    model = planted()
    circuit = pruned_circuit(model, planted_prompts(model))
    circuit.save(tmp_path)
    again = Circuit.load(tmp_path)
    pd.testing.assert_frame_equal(again.table, circuit.table)
    pd.testing.assert_frame_equal(again.steps, circuit.steps)
    assert again.kept == CIRCUIT and again.provenance == circuit.provenance
    again.check(model, CIRCUIT[0])
    with pytest.raises(ValueError, match=r"blocks.0.attn_out is no component"):
        again.check(model, Site(0, "attn_out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ablation": "noise"}, "'noise' is unknown; valid: zero, mean, mean_by_position, patched"),
        ({"positions": "last"}, "positions: 'last' is unknown; valid: all, after_first"),
        ({"rank_by": "size"}, "rank_by: 'size' is unknown; valid: ablation, attribution"),
        (
            {"rank_by": "attribution", "ablation": "zero"},
            "attribution estimates the effect of patching, not of 'zero'; valid: ablation",
        ),
        ({"recover": 0.0}, "recover: 0.0; valid: above 0, up to 1"),
        ({"split": "val"}, "is in val; they are in: test, train"),
    ],
)
def test_wrong_options_are_named(options, message):
    model = planted()
    with pytest.raises(ValueError, match=message):
        pruned_circuit(model, planted_prompts(model), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.drop(columns="foil"), "no column 'foil' in the dataset"),
        (lambda rows: rows.drop(columns="template"), "no column 'template' in the dataset"),
        (lambda rows: rows.assign(answer=""), "column 'answer' of the dataset has a row without"),
        (
            lambda rows: rows.assign(corrupted=rows["corrupted"] + " w50"),
            "has 7 tokens, its prompt 6; valid: as many",
        ),
        (lambda rows: rows.assign(template="one"), "'one' have 6 to 7 tokens; valid: equally many"),
        (lambda rows: rows.assign(foil=rows["answer"]), "begin with the same token"),
    ],
)
def test_prompts_without_a_counterpart_are_named(change, message):
    model = tiny("llama")
    rows = change(random_rows(model))
    with pytest.raises(ValueError, match=message):
        edits = ablations(model, rows, components(model), ablation="mean_by_position")
        logit_differences(model, rows, [Condition(edits=(edits[Site(0, "mlp_out")],))])


def test_scores_are_logit_differences():
    model = tiny("llama")
    prompts = random_rows(model)
    rows = prompts.to_dict("records")
    logits = score_last(
        model, prompts["tokens"].tolist(), [Condition()], lambda x: x, batch_tokens=99
    )
    expected = [difference(model, row, logits[0, p]) for p, row in enumerate(rows)]
    assert logit_differences(model, prompts, [Condition()])[0].tolist() == pytest.approx(expected)
