"""Function vectors on hand-set weights, and indirect effects against a loop over hooks."""

import math

import pandas as pd
import pytest
import torch
import transformers
from families import FAMILIES, LAYERS, random_prompts, tiny, tokenizer

from pipeline.data.datasets import tokenise
from pipeline.engine.collection import collect
from pipeline.engine.scoring import score_last
from pipeline.methods.function_vectors.fits import ALL_TASKS, function_vectors, head_effects
from pipeline.methods.function_vectors.insertion import insert_task_vector
from pipeline.methods.function_vectors.task_vectors import FunctionVectors
from pipeline.model.loading import LanguageModel
from pipeline.model.output_projections import head_outputs
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits

HEADS, WIDTH, ITEMS = 2, 32, 4
PLANTED = (1, 0)
WORDS = range(10, 10 + ITEMS)
END = 70
"""Token of a question's end."""
Tasks = dict[str, tuple[int, ...]]
PAIR: Tasks = {"up": (0,), "down": (1,)}
"""Task -> the parts that it consists of."""
COMPOSED: Tasks = {"a0": (0, 2), "a1": (0, 3), "b0": (1, 2), "b1": (1, 3)}
UNRELATED: Tasks = {"a0": (0,), "a1": (1,), "b0": (2,), "b1": (3,)}


def answers_of(tasks: Tasks, task: str) -> range:
    first = 20 + 10 * list(tasks).index(task)
    return range(first, first + ITEMS)


def planted_model(tasks: Tasks) -> LanguageModel:
    """A model whose head 1.0 writes the task's direction, and whose other heads write nothing.

    Dimensions 0 to 3 are the words', 4 to 7 mark the answers of tasks with a part, 8 to 11 are the
    parts' directions, which the unembedding adds to the words'. Head 1.0 attends evenly to all
    tokens and maps the marks of the answers to the directions. Without any direction the word
    itself is the top token. The word stands at the last token. Dimension 31 fixes the norm.
    """
    config = transformers.LlamaConfig(
        vocab_size=200,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        head_dim=WIDTH // HEADS,
        eos_token_id=3,
    )
    hf = transformers.LlamaForCausalLM(config)
    for name, parameter in hf.named_parameters():
        parameter.data.fill_(1.0 if "norm" in name else 0.0)
    embedding, unembedding = hf.model.embed_tokens.weight.data, hf.lm_head.weight.data
    embedding[:, 31] = 10.0
    for n, word in enumerate(WORDS):
        embedding[word, n] = 1.0
        unembedding[word, n] = 1.5
    for task, parts in tasks.items():
        for n, answer in enumerate(answers_of(tasks, task)):
            unembedding[answer, n] = 1.0
            for part in parts:
                embedding[answer, 4 + part] = unembedding[answer, 8 + part] = 1.0
    attention = hf.model.layers[PLANTED[0]].self_attn
    first = PLANTED[1] * (WIDTH // HEADS)
    for part in range(4):
        attention.v_proj.weight.data[first + part, 4 + part] = 1.0
        attention.o_proj.weight.data[8 + part, first + part] = 10.0
    return LanguageModel(hf, tokenizer(), name="planted")


def planted_prompts(tasks: Tasks) -> pd.DataFrame:
    """Three shots of a word and its answer before a word; `shuffled`: answers of another task."""
    rows = []
    for task, other in zip(tasks, [*tasks][::-1], strict=True):
        answers = answers_of(tasks, task)
        for n, word in enumerate(WORDS):
            shots = [m for m in range(ITEMS) if m != n]
            kinds = {
                "shown": [(WORDS[m], answers[m]) for m in shots],
                "shuffled": [(WORDS[m], answers_of(tasks, other)[m]) for m in shots],
                "zero": [],
            }
            for kind, pairs in kinds.items():
                tokens = [*(token for pair in pairs for token in pair), END, word]
                rows.append(
                    {
                        "instruction": " ".join(f"w{token}" for token in tokens),
                        "label": kind,
                        "split": "train" if n < 3 else "test",
                        "topic": task,
                        "answer": f" w{answers[n]}",
                        "raw": True,
                    }
                )
    return tokenise(pd.DataFrame(rows), tokenizer())


def top_tokens(model, prompts, conditions):
    logits = score_last(
        model, prompts["tokens"].tolist(), conditions, lambda rows: rows, batch_tokens=400
    )
    return logits.argmax(-1)


def test_the_planted_head_is_found_and_its_vector_carries_the_task():
    model, prompts = planted_model(PAIR), planted_prompts(PAIR)
    fitted = function_vectors(model, prompts, top=1)
    assert fitted.top == (PLANTED,)
    others = fitted.mean_effects.clone()
    others[PLANTED] = 0
    assert others.abs().max() == 0 and fitted.mean_effects[PLANTED] > 0.01
    # Head 1.0 sees three answers among eight tokens.
    norm = math.sqrt((1 + 100) / WIDTH)
    direction = torch.zeros(2, WIDTH)
    direction[0, 8] = direction[1, 9] = 10 * 3 / 8 / norm
    assert torch.allclose(fitted.summed([PLANTED]), direction, atol=1e-4)
    zero = prompts[(prompts["label"] == "zero") & (prompts["split"] == "test")]
    answers = torch.tensor([int(answer[2:]) for answer in zero["answer"]])
    options = {"fit": "vectors", "controls": {"other_task": 1, "isotropic": 0, "other_heads": 1}}
    conditions = list(insert_task_vector(model, zero, {"vectors": fitted}, 0, **options))
    top = top_tokens(model, zero, conditions)
    words = torch.tensor([int(text.split("w")[-1]) for text in zero["instruction"]])
    expected = {"fitted": answers, "other_task": answers.flip(0), "other_heads": words}
    assert len(conditions) == 3 * model.n_layers
    for condition, tokens in zip(conditions, top, strict=True):
        assert torch.equal(tokens, expected[condition.axes["source"]]), condition


@pytest.mark.parametrize(("tasks", "right"), [(COMPOSED, 1.0), (UNRELATED, 0.0)])
def test_sums_of_vectors_solve_tasks_that_are_sums_of_parts_and_no_others(tasks, right):
    model, prompts = planted_model(tasks), planted_prompts(tasks)
    fits = {"vectors": function_vectors(model, prompts, top=1)}
    zero = prompts[(prompts["label"] == "zero") & (prompts["topic"] == "b1")]
    controls = {"other_task": 0, "isotropic": 0, "other_heads": 0}
    answers = torch.tensor([int(answer[2:]) for answer in zero["answer"]])
    options = {"fit": "vectors", "controls": controls, "layers": [1]}
    for sums, expected in (({}, 1.0), ({"b1": ["a1", "b0", "a0"]}, right)):
        (condition,) = insert_task_vector(model, zero, fits, 0, sums=sums, **options)
        tokens = top_tokens(model, zero, [condition])[0]
        assert (tokens == answers).double().mean() == expected


def test_mean_states_of_demonstrations_are_put_in():
    model, prompts = planted_model(PAIR), planted_prompts(PAIR)
    fits = {"vectors": function_vectors(model, prompts, top=1)}
    zero = prompts[prompts["label"] == "zero"]
    options = {"controls": {"other_heads": 0, "isotropic": 2, "other_task": 1}}
    conditions = list(
        insert_task_vector(model, zero, fits, 0, fit="vectors", vector="states", **options)
    )
    shown = prompts[(prompts["label"] == "shown") & (prompts["split"] == "train")]
    states, _ = collect(model, shown["tokens"].tolist(), ["blocks.2.resid_post"], "last")
    rows = states[Site(2, "resid_post")]
    of_task = {t: [n for n, topic in enumerate(shown["topic"]) if topic == t] for t in PAIR}
    means = {task: rows[numbers].mean(0) for task, numbers in of_task.items()}
    expected = torch.stack([means[task] for task in zero["topic"]])
    by_source = {
        (c.axes["source"], c.axes["draw"]): c.edits[0].intervention.value.of
        for c in conditions
        if c.axes["layer"] == 2
    }
    assert torch.allclose(by_source["fitted", 0], expected, atol=1e-5)
    assert torch.allclose(by_source["other_task", 0], expected.flip(0), atol=1e-5)
    for draw in (0, 1):
        norms = by_source["isotropic", draw].norm(dim=-1)
        assert torch.allclose(norms, expected.norm(dim=-1), rtol=1e-4)
    assert not torch.allclose(by_source["isotropic", 0], by_source["isotropic", 1])


def random_tasks(model) -> pd.DataFrame:
    rows = [[f"w{max(6, token)}" for token in row] for row in random_prompts(8)]
    frame = pd.DataFrame(
        {
            "instruction": [" ".join(row) for row in rows],
            "label": ["shown", "shuffled"] * 4,
            "topic": ["a", "a", "b", "b"] * 2,
            "split": "train",
            "answer": [f" w{7 + n}" for n in range(8)],
            "raw": True,
        }
    )
    return tokenise(frame, model.tokenizer)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_effects_are_what_a_loop_over_hooks_gives(family):
    model = tiny(family)
    prompts = random_tasks(model)
    fitted = function_vectors(model, prompts, top=3)
    modules = [model.module_of(Site(layer, "z"))[0] for layer in range(LAYERS)]

    def run(tokens, hooks):
        handles = [modules[n].register_forward_pre_hook(hook) for n, hook in hooks.items()]
        with torch.no_grad():
            logits = model.hf(torch.tensor([tokens]), use_cache=False).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits.softmax(-1)

    shown = prompts[prompts["label"] == "shown"]
    means: dict = {}
    for task, rows in shown.groupby("topic"):
        seen: list = [[] for _ in modules]
        readers = {
            n: lambda _, x, states=states: states.append(x[0][0, -1])
            for n, states in enumerate(seen)
        }
        for tokens in rows["tokens"]:
            run(tokens, readers)
        means[task] = [torch.stack(states).mean(0) for states in seen]
    shuffled = prompts[prompts["label"] == "shuffled"].reset_index(drop=True)
    heads = model.n_heads
    for p, row in enumerate(shuffled.to_dict("records")):
        answer = int(row["answer"][2:])
        clean = run(row["tokens"], {})[answer]
        for layer in range(LAYERS):
            for head in range(heads):
                size = means[row["topic"]][layer].shape[0] // heads
                part = slice(head * size, (head + 1) * size)

                def put(_, x, part=part, value=means[row["topic"]][layer]):
                    hidden = x[0].clone()
                    hidden[0, -1, part] = value[part]
                    return (hidden, *x[1:])

                expected = run(row["tokens"], {layer: put})[answer] - clean
                assert abs(fitted.effects[p, layer, head] - expected) < 1e-5
    assert fitted.effects.abs().max() > 1e-3
    by_task = [fitted.effects[[n for n in range(4) if n % 2 == k]].mean(0) for k in range(2)]
    mean = torch.stack(by_task).mean(0)
    strongest = mean.flatten().topk(3).indices.tolist()
    assert [layer * heads + head for layer, head in fitted.top] == strongest
    table = head_effects({"vectors": fitted}, fit="vectors")
    overall = table[table["task"] == ALL_TASKS]
    assert torch.allclose(torch.tensor(overall["effect"].to_numpy()).float(), mean.flatten())
    assert overall["is_top"].sum() == 3 and overall["n"].eq(4).all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "olmo2"])
def test_what_is_inserted_at_the_last_block_is_added_to_its_output(family):
    model = tiny(family)
    prompts = random_tasks(model)
    fits = {"vectors": function_vectors(model, prompts, top=3)}
    controls = {"other_task": 0, "isotropic": 0, "other_heads": 0}
    options = {"fit": "vectors", "layers": [LAYERS - 1], "controls": controls, "strengths": [2.0]}
    conditions = list(insert_task_vector(model, prompts, fits, 0, **options))
    tokens = prompts["tokens"].tolist()
    logits = score_last(model, tokens, conditions, lambda rows: rows, batch_tokens=400)[0]
    states, _ = collect(model, tokens, [Site(LAYERS - 1, "resid_post")], "last")
    heads = fits["vectors"].outputs
    summed = sum(heads[:, layer, head] for layer, head in fits["vectors"].top)
    added = torch.stack([summed[["a", "b"].index(task)] for task in prompts["topic"]])
    expected = lens_logits(model, states[Site(LAYERS - 1, "resid_post")] + 2 * added)
    assert torch.allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", FAMILIES)
def test_head_outputs_sum_to_what_attention_adds(family):
    model = tiny(family)
    rows = random_prompts(3)
    for layer in range(LAYERS):
        sites = [Site(layer, "z"), Site(layer, "attn_out")]
        activations, _ = collect(model, rows, sites, "last")
        z, added = (activations[site] for site in sites)
        bias = getattr(model.module_of(Site(layer, "z"))[0], "bias", None)
        outputs = head_outputs(model, layer, z)
        assert outputs.shape == (3, model.n_heads, model.d_model)
        total = outputs.sum(1) + (0 if bias is None else bias)
        assert torch.allclose(total, added, atol=1e-4 * float(added.abs().max()))


def test_they_are_read_back_and_refuse_another_model(tmp_path):
    model = tiny("gemma2")
    fitted = function_vectors(model, random_tasks(model), top=2)
    fitted.save(tmp_path)
    read = FunctionVectors.load(tmp_path)
    for name in ("states", "outputs", "effects"):
        assert torch.equal(getattr(read, name), getattr(fitted, name))
    for name in ("tasks", "effect_tasks", "corrupted", "top", "provenance"):
        assert getattr(read, name) == getattr(fitted, name)
    with pytest.raises(ValueError, match=r"do not fit blocks\.0\.mlp_out; valid: resid_post"):
        read.check(model, Site(0, "mlp_out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vector": "neurons"}, "vector: 'neurons' is unknown; valid: heads, states"),
        ({"controls": {"shuffled": 1}}, "controls: 'shuffled' is unknown; valid: other_task"),
        ({"controls": {"isotropic": -1}}, "controls.isotropic: -1 is less than 0"),
        ({"vector": "states"}, "controls.other_heads: states have none; valid: 0"),
        ({"layers": [9]}, "has no layer 9; valid: 0 to 3"),
        ({"sums": {"c": ["a", "b", "a"]}}, "task 'c' has no vector; valid: a, b"),
        ({"sums": {"a": ["a", "b"]}}, "valid: three tasks a, b, c of a \\+ b - c"),
    ],
)
def test_wrong_options_of_the_arm_are_named(options, message):
    model = tiny("llama")
    prompts = random_tasks(model)
    fits = {"vectors": FunctionVectors.stand_in(model, prompts, top=2)}
    options = {"controls": {"other_task": 1, "other_heads": 1}, **options}
    with pytest.raises(ValueError, match=message):
        list(insert_task_vector(model, prompts, fits, 0, fit="vectors", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top: 0 heads; valid: 1 to 16"),
        ({"shown": "five"}, "no prompt has label 'five'; valid: shown, shuffled"),
    ],
)
def test_wrong_options_of_the_fit_are_named(options, message):
    model = tiny("llama")
    for fit in (function_vectors, FunctionVectors.stand_in):
        with pytest.raises(ValueError, match=message):
            fit(model, random_tasks(model), **options)
