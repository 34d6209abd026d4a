"""Restart conditions from another run, at the first layer and position where they differ."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from pipeline.engine.cache import GrowingLayer, cache_of, selected, view
from pipeline.engine.conditions import Positions, position_mask
from pipeline.engine.edit_table import EditTable
from pipeline.model.finite import check_finite, is_finite
from pipeline.model.hooks import Hook, in_order, token_positions, with_hooks
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.starting import starting_at
from pipeline.model.unembedding import lens_logits


class Start(NamedTuple):
    """The first layer and the first column of left-padded prompts that must be computed."""

    layer: int
    column: int


class BaseRun:
    """Prompts run once; conditions restart from its activations and KV cache.

    It has no edits (the clean run), or those of a condition with which others begin. Below the
    first layer l that a condition's further edits change, and before their first column p, the
    condition equals this run. So only blocks from l on are computed, for columns from p on, with
    the residual stream of this run at (l, p...) as input and its keys and values before p. An edit
    of a block's output (`resid_post`) restarts at the next block, with the edited output as input.
    A condition without a further edit of a prompt token starts at (n_layers, width) and computes
    nothing. Every layer must have keys and values of its own, as in all families of
    `ARCHITECTURES`.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        block: indexes of the prompts to run.
        table: edits of all conditions.
        members: indexes of the conditions that will restart from this run; None: all.
        base: the condition that this run is of, with whose edits those of `members` begin; None:
            no edits.
        ends: number of prompt tokens of each sequence in the block, for position rules. If given,
            use `stream`: the residual stream from the last prompt token on. If None, the sequences
            are prompts only, and `restart` returns the logits after their last token.
        clean: the run without edits; None: this one.
        read: whether `logits` of this run will be called.

    Attributes:
        starts: where each member starts.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        block: Sequence[int],
        table: EditTable,
        *,
        members: Sequence[int] | None = None,
        base: int | None = None,
        ends: Sequence[int] | None = None,
        clean: "BaseRun | None" = None,
        read: bool = False,
    ) -> None:
        self.model, self.conditions, self._table = model, table.conditions, table
        self.clean, self._base = clean or self, base
        self.ids, self.mask = model.pad([prompts[p] for p in block])
        self.width = self.ids.shape[1]
        self.numbers = torch.tensor(block, device=model.device)
        prompt_lengths = [len(prompts[p]) for p in block] if ends is None else list(ends)
        self.ends = torch.tensor(prompt_lengths, device=model.device)
        self._positions = token_positions(self.mask)
        self._absolute = self._positions.masked_fill(self.mask == 0, -1)
        self.generated = self._absolute >= self.ends[:, None]
        self._firsts: dict[Positions, int] = {}
        # The last prompt token predicts the first token after the prompt.
        latest = self.width if ends is None else self._first("last")
        numbers = range(len(self.conditions)) if members is None else members
        self.starts = {number: self._start(number, latest) for number in numbers}
        self._streams: dict[int, Tensor] = {}
        self._last: dict[int, Tensor] = {}
        self._lenses: dict[int, Tensor] = {}
        self._cache = DynamicCache()
        if read or any(start != (0, 0) for start in self.starts.values()):
            self._run(read)

    def _start(self, number: int, latest: int) -> Start:
        shared = 0 if self._base is None else len(self.conditions[self._base].edits)
        edits = self.conditions[number].edits[shared:]
        firsts = ((_changed(edit.site), self._first(edit.positions)) for edit in edits)
        touched = [(layer, column) for layer, column in firsts if column < self.width]
        end = (self.model.n_layers, latest)
        layer, column = (min(values) for values in zip(*touched, end, strict=True))
        return Start(layer, column)

    def _first(self, rule: Positions) -> int:
        if rule not in self._firsts:
            named = position_mask(rule, self._absolute, self.ends, self.numbers).any(0)
            self._firsts[rule] = int(named.int().argmax()) if bool(named.any()) else self.width
        return self._firsts[rule]

    def _run(self, read: bool) -> None:
        first: dict[int, int] = {}
        for layer, column in self.starts.values():
            first[layer] = min(column, first.get(layer, self.width))

        # A block's output before this run's own edits there: `_begin` makes all of a condition's.
        unedited = {
            Site(layer - 1, "resid_post"): _keep(self._streams, layer, slice(column, None))
            for layer, column in first.items()
            if layer > 0 and column < self.width
        }
        edits: Mapping[Site, Hook] = {}
        if self._base is not None:
            self._table.set_rows([self._base] * len(self.ids), self.ends, self.numbers)
            self._table.set_positions(self._absolute)
            edits = self._table.hooks
        edited = self._keeping_last(self._last) if read else {}
        hooks = in_order(unedited, edits, edited)
        with torch.inference_mode(), with_hooks(self.model, hooks):
            self._logits = self._forward(self.ids, self.mask, self._positions, self._cache)

    def _keeping_last(self, store: dict[int, Tensor], first: int = 0) -> dict[Site, Hook]:
        """Hooks that store `resid_pre` at the last token, for each block from `first` on."""
        layers = range(first, self.model.n_layers)
        return {Site(layer, "resid_pre"): _keep(store, layer, -1) for layer in layers}

    def _forward(
        self, ids: Tensor, mask: Tensor, absolute: Tensor, cache: DynamicCache
    ) -> Float[Tensor, "rows vocab"]:
        return self.model.hf(
            ids,
            attention_mask=mask,
            position_ids=absolute,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def logits(self, rows: Sequence[int], layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """Return this run's logits after the last token; with a layer, its logit lens.

        Needs `read=True` at construction.

        Raises:
            ValueError: the model has no such layer.
        """
        if layer is not None and layer not in self._lenses:
            self.model.check(Site(layer, "resid_pre"))
            self._lenses[layer] = lens_logits(self.model, self._last[layer])
        logits = self._logits if layer is None else self._lenses[layer]
        return logits[torch.tensor(rows)]

    def restart(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> tuple[Float[Tensor, "rows vocab"], DynamicCache]:
        """Run rows of the block from a start on, each under the condition that owns it.

        Returns:
            Logits after the last token, and the KV cache, whose layers below the start are not
            filled yet: see `fill_cache`.

        Raises:
            ValueError: logits that are not finite.
        """
        layer, column = start
        index = torch.tensor(rows)
        # Below the start, only the length of a layer is read.
        cache = cache_of(
            selected(shared, index, slice(column), room=self.width - column)
            if number >= layer
            else view(shared, column)
            for number, shared in enumerate(self._cache.layers)
        )
        if column == self.width:
            logits = self._logits[index]
        else:
            self._set(start, owners, index)
            ids, mask, absolute = self.ids[index], self.mask[index], self._positions[index]
            with self._from(start, index):
                logits = self._forward(ids[:, column:], mask, absolute[:, column:], cache)
        under = [self.conditions[owner] for owner in owners]
        check_finite(is_finite(logits), self.model.dtype, "logits", under)
        return logits, cache

    def streams(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> tuple[Float[Tensor, "rows vocab"], dict[int, Float[Tensor, "rows d_model"]]]:
        """Return the logits of `restart`, and `resid_pre` at the last token by layer.

        Layers below the start are left out: they equal this run.
        """
        resid_pre: dict[int, Tensor] = {}
        with with_hooks(self.model, self._keeping_last(resid_pre, start.layer)):
            logits, _ = self.restart(start, owners, rows)
        return logits, resid_pre

    def stream(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> Float[Tensor, "rows pos d_model"]:
        """Return the residual stream before the final norm, from the start's column on.

        Each row runs under the condition that owns it. The column is at or before the last prompt
        token.
        """
        index = torch.tensor(rows)
        if start.layer == self.model.n_layers:
            self._set(start, owners, index)
            return self._begin(start, index)
        resid_post: list[Tensor] = []
        with with_hooks(
            self.model, {Site(self.model.n_layers - 1, "resid_post"): resid_post.append}
        ):
            self.restart(start, owners, rows)
        return resid_post[0]

    def _set(self, start: Start, owners: Sequence[int], rows: Tensor) -> None:
        self._table.set_rows(owners, self.ends[rows], self.numbers[rows])
        self._table.set_positions(self._absolute[rows, start.column :])

    def _from(self, start: Start, rows: Tensor) -> AbstractContextManager[None]:
        if start.layer == 0:
            return nullcontext()
        return starting_at(self.model, start.layer, self._begin(start, rows))

    def _begin(self, start: Start, rows: Tensor) -> Tensor:
        """Return the residual stream at a start, with all edits of the block before it."""
        stream = self._streams[start.layer][:, start.column - self.width :]
        unedited = stream.index_select(0, rows.to(stream.device))
        edited = self._table.edit(Site(start.layer - 1, "resid_post"), unedited)
        return unedited if edited is None else edited

    def fill_cache(self, cache: DynamicCache, start: Start, rows: Sequence[int]) -> None:
        """Prepare the KV cache for decoding: add layers below the start, make all growable.

        If all conditions start at (0, 0) nothing was run, and the layers are plain
        `DynamicLayer`s.
        """
        index, all_rows = torch.tensor(rows), torch.arange(len(rows))
        below = [selected(shared, index) for shared in self._cache.layers[: start.layer]]
        cache.layers = below + [
            layer if isinstance(layer, GrowingLayer) else selected(layer, all_rows)
            for layer in cache.layers[start.layer :]
        ]


def _keep(store: dict[int, Tensor], layer: int, columns: slice | int) -> Hook:
    def hook(hidden: Tensor) -> None:
        store[layer] = hidden[:, columns].clone()

    return hook


def _changed(site: Site) -> int:
    """Return the first block whose computation changes when this site is edited."""
    return site.layer + (site.component == "resid_post")
