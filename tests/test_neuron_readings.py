"""Natural activations and pages of neurons, against hooks by hand and their weights."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from test_neurons import GROUPS, contexts

from pipeline.methods.neurons.fits import NeuronEffects, neurons_by_effect
from pipeline.methods.neurons.readings import (
    neuron_activations,
    neuron_chance,
    neuron_effects,
    neuron_pages,
)
from pipeline.model.sites import Site


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2"])
def model(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    return contexts(4)


@pytest.fixture(scope="module")
def fits(model, prompts, tmp_path_factory) -> dict[str, NeuronEffects]:
    work = tmp_path_factory.mktemp("work")
    return {
        "number": neurons_by_effect(model, prompts, 0, work, groups=GROUPS, top=8, layers=[1, 2])
    }


def seen(model, tokens, layer) -> torch.Tensor:
    """Neurons [pos, neuron] by a hook."""
    found = []
    projection, _ = model.module_of(Site(layer, "mlp_act"))
    handle = projection.register_forward_pre_hook(lambda _, args: found.append(args[0][0].clone()))
    with torch.no_grad():
        model.hf(torch.tensor([tokens]), use_cache=False)
    handle.remove()
    return found[0]


def test_tables_of_the_fit_are_readings(fits):
    assert neuron_effects(fits, fit="number") is fits["number"].effects
    assert neuron_chance(fits, fit="number") is fits["number"].chance


@pytest.mark.parametrize("positions", ["last", "all"])
def test_activations_are_what_a_hook_sees(model, prompts, fits, positions):
    table = neuron_activations(
        model, prompts, fits, fit="number", positions=positions, split="train"
    )
    assert len(table) == 8 * len(prompts)
    chosen = fits["number"].chosen
    tokens = dict(zip(prompts["sample"], prompts["tokens"], strict=True))
    labels = {
        f"blocks.{row.layer}.mlp_act[{row.neuron}]": row for row in chosen.itertuples(index=False)
    }
    for row in table.to_dict("records"):
        site, of = Site.parse(row["neuron"]), labels[row["neuron"]]
        at = slice(-1, None) if positions == "last" else slice(None)
        expected = float(seen(model, tokens[row["sample"]], site.layer)[at, site.unit].mean())
        assert row["activation"] == pytest.approx(expected, abs=1e-5)
        assert row["group"] == f"{of.label} neurons"
        typical = getattr(of, f"activation_{of.label}")
        assert row["multiple"] == pytest.approx(expected / typical, abs=1e-4)


def test_a_page_shows_the_neuron_with_the_sign_that_it_has_where_it_matters(model, prompts, fits):
    texts = pd.DataFrame({"tokens": [[60, 61, 62, 63], [1, 70, 71]]})
    table = neuron_pages(model, prompts, texts, fits, fit="number", examples=3, tokens=4)
    chosen = fits["number"].chosen
    assert table["feature"].tolist() == chosen["neuron"].tolist()
    assert set(table["unit"]) == {"neuron"}
    sequences = [*prompts["tokens"], *texts["tokens"]]
    ordinary = [[token not in model.tokenizer.all_special_ids for token in s] for s in sequences]
    signs = []
    for row, of in zip(table.to_dict("records"), chosen.to_dict("records"), strict=True):
        sign = np.sign(of[f"activation_{of['label']}"])
        signs.append(sign)
        active = np.concatenate(
            [
                sign * seen(model, s, of["layer"])[:, of["neuron"]].numpy()[mask]
                for s, mask in zip(sequences, ordinary, strict=True)
            ]
        )
        assert (row["rows"], row["active"]) == (len(active), int((active > 0).sum()))
        page = row["page"]
        assert f"<h1>Neuron {of['neuron']}</h1>" in page
        assert f"{active.max():.3g}" in page
        assert ("times −1" in page) == (sign < 0)
        written = written_by(model, of["layer"], of["neuron"])
        top = int((sign * written).argmax())
        assert f">{model.piece(top).strip()}" in page.split("Lowers the logit of")[0]
    assert -1 in signs or model.config.model_type == "gpt2"


def written_by(model, layer, neuron) -> torch.Tensor:
    """Logits of a neuron's row of the down projection, through norms' scales, by hand."""
    block, kind = model.blocks[layer], model.config.model_type
    if kind == "gpt2":
        row, norm = block.mlp.c_proj.weight[neuron], model.hf.transformer.ln_f
        row, scale = row - row.mean(), norm.weight
    else:
        row, norm = block.mlp.down_proj.weight[:, neuron], model.hf.model.norm
        offset = float(kind == "gemma2")
        if kind == "gemma2":
            row = row * (1 + block.post_feedforward_layernorm.weight)
        scale = offset + norm.weight
    return (model.hf.lm_head.weight @ (row * scale)).detach()
