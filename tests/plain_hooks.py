"""Plain forward hooks of torch, to compare with."""

from contextlib import contextmanager

import torch


@contextmanager
def hooked(block, hook):
    handle = block.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def output(value):
    return value[0] if isinstance(value, tuple) else value


def state(model, tokens, layer):
    """The output of a block at every token."""
    seen = []
    with hooked(model.blocks[layer], lambda _, __, out: seen.append(output(out)[0].clone())):
        model.hf(torch.tensor([tokens]), use_cache=False)
    return seen[0]
