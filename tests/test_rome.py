"""ROME against a plain implementation that edits the weights, one fact and layer at a time."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, random_prompts, tiny

from pipeline.data.datasets import tokenise
from pipeline.data.positions import resolve
from pipeline.data.roles import CANDIDATE, CONTROL
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import cross_entropy, score_last
from pipeline.methods.editing.rank_ones import RankOneEdits, rank_one_edits
from pipeline.methods.editing.rome import rome
from pipeline.methods.editing.side_effects import edit_side_effects
from pipeline.methods.provenance import Provenance
from pipeline.model.sites import Site

OPTIONS = {"prefixes": 2, "essence": "w9 {subject} w11 w12", "steps": 6, "rate": 0.05}
EXACT = {**OPTIONS, "enough": 0.0, "rate": 0.3, "divergence": 8.0, "decay": 8.0, "most": 0.5}
SEED = 3


def dataset(model) -> pd.DataFrame:
    """Three facts: one prompt each, and a paraphrase each that is not fitted to."""
    rows = [[f"w{max(6, token)}" for token in row] for row in random_prompts(6, seed=1)]
    frame = pd.DataFrame({"instruction": [" ".join(row) for row in rows], "raw": True})
    subjects = [f"{row[1]} {row[2]}" for row in rows]
    frame = frame.assign(
        subject=subjects,
        subject_start=-1,
        target=[f" w{30 + n % 3}" for n in range(6)],
        answer="",
        fact=["a", "b", "c"] * 2,
        kind=["edit"] * 3 + ["paraphrase"] * 3,
        label="facts",
        topic=["a", "b", "c"] * 2,
        split="test",
    )
    return tokenise(frame, model.tokenizer)


def corpus(count=60) -> pd.DataFrame:
    return pd.DataFrame({"sample": range(count), "tokens": random_prompts(count, seed=2)})


def projection(model, layer):
    return model.module_of(Site(layer, "mlp_down"))[0]


def key_and_value(model, layer, tokens):
    """Input and output of a down projection at every token."""
    seen = []

    def keep(_, args, out):
        seen.append((args[0][0].clone(), out[0].clone()))

    handle = projection(model, layer).register_forward_hook(keep)
    with torch.no_grad():
        model.hf(torch.tensor([tokens]), use_cache=False)
    handle.remove()
    return seen[0]


def plain_prompts(model, row):
    """Tokens and subject position of the bare prompt, two behind prefixes, and the essence."""
    texts = corpus()
    fitted = texts[texts.index % 5 < 3].reset_index(drop=True)
    drawn = np.random.default_rng(SEED).choice(len(fitted), 2, replace=False)
    parts = []
    for number, length in zip(drawn, (5, 10), strict=True):
        parts.append(model.decode(fitted["tokens"][number][:length]) + ". ")
    prompts = [prefix + row["instruction"] for prefix in ["", *parts]]
    prompts.append(f"w9 {row['subject']} w11 w12")
    listed = []
    for text in prompts:
        tokens = model.tokenizer.encode(text, add_special_tokens=False)
        last = model.tokenizer.encode(row["subject"], add_special_tokens=False)[-1]
        listed.append((tokens, max(n for n, token in enumerate(tokens) if token == last)))
    return listed


def plain_rome(model, layer, row, *, steps=6, rate=0.3, divergence=8.0, decay=8.0, most=0.5):
    """u and delta of one fact, by the formulas of the paper."""
    *asked, essence = plain_prompts(model, row)
    target = int(row["target"].strip()[1:])
    moment, count = 0, 0
    for number, tokens in enumerate(corpus()["tokens"]):
        if number % 5 < 3:
            keys = key_and_value(model, layer, tokens)[0][1:].double()
            moment, count = moment + keys.T @ keys, count + len(keys)
    keys = [key_and_value(model, layer, tokens)[0][at].double() for tokens, at in asked]
    solved = torch.from_numpy(np.linalg.inv((moment / count).numpy())) @ sum(keys) / len(keys)
    u = solved / solved.norm()
    value = key_and_value(model, layer, asked[0][0])[1][asked[0][1]]

    change = torch.zeros_like(value, requires_grad=True)

    def logs(tokens, at):
        def add(_, __, out):
            moved = out.clone()
            moved[0, at] = out[0, at] + change
            return moved

        handle = projection(model, layer).register_forward_hook(add)
        logits = model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        handle.remove()
        return logits.log_softmax(-1)

    with torch.no_grad():
        old = logs(*essence)
    adam = torch.optim.Adam([change], lr=rate)
    for _ in range(steps):
        adam.zero_grad()
        new = logs(*essence)
        loss = -sum(logs(*prompt)[target] for prompt in asked) / len(asked)
        loss = loss + divergence * (new.exp() * (new - old)).sum()
        loss = loss + decay * change.norm() / value.norm() ** 2
        loss.backward()
        adam.step()
        if change.norm() > most * value.norm():
            change.data *= most * value.norm() / change.norm()
    return u, change.detach().double() / (keys[0] @ u), value + change.detach()


def edited_copy(model, layer, u, delta):
    """A copy whose down projection is W + delta uT."""
    changed = copy.deepcopy(model)
    module = projection(changed, layer)
    update = torch.outer(delta, u).float()
    transposed = module.__class__.__name__ == "Conv1D"
    module.weight.data += update.T if transposed else update
    return changed


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_the_edits_are_those_of_a_plain_implementation_that_edits_the_weights(family):
    model = tiny(family)
    prompts = dataset(model)
    edits = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, **EXACT)
    assert edits.facts == ["a", "b", "c"] and edits.layers == list(range(LAYERS - 1))
    conditions = list(rank_one_edits(model, prompts, {"edits": edits}, 0, fit="edits"))
    assert [dict(c.axes) for c in conditions] == [
        {"layer": layer, "edit": "fitted"} for layer in range(LAYERS - 1)
    ]
    before = projection(model, 0).weight.clone()
    tokens = prompts["tokens"].tolist()
    logits = score_last(model, tokens, conditions, lambda rows: rows, batch_tokens=64)
    for layer in range(LAYERS - 1):
        for number, row in enumerate(prompts.to_dict("records")[:3]):
            u, delta, value = plain_rome(model, layer, row)
            assert (edits.u[layer][number] - u).abs().max() < 1e-4
            assert (edits.delta[layer][number] - delta).norm() < 2e-3 * delta.norm()
            changed = edited_copy(model, layer, edits.u[layer][number], edits.delta[layer][number])
            at = plain_prompts(model, row)[0][1]
            # The bare prompt's subject is answered with the new value.
            written = key_and_value(changed, layer, row["tokens"])[1][at]
            assert (written - value).norm() < 1e-3 * value.norm()
            for prompt in (number, number + 3):
                with torch.no_grad():
                    ids = torch.tensor([tokens[prompt]])
                    expected = changed.hf(ids, use_cache=False).logits[0, -1]
                    clean = model.hf(ids, use_cache=False).logits[0, -1]
                tolerance = 2e-5 * max(1.0, float(expected.abs().max()))
                assert (logits[layer, prompt] - expected).abs().max() < tolerance
                assert (expected - clean).abs().max() > 5 * tolerance
    assert torch.equal(projection(model, 0).weight, before)


def test_a_target_becomes_likely_and_the_fit_says_so():
    model = tiny("llama")
    prompts = dataset(model)
    options = {**OPTIONS, "steps": 40, "rate": 0.1, "most": 20.0}
    edits = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, layers=[1], **options)
    prompts = prompts.head(3)
    (everywhere,) = rank_one_edits(model, prompts, {"edits": edits}, 0, fit="edits")
    # What the fit changes is the subject's token alone.
    (edit,) = everywhere.edits
    at_subject = replace(
        edit, positions=resolve(prompts, model.tokenizer, "subject", variables=None)
    )
    logits = score_last(
        model,
        prompts["tokens"].tolist(),
        [Condition(), Condition(edits=(at_subject,))],
        lambda rows: rows,
        batch_tokens=64,
    )
    before, likely = logits[:, range(3), [30, 31, 32]].exp() / logits.exp().sum(-1)
    assert (likely / before).min() > 3
    assert np.allclose(edits.table["probability"], likely, atol=1e-4)
    table = edits.table
    assert ((table["loss"] < 0.05) | (table["steps"] == 40)).all() and table["change"].max() <= 20


def test_a_fact_that_is_done_does_not_change_any_more():
    """Facts stop one by one, each where it would by itself."""
    model = tiny("llama")
    prompts = dataset(model)
    options = {**OPTIONS, "steps": 30, "rate": 0.1, "most": 20.0, "enough": 4.9, "layers": [2]}
    together = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, **options)
    assert together.table["steps"].nunique() > 1
    for number, name in enumerate("abc"):
        rows = {"kind": "edit", "fact": name}
        alone = rome(model, prompts, corpus(), SEED, rows=rows, **options)
        assert alone.table["steps"].item() == together.table["steps"][number]
        difference = alone.delta[2][0] - together.delta[2][number]
        assert difference.norm() < 1e-3 * alone.delta[2].norm()


def test_a_random_edit_has_the_same_key_and_norm():
    model = tiny("llama")
    prompts = dataset(model)
    edits = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, layers=[0, 2], **OPTIONS)
    fitted, random = (
        list(rank_one_edits(model, prompts, {"edits": edits}, 5, fit="edits", edit=edit))
        for edit in ("fitted", "random")
    )
    for one, other in zip(fitted, random, strict=True):
        assert (one.role, other.role) == (CANDIDATE, CONTROL)
        a, b = one.edits[0].intervention, other.edits[0].intervention
        assert torch.equal(a.u.of, b.u.of)
        assert torch.allclose(a.delta.of.norm(dim=-1), b.delta.of.norm(dim=-1))
        assert torch.nn.functional.cosine_similarity(a.delta.of, b.delta.of).abs().max() < 0.7
        # Prompts of one fact share its edit.
        assert torch.equal(b.delta.of[:3], b.delta.of[3:])


def test_side_effects_are_losses_of_texts_under_edited_weights():
    model = tiny("llama")
    prompts = dataset(model)
    edits = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, layers=[0, 2], **OPTIONS)
    table = edit_side_effects(
        model, prompts, corpus(), {"edits": edits}, 0, fit="edits", each=2, longest=9
    )
    assert len(table) == 2 * 2 * 3 * 2
    texts = [row[:9] for n, row in enumerate(corpus()["tokens"]) if n % 5 == 4]
    for row in table[table["edit"] == "fitted"].itertuples():
        number = edits.facts.index(row.fact)
        changed = edited_copy(
            model, row.layer, edits.u[row.layer][number], edits.delta[row.layer][number]
        )
        text = [texts[row.text]]
        loss, clean = (
            float(cross_entropy(each, text, [Condition()], batch_tokens=64))
            for each in (changed, model)
        )
        assert abs(row.loss - loss) < 1e-4 and abs(row.clean_loss - clean) < 1e-5
    assert table.groupby("fact")["text"].nunique().eq(2).all()
    with pytest.raises(
        ValueError, match=r"each: 99 texts of a fact; valid: 1 to \d+, the texts of"
    ):
        edit_side_effects(model, prompts, corpus(), {"edits": edits}, 0, fit="edits", each=99)


def test_edits_are_read_back_and_belong_to_their_model(tmp_path):
    model = tiny("llama")
    prompts = dataset(model)
    edits = rome(model, prompts, corpus(), SEED, rows={"kind": "edit"}, layers=[1], **OPTIONS)
    edits.save(tmp_path)
    loaded = RankOneEdits.load(tmp_path)
    assert torch.equal(loaded.u[1], edits.u[1]) and torch.equal(loaded.delta[1], edits.delta[1])
    assert loaded.facts == edits.facts and loaded.provenance == edits.provenance
    pd.testing.assert_frame_equal(loaded.table, edits.table)
    with pytest.raises(ValueError, match=r"no edit at blocks\.2\.mlp_down; valid: mlp_down of"):
        loaded.check(model, Site(2, "mlp_down"))
    other = copy.copy(model)
    other.weights = "other"
    this = Provenance("this")
    foreign = RankOneEdits(loaded.u, loaded.delta, loaded.facts, loaded.table, this)
    with pytest.raises(ValueError, match="edits were made on model this, this is other"):
        foreign.check(other, Site(1, "mlp_down"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": None}, "rows: several prompts of the fact 'a'; valid: one a fact"),
        ({"fact": "facts"}, "no column 'facts' in the dataset; it has:"),
        ({"target": "goal"}, "no column 'goal' in the dataset; it has:"),
        ({"layers": [4]}, "has no layer 4; valid: 0 to 3"),
        ({"layers": [3]}, "layers: after layer 3, the last token no longer reads the subject"),
        ({"essence": "what is a"}, "essence 'what is a' has no {subject}"),
        ({"prefixes": -1}, "prefixes = -1; valid: 0 or more"),
        ({"steps": 0}, "steps = 0; valid: above 0"),
        ({"decay": -0.5}, "decay = -0.5; valid: 0 or more"),
        ({"longest": 3}, "tokens of text for 48 neurons; valid: 48 or more"),
    ],
)
def test_what_cannot_be_fitted_is_named(options, message):
    model = tiny("llama")
    texts = corpus(20) if "longest" in options else corpus()
    with pytest.raises(ValueError, match=message):
        rome(model, dataset(model), texts, 0, **{"rows": {"kind": "edit"}, **OPTIONS, **options})


def test_a_corpus_that_repeats_itself_is_named():
    model = tiny("llama")
    texts = pd.DataFrame({"sample": range(60), "tokens": [[5, 6, 7, 8, 9, 10]] * 60})
    with pytest.raises(ValueError, match="layer 0: the second moment of the corpus' keys is sing"):
        rome(model, dataset(model), texts, 0, rows={"kind": "edit"}, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "others"}, "no fit 'others'; valid: edits"),
        ({"edit": "reversed"}, "edit 'reversed' is unknown; valid: fitted, random"),
        ({"fact": "facts"}, "no column 'facts' in the dataset; it has:"),
    ],
)
def test_what_cannot_be_applied_is_named(options, message):
    model = tiny("llama")
    prompts = dataset(model)
    edits = RankOneEdits.stand_in(model, prompts, rows={"kind": "edit"})
    with pytest.raises(ValueError, match=message):
        list(rank_one_edits(model, prompts, {"edits": edits}, 0, **{"fit": "edits", **options}))
    foreign = prompts.assign(fact="d")
    with pytest.raises(ValueError, match="no edit of the fact 'd'; they are of 3 facts"):
        list(rank_one_edits(model, foreign, {"edits": edits}, 0, fit="edits"))
