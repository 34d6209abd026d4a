"""Completions of every prompt under every condition."""

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
from pipeline.engine.limits import check_aligned, check_context, check_listed, check_sites
from pipeline.engine.memory import in_parts
from pipeline.engine.restart import Prefix, Start
from pipeline.model.hooks import visiting
from pipeline.model.loading import LanguageModel

_FREE = 0.25
"""Rows enter when this part of the slots is free: a prefill for each single one would cost more."""


@dataclass(frozen=True)
class Completion:
    """What one row became: tokens without the one that ended it, and `stopped` = end or length."""

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
    """Complete every prompt under every condition, ordered by (condition, prompt, repeat).

    A condition's own `decoding` takes the place of the run's: the same completions as in a run by
    itself.

    Raises:
        ValueError: a site the model does not have, a sequence longer than its context, or an edit
            that never touched a token.
    """
    run = Generation(model, prompts, conditions, decoding, seed=seed, samples=range(len(prompts)))
    done = [row for chunk in run.plan(batch_tokens) for row in run.complete(chunk)]
    return sorted(done, key=lambda c: (c.condition, c.prompt, c.repeat))


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
    """Complete the rows of one chunk, in their order: arguments and errors are `Generation`'s."""
    run = Generation(model, prompts, conditions, decoding, seed=seed, samples=samples)
    return run.complete(chunk)


class Generation:
    """Prompts and conditions that are checked once and then completed chunk by chunk.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        conditions: all conditions.
        decoding: of conditions that have none of their own.
        seed: of the sampling noise.
        samples: each prompt's number in the noise, so that a subset meets the noise of the whole.

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
        self.model, self.prompts, self.conditions = model, prompts, conditions
        self.seed, self.samples = seed, samples
        self._decodings = [condition.decoding or decoding for condition in conditions]
        self._lengths = [len(prompt) for prompt in prompts]
        new = max((used.max_new_tokens for used in self._decodings), default=0)
        check_context(model, prompts, new)
        check_sites(model, conditions)
        check_aligned(conditions, len(prompts))
        for condition, used in zip(conditions, self._decodings, strict=True):
            # The last token of a completion is never fed.
            fed = [length + used.max_new_tokens - 1 for length in self._lengths]
            check_listed([condition], self._lengths, fed)

    def plan(self, batch_tokens: int) -> list[Chunk]:
        """The chunks of all rows; see `chunks.plan_decodings`."""
        return plan_decodings(self._decodings, self._lengths, batch_tokens=batch_tokens)

    def complete(self, chunk: Chunk) -> list[Completion]:
        """Complete the rows of one chunk, in their order.

        Raises:
            ValueError: conditions of several decodings in the chunk.
        """
        several = {self._decodings[row.condition] for row in chunk.rows}
        if len(several) > 1:
            raise ValueError(f"chunk {chunk.number} has rows of {len(several)} decodings; valid: 1")
        (decoding,) = several

        def run(parts: int) -> list[Completion]:
            return [
                completion
                for part in divided(chunk, parts)
                for completion in _Run(self, part, decoding).completions()
            ]

        order = {row: place for place, row in enumerate(chunk.rows)}
        return sorted(
            in_parts(self.model, run),
            key=lambda c: order[Row(c.condition, c.prompt, c.repeat)],
        )


class _Run:
    """A chunk's rows and what has become of them so far."""

    def __init__(self, of: Generation, chunk: Chunk, decoding: Decoding) -> None:
        rows = chunk.rows
        used = sorted({row.condition for row in rows})
        block = sorted({row.prompt for row in rows})
        self._owners = [used.index(row.condition) for row in rows]
        self._tokens: list[list[int]] = [[] for _ in rows]
        self._stopped = ["length"] * len(rows)
        self._table = EditTable(of.model, [of.conditions[c] for c in used])
        self._model = of.model
        self._decoding = decoding
        self._prefix = Prefix(of.model, of.prompts, block, self._table)
        self._places = [block.index(row.prompt) for row in rows]
        keys = row_keys(of.seed, [of.samples[r.prompt] for r in rows], [r.repeat for r in rows])
        self._keys = keys.to(of.model.device)
        self._in_table: list[int] = []
        self._chunk = chunk

    def completions(self) -> list[Completion]:
        """Run until no row is left, and say what has become of each."""
        rows, slots = self._chunk.rows, self._chunk.slots
        waiting = deque(range(len(rows)))
        batch: Batch | None = None
        with torch.inference_mode(), visiting(self._model, self._table.visits):
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
        """Run the prompts of rows, those together that start at the same place."""
        alike: dict[Start, list[int]] = defaultdict(list)
        for row in rows:
            alike[self._prefix.starts[self._owners[row]]].append(row)
        entered = []
        for start, members in sorted(alike.items()):
            owners = [self._owners[row] for row in members]
            places = [self._places[row] for row in members]
            logits, cache = self._prefix.restart(start, owners, places)
            self._prefix.complete(cache, start, places)
            latest, stay = self._choose(members, logits)
            batch = Batch(members, latest, self._prefix.mask[places], cache)
            entered.append(batch.keep(stay))
        self._in_table = []
        return [batch for batch in entered if batch]

    def _step(self, batch: Batch) -> Batch | None:
        """One more token for each row; those that are done leave."""
        if self._in_table != batch.rows:
            places = [self._places[row] for row in batch.rows]
            owners = [self._owners[row] for row in batch.rows]
            self._table.set_rows(owners, self._prefix.ends[places], self._prefix.numbers[places])
            self._in_table = list(batch.rows)
        logits = batch.step(self._model, self._table)
        batch.latest, stay = self._choose(batch.rows, logits)
        return batch.keep(stay)

    def _choose(
        self, rows: Sequence[int], logits: Float[Tensor, "rows vocab"]
    ) -> tuple[Tensor, list[int]]:
        """The next token of each row, and which of the rows go on after it."""
        steps = torch.tensor([len(self._tokens[row]) for row in rows], device=logits.device)
        chosen = choose(logits, self._decoding, self._keys[list(rows)], steps)
        ends, stay = self._model.end_tokens, []
        for index, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if token in ends:
                self._stopped[row] = "end"
                continue
            self._tokens[row].append(token)
            if len(self._tokens[row]) < self._decoding.max_new_tokens:
                stay.append(index)
        return chosen, stay
