"""The studies of lenses and key-value memories, on the embedded model and another family."""

import pandas as pd
import pytest
from families import write_model
from project import copy_project, run
from test_any_model import TEMPLATE

from pipeline.data.datasets import tokenise
from pipeline.methods.lenses.logit_lens import logit_lens, text_lens
from pipeline.methods.lenses.tuned import tuned_lens
from pipeline.model.loading import LanguageModel
from pipeline.model.tokenization import encode


@pytest.mark.slow
def test_they_run_on_a_gemma_2_shape(tmp_path):
    folder = copy_project(tmp_path)
    write_model("gemma2", folder / "model", TEMPLATE)
    small = {"capitals": 4, "translations": 2, "fact_edits": 9, "mixed_texts": 30}
    for name, count in small.items():
        rows = pd.read_json(folder / f"data/{name}.jsonl", lines=True)
        rows = rows.groupby("label").head(count) if "label" in rows else rows.head(count)
        file = folder / f"data/{name}.jsonl"
        # A link to the project's own table, which is not to be written over.
        file.unlink()
        rows.to_json(file, orient="records", lines=True)
    figures = {
        "lenses": ["divergence", "jacobian", "recalled_and_read", "tuned"],
        "lens_languages": ["languages", "ranks", "tokens"],
        "key_values": ["agreement", "contributions", "shares", "values"],
    }
    # A random model knows no fact.
    settings = {
        "lenses": ["fits.jacobian.count=2", "fits.tuned.epochs=1"],
        "key_values": ["figures.shares.right=null", "sweep.arms.chosen.strengths=[1.0]"],
    }
    for study, names in figures.items():
        options = settings.get(study, [])
        done = run(folder, "run", study, "model=local", "model.path=model", *options)
        assert done.returncode == 0, done.stderr
        (output,) = folder.glob(f"outputs/{study}-*")
        assert {figure.stem for figure in output.glob("figures/*.png")} == set(names)
    conditions = pd.read_parquet(output / "conditions.parquet")
    edited = conditions[conditions["role"] != "baseline"]
    assert set(edited["values"]) == {"chosen", "similar", "random", "other"}
    assert set(edited.loc[edited["role"] == "control", "values"]) == {"similar", "random", "other"}


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")


def test_the_tuned_lens_is_nearer_to_the_output_than_the_logit_lens_at_every_layer(model):
    """On texts that it was not trained on, with a small part of them."""
    texts = pd.read_json("data/mixed_texts.jsonl", lines=True)[:90]
    texts["sample"] = range(len(texts))
    texts["tokens"] = [encode(model.tokenizer, text, raw=True)[:40] for text in texts["text"]]
    layers = [1, 3, 5, 7]
    fits = {"tuned": tuned_lens(model, texts, layers=layers, rows=1000, epochs=2)}
    tuned, plain = (
        text_lens(model, texts, fits, fit=fit, count=10).groupby("layer")["kl"].mean()
        for fit in ("tuned", None)
    )
    assert (tuned[layers] < 0.7 * plain[layers]).all()
    assert tuned[model.n_layers] == plain[model.n_layers] == 0


def test_capitals_are_known_and_their_controls_are_not(model):
    """The model's output has the capital, recalled and read; no layer has another country's."""
    rows = pd.read_json("data/capitals.jsonl", lines=True).assign(raw=True)
    columns = ["country", "answer", "other_country", "other_answer"]
    table = logit_lens(model, tokenise(rows, model.tokenizer), columns=columns)
    last = table[table["layer"] == model.n_layers]
    assert (last["answer_rank"] == 1).groupby(last["label"]).mean().min() == 1
    early = table[table["layer"] == 2].groupby("label")
    assert (early["country_reciprocal_rank"].mean() > 0.2).all()
    assert (early["other_country_reciprocal_rank"].mean() < 0.05).all()
    assert (early["other_answer_reciprocal_rank"].mean() < 0.05).all()
