"""TopK by its active features: values and slopes of the dense formula."""

import pytest
import torch

from pipeline.methods.sae.autoencoder import activate
from pipeline.methods.sae.topk import decode, largest

WIDTH, FEATURES = 6, 20


def weights() -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((FEATURES, WIDTH), (FEATURES,), (WIDTH,), (FEATURES, WIDTH))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("k", [1, 3, FEATURES])
@pytest.mark.parametrize("rows", [1, 7])
def test_loss_and_slopes_are_those_of_the_dense_formula(k, rows):
    """With all features, half of the values are below 0: they count as 0 and have no slope."""
    x = torch.randn(rows, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, expected = weights(), weights()
    values, chosen = largest(x, *found[:3], k)
    loss = (x - decode(values, chosen, found[3]) - found[2]).pow(2).sum()
    encoder, bias, centre, decoder = expected
    features = activate("topk", (x - centre) @ encoder.T + bias, k, bias.detach())
    dense = (x - features @ decoder - centre).pow(2).sum()
    torch.testing.assert_close(loss, dense, rtol=1e-12, atol=0)
    loss.backward()
    dense.backward()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)
    if k == FEATURES:
        assert (values == 0).any()


def test_the_chosen_are_the_largest():
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    encoder, bias, centre, _ = weights()
    values, chosen = largest(x, encoder, bias, centre, 3)
    pre = (x - centre) @ encoder.T + bias
    for row in range(4):
        best = pre[row].topk(3).indices
        assert set(chosen[row].tolist()) == set(best.tolist())
        torch.testing.assert_close(values[row], pre[row, chosen[row]].relu())
