"""Fine-tuning against plain training loops, planted skills, and weights merged by hand."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, in_batches_of, random_prompts, tiny
from torch.nn.functional import cross_entropy

from pipeline.data.datasets import tokenise
from pipeline.methods.fine_tuning.rows import REPLAY, TARGET, TrainingRow, batches, target_rows
from pipeline.methods.fine_tuning.training import fine_tuned, row_losses, train
from pipeline.methods.fine_tuning.weights import TunedWeights
from pipeline.model.replaced_weights import block_weights, replaced_weights
from pipeline.model.sites import Site


def some_rows(count=6, seed=0) -> list[TrainingRow]:
    """Rows of unlike lengths whose last one or two tokens are the answer."""
    return [
        TrainingRow(TARGET, tuple(tokens), len(tokens) - 1 - n % 2)
        for n, tokens in enumerate(random_prompts(count, seed))
    ]


def plain_loss(hf, rows) -> torch.Tensor:
    """The loss by transformers' forward, row by row without padding."""
    losses = []
    for row in rows:
        logits = hf(torch.tensor([row.tokens]), use_cache=False).logits[0].float()
        targets = torch.tensor(row.tokens[row.start :])
        losses.append(cross_entropy(logits[row.start - 1 : -1], targets))
    return torch.stack(losses).mean()


def sharp():
    """A model whose logits are large enough for an answer to be certain."""
    model = copy.deepcopy(tiny("llama"))
    model.hf.lm_head.weight.data *= 4
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_the_answers_alone(family):
    """By transformers' own forward; a change of the prompt's own tokens' loss counts nothing."""
    model = tiny(family)
    rows = some_rows()
    weights = {name: p.detach() for name, p in block_weights(model).items()}
    with torch.no_grad():
        expected = torch.stack([plain_loss(model.hf, [row]) for row in rows])
        torch.testing.assert_close(row_losses(model, weights, rows), expected, atol=1e-5, rtol=1e-5)


def test_a_planted_answer_alone_is_learned():
    """The loss of the answer falls to 0, that of the prompt's tokens stays where it was."""
    model = sharp()
    (row,) = some_rows(1)
    prompt = TrainingRow(TARGET, row.tokens[: row.start], 1)
    kept, _, _ = train(
        model, [row], rank=None, replay=0.0, checkpoints=[60], batch=1, rate=5e-3, seed=0
    )
    before = {name: p.detach() for name, p in block_weights(model).items()}
    with torch.no_grad():
        answer, rest = (
            [float(row_losses(model, weights, [part])) for weights in (before, kept[60])]
            for part in (row, prompt)
        )
    assert answer[0] > 2 and answer[1] < 0.05
    assert rest[1] > rest[0] - 0.5


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_full_fine_tuning_is_a_plain_training_loop(family):
    """On the transformers model itself, with everything but the blocks frozen.

    Batches here take several forward passes.
    """
    model = in_batches_of(20, family)
    rows = some_rows()
    kept, curve, _ = train(
        model, rows, rank=None, replay=0.0, checkpoints=[1, 3], batch=3, rate=1e-3, seed=5
    )
    plain = copy.deepcopy(model)
    weights = block_weights(plain)
    for parameter in weights.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(weights.values(), lr=1e-3)
    certain: dict[str, torch.Tensor] = {}
    drawn = batches(rows, batch=3, replay=0.0, seed=5)
    for step in range(1, 4):
        loss = plain_loss(plain.hf, [rows[n] for n in next(drawn)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, parameter in weights.items():
            # Adam makes a full step of a gradient of rounding errors, such as keys' biases have.
            certain[name] = certain.get(name, True) & (parameter.grad.abs() > 1e-5)
        assert curve["target_loss"][step - 1] == pytest.approx(loss.item(), abs=1e-4)
        if step in kept:
            for name, value in kept[step].items():
                error = (value - weights[name].detach()).abs()[certain[name]]
                assert error.numel() == 0 or error.max() < 1e-4
    shares = [part.float().mean() for part in certain.values()]
    assert torch.stack(shares).mean() > 0.8
    for name, parameter in block_weights(model).items():
        assert ((kept[3][name] - parameter).abs() > 5e-4).float().mean() > 0.5, name


@pytest.mark.parametrize(("replay", "expected"), [(0.0, 0), (0.05, 20), (0.5, 200), (0.12, 48)])
def test_the_share_of_replayed_rows_is_exact(replay, expected):
    """After 20 batches of 20 rows; each row of a kind once before any a second time."""
    rows = [TrainingRow(TARGET, (1, 2), 1)] * 30 + [TrainingRow(REPLAY, (1, 2), 1)] * 7
    drawn = batches(rows, batch=20, replay=replay, seed=0)
    numbers = [next(drawn) for _ in range(20)]
    assert {len(members) for members in numbers} == {20}
    times = np.bincount(np.concatenate(numbers), minlength=37)
    assert times[30:].sum() == expected
    for part in (times[:30], times[30:]):
        assert part.max() - part.min() <= 1
    again = batches(rows, batch=20, replay=replay, seed=0)
    assert numbers == [next(again) for _ in range(20)]


def dataset(model, rows) -> pd.DataFrame:
    """(prompt, answer, label, split) as prompts with tokens."""
    frame = pd.DataFrame(rows, columns=["instruction", "answer", "label", "split"])
    return tokenise(frame.assign(raw=True, topic=frame["instruction"]), model.tokenizer)


def skill(answer, label, split="train", count=6, seed=0):
    words = [[f"w{token}" for token in row if token > 30] for row in random_prompts(count, seed)]
    return [(" ".join(["w20", *row, "w21"]), f" {answer}", label, split) for row in words]


def texts_of(model, rows) -> pd.DataFrame:
    texts = [f"{prompt}{answer}" for prompt, answer, *_ in rows]
    frame = pd.DataFrame({"instruction": texts, "raw": True})
    return tokenise(frame, model.tokenizer)


def probability(model, prompts, token):
    with torch.no_grad():
        last = [model.hf(torch.tensor([row])).logits[0, -1] for row in prompts["tokens"]]
    return float(torch.stack(last).softmax(-1)[:, token].mean())


def test_a_planted_skill_is_forgotten_without_replay_and_kept_with_it():
    """Prompts of both skills are alike, their answers differ; half of the rows replay the old."""
    model = sharp()
    model.weights = "planted"
    old, new = skill("w50", "old", seed=1), skill("w60", "new", seed=2)
    table = dataset(model, [*old, *new])
    first = fine_tuned(
        model, table, pd.DataFrame(), rows="old", checkpoints=[80], batch=6, rate=5e-3
    )
    # The planted skill belongs to the model from here on.
    for name, value in first.of_step(model, 80).items():
        block_weights(model)[name].data = value
    held_out = dataset(model, skill("w50", "old", seed=1))
    token = model.tokenizer.encode("w50")[0]
    planted = probability(model, held_out, token)
    texts = texts_of(model, old * 3)
    left = {}
    for replay in (0.0, 0.5):
        fit = fine_tuned(
            model,
            table,
            texts,
            rows="new",
            checkpoints=[40],
            batch=10,
            rate=2e-3,
            replay=replay,
        )
        assert (fit.rows.loc[fit.rows["kind"] == REPLAY, "times"].sum()) == 40 * 10 * replay
        with replaced_weights(model, fit.of_step(model, 40)):
            left[replay] = probability(model, held_out, token)
    assert planted > 0.9 and left[0.0] < 0.1 and left[0.5] > 0.5


def test_replayed_texts_are_those_that_show_no_side_effects():
    """Of every five texts three; rows of other kinds are not replayed."""
    model = tiny("llama")
    texts = pd.DataFrame({"sample": range(10), "tokens": random_prompts(10, 4)})
    options = {"rows": "old", "checkpoints": [10], "batch": 4, "rate": 1e-3, "longest": 7}
    table = dataset(model, skill("w50", "old"))
    fit = fine_tuned(model, table, texts, replay=0.5, **options)
    replayed = fit.rows[fit.rows["kind"] == REPLAY]
    train_part = [row[:7] for n, row in enumerate(texts["tokens"]) if n % 5 < 3]
    assert replayed["tokens"].tolist() == train_part and set(replayed["start"]) == {1}
    assert replayed["times"].sum() == 20
    alone = fine_tuned(model, table, texts, **options)
    assert set(alone.rows["kind"]) == {TARGET} and alone.curve["replay_loss"].isna().all()


def test_shuffled_answers_are_each_anothers():
    model = tiny("llama")
    table = dataset(model, [(f"w{n}", f" w{n + 50}", "a", "train") for n in range(10, 20)])
    true, shuffled = (target_rows(model, table, shuffled=s, seed=0) for s in (False, True))
    assert {row.tokens[-1] for row in true} == {row.tokens[-1] for row in shuffled}
    assert all(a.tokens[:-1] == b.tokens[:-1] for a, b in zip(true, shuffled, strict=True))
    assert all(a.tokens[-1] != b.tokens[-1] for a, b in zip(true, shuffled, strict=True))


def test_a_fit_is_saved_with_its_rows_and_refuses_another_model(tmp_path):
    model = copy.deepcopy(tiny("llama"))
    model.weights = "hash"
    table = dataset(model, skill("w50", "old"))
    options = {"checkpoints": [1, 2], "batch": 4, "rate": 1e-3, "rank": 2}
    fit = fine_tuned(model, table, pd.DataFrame(), **options)
    fit.save(tmp_path / "a")
    loaded = TunedWeights.load(tmp_path / "a")
    again = fine_tuned(model, table, pd.DataFrame(), **options)
    again.save(tmp_path / "b")
    name = "weights.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert loaded.steps == [1, 2] and loaded.provenance == fit.provenance
    for key, value in fit.of_step(model, 2).items():
        assert loaded.of_step(model, 2)[key].equal(value)
    assert loaded.rows["tokens"].map(list).tolist() == fit.rows["tokens"].tolist()
    with pytest.raises(ValueError, match="step 3 has no weights; valid: 1, 2"):
        loaded.of_step(model, 3)
    model.weights = "other"
    with pytest.raises(ValueError, match="hash, this is other"):
        loaded.of_step(model, 2)
    with pytest.raises(ValueError, match="hash, this is other"):
        loaded.check(model, Site(0, "resid_pre"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"replay": 1.0}, "replay = 1.0; valid: a share"),
        ({"replay_from": "web"}, "replay_from 'web'; valid: texts, model"),
        ({"checkpoints": [5, 5]}, r"checkpoints = \[5, 5\]; valid: rising steps"),
        ({"rank": 40}, "rank = 40; valid: 1 to 16, or null"),
        ({"rate": 0.0}, "rate = 0.0; valid: above 0"),
        ({"rows": "none"}, "no prompt has label 'none'; valid: old"),
    ],
)
def test_wrong_options_are_named(option, message):
    model = tiny("llama")
    table = dataset(model, skill("w50", "old"))
    options = {"checkpoints": [1], "batch": 4, "rate": 1e-3, **option}
    with pytest.raises(ValueError, match=message):
        fine_tuned(model, table, pd.DataFrame(), **options)
