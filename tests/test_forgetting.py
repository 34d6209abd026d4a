"""Readings, measures and figures of fine-tuned variants, against loops over transformers."""

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_prompts, tiny
from torch.nn.functional import cross_entropy

from pipeline.data.datasets import load_tables, tokenise
from pipeline.engine.conditions import Condition
from pipeline.engine.scoring import log_probability_and_match, score_answers
from pipeline.measures.forgetting import gains_and_losses, losses_compared, skill_changes
from pipeline.measures.statistics import wilson
from pipeline.methods.fine_tuning.readings import (
    UNCHANGED,
    training_rows,
    tuned_answers,
    tuned_texts,
)
from pipeline.methods.fine_tuning.rows import own_samples
from pipeline.methods.fine_tuning.training import fine_tuned
from pipeline.model.replaced_weights import block_weights
from pipeline.views.forgetting import gain_and_loss, skill_map
from pipeline.views.training_rows import row_likelihoods


def dataset(model) -> pd.DataFrame:
    """Two skills with answers of one and two tokens, one of them in train and test."""
    rows = []
    for label, split, seed in (("taught", "train", 1), ("taught", "test", 2), ("kept", "test", 3)):
        for n, tokens in enumerate(random_prompts(6, seed)):
            words = [f"w{max(6, token)}" for token in tokens]
            answer = "".join(f" w{100 + n + place}" for place in range(1 + n % 2))
            rows.append((" ".join(words), answer, label, split, f"topic {n}"))
    columns = ["instruction", "answer", "label", "split", "topic"]
    return tokenise(pd.DataFrame(rows, columns=columns).assign(raw=True), model.tokenizer)


def texts(count=15) -> pd.DataFrame:
    return pd.DataFrame({"sample": range(count), "tokens": random_prompts(count, 9)})


def tuned(family="llama"):
    model = copy.deepcopy(tiny(family))
    model.weights = "hash"
    options = {"rows": "taught", "batch": 4, "rate": 3e-3}
    fits = {
        "all": fine_tuned(model, dataset(model), texts(), checkpoints=[2, 9], **options),
        "low": fine_tuned(model, dataset(model), texts(), rank=2, checkpoints=[9], **options),
    }
    return model, fits


def with_weights(model, fit, step):
    """A copy of the model with a fit's weights loaded by transformers."""
    changed = copy.deepcopy(model)
    state = {**model.hf.state_dict(), **fit.of_step(model, step)}
    changed.hf.load_state_dict(state)
    return changed.hf


@torch.no_grad()
def greedy(hf, tokens, count) -> list[int]:
    written: list[int] = []
    for _ in range(count):
        written.append(int(hf(torch.tensor([[*tokens, *written]])).logits[0, -1].argmax()))
    return written


@torch.no_grad()
def test_a_match_is_what_greedy_decoding_writes_first():
    """Answers are the first tokens of greedy decoding, one of them with its last token changed."""
    model = tiny("gemma2")
    prompts = random_prompts(5)
    answers = [greedy(model.hf, tokens, 1 + n) for n, tokens in enumerate(prompts)]
    answers[3] = [*answers[3][:-1], (answers[3][-1] + 1) % 200]
    answers[2] = [(answers[2][0] + 1) % 200, *answers[2][1:]]
    match = log_probability_and_match
    (scores,) = score_answers(model, prompts, answers, [Condition()], batch_tokens=30, score=match)
    assert scores[:, 1].tolist() == [1, 1, 0, 0, 1]
    (expected,) = score_answers(model, prompts, answers, [Condition()], batch_tokens=30)
    torch.testing.assert_close(scores[:, 0], expected)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_answers_are_scored_under_each_variants_weights(family, tmp_path):
    model, fits = tuned(family)
    prompts = dataset(model)
    table = tuned_answers(model, prompts, fits, tmp_path, variants=["all", "low"], trained="taught")
    steps = table.drop_duplicates(["variant", "step"])[["variant", "step"]]
    assert list(map(tuple, steps.to_numpy())) == [
        (UNCHANGED, 0),
        ("all", 2),
        ("all", 9),
        ("low", 9),
    ]
    test = prompts[prompts["split"] == "test"]
    for (variant, step), rows in table.groupby(["variant", "step"], sort=False):
        fit = fits.get(variant)
        hf = model.hf if fit is None else with_weights(model, fit, step)
        assert rows["sample"].tolist() == test["sample"].tolist()
        assert rows["trained"].tolist() == (test["label"] == "taught").tolist()
        for row, sample in zip(rows.itertuples(), test.itertuples(), strict=True):
            tokens = list(sample.tokens)
            answer = model.tokenizer.encode(sample.answer.strip())
            with torch.no_grad():
                logits = hf(torch.tensor([[*tokens, *answer]])).logits[0, len(tokens) - 1 : -1]
            expected = -cross_entropy(logits.float(), torch.tensor(answer), reduction="sum")
            assert row.log_p == pytest.approx(float(expected), abs=1e-4)
            assert row.right == (greedy(hf, tokens, len(answer)) == answer)
    before = table[table["variant"] == UNCHANGED]["log_p"].mean()
    assert table[table["variant"] == "all"]["log_p"].mean() > before + 0.2


def test_a_killed_reading_resumes_at_the_first_missing_table(tmp_path):
    model, fits = tuned()
    options = {"variants": ["all", "low"], "trained": "taught"}
    table = tuned_answers(model, dataset(model), fits, tmp_path, **options)
    finished = next(tmp_path.glob("answers-*-all-9.parquet"))
    pd.read_parquet(finished).assign(log_p=7.0).to_parquet(finished)
    next(tmp_path.glob("answers-*-low-9.parquet")).unlink()
    again = tuned_answers(model, dataset(model), fits, tmp_path, **options)
    is_finished = (table["variant"] == "all") & (table["step"] == 9)
    assert (again.loc[is_finished, "log_p"] == 7).all()
    pd.testing.assert_frame_equal(again[~is_finished], table[~is_finished])
    fewer = tuned_answers(model, dataset(model)[:-1], fits, tmp_path, **options)
    assert not (fewer["log_p"] == 7).any()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_divergences_are_those_of_whole_distributions(family, tmp_path):
    model, fits = tuned(family)
    table = tuned_texts(model, texts(), fits, tmp_path, variants=["all"], longest=8)
    listed = [row[:8] for n, row in enumerate(random_prompts(15, 9)) if n % 5 == 4]
    assert table.loc[table["step"] == 0, "kl"].abs().max() == 0
    for step in (2, 9):
        hf = with_weights(model, fits["all"], step)
        rows = table[table["step"] == step].reset_index(drop=True)
        assert len(rows) == len(listed)
        for n, tokens in enumerate(listed):
            with torch.no_grad():
                p, q = (m(torch.tensor([tokens])).logits[0].double() for m in (model.hf, hf))
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            kl = (p.exp() * (p - q)).sum(-1).mean()
            loss = cross_entropy(q[:-1], torch.tensor(tokens[1:]))
            assert rows["kl"][n] == pytest.approx(float(kl), rel=1e-3)
            assert rows["loss"][n] == pytest.approx(float(loss), rel=1e-4)
    assert table["kl"].max() > 0.01


def test_training_rows_are_scored_before_the_training():
    model, fits = tuned()
    # A row that was in no batch is left out.
    unused = fits["all"].rows.iloc[[0]].assign(times=0)
    fits["all"] = replace(fits["all"], rows=pd.concat([fits["all"].rows, unused]))
    table = training_rows(model, fits, variants=["all"])
    prompts = dataset(model)
    train = prompts[prompts["split"] == "train"]
    assert len(table) == len(train) and table["times"].sum() == 9 * 4
    for row, sample in zip(table.itertuples(), train.itertuples(), strict=True):
        answer = model.tokenizer.encode(sample.answer.strip())
        with torch.no_grad():
            ids = torch.tensor([[*sample.tokens, *answer]])
            logits = model.hf(ids).logits[0, len(sample.tokens) - 1 : -1]
        loss = cross_entropy(logits.float(), torch.tensor(answer))
        assert row.loss == pytest.approx(float(loss), abs=1e-5) and row.n_tokens == len(answer)


def test_samples_are_likely_to_the_model_that_wrote_them():
    """Their mean loss is the entropy of the model, which that of random texts exceeds."""
    model = copy.deepcopy(tiny("llama"))
    model.hf.lm_head.weight.data *= 4
    rows = own_samples(model, 12, 16, seed=0)
    assert {row.start for row in rows} == {1} and len({row.tokens for row in rows}) > 6
    assert {row.tokens[0] for row in rows} == {1} and max(len(row.tokens) for row in rows) == 16
    assert rows == own_samples(model, 12, 16, seed=0) != own_samples(model, 12, 16, seed=1)
    losses = [0.0, 0.0]
    generator = torch.Generator().manual_seed(0)
    for row in rows:
        drawn = torch.randint(4, 200, (len(row.tokens),), generator=generator)
        for side, ids in enumerate((torch.tensor(row.tokens), drawn)):
            with torch.no_grad():
                logits = model.hf(ids[None]).logits[0, :-1]
            losses[side] += float(cross_entropy(logits, ids[1:])) / len(rows)
    assert losses[0] < 0.6 * losses[1]


def test_a_variant_of_another_model_or_without_a_fit_is_refused(tmp_path):
    model, fits = tuned()
    prompts = dataset(model)
    with pytest.raises(KeyError):
        tuned_answers(model, prompts, fits, tmp_path, variants=["none"], trained="taught")
    with pytest.raises(ValueError, match="none of them named 'unchanged'"):
        tuned_answers(model, prompts, fits, tmp_path, variants=["all", UNCHANGED], trained="taught")
    own = {name: p.detach().clone() for name, p in block_weights(model).items()}
    model.weights = "other"
    with pytest.raises(ValueError, match="hash, this is other"):
        tuned_answers(model, prompts, fits, tmp_path, variants=["all"], trained="taught")
    with pytest.raises(ValueError, match="hash, this is other"):
        training_rows(model, fits, variants=["all"])
    assert all(p.equal(own[name]) for name, p in block_weights(model).items())


def planted_answers() -> pd.DataFrame:
    """Before: taught 0 of 10, two others 10 of 10. After: taught 10, others 10 and 5, or all 0."""
    rows = []
    for variant, step, right in (
        (UNCHANGED, 0, (0, 10, 10)),
        ("A", 5, (10, 10, 5)),
        ("B", 5, (10, 0, 0)),
    ):
        for label, count in zip(("taught", "one", "two"), right, strict=True):
            for n in range(10):
                rows.append((f"{label} {n}", label, f"t{n}", variant, step, float(n < count)))
    columns = ["sample", "label", "topic", "variant", "step", "right"]
    table = pd.DataFrame(rows, columns=columns).assign(split="test")
    return table.assign(trained=table["label"] == "taught")


def test_planted_gains_and_losses_are_found():
    answers = planted_answers()
    points = gains_and_losses(answers, seed=0).set_index("variant")
    assert points["target"].to_dict() == {UNCHANGED: 0, "A": 1, "B": 1}
    assert points["others"].to_dict() == {UNCHANGED: 0, "A": -0.25, "B": -1}
    assert points.loc["A", "target_low"] == pytest.approx(float(wilson(1.0, 10)[0]))
    (compared,) = losses_compared(answers, "A", seed=0).values()
    assert compared.mean == -0.75 and compared.n == 2
    changes = skill_changes(answers, seed=0).set_index(["variant", "label"])
    assert changes.loc[("A", "two"), "change"] == -0.5
    assert changes.loc[("A", "two"), "low"] < -0.5 < changes.loc[("A", "two"), "high"] < 0
    assert changes.loc[("A", "one"), "p_adjusted"] == 1 and changes.loc[("A", "one"), "low"] < 0
    assert 0 < changes.loc[("B", "one"), "p_adjusted"] < 0.01
    with pytest.raises(ValueError, match="no rows of step 0"):
        skill_changes(answers[answers["step"] > 0], seed=0)
    with pytest.raises(ValueError, match="the trained skill and others"):
        gains_and_losses(answers[answers["trained"]], seed=0)


def test_prompts_without_topics_are_independent_and_one_topic_is_not_tested():
    answers = planted_answers()
    alone = answers.assign(topic="")
    for measure in (skill_changes, gains_and_losses):
        pd.testing.assert_frame_equal(measure(alone, seed=0), measure(answers, seed=0))
    said = " ".join(skill_map({"a": alone}, 0, answers="a").get_supxlabel().split())
    said = said.replace("- ", "-")
    assert "t test over prompts, Benjamini-Hochberg over 6 changes" in said
    one = answers.assign(topic=answers["topic"].where(answers["label"] != "two", "t0"))
    changes = skill_changes(one, seed=0).set_index(["variant", "label"])["p_adjusted"]
    assert changes.isna().to_dict() == {key: key[1] == "two" for key in changes.index}
    figure = skill_map({"a": one}, 0, answers="a")
    bold = [text.get_weight() == "bold" for text in figure.axes[0].texts]
    assert bold == [True, True, False, True, False, False]
    said = " ".join(figure.get_supxlabel().split())
    assert (
        "over 4 changes" in said
        and "2 changes of skills with a single topic are not tested" in said
    )


def test_figures_show_what_the_readings_say():
    answers = planted_answers()
    variants = answers.drop_duplicates("variant")[["variant", "step"]].merge(
        pd.DataFrame({"text": range(12)}), how="cross"
    )
    texts_read = variants.assign(kl=variants["step"] * 0.01 + 1e-4 * variants["text"], loss=1.0)
    rows = pd.DataFrame({"row": range(20), "times": 1, "n_tokens": 2})
    kinds = [("target", "A", 3.0), ("target", "B", 3.0), ("replay", "B", 1.0)]
    likelihoods = pd.concat(
        [
            rows.assign(kind=kind, variant=variant, loss=loss + 0.01 * rows["row"])
            for kind, variant, loss in kinds
        ]
    )
    readings = {"answers": answers, "texts": texts_read, "rows": likelihoods}
    options = {"answers": "answers", "texts": "texts", "control": "B", "names": {"A": "all"}}
    figure = gain_and_loss(readings, 0, **options)
    left, right = figure.axes
    front = left.lines[-1]
    assert front.get_xdata().tolist() == [-0.25] and front.get_ydata().tolist() == [1.0]
    ring = right.lines[-1]
    assert ring.get_markersize() == front.get_markersize() and ring.get_ydata().tolist() == [1.0]
    assert "n = 10 prompts" in figure.get_supxlabel().replace("\u00a0", " ")
    assert right.get_xscale() == "symlog"
    assert right.lines[0].get_xdata()[1] == pytest.approx(0.05 + 1e-4 * 5.5)
    # A variant that differs in nothing has no interval.
    twin = [table[table["variant"] != "B"] for table in (answers, texts_read)]
    twins = [
        pd.concat([table, table[table["variant"] == "A"].assign(variant="twin")]) for table in twin
    ]
    alike = gain_and_loss(
        dict(zip(("answers", "texts"), twins, strict=True)), 0, answers="answers", texts="texts"
    )
    assert "above A: twin +0." in " ".join(alike.get_supxlabel().split())
    with pytest.raises(ValueError, match="no variant 'C'; valid: A, B"):
        gain_and_loss(readings, 0, **{**options, "control": "C"})
    figure = skill_map(readings, 0, answers="answers")
    image = figure.axes[0].images[0].get_array()
    assert np.asarray(image).tolist() == [[100, 100], [0, -100], [-50, -100]]
    with pytest.raises(ValueError, match="step 7 has no weights; valid: 5"):
        skill_map(readings, 0, answers="answers", step=7)
    figure = row_likelihoods(readings, 0, reading="rows")
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert ticks == ["answers to train on:\nA", "replayed rows:\nB"]
    with pytest.raises(ValueError, match="no reading 'x'"):
        row_likelihoods(readings, 0, reading="x")


def test_a_skill_that_is_trained_in_part_is_two():
    answers = planted_answers()
    some = answers.assign(trained=answers["sample"].isin(["two 0", "two 9"]))
    changes = skill_changes(some, seed=0).set_index(["variant", "label", "trained"])
    assert changes["n"].xs("two", level="label").to_dict() == {
        (variant, trained): 2 if trained else 8 for variant in "AB" for trained in (True, False)
    }
    assert changes.loc[("A", "two", False), "change"] == -0.5
    figure = skill_map({"a": some}, 0, answers="a")
    ticks = figure.axes[0].get_yticklabels()
    bold = {tick.get_text() for tick in ticks if tick.get_fontweight() == "bold"}
    assert bold == {"two (100 %)"} and "two, not trained (100 %)" in {t.get_text() for t in ticks}


def test_variants_without_weights_of_a_step_are_named():
    answers = planted_answers()
    later = answers[answers["variant"] == "A"].assign(step=20)
    readings = {"a": pd.concat([answers, later])}
    said = " ".join(skill_map(readings, 0, answers="a", step=20).get_supxlabel().split())
    assert "Without weights of this step: B." in said
    assert "Without" not in skill_map(readings, 0, answers="a").get_supxlabel()


def test_a_step_has_the_same_marker_in_all_variants():
    answers = planted_answers()
    steps = [answers[answers["step"] == 0]]
    after = answers[answers["variant"] == "A"]
    steps += [after.assign(step=step) for step in range(1, 15)]
    steps.append(after.assign(variant="slow", step=14))
    table = pd.concat(steps)
    texts_read = table.drop_duplicates(["variant", "step"])[["variant", "step"]].assign(
        text=0, kl=0.1, loss=1.0
    )
    readings = {"answers": table, "texts": texts_read}
    figure = gain_and_loss(readings, 0, answers="answers", texts="texts")
    marked = [line.get_marker() for line in figure.axes[0].lines if line.get_markersize() == 7]
    assert len(set(marked[:14])) == 14 and "None" not in marked and marked[14] == marked[13]
    (keys,) = figure.legends
    named = {
        text.get_text(): key for key, text in zip(keys.get_lines(), keys.get_texts(), strict=True)
    }
    assert named["after 14 steps"].get_marker() == marked[14]


def test_tables_of_raw_texts_and_of_chats_are_joined(tmp_path):
    for name, text in (("raw", "to go on"), ("chat", "a question")):
        row = f'{{"instruction": "{text}", "label": "{name}", "split": "test"}}\n'
        (tmp_path / f"{name}.jsonl").write_text(row)
    paths = [str(tmp_path / "raw.jsonl")]
    frame = load_tables(paths=paths, raw=True, chat=[str(tmp_path / "chat.jsonl")])
    assert frame[["label", "raw"]].to_numpy().tolist() == [["raw", True], ["chat", False]]
