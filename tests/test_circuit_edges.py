"""Edges of a circuit against components run by hand on changed inputs, and finite differences."""

import copy

import numpy as np
import pytest
from families import tiny
from test_circuits import (
    CIRCUIT,
    difference,
    outputs_of,
    planted,
    planted_prompts,
    put,
    random_rows,
    run_with,
    slot,
    tokens_of,
)

from pipeline.data.roles import CONTROL
from pipeline.engine.conditions import Condition
from pipeline.methods.circuits.components import components, logit_differences, name_of
from pipeline.methods.circuits.edge_attributions import edge_attributions
from pipeline.methods.circuits.edges import Edge, edges_of, patched_edges
from pipeline.methods.circuits.fits import Circuit, pruned_circuit
from pipeline.model.output_projections import head_outputs
from pipeline.model.sites import Site


def added(model, ids, source):
    """What a component adds to the stream on a prompt, one row."""
    if source is None:
        return outputs_of(model, ids, Site(0, "embed"))
    whole = outputs_of(model, ids, source)
    if source.component == "mlp_out":
        return whole
    return head_outputs(model, source.layer, whole)[:, source.unit]


def changed_output(model, ids, target, change):
    """The target's output if only it reads the stream with a change; the rest is clean.

    The stream itself is changed where the target reads it; nothing of what follows is looked at.
    """
    reads = "resid_pre" if target.component == "z" or model.parallel else "resid_mid"
    if reads == "resid_mid":
        # Earlier parts of the block do not read the change: add it to what attention adds.
        site = Site(target.layer, "attn_out")
    else:
        site = Site(target.layer, "resid_pre")
    module, side = model.module_of(Site(target.layer, target.component))
    seen = []
    if side == "input":
        handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    else:

        def keep(_, __, out):
            seen.append((out[0] if isinstance(out, tuple) else out).clone())

        handle = module.register_forward_hook(keep)
    with handle:
        run_with(model, ids, {site: lambda hidden: hidden + change})
    return seen[0][..., slot(model, target)]


def by_hand(model, row, edge, share=1.0):
    clean, other = (tokens_of(model, row, name) for name in ("instruction", "corrupted"))
    change = share * (added(model, other, edge.source) - added(model, clean, edge.source))
    if edge.target is None:
        site = Site(model.n_layers - 1, "resid_post")
        logits = run_with(model, clean, {site: lambda hidden: hidden + change})
    else:
        values = changed_output(model, clean, edge.target, change)
        logits = run_with(model, clean, {edge.target: put(model, edge.target, values)})
    return difference(model, row, logits)


def whole_circuit(model, prompts) -> Circuit:
    """A circuit of the components of two layers and a half, whatever they recover."""
    sites = components(model)
    circuit = Circuit.stand_in(
        model,
        prompts,
        ablation="patched",
        positions="all",
        split="train",
        select=None,
        rank_by="ablation",
        recover=0.9,
    )
    kept = {str(site) for site in sites[::2]}
    return Circuit(
        circuit.table.assign(is_kept=circuit.table["site"].isin(kept)),
        circuit.steps,
        "patched",
        "all",
        circuit.provenance,
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "neox"])
def test_a_patched_edge_changes_what_its_target_reads_and_nothing_else(family):
    model = tiny(family)
    prompts = random_rows(model)
    circuit = whole_circuit(model, prompts)
    conditions = list(patched_edges(model, prompts, {"c": circuit}, 0, fit="c", most=200, draws=20))
    edges = {edge.names: edge for edge in edges_of(model, components(model))}
    assert len({(c.axes["source"], c.axes["target"]) for c in conditions}) == len(conditions)
    assert sum(c.role == CONTROL for c in conditions) == 20
    chosen = conditions[::4]
    scores = logit_differences(model, prompts, [Condition(), *chosen])
    changed = 0
    for c, condition in enumerate(chosen):
        edge = edges[condition.axes["source"], condition.axes["target"]]
        for p, row in enumerate(prompts.to_dict("records")):
            expected = by_hand(model, row, edge)
            assert float(scores[c + 1, p]) == pytest.approx(expected, abs=3e-5), (edge, p)
            changed += abs(expected - float(scores[0, p])) > 1e-3
    assert changed > 0.4 * len(chosen) * len(prompts)


@pytest.mark.parametrize("family", ["llama", "gemma2", "neox"])
def test_attributions_of_edges_are_slopes(family):
    model = tiny(family)
    prompts = random_rows(model)
    table = edge_attributions(model, prompts, split="test", steps=1)
    assert np.allclose(table["gradient"], table["integrated"])
    exact = copy.deepcopy(model)
    exact.hf.double()
    rows = prompts[prompts["split"] == "test"].to_dict("records")
    edges = edges_of(model, components(model))
    assert [tuple(row) for row in table[["source", "target"]].to_numpy()] == [
        e.names for e in edges
    ]
    step = 3e-3
    for n in range(0, len(edges), 11):
        slopes = [
            (by_hand(exact, row, edges[n], step) - by_hand(exact, row, edges[n], -step))
            / (2 * step)
            for row in rows
        ]
        expected = pytest.approx(np.mean(slopes), abs=5e-4, rel=2e-3)
        assert float(table["gradient"][n]) == expected, edges[n]


def test_the_planted_path_is_found_and_nothing_else():
    """input -> head 1 of layer 0 -> head 2 of layer 1 -> logits."""
    model = planted()
    prompts = planted_prompts(model)
    circuit = pruned_circuit(model, prompts)
    conditions = list(patched_edges(model, prompts, {"c": circuit}, 0, fit="c", most=50, draws=60))
    scores = logit_differences(model, prompts, [Condition(), *conditions])
    effects = (scores[1:] - scores[0]).mean(1)
    intact = float(scores[0].mean())
    first, second = map(name_of, CIRCUIT)
    path = {("input", first), (first, second), (second, "logits")}
    table = edge_attributions(model, prompts, split="test", steps=10).set_index(
        ["source", "target"]
    )
    for condition, effect in zip(conditions, effects.tolist(), strict=True):
        ends = condition.axes["source"], condition.axes["target"]
        assert (effect < -0.9 * intact) == (ends in path), (ends, effect)
        # The rest only changes the size of the stream, which norms divide by.
        assert ends in path or abs(effect) < 0.2 * intact
    strongest = table["integrated"].abs().nlargest(3).index
    assert set(strongest) == path
    kinds = {c.axes["edges"] for c in conditions if (c.axes["source"], c.axes["target"]) in path}
    assert kinds == {"circuit"}


def test_edges_go_forward():
    serial, parallel = tiny("llama"), tiny("neox")
    n, heads = serial.n_layers, serial.n_heads
    assert len(edges_of(serial, [])) == 1
    counts = {
        name: len(edges_of(model, components(model)))
        for name, model in (("serial", serial), ("parallel", parallel))
    }
    nodes = n * (heads + 1)
    between = n * (n - 1) // 2 * (heads + 1) ** 2
    assert counts["parallel"] == between + 2 * nodes + 1
    assert counts["serial"] == counts["parallel"] + n * heads
    assert Edge(Site(1, "z", 2), None).names == ("1.2", "logits")
    assert Edge(None, Site(1, "mlp_out")).names == ("input", "mlp 1")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"most": 0}, "most: 0 is less than 1"), ({"draws": 0}, "draws: 0 is less than 1")],
)
def test_wrong_options_are_named(options, message):
    model = planted()
    prompts = planted_prompts(model)
    circuit = whole_circuit(model, prompts)
    with pytest.raises(ValueError, match=message):
        list(patched_edges(model, prompts, {"c": circuit}, 0, fit="c", **options))
