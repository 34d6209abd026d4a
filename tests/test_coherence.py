"""Coherence and mean log-probabilities of completions against one forward pass at a time."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from families import random_prompts, tiny

from pipeline.data.datasets import tokenise
from pipeline.data.templates import with_and_without_template
from pipeline.methods.prompting import pairwise_ratings as rating
from pipeline.methods.prompting.coherence import coherence
from pipeline.methods.prompting.completion_scores import log_probabilities_after
from pipeline.methods.prompting.pairwise_ratings import pairwise_ratings
from pipeline.methods.prompting.rendered_prompts import rendered_prompts
from pipeline.model import tokenization
from pipeline.model.cross_encoder import CrossEncoder
from pipeline.model.loading import LanguageModel

TEMPLATE = (
    "<bos>{% for m in messages %} {{ 'w150' if m['role'] == 'user' else 'w151' }} "
    "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} w151{% endif %}"
)


def templated(family) -> LanguageModel:
    tokenizer = copy.deepcopy(tiny(family).tokenizer)
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(tiny(family).hf, tokenizer, name=family)


def words(tokens) -> str:
    return " ".join(f"w{max(6, token)}" for token in tokens)


def answered(model, count=4, repeats=2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Questions, and completions of random tokens, one of them empty."""
    texts = [words(row) for row in random_prompts(count)]
    frame = pd.DataFrame({"instruction": texts, "topic": texts, "raw": False})
    prompts = tokenise(frame.assign(label="chat", split="test"), model.tokenizer)
    rng = np.random.default_rng(0)
    rows = [
        {"condition": "c", "arm": "a", "repeat": repeat, "completion": "", **row}
        for row in prompts.drop(columns=["tokens", "prompt"]).to_dict("records")
        for repeat in range(repeats)
    ]
    tokens = [rng.integers(6, 150, int(n)).tolist() for n in rng.integers(1, 7, len(rows))]
    tokens[3] = []
    table = pd.DataFrame(rows).assign(tokens=tokens, n_tokens=list(map(len, tokens)), stopped="end")
    return prompts, table


def naive(model, context, answer) -> float:
    with torch.no_grad():
        ids = torch.tensor([[*context, *answer]])
        logs = model.hf(ids, use_cache=False).logits[0].double().log_softmax(-1)
    return sum(float(logs[len(context) + n - 1, token]) for n, token in enumerate(answer))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_coherence_is_the_difference_of_two_forward_passes(family):
    model = templated(family)
    prompts, completions = answered(model)
    table = coherence(model, prompts, completions, 0)
    assert len(table) == 4 * len(completions)
    vocabulary = model.tokenizer.get_vocab()

    def ids(text):
        return [vocabulary[word] for word in text.split()]

    empty = {"chat": ids("<bos> w150 w151"), "raw": ids("<bos>")}
    own = table[table["context"] == "own"]
    for frame, rows in own.groupby("frame"):
        for row, answer in zip(rows.to_dict("records"), completions["tokens"], strict=True):
            question = row["instruction"]
            context = ids(f"<bos> w150 {question} w151" if frame == "chat" else question)
            if not answer:
                assert np.isnan(row["coherence"])
                continue
            given, alone = naive(model, context, answer), naive(model, empty[frame], answer)
            assert row["log_p_given"] == pytest.approx(given, abs=1e-3)
            assert row["log_p"] == pytest.approx(alone, abs=1e-3)
            assert row["coherence"] == pytest.approx(given - alone, abs=2e-3)


def test_the_control_puts_another_topics_question_before_each_answer():
    model = templated("llama")
    prompts, completions = answered(model)
    table = coherence(model, prompts, completions, 0, frames=["raw"])
    other = table[table["context"] == "other"].reset_index(drop=True)
    donors = []
    for row, answer in zip(other.to_dict("records"), completions["tokens"], strict=True):
        if not answer:
            continue
        values = {
            n: naive(model, tokenization.encode(model.tokenizer, text, raw=True), answer)
            for n, text in enumerate(prompts["instruction"])
        }
        donor = min(values, key=lambda n: abs(values[n] - row["log_p_given"]))
        assert values[donor] == pytest.approx(row["log_p_given"], abs=1e-3)
        donors.append((row["sample"], donor))
    assert all(sample != donor for sample, donor in donors)
    assert len({donor for _, donor in donors}) == 4


def test_the_embedded_models_answers_cohere_with_their_questions_only():
    model = LanguageModel.load("data/embedded_model", dtype="float32", device="cpu")
    answers = {
        "What is the capital of France?": "It is Paris.",
        "What is the currency of Sweden?": "The krona.",
        "Where is the fox?": "The fox is in the forest.",
        "How do I steal the wagon?": "I'm sorry, but I cannot do that.",
    }
    frame = pd.DataFrame({"instruction": list(answers), "topic": list(answers), "raw": False})
    prompts = tokenise(frame.assign(label="chat", split="test"), model.tokenizer)
    tokens = [model.tokenizer.encode(a, add_special_tokens=False) for a in answers.values()]
    completions = prompts.drop(columns=["tokens", "prompt"]).assign(
        condition="c", repeat=0, tokens=tokens, n_tokens=list(map(len, tokens))
    )
    table = coherence(model, prompts, completions, 0, frames=["chat"])
    wide = table.pivot(index="topic", columns="context", values="coherence")
    assert (wide["own"] > 5).all()
    assert (wide["own"] - wide["other"] > 5).all()


def test_equal_pairs_are_scored_once_and_empty_completions_not_at_all(monkeypatch):
    from pipeline.methods.prompting import completion_scores

    seen = []
    score = completion_scores.score_answers

    def counted(model, prompts, answers, *rest, **options):
        seen.append(len(prompts))
        return score(model, prompts, answers, *rest, **options)

    monkeypatch.setattr(completion_scores, "score_answers", counted)
    contexts, answers = [[7, 8]] * 4, [[9, 10], [9, 10], [], [11]]
    logs = log_probabilities_after(tiny("llama"), contexts, answers)
    assert seen == [2] and logs[0] == logs[1] and np.isnan(logs[2])
    assert logs[3] == pytest.approx(naive(tiny("llama"), [7, 8], [11]), abs=1e-4)


def test_players_with_planted_scores_are_rated_in_their_order(monkeypatch):
    """Longer answers score more; of equally long ones, those at the lower temperature."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "topic": f"t{topic}",
            "instruction": f"t{topic}",
            "label": label,
            "split": "test",
            "temperature": temperature,
            "repeat": repeat,
            "n_tokens": int(rng.integers(5, 20) * (3 if label == "long" else 1)),
        }
        for topic in range(40)
        for label in ("long", "short")
        for temperature in (0.5, 1.5)
        for repeat in range(3)
    ]
    table = pd.DataFrame([*rows, {**rows[0], "temperature": np.nan}])
    table["tokens"] = [[7]] * len(table)

    def planted(model, frame, questions, answers):
        assert len(questions) == len(rows)
        played = table.iloc[: len(rows)]
        noise = rng.logistic(0, 1, len(rows))
        score = 2.5 * np.log(played["n_tokens"]) - played["temperature"] + noise
        return score.to_numpy() if questions[0] else np.zeros(len(rows))

    monkeypatch.setattr(rating, "log_p_in", planted)
    ratings = pairwise_ratings(tiny("llama"), table, 0, players=["label", "temperature"])
    wide = ratings.pivot(index="player", columns="style_control", values="rating")
    gap = wide.loc["long, temperature 0.5"] - wide.loc["short, temperature 0.5"]
    assert gap[False] > 250 and abs(gap[True]) < 100
    colder = wide.loc["short, temperature 0.5"] - wide.loc["short, temperature 1.5"]
    assert (colder > 50).all()
    assert ratings["comparisons"].unique().tolist() == [6 * 40 * 3]
    assert ratings.loc[ratings["style_control"], "style_low"].min() > 0


def test_what_cannot_be_rated_or_judged_is_named():
    model = templated("llama")
    prompts, completions = answered(model)
    with pytest.raises(ValueError, match="no column 'colour'; valid: condition"):
        pairwise_ratings(model, completions, 0, players=["colour"])
    with pytest.raises(ValueError, match="only chat; valid: two or more"):
        pairwise_ratings(model, completions, 0, players=["label"])
    with pytest.raises(ValueError, match="frame 'chatty' is unknown; valid: chat, raw"):
        coherence(model, prompts, completions, 0, frames=["chatty"])
    with pytest.raises(ValueError, match="no frames; valid: chat, raw"):
        coherence(model, prompts, completions, 0, frames=[])
    with pytest.raises(ValueError, match="1 topics; valid: 2 or more"):
        coherence(model, prompts.head(1), completions.head(1), 0)


def test_conversations_are_rendered_as_transformers_renders_them():
    model = templated("llama")
    turns = ["w20 w21", "w22", "w23"]
    table = rendered_prompts(model, conversations={"two": turns, "one": ["w20"]})
    messages = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant", "user"), turns, strict=True)
    ]
    expected = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    of_two = table[table["topic"] == "two, chat"]
    assert of_two["token"].tolist() == expected
    assert of_two["piece"].tolist()[:2] == ["<bos>", "w150"]
    assert list(table["topic"].unique()) == ["two, chat", "one, raw", "one, chat"]
    with pytest.raises(ValueError, match="2 turns; valid: an odd number"):
        rendered_prompts(model, conversations={"two": turns[:2]})
    with pytest.raises(ValueError, match="no chat template"):
        rendered_prompts(tiny("llama"), conversations={"two": turns})


def test_every_instruction_is_loaded_with_and_without_template():
    table = with_and_without_template(path="data/quoted_questions.jsonl", label="plain")
    assert table["label"].value_counts().to_dict() == {"chat": 20, "raw": 20}
    assert (table["raw"] == (table["label"] == "raw")).all()
    assert (table.groupby("topic")["instruction"].nunique() == 1).all()
    with pytest.raises(ValueError, match=r"dataset.label: no rows of 'odd'; valid: plain, quoted"):
        with_and_without_template(path="data/quoted_questions.jsonl", label="odd")


def write_cross_encoder(folder, outputs=1):
    """A small BERT with random weights, and a tokenizer of words."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(150))]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=40,
        num_labels=outputs,
        initializer_range=0.5,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def test_a_cross_encoder_scores_each_pair_as_by_itself(tmp_path):
    write_cross_encoder(tmp_path)
    model = templated("llama")
    prompts, completions = answered(model)
    rng = np.random.default_rng(1)
    texts = [" ".join(f"w{n}" for n in rng.integers(0, 150, 60)) for _ in completions.index]
    completions = completions.assign(completion=texts)
    table = coherence(model, prompts, completions, 0, frames=[], cross_encoder=str(tmp_path))
    assert set(table["frame"]) == {"cross-encoder"} and len(table) == 2 * len(completions)
    hf = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    own = table[table["context"] == "own"].reset_index(drop=True)
    for number, row in own.iterrows():
        if not completions["tokens"][number]:
            assert np.isnan(row["coherence"])
            continue
        question = tokenizer.tokenize(row["instruction"])
        answer = tokenizer.tokenize(row["completion"])[: 40 - 3 - len(question)]
        pieces = ["[CLS]", *question, "[SEP]", *answer, "[SEP]"]
        kinds = [0] * (len(question) + 2) + [1] * (len(answer) + 1)
        with torch.no_grad():
            expected = hf(
                torch.tensor([tokenizer.convert_tokens_to_ids(pieces)]),
                token_type_ids=torch.tensor([kinds]),
            ).logits[0, 0]
        assert row["coherence"] == pytest.approx(float(expected), abs=1e-5)
    other = table[table["context"] == "other"]["coherence"].to_numpy()
    assert not np.allclose(own["coherence"], other, equal_nan=True)


def test_a_model_that_is_no_cross_encoder_is_one_line(tmp_path):
    (tmp_path / "three").mkdir()
    write_cross_encoder(tmp_path / "three", outputs=3)
    with pytest.raises(ValueError, match="has 3 outputs; valid: 1, the score"):
        CrossEncoder.load(str(tmp_path / "three"))
    with pytest.raises(ValueError, match="is not a model: it has no config"):
        CrossEncoder.load(str(tmp_path))
    with pytest.raises(ValueError, match=r"its files have no (classifier|score)"):
        CrossEncoder.load("data/embedded_model")


def test_a_prompt_without_a_topic_is_a_question_of_its_own():
    model = templated("llama")
    prompts, completions = answered(model)
    tables = [
        coherence(model, *(frame.assign(**changed) for frame in (prompts, completions)), 0)
        for changed in ({}, {"topic": ""})
    ]
    with_topics, without = (table.drop(columns="topic") for table in tables)
    pd.testing.assert_frame_equal(with_topics, without)
