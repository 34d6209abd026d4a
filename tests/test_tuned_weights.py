"""Low-rank differences and replaced weights, against hooks by hand and the model's own bits."""

import copy

import pytest
import torch
from families import tiny
from test_fine_tuning import plain_loss, some_rows

from pipeline.methods.fine_tuning.training import row_losses, train
from pipeline.methods.fine_tuning.weights import ALPHA, merged, trainable
from pipeline.model.replaced_weights import block_weights, replaced_weights


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "phi3"])
def test_low_rank_differences_are_those_of_hooks_by_hand(family):
    """Each linear map's output plus (16 / r) x A' B' by hooks, and weights merged by hand."""
    model = tiny(family)
    tensors = trainable(model, 2, torch.Generator().manual_seed(1))
    for name, tensor in tensors.items():
        if name.endswith(".b"):
            assert not tensor.any()
            tensor.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    weights = merged(block_weights(model), tensors, 2)
    rows = some_rows()
    handles = []
    for name, module in model.hf.named_modules():
        if f"{name}.weight.a" not in tensors:
            continue
        down, up = tensors[f"{name}.weight.a"], tensors[f"{name}.weight.b"]
        if module.__class__.__name__ == "Conv1D":  # [in, out]
            down, up = up.T, down.T

        def added(_, inputs, output, down=down, up=up):
            return output + ALPHA / 2 * inputs[0] @ down.T @ up.T

        handles.append(module.register_forward_hook(added))
    assert len(handles) == sum(name.endswith(".a") for name in tensors)
    with torch.no_grad():
        hooked = torch.stack([plain_loss(model.hf, [row]) for row in rows])
        for handle in handles:
            handle.remove()
        clean = row_losses(model, {}, rows)
        torch.testing.assert_close(row_losses(model, weights, rows), hooked, atol=1e-4, rtol=1e-4)
        assert (hooked - clean).abs().max() > 1e-2


@pytest.mark.parametrize("rank", [1, 3])
def test_a_low_rank_difference_has_its_rank_and_trains(rank):
    model = tiny("gemma2")
    rows = some_rows()
    kept, curve, _ = train(
        model, rows, rank=rank, replay=0.0, checkpoints=[20], batch=6, rate=3e-3, seed=0
    )
    own = block_weights(model)
    weights = merged(own, kept[20], rank)
    matrices = {name for name, p in own.items() if p.ndim == 2}
    assert set(weights) == matrices
    for name, value in weights.items():
        singular = torch.linalg.svdvals((value - own[name]).double())
        assert int((singular > 1e-5 * singular[0]).sum()) <= rank and singular[0] > 1e-3
    assert curve["target_loss"].iloc[-1] < 0.7 * curve["target_loss"].iloc[0]


def test_weights_are_put_back_bit_for_bit():
    """Also if the run fails; inside, the model has another hash."""
    model = copy.deepcopy(tiny("llama"))
    model.weights = "hash"
    own = block_weights(model)
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    pointers = {name: p.data_ptr() for name, p in own.items()}
    others = {name: p.detach() + 1 for name, p in own.items()}
    ids = torch.tensor([[5, 6, 7]])
    clean = model.hf(ids).logits
    with replaced_weights(model, others):
        assert (model.hf(ids).logits - clean).abs().max() > 1e-2
        assert model.weights != "hash"
        first = next(iter(own))
        assert own[first].equal(others[first])
    with pytest.raises(ZeroDivisionError), replaced_weights(model, others):
        raise ZeroDivisionError
    assert model.weights == "hash"
    for name, parameter in model.hf.named_parameters():
        assert parameter.equal(before[name]), name
    assert {name: p.data_ptr() for name, p in block_weights(model).items()} == pointers
    assert model.hf(ids).logits.equal(clean)
    wrong = {"x": "no weight 'x'", first: r"is \[1\] of torch.float32"}
    for name, text in wrong.items():
        with pytest.raises(ValueError, match=text), replaced_weights(model, {name: torch.zeros(1)}):
            pass


def test_training_leaves_the_model_as_it_is():
    model = tiny("llama")
    before = {name: p.detach().clone() for name, p in model.hf.named_parameters()}
    train(model, some_rows(), rank=None, replay=0.0, checkpoints=[2], batch=2, rate=1e-2, seed=0)
    assert all(p.equal(before[name]) for name, p in model.hf.named_parameters())
    assert not any(p.requires_grad for p in model.hf.parameters())
