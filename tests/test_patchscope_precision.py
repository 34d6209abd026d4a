"""Tokens read from states by Patchscopes and the logit lens, against plain hooks."""

import numpy as np
import pandas as pd
import pytest
import torch
from families import tiny
from naive import unembedded

from pipeline.data.datasets import tokenise
from pipeline.methods.patchscope_precision import next_token_precision
from pipeline.methods.patchscopes import donors

LAYERS = 4


def rows(model) -> pd.DataFrame:
    """Targets whose placeholder is their third word; the source's subject is its second."""
    words = [f"w{30 + n} w{60 + n} w{90 + n}" for n in range(6)]
    frame = pd.DataFrame(
        {
            "instruction": ["w7 w8 w9 w10"] * 6,
            "subject": "w9",
            "subject_start": 6,
            "source": words,
            "source_subject": [text.split()[1] for text in words],
            "source_subject_start": 4,
            "label": "identity",
            "split": "test",
            "topic": words,
            "answer": [f" w{n % 3 + 40}" for n in range(6)],
            "raw": True,
        }
    )
    return tokenise(frame.assign(demand=""), model.tokenizer)


def states(model, tokens) -> torch.Tensor:
    return torch.stack(
        model.hf(torch.tensor([tokens]), output_hidden_states=True).hidden_states[:-1]
    )


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@torch.no_grad()
def test_tokens_read_are_those_of_plain_hooks(family):
    model = tiny(family)
    prompts = rows(model)
    vocabulary = model.tokenizer.get_vocab()
    read = {
        method: next_token_precision(model, prompts, 0, label="identity", method=method)
        for method in ("patchscope", "logit_lens")
    }
    order = donors(prompts["answer"], 0)
    sources = [[vocabulary[word] for word in text.split()[:2]] for text in prompts["source"]]
    p = torch.stack(
        [model.hf(torch.tensor([row])).logits[0, -1].log_softmax(-1) for row in sources]
    )
    streams = [states(model, row)[:, 0, -1] for row in sources]
    for prefix, donor in (("", range(6)), ("other_", order)):
        for number, source in enumerate(donor):
            for layer in range(model.n_layers):
                state = streams[source][layer]

                def put(module, args, kwargs, state=state):
                    hidden = (args[0] if args else kwargs["hidden_states"]).clone()
                    hidden[0, 2] = state
                    return (hidden, *args[1:]), {
                        k: v for k, v in kwargs.items() if k != "hidden_states"
                    }

                handle = model.blocks[layer].register_forward_pre_hook(put, with_kwargs=True)
                target = list(map(int, prompts["tokens"][number]))
                patched = int(model.hf(torch.tensor([target])).logits[0, -1].argmax())
                handle.remove()
                lens = int(unembedded(model, state[None])[0].argmax())
                for method, token in (("patchscope", patched), ("logit_lens", lens)):
                    table = read[method]
                    row = table[(table["sample"] == number) & (table["layer"] == layer)].iloc[0]
                    agrees = token == int(p[number].argmax())
                    assert row[f"{prefix}agreement"] == float(agrees)
                    assert row[f"{prefix}surprisal"] == pytest.approx(
                        -float(p[number, token]), abs=1e-4
                    )

    for table in read.values():
        output = table[table["layer"] == model.n_layers].set_index("sample")
        assert (output["agreement"] == 1).all()
        np.testing.assert_allclose(output["surprisal"], -p.max(-1).values, atol=1e-4)
        agree = [float(p[n].argmax() == p[other].argmax()) for n, other in enumerate(order)]
        assert output["other_agreement"].tolist() == agree


def test_the_lens_reads_the_component_that_is_patched():
    """A layer's output is the next one's input, and the last one's is what the model says."""
    model = tiny("llama")
    prompts = rows(model)
    before, after = (
        next_token_precision(
            model, prompts, 0, label="identity", method="logit_lens", component=component
        ).pivot(index="layer", columns="sample", values=["surprisal", "other_surprisal"])
        for component in ("resid_pre", "resid_post")
    )
    np.testing.assert_array_equal(after.to_numpy()[:-1], before.to_numpy()[1:])
    assert (before.loc[0] != before.loc[1]).any()
    with pytest.raises(ValueError, match="lens does not read 'mlp_out'; valid: resid_pre, resid_p"):
        next_token_precision(
            model, prompts, 0, label="identity", method="logit_lens", component="mlp_out"
        )


def test_wrong_options_are_one_line():
    model = tiny("llama")
    prompts = rows(model)
    with pytest.raises(
        ValueError, match="method: 'lens' is unknown; valid: patchscope, logit_lens"
    ):
        next_token_precision(model, prompts, 0, label="identity", method="lens")
    with pytest.raises(
        ValueError, match="no prompts labelled 'copy' in split 'test'; labels: ident"
    ):
        next_token_precision(model, prompts, 0, label="copy")
