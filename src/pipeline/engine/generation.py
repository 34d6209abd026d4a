"""Generate completions of every prompt under every condition."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.batches import Batch, join
from pipeline.engine.chunks import Chunk, Row, divided, plan_decodings
from pipeline.engine.conditions import Condition
from pipeline.engine.decoding import Decoding, choose, row_keys
from pipeline.engine.edit_table import EditTable
from pipeline.engine.limits import (
    check_aligned,
    check_context,
    check_listed,
    check_listed_run,
    check_sites,
)
from pipeline.engine.memory import in_parts
from pipeline.engine.restart import BaseRun, Start
from pipeline.model.finite import check_finite
from pipeline.model.hooks import with_hooks
from pipeline.model.loading import LanguageModel

_FREE = 0.25
"""New rows join when this share of the slots is free: prefilling them singly would cost more."""


@dataclass(frozen=True)
class Completion:
    """One completion: tokens without the end token, and `stopped`, which is `end` or `length`."""

    condition: int
    prompt: int
    repeat: int
    tokens: tuple[int, ...]
    text: str
    stopped: str


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    *,
    seed: int = 0,
    batch_tokens: int = 16384,
) -> list[Completion]:
    """Complete every prompt under every condition, sorted by (condition, prompt, repeat).

    `decoding` is for conditions without a decoding of their own. A condition's completions do not
    depend on the other conditions of the run.

    Raises:
        ValueError: a site that the model does not have, a sequence longer than its context, an edit
            that never touched a token, or logits that are not finite.
    """
    run = Generation(model, prompts, conditions, decoding, seed=seed, samples=range(len(prompts)))
    completions = [row for chunk in run.plan(batch_tokens) for row in run.complete(chunk)]
    return sorted(completions, key=lambda c: (c.condition, c.prompt, c.repeat))


def generate_chunk(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    conditions: Sequence[Condition],
    chunk: Chunk,
    decoding: Decoding,
    *,
    seed: int,
    samples: Sequence[int],
) -> list[Completion]:
    """Complete the rows of one chunk, in order; arguments and errors as for `Generation`."""
    run = Generation(model, prompts, conditions, decoding, seed=seed, samples=samples)
    return run.complete(chunk)


class Generation:
    """Check prompts and conditions once, then complete them chunk by chunk.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        conditions: all conditions.
        decoding: decoding of conditions without one of their own.
        seed: seed of the sampling noise.
        samples: sample number of each prompt, which seeds its noise: a subset of the prompts gets
            the same noise as in the full set.

    Raises:
        ValueError: as `generate`.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        conditions: Sequence[Condition],
        decoding: Decoding,
        *,
        seed: int,
        samples: Sequence[int],
    ) -> None:
        if not isinstance(decoding, Decoding):
            raise ValueError(f"decoding is {decoding!r}; valid: Decoding(...)")
        if type(seed) is not int or not 0 <= seed < 2**63:
            raise ValueError(f"seed: {seed!r} is no seed; valid: 0 to 2^63 - 1")
        check_listed_run(model, prompts, conditions)
        self.model, self.prompts, self.conditions = model, prompts, conditions
        self.seed, self.samples = seed, samples
        self._decodings = [condition.decoding or decoding for condition in conditions]
        self._lengths = [len(prompt) for prompt in prompts]
        max_new = max((used.max_new_tokens for used in self._decodings), default=0)
        check_context(model, prompts, max_new)
        check_sites(model, conditions)
        check_aligned(conditions, len(prompts))
        for condition, used in zip(conditions, self._decodings, strict=True):
            # The last token of a completion is never fed to the model.
            fed = [length + used.max_new_tokens - 1 for length in self._lengths]
            check_listed([condition], self._lengths, fed)

    def plan(self, batch_tokens: int) -> list[Chunk]:
        """Pack all rows into chunks; see `chunks.plan_decodings`."""
        return plan_decodings(self._decodings, self._lengths, batch_tokens=batch_tokens)

    def complete(self, chunk: Chunk) -> list[Completion]:
        """Complete the rows of one chunk, in order.

        Raises:
            ValueError: the chunk mixes conditions with different decodings.
        """
        decodings = {self._decodings[row.condition] for row in chunk.rows}
        if len(decodings) > 1:
            raise ValueError(
                f"chunk {chunk.number} has rows of {len(decodings)} decodings; valid: 1"
            )
        (decoding,) = decodings

        def run(parts: int) -> list[Completion]:
            return [
                completion
                for part in divided(chunk, parts)
                for completion in _Run(self, part, decoding).completions()
            ]

        order = {row: index for index, row in enumerate(chunk.rows)}
        return sorted(
            in_parts(self.model, run),
            key=lambda c: order[Row(c.condition, c.prompt, c.repeat)],
        )


class _Run:
    """The rows of a chunk and the tokens generated for them so far."""

    def __init__(self, of: Generation, chunk: Chunk, decoding: Decoding) -> None:
        rows = chunk.rows
        used = sorted({row.condition for row in rows})
        block = sorted({row.prompt for row in rows})
        self._owners = [used.index(row.condition) for row in rows]
        self._tokens: list[list[int]] = [[] for _ in rows]
        self._stopped = ["length"] * len(rows)
        self._forced: list[deque[int]] = [deque() for _ in rows]
        self._times = [decoding.times] * len(rows)
        self._table = EditTable(of.model, [of.conditions[c] for c in used])
        self._model = of.model
        self._decoding = decoding
        self._base_run = BaseRun(of.model, of.prompts, block, self._table)
        self._block_rows = [block.index(row.prompt) for row in rows]
        keys = row_keys(of.seed, [of.samples[r.prompt] for r in rows], [r.repeat for r in rows])
        self._keys = keys.to(of.model.device)
        self._in_table: list[int] = []
        self._chunk = chunk

    def completions(self) -> list[Completion]:
        """Decode until every row has stopped."""
        rows, slots = self._chunk.rows, self._chunk.slots
        waiting = deque(range(len(rows)))
        batch: Batch | None = None
        with torch.inference_mode(), with_hooks(self._model, self._table.hooks):
            while waiting or batch:
                free = slots - (len(batch.rows) if batch else 0)
                if waiting and free >= slots * _FREE:
                    entering = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    batch = join([*([batch] if batch else []), *self._enter(entering)])
                elif batch:
                    batch = self._step(batch)
        self._table.check_fired()
        return [
            Completion(r.condition, r.prompt, r.repeat, tuple(t), self._model.decode(t), end)
            for r, t, end in zip(rows, self._tokens, self._stopped, strict=True)
        ]

    def _enter(self, rows: Sequence[int]) -> list[Batch]:
        """Prefill the prompts of rows, together if they restart at the same layer and column."""
        by_start: dict[Start, list[int]] = defaultdict(list)
        for row in rows:
            by_start[self._base_run.starts[self._owners[row]]].append(row)
        entered = []
        for start, members in sorted(by_start.items()):
            owners = [self._owners[row] for row in members]
            block_rows = [self._block_rows[row] for row in members]
            logits, cache = self._base_run.restart(start, owners, block_rows)
            self._base_run.fill_cache(cache, start, block_rows)
            latest, stay = self._choose(members, logits)
            batch = Batch(members, latest, self._base_run.mask[block_rows], cache)
            entered.append(batch.keep(stay))
        self._in_table = []
        return [batch for batch in entered if batch]

    def _step(self, batch: Batch) -> Batch | None:
        """Generate one more token for each row and drop the finished rows."""
        if self._in_table != batch.rows:
            block_rows = [self._block_rows[row] for row in batch.rows]
            owners = [self._owners[row] for row in batch.rows]
            self._table.set_rows(
                owners, self._base_run.ends[block_rows], self._base_run.numbers[block_rows]
            )
            self._in_table = list(batch.rows)
        logits = batch.step(self._model, self._table)
        batch.latest, stay = self._choose(batch.rows, logits)
        return batch.keep(stay)

    def _choose(
        self, rows: Sequence[int], logits: Float[Tensor, "rows vocab"]
    ) -> tuple[Tensor, list[int]]:
        """Choose the next token of each row; also return the indexes of unfinished rows."""
        steps = torch.tensor([len(self._tokens[row]) for row in rows], device=logits.device)
        chosen = choose(logits, self._decoding, self._keys[list(rows)], steps)
        # The largest logit: NaN if any is, as argmax takes NaN for the largest.
        largest = logits.gather(-1, chosen[:, None])[:, 0]
        under = [self._table.conditions[self._owners[row]] for row in rows]
        check_finite(largest.isfinite(), logits.dtype, "logits", under)
        ends, stay = self._model.end_tokens, []
        tokens = [
            self._forcing(row, token) for row, token in zip(rows, chosen.tolist(), strict=True)
        ]
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            if token in ends:
                self._stopped[row] = "end"
                continue
            self._tokens[row].append(token)
            if len(self._tokens[row]) < self._decoding.max_new_tokens:
                stay.append(index)
        return torch.tensor(tokens, device=chosen.device), stay

    def _forcing(self, row: int, token: int) -> int:
        """Replace an end by the forced tokens, one a step, while the row has times left."""
        if token in self._model.end_tokens and not self._forced[row] and self._times[row]:
            self._times[row] -= 1
            self._forced[row].extend(self._decoding.forced)
        return self._forced[row].popleft() if self._forced[row] else token
