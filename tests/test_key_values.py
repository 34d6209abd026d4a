"""Key-value memories: planted values, the logit's parts, edits against truly edited weights."""

import copy

import naive
import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, tiny, tokenizer
from test_lenses import dataset, words

from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import score_last
from pipeline.methods.key_values import (
    answer_contributions,
    continuation_tokens,
    contributions,
    value_tokens,
)
from pipeline.methods.value_edits import AnswerValues, answer_values, edited_values
from pipeline.model import hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import readout_vectors, value_vectors

KEY, OLD, NEW, NEURON, LAYER = 7, 20, 30, 5, 1


def planted() -> LanguageModel:
    """Token 7 activates neuron 5 of block 1, whose value is token 20's; nothing else writes."""
    hf = copy.deepcopy(tiny("gpt2").hf)
    for block in hf.transformer.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.data.zero_()
            projection.bias.data.zero_()
    hf.transformer.wpe.weight.data.zero_()
    head = torch.nn.Linear(WIDTH, 200, bias=False)
    head.weight.data.zero_()
    basis = torch.eye(WIDTH)
    for place, token in enumerate((KEY, OLD, NEW)):
        head.weight.data[token, place] = 1.0
        hf.transformer.wte.weight.data[token] = basis[place]
    hf.lm_head = head
    mlp = hf.transformer.h[LAYER].mlp
    mlp.c_fc.weight.data.zero_()
    mlp.c_fc.bias.data.fill_(-20.0)
    mlp.c_fc.weight.data[0, NEURON] = 10.0
    mlp.c_fc.bias.data[NEURON] = -2.0
    mlp.c_proj.weight.data[NEURON, 1] = 1.0
    return LanguageModel(hf, tokenizer(), name="planted")


def facts(model) -> pd.DataFrame:
    return dataset(
        model,
        ["w9 w7", "w8 w7"],
        fact=["a", "b"],
        answer=[" w20", " w20"],
        target=[" w30", " w30"],
    ).assign(split=["train", "train"])


def test_a_planted_value_is_found_by_what_it_writes_and_where_it_is_active():
    model = planted()
    texts = [[9, 8, 7, 20, 9], [8, 9, 7, 21, 8], [9, 7, 20, 8, 9], [9, 8, 9, 8, 9], [9] * 5]
    table = value_tokens(model, pd.DataFrame({"sample": range(5), "tokens": texts}))
    row = table.set_index(["layer", "value"]).loc[LAYER, NEURON]
    assert row["top_token"] == OLD
    assert row["pieces"][0].strip() == "w20"
    assert row["context"].split() == ["w9", "w8", "w7"]
    assert row["next_piece"].strip() == "w20"
    assert row["agrees"]
    assert len(table) == LAYERS * 4 * WIDTH
    for _, rows in table.groupby("layer"):
        tops = rows["top_token"].to_numpy()
        following = rows["next_piece"].str.strip().str.removeprefix("w").astype(int).to_numpy()
        # The naive mean over all pairs of a value and a context.
        pairs = (tops[:, None] == following[None]).mean()
        assert rows["chance"].unique() == pytest.approx(pairs)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "olmo2", "neox"])
def test_contributions_add_up_to_what_mlps_add_to_the_logit(family):
    """And with attention's and the embedding's parts to the whole logit."""
    model = tiny(family)
    prompts = dataset(model, words(4), answer=[f" w{20 + n}" for n in range(4)])
    prompts = prompts.assign(target=" w40")
    table = answer_contributions(model, prompts, columns=["answer", "target"])
    indexed = table.set_index(["sample", "layer"])
    named = continuation_tokens(model, prompts, ["answer", "target"])
    assert named[:, 0].tolist() == [20, 21, 22, 23]
    norm = model.decoder.get_submodule(model.architecture.final_norm)
    for sample, tokens in enumerate(prompts["tokens"]):
        ids, mask = model.pad([tokens])
        outs = [Site(layer, "mlp_out") for layer in range(LAYERS)]
        others = [Site(layer, "attn_out") for layer in range(LAYERS)]
        last = Site(LAYERS - 1, "resid_post")
        states = hooks.read(model, [Site(0, "resid_pre"), *outs, *others, last], ids, mask)
        with torch.no_grad():
            stream = states[last][0, -1]
            centred = stream - stream.mean() if isinstance(norm, torch.nn.LayerNorm) else stream
            square = centred.pow(2).mean()
            epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
            sigma = (square + epsilon).sqrt()
            (readout, _) = readout_vectors(model, named[sample])
            for site in outs:
                projection, _ = model.module_of(Site(site.layer, "mlp_act"))
                bias = getattr(projection, "bias", None)
                written = states[site][0, -1] - (0 if bias is None else bias)
                expected = float(written @ readout / sigma)
                row = indexed.loc[sample, site.layer]
                assert row["answer_contribution"] == pytest.approx(expected, abs=2e-4)
            parts = sum(
                float(states[site][0, -1] @ readout / sigma)
                for site in (Site(0, "resid_pre"), *outs, *others)
            )
            bias = getattr(norm, "bias", None)
            head = model.hf.get_output_embeddings().weight
            parts += 0 if bias is None else float(bias @ head[20 + sample])
            logit = float(naive.unembedded(model, stream)[20 + sample])
            cap = getattr(model.config, "final_logit_softcapping", None)
            parts = cap * torch.tanh(torch.tensor(parts / cap)).item() if cap else parts
            assert parts == pytest.approx(logit, abs=1e-3)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_largest_value_is_the_one_whose_removal_takes_most_from_the_parts(family):
    model = tiny(family)
    prompts = dataset(model, words(3), answer=[f" w{20 + n}" for n in range(3)])
    table = answer_contributions(model, prompts, columns=["answer"]).set_index(["sample", "layer"])
    named = continuation_tokens(model, prompts, ["answer"])
    for number, layer, activations, parts in contributions(model, prompts, named):
        row = table.loc[number, layer]
        assert row["answer_value"] == int(parts[0].argmax())
        assert row["answer_activation"] == float(activations[int(parts[0].argmax())])
        vectors = value_vectors(model, layer)
        (readout,) = readout_vectors(model, named[number])
        shape = activations * (vectors @ readout)
        assert torch.corrcoef(torch.stack([shape, parts[0]]))[0, 1] > 0.9999


def test_the_planted_value_is_chosen_and_edited_into_the_target(tmp_path):
    model = planted()
    prompts = facts(model)
    answer_values(model, prompts, 0).save(tmp_path)
    fit = AnswerValues.load(tmp_path)
    chosen = fit.values[fit.values["kind"] == "chosen"]
    assert set(zip(chosen["layer"], chosen["value"], strict=True)) == {(LAYER, NEURON)}
    assert fit.values.groupby(["fact", "kind"])["layer"].nunique().eq(1).all()
    others = fit.values[fit.values["kind"] != "chosen"]
    assert not (others["value"] == NEURON).any()
    prompts = prompts.assign(split="test")
    top = {}
    for kind in ("chosen", "similar", "random", "other"):
        options = {"fit": "values", "values": kind, "strengths": [0.0, 1.0]}
        conditions = list(edited_values(model, prompts, {"values": fit}, 0, **options))
        logits = score_last(
            model, prompts["tokens"].tolist(), conditions, lambda x: x, batch_tokens=100
        )
        top[kind] = logits.argmax(-1).tolist()
    assert top["chosen"] == [[OLD, OLD], [NEW, NEW]]
    # Both facts have the same value and target here.
    assert top["other"] == top["chosen"]
    assert top["random"] == top["similar"] == [[OLD, OLD], [OLD, OLD]]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_an_edit_is_one_of_the_weights(family):
    """Several values of a prompt, some with negative activations, in different layers."""
    model = tiny(family)
    prompts = dataset(model, words(3), answer=" w20", target=[" w30", " w31", " w32"]).assign(
        fact=["a", "b", "c"], split="train"
    )
    fit = answer_values(model, prompts, 0, top=6)
    assert (fit.values["activation"] < 0).any()
    (condition,) = edited_values(model, prompts, {"values": fit}, 0, fit="values", strengths=[0.7])
    scores = score_last(
        model, prompts["tokens"].tolist(), [condition], lambda x: x, batch_tokens=100
    )[0]
    head = model.hf.get_output_embeddings().weight.detach()
    chosen = fit.values[fit.values["kind"] == "chosen"]
    for number, fact in enumerate("abc"):
        changed = LanguageModel(copy.deepcopy(model.hf), model.tokenizer, name="changed")
        rows = chosen[chosen["fact"] == fact]
        assert len(rows) == 6
        for row in rows.itertuples():
            projection, _ = changed.module_of(Site(row.layer, "mlp_act"))
            sign = 1.0 if row.activation > 0 else -1.0
            change = 0.7 * sign * (head[30 + number] - head[20])
            if projection.__class__.__name__ == "Conv1D":
                projection.weight.data[row.value] += change
            else:
                projection.weight.data[:, row.value] += change
        _, logits = naive.generate(changed, prompts["tokens"][number], Condition(), 1)
        assert (scores[number] - logits[0]).abs().max() <= 1e-4 * max(1, logits[0].abs().max())


def test_what_does_not_fit_is_named():
    model = planted()
    prompts = facts(model)
    fit = answer_values(model, prompts, 0)
    with pytest.raises(ValueError, match="values 'best' is unknown; valid: chosen, similar"):
        next(edited_values(model, prompts, {}, 0, fit="values", values="best", strengths=[1.0]))
    with pytest.raises(ValueError, match="no values for the fact 'c'"):
        unlike = prompts.assign(fact="c")
        next(edited_values(model, unlike, {"values": fit}, 0, fit="values", strengths=[1.0]))
    with pytest.raises(ValueError, match="rows: several prompts of the fact 'a'; valid: one a"):
        answer_values(model, prompts.assign(fact="a"), 0)
    with pytest.raises(ValueError, match="no column 'object' in the dataset; it has:"):
        answer_contributions(model, prompts, columns=["object"])
    with pytest.raises(ValueError, match="top = 0 values; valid: 1 to 42"):
        answer_values(model, prompts, 0, top=0)
