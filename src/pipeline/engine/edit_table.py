"""Edit the rows of a batch under different conditions, with one hook per site."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.engine.conditions import Condition, Positions, position_mask
from pipeline.engine.stacking import Layout, Stack, layout
from pipeline.model.hooks import Hook
from pipeline.model.loading import LanguageModel
from pipeline.model.sites import Site

_Key = tuple[int, Positions, Layout]
"""Index among the condition's edits at the site, position rule, and layout of the intervention."""

_CERTAIN = ("all", "last")
"""Rules that select a token of every prompt: an edit that touches none is a bug."""


class _Kind(NamedTuple):
    """Edits of several conditions at one site that are applied together.

    `stack` has one intervention per item of `edits` (condition, index among its edits);
    `stack_index` [conditions] is each condition's index in the stack, or -1.
    """

    rule: Positions
    stack: Stack
    edits: list[tuple[int, int]]
    stack_index: Tensor


class _Group(NamedTuple):
    """A kind applied to rows of a batch: the fields of `intervention` have one row per row."""

    rule: Positions
    stack: Stack
    rows: Tensor
    intervention: Any
    edits: frozenset[tuple[int, int]]


class EditTable:
    """Edits of each row of a batch at each site, updated whenever the rows change.

    Rows whose interventions have the same layout and position rule are edited together: fields are
    stacked along the rows, and `Fitted` objects are shared. Edits of one condition at one site are
    applied in order.

    Args:
        model: the model.
        conditions: all conditions.
        shared: condition -> its first edits that another condition's run makes for it, which need
            not fire again.
    """

    def __init__(
        self,
        model: LanguageModel,
        conditions: Sequence[Condition],
        shared: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._model, self._shared = model, shared
        self.conditions = conditions
        self._groups: dict[Site, list[_Group]] = {}
        self._active: dict[Site, list[tuple[_Group, Tensor | None]]] = {}
        gathered: dict[Site, dict[_Key, list[tuple[int, int]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for c, condition in enumerate(conditions):
            order: dict[Site, int] = defaultdict(int)
            for e, edit in enumerate(condition.edits):
                key = (order[edit.site], edit.positions, layout(edit.intervention))
                gathered[edit.site][key].append((c, e))
                order[edit.site] += 1
        self.expect_all()
        indexes_by_owners: dict[tuple[int, ...], Tensor] = {}
        self._kinds = {
            site: [
                self._kind(site, key[1], edits, indexes_by_owners)
                for key, edits in sorted(kinds.items(), key=lambda item: item[0][0])
            ]
            for site, kinds in gathered.items()
        }

    def _kind(
        self,
        site: Site,
        rule: Positions,
        edits: list[tuple[int, int]],
        indexes_by_owners: dict[tuple[int, ...], Tensor],
    ) -> _Kind:
        owners = tuple(c for c, _ in edits)
        if owners not in indexes_by_owners:
            index = torch.full((len(self.conditions),), -1)
            index[list(owners)] = torch.arange(len(owners))
            indexes_by_owners[owners] = index
        # In float32 whatever the model's dtype: a projection in bfloat16 leaves a remainder.
        used = [self.conditions[c].edits[e].intervention for c, e in edits]
        stack = Stack(used, self._model.device_of(site), torch.float32)
        return _Kind(rule, stack, edits, indexes_by_owners[owners])

    def set_rows(
        self,
        owners: Sequence[int],
        prompt_lengths: Int[Tensor, " rows"],
        prompts: Int[Tensor, " rows"],
    ) -> None:
        """Set the condition, prompt length and prompt index of each row."""
        self._lengths, self._prompts = prompt_lengths, prompts
        conditions, present = torch.tensor(owners), set(owners)
        selected: dict[tuple[int, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

        def group(site: Site, kind: _Kind) -> _Group | None:
            edits = frozenset(edit for edit in kind.edits if edit[0] in present)
            if not edits:
                return None
            device = self._model.device_of(site)
            # Sites edited by the same conditions share the tensor of rows.
            key = (id(kind.stack_index), device)
            if key not in selected:
                index_in_stack = kind.stack_index[conditions]
                rows = (index_in_stack >= 0).nonzero()[:, 0]
                numbers = prompts[rows.to(prompts.device)]
                selected[key] = rows.to(device), index_in_stack[rows].to(device), numbers
            rows, index, numbers = selected[key]
            taken = kind.stack.take(index, numbers)
            return _Group(kind.rule, kind.stack, rows, taken, edits)

        self._groups = {
            site: [edited for kind in kinds if (edited := group(site, kind))]
            for site, kinds in self._kinds.items()
        }

    def set_positions(self, absolute: Int[Tensor, "rows pos"]) -> None:
        """Set the absolute positions of the next forward pass's tokens, -1 for padding.

        Raises:
            ValueError: an edit of a token that its `PerToken` field has no value for.
        """
        masks: dict[tuple[Positions, int], tuple[Tensor | None, bool]] = {}
        self._active = defaultdict(list)
        for site, groups in self._groups.items():
            for group in groups:
                # Keyed by identity, because sites share the tensor of rows.
                key = (group.rule, id(group.rows))
                if key not in masks:
                    rows = group.rows.to(absolute.device)
                    selected = position_mask(
                        group.rule, absolute[rows], self._lengths[rows], self._prompts[rows]
                    )
                    # Read both at once: each read synchronizes with the device.
                    all_selected, touched = torch.stack([selected.all(), selected.any()]).tolist()
                    mask = None if all_selected else selected.to(group.rows.device)[..., None]
                    masks[key] = (mask, touched)
                mask, touched = masks[key]
                if touched:
                    at = absolute[group.rows.to(absolute.device)]
                    _check_tokens(site, group, at, mask)
                    placed = group._replace(intervention=group.stack.at(group.intervention, at))
                    self._active[site].append((placed, mask))

    @property
    def hooks(self) -> dict[Site, Hook]:
        """One hook for every site that a condition edits."""
        sites = {edit.site for condition in self.conditions for edit in condition.edits}
        return {site: partial(self.edit, site) for site in sites}

    def expect_all(self) -> None:
        """Expect every edit to fire from now on; see `check_fired`."""
        self._pending = {
            (c, e)
            for c, condition in enumerate(self.conditions)
            for e, edit in enumerate(condition.edits)
            if edit.positions in _CERTAIN and e >= self._shared.get(c, 0)
        }

    def check_fired(self) -> None:
        """Check that every edit at `all` or `last` positions has touched a token.

        Other rules may select no token in some rows: `limits.check_listed` checks those.

        Raises:
            ValueError: names the condition, the site and the rule.
        """
        for c, e in sorted(self._pending):
            edit = self.conditions[c].edits[e]
            raise ValueError(
                f"{self.conditions[c]}: the edit at {edit.site} never fired: no token is "
                f"at positions {edit.positions!r}"
            )

    def edit(self, site: Site, hidden: Float[Tensor, "rows pos width"]) -> Tensor | None:
        """Return the activation at a site edited per row, or None if no edit applies."""
        changed = hidden
        for group, mask in self._active.get(site, ()):
            self._pending -= group.edits
            every_row = len(group.rows) == len(hidden)
            before = changed if every_row else changed[group.rows]
            after = _edited(site, group.intervention, before.float()).to(hidden.dtype)
            if mask is not None:
                after = torch.where(mask, after, before)
            changed = after if every_row else changed.index_copy(0, group.rows, after)
        return None if changed is hidden else changed


def _edited(site: Site, intervention: Any, hidden: Float[Tensor, "rows pos width"]) -> Tensor:
    """Apply an intervention; fail if what it returns would be broadcast to the activation."""
    edited = intervention.edit(hidden)
    if not isinstance(edited, Tensor) or edited.shape != hidden.shape:
        got = list(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
        raise ValueError(
            f"{type(intervention).__name__} at {site} returns {got}; valid: the edited activation, "
            f"{list(hidden.shape)}"
        )
    return edited


def _check_tokens(
    site: Site, group: _Group, absolute: Int[Tensor, "rows pos"], mask: Tensor | None
) -> None:
    """Fail if a token is edited for which a field that differs by token has no value."""
    tokens = group.stack.tokens
    if tokens is None:
        return
    edited = (
        absolute if mask is None else absolute.masked_fill(~mask[..., 0].to(absolute.device), 0)
    )
    if int(edited.max()) >= tokens:
        raise ValueError(
            f"positions {group.rule!r} at {site} name token {int(edited.max())}; the edit has "
            f"values of a prompt's first {tokens} tokens"
        )
