"""Keys and values that grow in place are those that transformers would hold."""

import torch
from transformers.cache_utils import DynamicLayer

from pipeline.engine.cache import joined, selected

SHAPE = (3, 2, 5, 4)


def filled(tokens: int = SHAPE[2], rows: int = SHAPE[0], seed: int = 0) -> DynamicLayer:
    draw = torch.Generator().manual_seed(seed)
    layer = DynamicLayer()
    layer.update(*torch.randn(2, rows, SHAPE[1], tokens, SHAPE[3], generator=draw))
    return layer


def test_tokens_appended_one_by_one_and_together_are_held_in_their_order():
    """Beyond the room twice, so that what is held moves."""
    clean, own = filled(), selected(filled(), torch.tensor([0, 1, 2]), room=1)
    steps = [1, 1, 40, *[1] * 40]
    for step, tokens in enumerate(steps):
        new = torch.randn(2, 3, 2, tokens, 4, generator=torch.Generator().manual_seed(step))
        for found, expected in zip(own.update(*new), clean.update(*new), strict=True):
            assert torch.equal(found, expected)
    assert own.get_seq_length() == SHAPE[2] + sum(steps)


def test_rows_that_are_selected_do_not_write_into_what_they_come_from():
    clean, before = filled(), filled()
    for room in (0, 8):
        own = selected(clean, torch.tensor([2, 0, 0]), slice(1, 3), room=room)
        assert torch.equal(own.keys, before.keys[[2, 0, 0], :, 1:3])
        assert torch.equal(own.values, before.values[[2, 0, 0], :, 1:3])
        own.update(*torch.ones(2, 3, 2, 4, 4))
        again = selected(own, torch.tensor([1]))
        again.update(*torch.zeros(2, 1, 2, 1, 4))
        assert torch.equal(own.keys[:, :, 2:], torch.ones(3, 2, 4, 4))
    assert torch.equal(clean.keys, before.keys)
    assert torch.equal(clean.values, before.values)


def test_shorter_rows_stand_behind_zeros():
    short, long = filled(2, rows=1, seed=1), filled(5, rows=2)
    both = joined([short, long])
    assert both.get_seq_length() == 5
    assert torch.equal(both.keys[:1, :, 3:], short.keys)
    assert not both.values[:1, :, :3].any()
    assert torch.equal(both.values[1:], long.values)
