"""Linear relations against torch's Jacobian, a planted rank-one relation, and closed forms."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from families import LAYERS, WIDTH, random_prompts, tiny, tokenizer

from pipeline.data.datasets import tokenise
from pipeline.data.facts import load_facts, with_targets
from pipeline.data.roles import CONTROL
from pipeline.engine.collection import collect
from pipeline.engine.conditions import Condition
from pipeline.engine.jacobians import mean_affine
from pipeline.engine.scoring import score_last
from pipeline.measures.relations import at_chosen, shares_by_label
from pipeline.methods.relations.edits import low_rank_shifts, relation_edit, target_facts
from pipeline.methods.relations.fits import LinearRelations, linear_relations
from pipeline.methods.relations.predictions import relation_predictions
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site


def output(value):
    return value[0] if isinstance(value, tuple) else value


def naive_expansion(model, tokens, position, layer):
    """Return z, dz/dh and h of one prompt, by torch's own Jacobian of a function of h."""
    block, final = model.blocks[layer], model.blocks[-1]
    seen = {}

    def z_of(state):
        def put(_, __, out):
            hidden = output(out)
            seen.setdefault("h", hidden[0, position].clone())
            rows = torch.arange(hidden.shape[1])[:, None] == position
            hidden = torch.where(rows, state if state is not None else hidden[0], hidden[0])[None]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        def keep(_, __, out):
            seen["z"] = output(out)[0, -1]

        handles = [block.register_forward_hook(put), final.register_forward_hook(keep)]
        model.hf(torch.tensor([tokens]), use_cache=False)
        for handle in handles:
            handle.remove()
        return seen["z"]

    with torch.no_grad():
        z = z_of(None)
    state = seen["h"].detach()
    return z.double(), torch.autograd.functional.jacobian(z_of, state).double(), state.double()


@pytest.mark.parametrize("batch_tokens", [30, 4000])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2", "neox", "qwen3"])
def test_w_and_b_average_torchs_jacobians_over_prompts(family, batch_tokens):
    model = tiny(family)
    prompts = random_prompts(3, longest=8)
    positions = [0, 1, len(prompts[2]) - 1]
    layers = [2, 0]
    maps = mean_affine(model, prompts, positions, layers, batch_tokens=batch_tokens)
    assert list(maps) == layers
    for layer, (weight, bias) in maps.items():
        each = [
            naive_expansion(model, tokens, position, layer)
            for tokens, position in zip(prompts, positions, strict=True)
        ]
        expected = torch.stack([jacobian for _, jacobian, _ in each]).mean(0)
        assert expected.abs().max() > 1e-3
        assert (weight - expected).abs().max() <= 1e-4 * expected.abs().max()
        constant = torch.stack([z - jacobian @ h for z, jacobian, h in each]).mean(0)
        assert (bias - constant).abs().max() <= 1e-4 * constant.abs().max()


def test_what_cannot_be_expanded_is_named():
    model = tiny("llama")
    for layers, positions, message in (
        ([3], [0], "no state of layer 3; valid: 0 to 2"),
        ([], [0], "there is no layer"),
        ([0], [5], "prompt 0 has no position 5 of 3 tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            mean_affine(model, [[7, 8, 9]], positions, layers, batch_tokens=100)


U, V = WIDTH - 1, torch.linspace(-1, 1, WIDTH) * (torch.arange(WIDTH) < WIDTH - 1)
"""The planted relation adds (V . h of every token) / 4 to dimension U of the last token's state."""


def planted() -> LanguageModel:
    """Uniform attention of block 2 is the only part that writes; norms are almost the identity.

    Words w6 to w9 have no embedding; the head says w20 if dimension U is negative, else w21.
    """
    hf = copy.deepcopy(tiny("llama").hf)
    for block in hf.model.layers:
        for module in (block.self_attn.q_proj, block.self_attn.o_proj, block.mlp.down_proj):
            module.weight.data.zero_()
    for module in hf.modules():
        if hasattr(module, "variance_epsilon"):
            # x * 1e3 / sqrt(mean x^2 + 1e6) is x up to 1e-6.
            module.variance_epsilon = 1e6
            module.weight.data.fill_(1e3)
    attention = hf.model.layers[2].self_attn
    attention.v_proj.weight.data.zero_()
    attention.v_proj.weight.data[0] = V
    attention.o_proj.weight.data[U, 0] = 1.0
    embedding = hf.model.embed_tokens.weight.data
    embedding.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    embedding[:, U] = 0
    embedding[:30] = 0
    hf.lm_head.weight.data.zero_()
    hf.lm_head.weight.data[20, U], hf.lm_head.weight.data[21, U] = -1.0, 1.0
    return LanguageModel(hf, tokenizer(), name="planted", weights="planted")


def facts(model, count=40, relations=("sign",), last="w8") -> pd.DataFrame:
    """Prompts of four words with the subject second, answered as the model does."""
    frame = pd.DataFrame(
        [
            {
                "instruction": f"w6 w{40 + number} w7 {last.format(n=100 + number)}",
                "label": relation,
                "split": ("train", "val", "test")[number % 3],
                "topic": f"w{40 + number}",
                "subject": f"w{40 + number}",
                "subject_start": -1,
                "raw": True,
            }
            for relation in relations
            for number in range(count)
        ]
    )
    table = tokenise(frame, model.tokenizer)
    (top,) = score_last(
        model,
        table["tokens"].tolist(),
        [Condition()],
        lambda logits: logits.argmax(-1).double(),
        batch_tokens=500,
    )
    return with_targets(table.assign(answer=[f" w{int(token)}" for token in top]), 0)


def test_a_planted_relation_of_rank_one_is_recovered_exactly():
    model = planted()
    fit = linear_relations(model, facts(model), samples=5)
    assert fit.layers == [0, 1, 2] and len(fit.samples["sign"]) == 5
    expected = torch.zeros(WIDTH, WIDTH)
    expected[U] = V / 4
    for layer in (0, 1):
        weight, bias = fit.maps["sign", layer]
        assert (weight - expected).abs().max() < 1e-5
        assert bias.abs().max() < 1e-5
    # After block 2, the last token has read what it reads of the subject.
    assert fit.maps["sign", 2][0].abs().max() == 0


def test_the_planted_relation_predicts_every_answer_where_the_subject_is_still_to_be_read():
    model = planted()
    prompts = facts(model)
    fits = {"maps": linear_relations(model, prompts, samples=5)}
    table = relation_predictions(model, prompts, fits, fit="maps", betas=[0.0, 1.0])
    assert (table["correct"] == 1).all() and set(table["split"]) == {"val", "test"}
    agree = table.groupby(["layer", "beta"])["agrees"].mean()
    assert agree[0, 1.0] == agree[1, 1.0] == 1
    assert (agree.drop([(0, 1.0), (1, 1.0)]) < 0.8).all()
    assert set(table["top_piece"].str.strip()) == {"w20", "w21"}


def test_a_subject_is_swapped_as_a_whole_word():
    """The other name begins with the subject, which stands in a word after its last mention."""
    frame = pd.DataFrame(
        {
            "instruction": ["Ann, Ann lives near Annapolis", "Ann lives", "Annapolis, not Ann"],
            "subject": "Ann",
            "subject_start": [-1, -1, 0],
            "target_subject": "Carl",
            "raw": True,
            "prompt": "",
        }
    )
    targets = target_facts(planted(), frame)
    assert targets["instruction"].tolist() == [
        "Ann, Carl lives near Annapolis",
        "Carl lives",
        "Carlapolis, not Ann",
    ]
    assert targets["subject_start"].tolist() == [5, 0, 0]
    with pytest.raises(ValueError, match="subject 'Ann' is not in 'Annapolis'"):
        target_facts(planted(), frame.assign(instruction="Annapolis", subject_start=-1))


def test_the_inverse_of_the_planted_relation_gives_the_targets_logits():
    """z differs between subjects along U only, which the one singular value writes."""
    model = planted()
    prompts = facts(model)
    fits = {"maps": linear_relations(model, prompts, samples=5)}
    options = {"fit": "maps", "ranks": [1, 3]}
    tokens = prompts["tokens"].tolist()
    targets = target_facts(model, prompts)["tokens"].tolist()
    clean, target = (
        score_last(model, rows, [Condition()], lambda rows: rows, batch_tokens=500)[0]
        for rows in (tokens, targets)
    )
    assert (clean.argmax(-1) != target.argmax(-1)).all()
    norms = {}
    for edit in ("relation", "random", "target_state"):
        conditions = list(relation_edit(model, prompts, fits, 0, edit=edit, **options))
        logits = score_last(model, tokens, conditions, lambda rows: rows, batch_tokens=500)
        for condition, rows in zip(conditions, logits, strict=True):
            reads = condition.axes["layer"] < 2
            expected = target if reads and edit != "random" else clean
            close = (rows - expected).abs().max() <= 1e-4 * target.abs().max()
            assert bool(close) == (edit != "random" or not reads)
            if edit != "target_state":
                key = condition.axes["layer"], condition.axes["rank"]
                moved = condition.edits[0].intervention.direction.of
                norms.setdefault(key, []).append(moved.norm(dim=-1))
        assert {c.role == CONTROL for c in conditions} == {edit != "relation"}
    assert len(norms) == 6
    for by_relation, by_chance in norms.values():
        assert torch.allclose(by_relation, by_chance, rtol=1e-4)


def test_a_low_rank_inverse_is_the_pseudoinverse_of_the_best_approximation():
    generator = torch.Generator().manual_seed(0)
    weight, difference = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((8, 8), (3, 8))
    )
    shifts = low_rank_shifts(weight, difference, [2, 5, 8])
    u, s, vh = np.linalg.svd(weight.numpy())
    for rank, shift in zip((2, 5, 8), shifts, strict=True):
        truncated = u[:, :rank] * s[:rank] @ vh[:rank]
        expected = difference.numpy() @ np.linalg.pinv(truncated).T
        np.testing.assert_allclose(shift.numpy(), expected, atol=1e-9)
    assert torch.allclose(shifts[-1] @ weight.T, difference)


def test_fits_predictions_and_edits_run_on_a_gemma_2_shape(tmp_path):
    """Two relations; a file gives back the maps, and another model's are refused."""
    model = tiny("gemma2")
    # A random model repeats the last word.
    prompts = facts(model, 12, relations=("one", "two"), last="w{n}")
    fit = linear_relations(model, prompts, layers=[0, 2], samples=2)
    fit.save(tmp_path)
    again = LinearRelations.load(tmp_path)
    assert again.provenance == fit.provenance and dict(again.samples) == dict(fit.samples)
    for key, (weight, bias) in fit.maps.items():
        assert torch.equal(again.maps[key][0], weight.float())
        assert torch.equal(again.maps[key][1], bias.float())
    again.check(model, Site(2, "resid_post"))
    for site in (Site(1, "resid_post"), Site(2, "resid_pre")):
        with pytest.raises(ValueError, match="valid: resid_post of layers 0, 2"):
            again.check(model, site)
    with pytest.raises(ValueError, match="relations were made on model planted"):
        relations = linear_relations(planted(), facts(planted()), samples=2)
        other = LanguageModel(tiny("llama").hf, tokenizer(), name="other", weights="other")
        relations.check(other, Site(0, "resid_post"))
    table = relation_predictions(model, prompts, {"maps": again}, fit="maps")
    assert len(table) == 16 * 2 * 9
    conditions = list(relation_edit(model, prompts, {"maps": again}, 0, fit="maps", ranks=[3]))
    states, _ = collect(model, prompts["tokens"].tolist(), [Site(LAYERS - 1, "resid_post")], "last")
    (z,) = states.values()
    moved = conditions[0].edits[0].intervention.direction.of
    assert moved.shape == z.shape and bool(moved.isfinite().all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: linear_relations(m, p, samples=0), "samples = 0; valid: 1 or more"),
        (lambda m, p: linear_relations(m, p, samples=30), "relation sign: 14 train prompts that"),
        (lambda m, p: linear_relations(m, p, layers=[3]), "valid: 0 to 2"),
        (lambda m, p: LinearRelations.stand_in(m, p, samples=30), "fewer than samples = 30"),
        (lambda m, p: list(edits(m, p, edit="add")), "edit 'add' is unknown; valid: relation, r"),
        (lambda m, p: list(edits(m, p, ranks=[0])), r"ranks \[0\]; valid: 1 to 32"),
        (lambda m, p: list(edits(m, p, fit="x")), "no fit 'x'; valid: maps"),
        (lambda m, p: target_facts(m, p.drop(columns="target_subject")), "no column 'target_sub"),
        (lambda m, p: target_facts(m, p.assign(subject="w9 w9")), "subject 'w9 w9' is not in"),
    ],
)
def test_wrong_options_are_named(call, message):
    model = planted()
    with pytest.raises(ValueError, match=message):
        call(model, facts(model))


def edits(model, prompts, **options):
    fits = {"maps": LinearRelations.stand_in(model, prompts)}
    return relation_edit(model, prompts, fits, 0, **{"fit": "maps", "ranks": [1], **options})


def test_targets_are_other_answers_of_the_same_relation_and_split(tmp_path):
    rows = [
        {"instruction": f"{relation} {n} is", "label": relation, "subject": str(n), "topic": str(n)}
        | {"answer": f" {relation}{n % 3}"}
        for relation in "ab"
        for n in range(30)
    ]
    path = tmp_path / "facts.jsonl"
    pd.DataFrame(rows).to_json(path, orient="records", lines=True)
    frame = load_facts(path=str(path), shares=[0.4, 0.2, 0.4])
    owners = frame.set_index(["label", "subject"])
    for row in frame.to_dict("records"):
        target = owners.loc[(row["label"], row["target_subject"])]
        assert target["split"] == row["split"] and target["answer"] == row["target"]
        assert row["target"] != row["answer"]
    assert load_facts(path=str(path), prompts={"label": ["b"]})["label"].unique() == ["b"]
    with pytest.raises(ValueError, match=r"relation a, split .*: every answer is ' same'"):
        with_targets(frame.assign(answer=" same"), 0)


def test_settings_are_chosen_on_val_rows_only():
    """Of relation a, layer 1 is best on val and 0 on test; of b, both are equal on val."""
    scores = {
        ("a", 0): ([0, 0], [1, 1]),
        ("a", 1): ([1, 0], [1, 0]),
        ("b", 0): ([1, 1], [0, 1]),
        ("b", 1): ([1, 1], [1, 1]),
    }
    rows = pd.DataFrame(
        [
            {"label": label, "layer": layer, "split": split, "topic": str(n), "score": score}
            for (label, layer), pair in scores.items()
            for split, listed in zip(("val", "test"), pair, strict=True)
            for n, score in enumerate(listed)
        ]
    )
    best = at_chosen(rows, ["layer"])
    assert best.groupby("label")["layer"].unique().map(list).to_dict() == {"a": [1], "b": [0]}
    shares = shares_by_label(best, "topic", 0)
    assert shares["mean"].to_dict() == {"a": 0.5, "b": 0.5} and (shares["n"] == 2).all()
    assert at_chosen(rows[rows["split"] == "test"], ["layer"]).empty
