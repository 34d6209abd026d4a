"""Start a condition where it first differs from the clean run of its prompts."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from pipeline.engine.cache import GrowingLayer, cache_of, selected, view
from pipeline.engine.conditions import Condition, Positions, position_mask
from pipeline.engine.edit_table import EditTable
from pipeline.model.hooks import Visit, positions, starting_at, visiting
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site
from pipeline.model.unembedding import lens_logits


class Start(NamedTuple):
    """The first layer and the first column of the left-padded prompts that have to be computed."""

    layer: int
    column: int


class Prefix:
    """Prompts run once without edits, and the conditions that start from there.

    Below a condition's first layer l, and before its first column p, nothing differs from the clean
    run: what is computed is the blocks from l on for the columns from p on, with the clean residual
    stream at (l, p...) as input and the clean keys and values before p. An edit of a block's output
    starts at the block after it, on the output that it makes of the clean one. A condition that
    touches no token of its prompts starts behind them all, at (n_layers, width), and computes
    nothing. This asks for keys and values that are each layer's own, as in every family of
    `ARCHITECTURES`.

    Args:
        model: the model.
        prompts: tokens of all prompts.
        block: numbers of the prompts to run.
        table: edits of the conditions that will start here.
        ends: where to position rules each prompt of the block ends; its length if left out. Then
            what is wanted is the residual stream from there on (`stream`), rather than the logits
            after the last token (`restart`).
        clean: `clean` is wanted as well.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompts: Sequence[Sequence[int]],
        block: Sequence[int],
        table: EditTable,
        *,
        ends: Sequence[int] | None = None,
        clean: bool = False,
    ) -> None:
        self.model, self._table = model, table
        self.ids, self.mask = model.pad([prompts[p] for p in block])
        self.width = self.ids.shape[1]
        self.numbers = torch.tensor(block, device=model.device)
        own = [len(prompts[p]) for p in block] if ends is None else list(ends)
        self.ends = torch.tensor(own, device=model.device)
        self._positions = positions(self.mask)
        self._absolute = self._positions.masked_fill(self.mask == 0, -1)
        self.generated = self._absolute >= self.ends[:, None]
        self._firsts: dict[Positions, int] = {}
        # A prompt's last token is what the first token behind it is read from.
        latest = self.width if ends is None else self._first("last")
        self.starts = [self._start(condition, latest) for condition in table.conditions]
        self._streams: dict[int, Tensor] = {}
        self._last: dict[int, Tensor] = {}
        self._lenses: dict[int, Tensor] = {}
        self._cache = DynamicCache()
        if clean or any(start != (0, 0) for start in self.starts):
            self._run(clean)

    def _start(self, condition: Condition, latest: int) -> Start:
        firsts = ((_changed(edit.site), self._first(edit.positions)) for edit in condition.edits)
        touched = [(layer, column) for layer, column in firsts if column < self.width]
        behind = (self.model.n_layers, latest)
        layer, column = (min(values) for values in zip(*touched, behind, strict=True))
        return Start(layer, column)

    def _first(self, rule: Positions) -> int:
        if rule not in self._firsts:
            named = position_mask(rule, self._absolute, self.ends, self.numbers).any(0)
            self._firsts[rule] = int(named.int().argmax()) if bool(named.any()) else self.width
        return self._firsts[rule]

    def _run(self, clean: bool) -> None:
        first: dict[int, int] = {}
        for layer, column in self.starts:
            first[layer] = min(column, first.get(layer, self.width))

        visits = {
            Site(layer - 1, "resid_post"): _keep(self._streams, layer, slice(column, None))
            for layer, column in first.items()
            if layer > 0 and column < self.width
        }
        if clean:
            visits |= self._keeping_last(self._last)
        with torch.inference_mode(), visiting(self.model, visits):
            self._logits = self._forward(self.ids, self.mask, self._positions, self._cache)

    def _keeping_last(self, found: dict[int, Tensor], first: int = 0) -> dict[Site, Visit]:
        """Visits that keep what each block from `first` on reads at the last token."""
        layers = range(first, self.model.n_layers)
        return {Site(layer, "resid_pre"): _keep(found, layer, -1) for layer in layers}

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

    def clean(self, rows: Sequence[int], layer: int | None = None) -> Float[Tensor, "rows vocab"]:
        """Logits after the last token of rows of the block without an edit; a layer's by the lens.

        They are there if they were wanted from the beginning.

        Raises:
            ValueError: the model has no such layer.
        """
        if layer is not None and layer not in self._lenses:
            self.model.check(Site(layer, "resid_pre"))
            self._lenses[layer] = lens_logits(self.model, self._last[layer])
        found = self._logits if layer is None else self._lenses[layer]
        return found[torch.tensor(rows)]

    def restart(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> tuple[Float[Tensor, "rows vocab"], DynamicCache]:
        """Logits after the last token of rows of the block, each under its owner among conditions.

        In the cache returned, the layers below the start are still to be completed.
        """
        layer, column = start
        taken = torch.tensor(rows)
        # Of the layers below, only the length is read.
        cache = cache_of(
            selected(clean, taken, slice(column), room=self.width - column)
            if index >= layer
            else view(clean, column)
            for index, clean in enumerate(self._cache.layers)
        )
        if column == self.width:
            return self._logits[taken], cache
        self._set(start, owners, taken)
        ids, mask, absolute = self.ids[taken], self.mask[taken], self._positions[taken]
        with self._from(start, taken):
            logits = self._forward(ids[:, column:], mask, absolute[:, column:], cache)
        return logits, cache

    def streams(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> tuple[Float[Tensor, "rows vocab"], dict[int, Float[Tensor, "rows d_model"]]]:
        """The logits of `restart`, and what blocks read at the last token on the way.

        Layers that nothing was computed of are left out: they read what they do in the clean run.
        """
        found: dict[int, Tensor] = {}
        with visiting(self.model, self._keeping_last(found, start.layer)):
            logits, _ = self.restart(start, owners, rows)
        return logits, found

    def stream(
        self, start: Start, owners: Sequence[int], rows: Sequence[int]
    ) -> Float[Tensor, "rows pos d_model"]:
        """Residual stream before the final norm from a start's column on, each row under its owner.

        It begins at the last token of a prompt or before.
        """
        taken = torch.tensor(rows)
        if start.layer == self.model.n_layers:
            self._set(start, owners, taken)
            return self._begin(start, taken)
        found: list[Tensor] = []
        with visiting(self.model, {Site(self.model.n_layers - 1, "resid_post"): found.append}):
            self.restart(start, owners, rows)
        return found[0]

    def _set(self, start: Start, owners: Sequence[int], rows: Tensor) -> None:
        self._table.set_rows(owners, self.ends[rows], self.numbers[rows])
        self._table.set_positions(self._absolute[rows, start.column :])

    def _from(self, start: Start, rows: Tensor) -> AbstractContextManager[None]:
        if start.layer == 0:
            return nullcontext()
        return starting_at(self.model, start.layer, self._begin(start, rows))

    def _begin(self, start: Start, rows: Tensor) -> Tensor:
        """What the blocks below a start hand on, their last output edited."""
        stream = self._streams[start.layer][:, start.column - self.width :]
        clean = stream.index_select(0, rows.to(stream.device))
        edited = self._table.edit(Site(start.layer - 1, "resid_post"), clean)
        return clean if edited is None else edited

    def complete(self, cache: DynamicCache, start: Start, rows: Sequence[int]) -> None:
        """Make a cache ready for decoding: the layers below a start are the clean ones, all grow.

        Where nothing is shared there is no clean run, and the layers are transformers' own.
        """
        taken, every = torch.tensor(rows), torch.arange(len(rows))
        below = [selected(clean, taken) for clean in self._cache.layers[: start.layer]]
        cache.layers = below + [
            layer if isinstance(layer, GrowingLayer) else selected(layer, every)
            for layer in cache.layers[start.layer :]
        ]


def _keep(found: dict[int, Tensor], layer: int, columns: slice | int) -> Visit:
    def visit(hidden: Tensor) -> None:
        found[layer] = hidden[:, columns].clone()

    return visit


def _changed(site: Site) -> int:
    """The first block that computes anything else when this site is edited."""
    return site.layer + (site.component == "resid_post")
