"""Run a score over blocks of prompts and groups of conditions that restart at the same place."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.bases import restarting_from
from pipeline.engine.chunks import block_tokens, blocks, pass_tokens
from pipeline.engine.conditions import Condition
from pipeline.engine.edit_table import EditTable
from pipeline.engine.limits import (
    check_aligned,
    check_context,
    check_listed,
    check_listed_run,
    check_scored,
    check_sites,
)
from pipeline.engine.memory import in_batches
from pipeline.engine.restart import BaseRun, Start
from pipeline.model.hooks import with_hooks
from pipeline.model.loading import LanguageModel
from pipeline.runs.progress import progress

Score = Callable[[BaseRun, Start, list[int], list[int]], Tensor]
"""Scores rows that share a start, given each row's condition and its prompt's index in the block.
"""


class Scorer:
    """Check prompts and conditions once, then score subsets of the prompts.

    Args:
        model: the model.
        prompts: tokens of every prompt and of the answer after it, if any.
        conditions: conditions to run on every prompt.
        score: computes the scores of rows of a block.
        batch_tokens: token budget of a batch.
        ends: number of prompt tokens of each sequence; None if no answer follows.
        clean: whether the score needs the clean run's logits.

    Raises:
        ValueError: nothing to run, a sequence longer than the context, or an edit that does not fit
            or never fires.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        score: Score,
        *,
        batch_tokens: int,
        ends: Sequence[int] | None = None,
        clean: bool = False,
    ) -> None:
        check_listed_run(model, prompts, conditions)
        _check_any(conditions, prompts)
        self._model, self._prompts, self._score = model, prompts, score
        self._batch_tokens, self._ends, self._clean = batch_tokens, ends, clean
        self._lengths = [len(prompt) for prompt in prompts]
        if ends is not None:
            check_scored(ends, self._lengths)
        check_context(model, prompts)
        check_sites(model, conditions)
        check_aligned(conditions, len(prompts))
        # The last answer token predicts nothing that is scored.
        read = [length - (ends is not None) for length in self._lengths]
        check_listed(conditions, ends or self._lengths, read)
        self._groups = restarting_from(conditions)
        shared = {
            number: len(conditions[base].edits)
            for base, members in self._groups.items()
            if base is not None
            for number in members
            if number != base
        }
        self._table = EditTable(model, conditions, shared)

    def __call__(
        self, only: Sequence[int] | None = None
    ) -> Float[Tensor, "conditions prompts ..."]:
        """Score the prompts with these indexes, in their order; all prompts if None.

        Raises:
            ValueError: no prompt, or an edit that never touched a token.
        """
        numbers = range(len(self._prompts)) if only is None else only
        _check_any(self._table.conditions, numbers)
        return in_batches(self._model, self._batch_tokens, partial(self._scores, numbers))

    def _scores(self, numbers: Sequence[int], batch_tokens: int) -> Tensor:
        results: Tensor | None = None
        model, table = self._model, self._table
        table.expect_all()
        lengths = [self._lengths[number] for number in numbers]
        computed = pass_tokens(model, batch_tokens)
        block_budget = block_tokens(batch_tokens, len(table.conditions))
        split = list(blocks(lengths, min(computed, block_budget)))
        for members in progress(split, "scores", "batch", brief=True):
            block = [numbers[n] for n in members]
            for base_run in self._base_runs(block):
                with torch.inference_mode(), with_hooks(model, table.hooks):
                    for start, together in _together(base_run, batch_tokens, computed):
                        owners = [condition for condition in together for _ in block]
                        rows = [*range(len(block))] * len(together)
                        scores = self._score(base_run, start, owners, rows).cpu()
                        if results is None:
                            shape = len(table.conditions), len(numbers), *scores.shape[1:]
                            # Outside inference mode, an inference tensor cannot be modified.
                            with torch.inference_mode(False):
                                results = torch.empty(shape, dtype=scores.dtype)
                        index = torch.tensor(together)[:, None], torch.tensor(members)
                        results[index] = scores.unflatten(0, (len(together), len(block)))
                # Free the memory for the next run.
                del base_run
        table.check_fired()
        assert results is not None
        return results

    def _base_runs(self, block: Sequence[int]) -> Iterator[BaseRun]:
        """Run a block for each group of conditions that restart together."""
        ends = None if self._ends is None else [self._ends[number] for number in block]
        run = partial(BaseRun, self._model, self._prompts, block, self._table, ends=ends)
        clean = run(members=self._groups[None], read=True) if self._clean else None
        if clean is not None:
            yield clean
        elif self._groups[None]:
            yield run(members=self._groups[None])
        for base, members in self._groups.items():
            if base is not None:
                yield run(members=members, base=base, clean=clean, read=self._clean)


def _check_any(conditions: Sequence[Condition], prompts: Sequence[object]) -> None:
    if not conditions or not prompts:
        raise ValueError(f"{len(conditions)} conditions and {len(prompts)} prompts: nothing to run")


def _together(base_run: BaseRun, held: int, computed: int) -> Iterator[tuple[Start, list[int]]]:
    """Group conditions that share a start into passes over a block.

    `held` is the budget of tokens that the rows of a pass hold, KV cache included; `computed` is
    that of tokens fed to the model.
    """
    by_start: dict[Start, list[int]] = defaultdict(list)
    for number, start in base_run.starts.items():
        by_start[start].append(number)
    for start, members in sorted(by_start.items()):
        fed = len(base_run.ids) * max(1, base_run.width - start.column)
        at_once = max(1, min(held // base_run.ids.numel(), computed // fed))
        for first in range(0, len(members), at_once):
            yield start, members[first : first + at_once]
